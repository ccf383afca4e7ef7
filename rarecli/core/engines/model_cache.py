"""Compiled models on disk: the next process imports what an earlier one compiled. Off with RARE_CACHE=off.

One file per engine, size, precision and machine: the SHA-256 of what follows, then what the library exported. A file whose hash differs is
ignored and written again. Files appear by renaming, so that several processes may fill the folder at once.
Decision: docs/decisions/0030-model-cache.md.
"""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rarecli.core.errors import EnvironmentFault
from rarecli.core.jobs.files import atomic_file

VARIABLE, OFF = "RARE_CACHE", "off"
MOST_BYTES = 512 * 2**20
_SUFFIX = ".compiled"
_HASH_BYTES = 32


def open_cache(environment: Mapping[str, str] = os.environ) -> ModelCache | None:
    """Return the user's cache; None if it is switched off or the user has no home.

    RARE_CACHE names a folder, or is `off`; by default it is `rare` in XDG_CACHE_HOME or ~/.cache.
    """
    named = environment.get(VARIABLE)
    if named == OFF:
        return None
    try:
        return ModelCache(Path(named) if named else Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rare")
    except RuntimeError:  # no home
        return None


class ModelCache:
    """The cache in a folder. most_bytes: beyond it, the files used longest ago are removed."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._is_writable = True

    def load(self, key: str) -> bytes | None:
        """Return what was saved under a key; None if nothing was, or if it cannot be read or was damaged."""
        path = self._folder / (key + _SUFFIX)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        exported = content[_HASH_BYTES:]
        if hashlib.sha256(exported).digest() != content[:_HASH_BYTES]:
            return None
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return exported

    def save(self, key: str, exported: bytes) -> None:
        """Save under a key, and remove the files used longest ago. A folder that cannot be written is a warning, once."""
        if not self._is_writable:
            return
        try:
            with suppress(OSError):  # if it cannot be made, the next line says so
                # native code reads what lies here: nobody else may put it here
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_file(self._folder / (key + _SUFFIX)) as temporary:
                temporary.write_bytes(hashlib.sha256(exported).digest() + exported)
        except EnvironmentFault as error:
            self._is_writable = False
            text = f"compiled models are not kept in {self._folder}: {error.problem}; {VARIABLE}={OFF} does without"
            warnings.warn(text, stacklevel=2)
        else:
            _remove_oldest(self._folder, self._most_bytes)


def cpu_features() -> str:
    """Return the instructions that this CPU offers, as Linux lists them; elsewhere its kind."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.lower().startswith(("flags", "features")):
                return line.partition(":")[2].strip()
    return platform.machine()


def _remove_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the files used longest ago, until the others have at most this size together. Another process may remove them, too."""
    found = []
    for path in folder.glob(f"[!.]*{_SUFFIX}"):
        with suppress(OSError):
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > most_bytes:
            with suppress(OSError):
                path.unlink(missing_ok=True)
