"""Atomic writes of files and folders: written under a temporary name, synced and renamed."""

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
"""Deeper nesting cannot even be printed safely."""


@contextmanager
def atomic_file(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    keep: a path in the same folder; the earlier file at `path` is renamed to it once the new one is on the disk.
    Raises EnvironmentFault if the file cannot be written.

    The temporary name keeps the suffixes of `path`, because writers (nibabel) choose the format by them.
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
        _open_to_others(temporary)
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
    """Return the temporary files that a killed process left while it wrote files of these names."""
    starts = tuple(f".{name[:40]}." for name in names)
    # safetensors writes through its own temporary file, .tmp and six letters
    return [path for path in folder.iterdir() if path.name.startswith(starts) or re.fullmatch(r"\.tmp\w{6}", path.name)]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; remove it at the end. The lock ends with its process, even a killed one; the file may stay.

    Raises UsageError if another process holds it, EnvironmentFault on a file system without locks.
    """
    import fcntl

    try:
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                break
            os.close(handle)  # its last holder has just removed the file
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
    """Yield a new folder beside `path`; it replaces `path` on success, else it is removed. Raises EnvironmentFault if a write fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}."))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with _replaced_by(path, temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def resumable_folder(path: Path, *, resume: bool) -> Iterator[Path]:
    """Like `atomic_folder`, but an interrupted folder (a kill, a full disk) stays beside `path`, so that a later call can resume it.

    Raises EnvironmentFault if another process works on it. The lock ends with its process.
    """
    with _unfinished(path, alone=True) as temporary:
        try:
            if not resume:
                for item in temporary.iterdir():
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            with _replaced_by(path, temporary):
                yield temporary
        except RareError as error:
            if not resume and not isinstance(error, EnvironmentFault):  # a resumed folder may hold the work of several processes
                shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def shared_folder(path: Path) -> Iterator[Path]:
    """Yield the unfinished folder of `resumable_folder`, for several processes that each write a part. A resumed call completes it."""
    with _unfinished(path, alone=False) as temporary:
        yield temporary


@contextmanager
def _unfinished(path: Path, *, alone: bool) -> Iterator[Path]:
    """Yield the locked, unfinished folder of `path`. alone: an exclusive lock; otherwise a shared one."""
    import fcntl  # missing on Windows, where the rest of this module works

    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_RDONLY)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            mine = os.fstat(handle).st_ino == temporary.stat().st_ino
        except (BlockingIOError, FileNotFoundError):  # held, or moved away by its last holder
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
    """At the end sync the folder `temporary` and replace `path` by it."""
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield
        for item in (temporary, *temporary.rglob("*")):
            _open_to_others(item)
            _sync(item)
        if path.exists():
            path.replace(old)  # set aside, not deleted: after an interruption here both are there
        temporary.replace(path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. Raises ValueError for non-finite numbers, which JSON does not have."""
    with atomic_file(path) as temporary:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names that are not Unicode


def read_json(path: Path, kind: type[RareError] = DataError) -> Any:
    """Read a JSON file. Raises `kind` if it is missing, broken or nested too deeply."""
    try:
        content = json.loads(read_text(path, kind))
    except FileNotFoundError:
        raise kind("the file is missing", path=path, remedy="copy the folder as a whole") from None
    except OSError as error:
        raise kind("the file cannot be read", path=path, found=error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        raise kind("the file is not valid JSON", path=path, found=error) from error
    level = [content]
    for _ in range(_DEEPEST_JSON):
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())]
        if not level:
            return content
    raise kind("the file is nested too deeply", path=path, found=f"over {_DEEPEST_JSON} levels", expected="a few levels")


def require_writable(folder: Path) -> None:
    """Create `folder` and try to write in it. Raises EnvironmentFault, before any work is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write into the output: {error.strerror or error}", path=folder, remedy="choose another output with -o"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_write(path: Path, error: OSError) -> EnvironmentFault:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space, or choose another output" if is_full else "choose another output"
    return EnvironmentFault(f"cannot write: {error.strerror or error}", path=path, remedy=remedy)


def _no_locks(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(f"cannot lock: {error.strerror or error}", path=path, remedy="choose an output on a file system with locks")


def _open_to_others(path: Path) -> None:
    """Set the modes that the umask allows: mkstemp and safetensors create files that only their owner can read.

    File systems without modes (CIFS, FUSE, S3 mounts) may refuse; the file is complete all the same.
    """
    with suppress(OSError):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _sync(path: Path) -> None:
    """Sync a file or folder to the disk. Some file systems cannot sync a folder; only a failing or full disk is an error."""
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
