"""Checks of a Dask cluster before any work: versions, and whether its workers see the files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarecli.core.errors import EnvironmentFault, RareError, meaning, some
from rarecli.core.jobs.progress import Reporter
from rarecli.core.versions import installed_versions

if TYPE_CHECKING:
    from distributed import Client

_OURS = "rare-unet"
_COMPUTE = ("numpy", "scipy", "torch", "onnxruntime", "openvino")
"""Packages whose version may change the last bits of a result."""


def answer_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a scheduler answers to a call of its client. Raises EnvironmentFault if the scheduler is gone."""
    try:
        return call(*arguments, **options)
    except OSError as error:
        raise scheduler_gone(error) from error


def scheduler_gone(found: object) -> EnvironmentFault:
    """Return the error for a scheduler that has ended, or has forgotten this client."""
    return EnvironmentFault("the scheduler is gone", found=found, remedy="start it again; finished cases are kept: add --resume")


def require_same_version(client: Client, scheduler: str) -> None:
    """Raise EnvironmentFault if the scheduler lacks rare, whose tasks it unpickles, or has another version."""
    try:
        found = answer_of(client.run_on_scheduler, installed_versions, (_OURS,))
    except ImportError as error:
        found = error
    if fault := _other_version(found, f"the scheduler {scheduler}"):
        raise fault


def faults_of(
    client: Client, addresses: Sequence[str], reads: Sequence[Path], writes: Path, reporter: Reporter
) -> dict[str, EnvironmentFault | None]:
    """Return why each worker cannot work for a command, or None. Warns of workers with other versions of the packages that compute.

    reads: paths that it must see. writes: the folder that it must share with this process. A worker that is lost meanwhile is left out.
    """
    found = _on_workers(client, addresses, installed_versions, (_OURS, *_COMPUTE))
    faults = {address: _other_version(versions, f"the worker {address}") for address, versions in found.items()}
    fit = [address for address, fault in faults.items() if fault is None]
    here = installed_versions(_COMPUTE)
    for address in fit:
        if different := [f"{name} {number}" for name, number in found[address].items() if here.get(name, number) != number]:
            reporter.warn(f"the worker {address} has {some(different)}, not the versions here: last bits may differ")
    with tempfile.NamedTemporaryFile(dir=writes, prefix=".seen-by-workers-") as mark:
        unseen = _on_workers(client, fit, _not_seen, reads, Path(mark.name))
    return {address: faults[address] or _not_shared(unseen[address], address) for address in faults if faults[address] or address in unseen}


def _on_workers(client: Client, addresses: Sequence[str], call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return by address what each worker returns, or the exception that it raised. Workers that are lost meanwhile are left out."""
    found = answer_of(client.run, _told, call, *arguments, workers=list(addresses), on_error="return") if addresses else {}
    return {address: answer for address, answer in found.items() if not isinstance(answer, OSError)}


def _told(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return in a worker what a call returns. An OSError is returned as another error: raised, it would look like a lost connection."""
    try:
        return call(*arguments)
    except OSError as error:
        return meaning(error)


def _not_seen(reads: Sequence[Path], mark: Path) -> tuple[Path, str] | None:
    """Return the first path that this worker does not see, and what it lacks; None if it sees all and can write beside `mark`."""
    for path in (*reads, mark.parent):
        if not path.exists():
            return path, "no such file or folder there"
    if not mark.exists():
        return mark.parent, "another folder of this name there"
    try:
        with tempfile.TemporaryFile(dir=mark.parent):
            return None
    except OSError as error:
        return mark.parent, f"cannot write there: {error.strerror}"


def _other_version(found: Mapping[str, str] | Exception, who: str) -> EnvironmentFault | None:
    here = installed_versions((_OURS,))[_OURS]
    version = found.get(_OURS) if isinstance(found, Mapping) else None
    if version == here:
        return None
    remedy = f"install rare-unet {here} in its environment, with the extras of this one"
    if version is None:
        return EnvironmentFault(f"{who} does not have rare", found=found if isinstance(found, Exception) else None, remedy=remedy)
    return EnvironmentFault(f"{who} has another version of rare", found=version, expected=here, remedy=remedy)


def _not_shared(unseen: tuple[Path, str] | Exception | None, address: str) -> EnvironmentFault | None:
    if unseen is None:
        return None
    if isinstance(unseen, RareError):
        path, found = unseen.path, unseen.problem
    else:
        path, found = unseen if isinstance(unseen, tuple) else (None, str(unseen))
    return EnvironmentFault(
        f"the worker {address} does not see the files",
        path=path,
        found=found,
        remedy="use a folder that all machines share",
    )
