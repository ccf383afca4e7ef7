"""Files that are whole or not there: everything is written under a temporary name, synced and renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rarecli.core.errors import DataError, EnvironmentFault, RareError, UsageError
from rarecli.core.jobs.safe_text import read_text

_DEEPEST_JSON = 64
"""What is nested deeper cannot even be printed safely."""


@contextmanager
def atomic_file(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    keep: in the same folder, where the file that stood at `path` is renamed to, once the new one is on the disk.

    The temporary name keeps the suffixes of `path`, since writers (nibabel) choose the format by them.
    """
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=suffix)
    except OSError as error:
        raise cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _open_to_others(temporary)
        _sync(temporary)
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def leftovers(folder: Path, names: Iterable[str]) -> list[Path]:
    """The temporary files that a killed process left while it wrote files of these names."""
    starts = tuple(f".{name[:40]}." for name in names)
    # safetensors writes by way of a file of its own, .tmp and six letters
    return [path for path in folder.iterdir() if path.name.startswith(starts) or re.fullmatch(r"\.tmp\w{6}", path.name)]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which is removed in the end. The lock dies with its holder, however that ends; the file may stay.

    Raises UsageError if another process holds it, EnvironmentFault where there are no locks.
    """
    import fcntl

    try:
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                break
            os.close(handle)  # its last holder has just removed it
    except BlockingIOError:
        os.close(handle)
        raise UsageError("another process is writing here", path=path.parent, remedy="wait for it, or choose another -o") from None
    except OSError as error:
        raise _no_locks(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success it takes the place of `path`, on failure it is removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}."))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with _replaced_by(path, temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def resumable_folder(path: Path, *, resume: bool) -> Iterator[Path]:
    """As `atomic_folder`, but what is interrupted, by a kill or a full disk, stays beside `path` for whoever resumes.

    Nobody else may work on it meanwhile: raises EnvironmentFault. The lock dies with its holder.
    """
    with _unfinished(path, alone=True) as temporary:
        try:
            if not resume:
                for item in temporary.iterdir():
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            with _replaced_by(path, temporary):
                yield temporary
        except RareError as error:
            if not resume and not isinstance(error, EnvironmentFault):  # else there may be the work of many
                shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def shared_folder(path: Path) -> Iterator[Path]:
    """The folder beside `path` in which `resumable_folder` makes it, for several that each make a part; whoever resumes finishes it."""
    with _unfinished(path, alone=False) as temporary:
        yield temporary


@contextmanager
def _unfinished(path: Path, *, alone: bool) -> Iterator[Path]:
    """The locked folder in which `path` is made. alone: nobody else may hold it; else only nobody who holds it alone."""
    import fcntl  # not on Windows, where nothing else needs it

    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            mine = os.fstat(handle).st_ino == temporary.stat().st_ino
        except (BlockingIOError, FileNotFoundError):  # held, or moved away by whoever held it before
            mine = False
        except OSError as error:
            raise _no_locks(temporary, error) from error
        if not mine:
            raise EnvironmentFault("another process is writing this output", path=path, remedy="wait for it, or choose another -o")
        yield temporary
    finally:
        os.close(handle)


@contextmanager
def _replaced_by(path: Path, temporary: Path) -> Iterator[None]:
    """At the end sync the folder `temporary` and put it in the place of `path`."""
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield
        for item in (temporary, *temporary.rglob("*")):
            _open_to_others(item)
            _sync(item)
        if path.exists():
            path.replace(old)  # set aside, not deleted: whoever is interrupted here finds both
        temporary.replace(path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. Non-finite numbers are a bug, not JSON."""
    with atomic_file(path) as temporary:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names that are no Unicode


def read_json(path: Path, kind: type[RareError] = DataError) -> Any:
    """Read a JSON file. Raises `kind` if it is missing, broken or nested too deeply."""
    try:
        content = json.loads(read_text(path, kind))
    except FileNotFoundError:
        raise kind("the file is missing", path=path, remedy="copy the folder as a whole") from None
    except OSError as error:
        raise kind("the file cannot be read", path=path, found=error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise kind("the file is no valid JSON", path=path, found=error) from error
    level = [content]
    for _ in range(_DEEPEST_JSON):
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())]
        if not level:
            return content
    raise kind("the file is no valid JSON of rare", path=path, found=f"over {_DEEPEST_JSON} levels", expected="a few levels")


def require_writable(folder: Path) -> None:
    """Make `folder` and try to write in it. Raises EnvironmentFault before any work is done in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write into the output: {error.strerror or error}", path=folder, remedy="choose another output with -o"
        ) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cannot_write(path: Path, error: Exception) -> EnvironmentFault:
    """Return the error for a file that could not be written. error: an OSError, or safetensors' error with the number in its text."""
    number = (error.errno or 0) if isinstance(error, OSError) else int((re.findall(r"os error (\d+)", str(error)) or [0])[-1])
    why = os.strerror(number) if number else str(error)
    is_full = number in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space, or choose another output" if is_full else "choose another output"
    return EnvironmentFault(f"cannot write: {why}", path=path, remedy=remedy)


def _no_locks(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(f"cannot lock: {error.strerror or error}", path=path, remedy="choose an output on a file system with locks")


def _open_to_others(path: Path) -> None:
    """Give a file or folder the modes that the umask leaves: mkstemp and safetensors make files for the user alone.

    Some file systems (CIFS, FUSE, S3 mounts) have no modes and refuse; the file is whole all the same.
    """
    with suppress(OSError):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk. A file system that cannot sync a folder refuses it; only a failing disk is an error."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
