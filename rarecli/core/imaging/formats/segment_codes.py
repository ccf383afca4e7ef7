"""The table that gives every label of a model its codes in a DICOM segmentation: `rarecli/codes/segments.yaml`, and files of users."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from rarecli.core.errors import UsageError
from rarecli.core.jobs.safe_text import read_text

_PARTS = ("category", "type", "modifier")
_MOST_LETTERS = 64
"""DICOM's limits: 16 letters for a code and a scheme, 64 for a meaning and a label."""


@dataclass(frozen=True)
class Code:
    """A concept of a coding scheme."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class SegmentCode:
    """What a segment is: its category, its type, and perhaps a modifier such as the side."""

    category: Code
    type: Code
    modifier: Code | None = None


@dataclass(frozen=True)
class Segment:
    """One label of a model. value: in the labels. code: None for a name that no table has; it is coded as tissue."""

    value: int
    name: str
    code: SegmentCode | None


UNKNOWN = SegmentCode(Code("85756007", "SCT", "Tissue"), Code("85756007", "SCT", "Tissue"))


def segments_of(model: str, names: Sequence[str], values: Sequence[int], codes: Path | None = None) -> list[Segment]:
    """Return the segments for the labels of a model, background left out. codes: a file that adds to the table.

    Raises UsageError for a file that is no such table.
    """
    shipped = yaml.safe_load(resources.files("rarecli.codes").joinpath("segments.yaml").read_text(encoding="utf-8"))
    table = _parse(shipped["segments"], Path("segments.yaml"))
    if codes is not None:
        table |= load_codes(codes)
    found = []
    for name, value in zip(names, values, strict=True):
        if value:
            found.append(Segment(value, name, table.get(f"{_key(model)}/{_key(name)}", table.get(_key(name)))))
    return found


def load_codes(path: Path) -> dict[str, SegmentCode]:
    """Read a table of a user, YAML or JSON: label names, or `segments` with label names below. Raises UsageError for anything else."""
    try:
        text = read_text(path, UsageError)
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UsageError("the table of codes cannot be read", path=path, field="--codes", found=error.strerror) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError("the table of codes is not valid YAML or JSON", path=path, field="--codes", found=found) from error
    if isinstance(content, dict) and isinstance(content.get("segments"), dict):
        content = content["segments"]
    if not isinstance(content, dict):
        raise UsageError(
            "not a table of codes", path=path, field="--codes", found=type(content).__name__, expected="label names with codes"
        )
    return _parse(content, path)


def _parse(content: dict[Any, Any], path: Path) -> dict[str, SegmentCode]:
    table = {}
    for name, parts in content.items():
        if not isinstance(parts, dict) or not {"category", "type"} <= parts.keys() <= set(_PARTS):
            found = sorted(map(str, parts)) if isinstance(parts, dict) else parts
            raise UsageError(
                "not the codes of a label", path=path, field=str(name), found=found, expected="category, type and perhaps modifier"
            )
        table[_key(str(name))] = SegmentCode(**{part: _code(parts[part], path, f"{name}.{part}") for part in _PARTS if part in parts})
    return table


def _code(value: Any, path: Path, field: str) -> Code:
    texts = [str(item) for item in value] if isinstance(value, list) and all(isinstance(item, str | int) for item in value) else []
    fits = len(texts) == 3 and all(0 < len(text) <= most for text, most in zip(texts, (16, 16, _MOST_LETTERS), strict=True))
    if not fits or not all(text.isprintable() and "\\" not in text for text in texts):
        expected = "[code of at most 16 letters, coding scheme, meaning of at most 64 letters]"
        raise UsageError("not a code", path=path, field=field, found=value, expected=expected)
    return Code(*texts)


def _key(name: str) -> str:
    """Return a name without regard to case and separators of words; a slash stays."""
    return " ".join(re.split(r"[\s_-]+", name.lower().strip()))
