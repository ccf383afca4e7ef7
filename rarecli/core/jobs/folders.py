"""Atomic writes of folders: written under a temporary name, synced and renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rarecli.core.errors import EnvironmentFault, RareError, UsageError
from rarecli.core.jobs.files import NO_FOLLOW, cannot_write, lock, no_locks, open_to_others, prefix_of, remove_leftovers, sync


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; it replaces `path` on success, else it is removed. Raises EnvironmentFault if a write fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path, "")
        if path.exists():  # else a killed process had set the old folder aside, and it is all there is
            remove_leftovers(path, ".old")
        temporary, handle = _new_temporary(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with _replaced_by(path, temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _new_temporary(path: Path) -> tuple[Path, int]:
    """Create a folder with a random name beside `path`. Return it and its handle, whose lock tells other processes that it is in use."""
    while True:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix_of(path.name)))
        with suppress(FileNotFoundError):  # another process took it for a leftover before it was locked
            handle = os.open(temporary, os.O_RDONLY | NO_FOLLOW)
            with suppress(BlockingIOError):
                lock(handle)
                if temporary.exists():
                    return temporary, handle
            os.close(handle)


@contextmanager
def resumable_folder(path: Path, *, resume: bool) -> Iterator[Path]:
    """Like `atomic_folder`, but an interrupted folder (a kill, a full disk) stays beside `path`, so that a later call can resume it.

    Raises EnvironmentFault if another process works on it. The lock ends with its process.
    """
    with _unfinished(path, alone=True) as temporary:
        try:
            if not resume:
                for item in temporary.iterdir():
                    shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
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
        if temporary.is_symlink():
            raise UsageError("the folder of an unfinished output is a link", path=temporary, remedy="remove it, or choose another -o")
        temporary.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_RDONLY | NO_FOLLOW)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            mine = os.fstat(handle).st_ino == temporary.stat().st_ino
        except (BlockingIOError, FileNotFoundError):  # held, or moved away by its last holder
            mine = False
        except OSError as error:
            raise no_locks(temporary, error) from error
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
            open_to_others(item)
            sync(item)
        if path.exists():
            path.replace(old)  # set aside, not deleted: after an interruption here both are there
        temporary.replace(path)
        sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise cannot_write(path, error) from error
