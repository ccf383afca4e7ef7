"""Atomic writes of files: written under a temporary name, synced and renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from rarecli.core.errors import DataError, EnvironmentFault, RareError, UsageError
from rarecli.core.jobs.safe_text import read_text

NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
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
        remove_leftovers(path, suffix)
        temporary, handle = _new_temporary(path, suffix)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield temporary
        open_to_others(temporary)
        sync(temporary)
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _new_temporary(path: Path, suffix: str) -> tuple[Path, int]:
    """Create a file with a random name beside `path`. Return it and its handle, whose lock tells other processes that it is in use."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix_of(path.name), suffix=suffix)
        with suppress(BlockingIOError):  # until it is locked, another process may take it for a leftover
            lock(handle)
            if os.fstat(handle).st_nlink:
                return Path(name), handle
        os.close(handle)


def remove_leftovers(path: Path, suffix: str) -> None:
    """Remove temporary files of `path` whose writers were killed: those without a lock."""
    pattern = re.compile(rf"{re.escape(prefix_of(path.name))}[a-z0-9_]{{8}}{re.escape(suffix)}")
    for name in filter(pattern.fullmatch, _hidden_names(path.parent)):
        item = path.parent / name
        with suppress(OSError):  # a link, held, or already gone
            handle = os.open(item, os.O_RDONLY | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))
            try:
                if lock(handle):
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            finally:
                os.close(handle)


@lru_cache
def _hidden_names(folder: Path) -> tuple[str, ...]:
    """Return the hidden names of a folder at this process's first write. Listing 100,000 cases for each of them would take too long."""
    return tuple(item.name for item in os.scandir(folder) if item.name.startswith("."))


def forget_folders() -> None:
    """Let the next writes look for leftovers again: another process was killed since this one's first write."""
    _hidden_names.cache_clear()


def prefix_of(name: str) -> str:
    """Return the prefix of temporary names for `name`: short enough for every file system, and unique to `name`."""
    short = name if len(name) <= 40 else f"{name[:31]}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return f".{short}."


def lock(handle: int) -> bool:
    """Lock an open file or folder until its handle is closed. The lock ends with the process.

    Returns False where there are no locks. Raises BlockingIOError if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def leftovers(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the temporary files that a killed process left while it wrote files of these names."""
    starts = tuple(map(prefix_of, names))
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
            handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                break
            os.close(handle)  # its last holder has just removed the file
    except BlockingIOError:
        os.close(handle)
        raise UsageError("another process is writing here", path=path.parent, remedy="wait for it, or choose another -o") from None
    except OSError as error:
        raise no_locks(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


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


def cannot_write(path: Path, error: Exception) -> EnvironmentFault:
    """Return the error for a file that could not be written. error: an OSError, or safetensors' error with the number in its text."""
    number = (error.errno or 0) if isinstance(error, OSError) else int((re.findall(r"os error (\d+)", str(error)) or [0])[-1])
    why = os.strerror(number) if number else str(error)
    is_full = number in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space, or choose another output" if is_full else "choose another output"
    return EnvironmentFault(f"cannot write: {why}", path=path, remedy=remedy)


def no_locks(path: Path, error: OSError) -> EnvironmentFault:
    """The error for a file system without locks."""
    return EnvironmentFault(f"cannot lock: {error.strerror or error}", path=path, remedy="choose an output on a file system with locks")


def open_to_others(path: Path) -> None:
    """Set the modes that the umask allows: mkstemp and safetensors create files that only their owner can read.

    File systems without modes (CIFS, FUSE, S3 mounts) may refuse; the file is complete all the same.
    """
    with suppress(OSError):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def sync(path: Path) -> None:
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
