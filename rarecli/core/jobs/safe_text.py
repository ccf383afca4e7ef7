"""Text of unknown origin. Files: regular, of bounded size, UTF-8 with or without a byte order mark. Paths: perhaps not UTF-8."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rarecli.core.errors import RareError

_MAX_BYTES = 2**29
_MAX_YAML_BYTES = 2**20


def read_text(path: Path, kind: type[RareError], max_bytes: int = _MAX_BYTES) -> str:
    """Read a text file. Raises `kind` for a device, a pipe, a folder, a file above `max_bytes`, and text that is not UTF-8.

    Raises OSError (FileNotFoundError included) as `Path.read_text` does.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise kind("not a regular file", path=path, found="a folder" if path.is_dir() else "a pipe or a device", expected="a text file")
    if status.st_size > max_bytes:
        raise kind("the file is too large", path=path, found=f"{status.st_size} bytes", expected=f"at most {max_bytes}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind("the file is not UTF-8 text", path=path, found=error, expected="UTF-8") from error


def read_yaml(path: Path, kind: type[RareError]) -> Any:
    """Read a YAML file. Raises `kind` if it is invalid, and for aliases, because a few bytes of them can expand to gigabytes."""
    try:
        text = read_text(path, kind, _MAX_YAML_BYTES)
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise kind("the file uses YAML aliases", path=path, found="*", expected="every value written out")
        return yaml.safe_load(text)
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise kind("the file cannot be read", path=path, found=error) from error


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file that are JSON objects. Lines broken by a kill or another program are left out; a missing file has none."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            yield line


def is_inside(name: str) -> bool:
    """Return whether a relative path, as text, stays in its folder. Links are not followed."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """Yield a path to the same file that is valid UTF-8, as libraries in C++ and Rust require: on Linux through /proc/self/fd if needed."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            yield Path(f"/proc/self/fd/{handle}", path.name)
        finally:
            os.close(handle)
    else:
        yield path
