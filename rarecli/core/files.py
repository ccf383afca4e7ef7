"""Files that are whole or not there: everything is written under a temporary name, synced and renamed."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rarecli.core.errors import DataError, EnvironmentFault, UsageError


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
        raise _cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
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
        raise EnvironmentFault(
            f"cannot lock: {error.strerror or error}", path=path, remedy="choose an output on a file system with locks"
        ) from error
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
        raise _cannot_write(path, error) from error
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        for item in (temporary, *temporary.rglob("*")):
            # safetensors makes files that nobody else can read
            item.chmod((0o777 if item.is_dir() else 0o666) & ~_umask())
            _sync(item)
        if path.exists():
            path.replace(old)  # set aside, not deleted: whoever is interrupted here finds both
        temporary.replace(path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. Non-finite numbers are a bug, not JSON."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises DataError if it is missing, broken or nested too deeply."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("the file is missing", path=path) from None
    except OSError as error:
        raise DataError("the file cannot be read", path=path, found=error) from error
    except (ValueError, RecursionError) as error:
        raise DataError("the file is no valid JSON", path=path, found=error) from error


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


def _cannot_write(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(f"cannot write: {error.strerror or error}", path=path, remedy="free some space, or choose another output")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
