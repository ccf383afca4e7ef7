"""The `labels` of an nnU-Net dataset.json: names and values, or regions, which are unions of values; and the ignore label.

Decision: docs/decisions/0025-labels-as-declared.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rarecli.core.config.plan import Region, values_of_one_name
from rarecli.core.data.cases import undeclared_name
from rarecli.core.errors import DataError

_IGNORE = "ignore"


@dataclass(frozen=True)
class DeclaredLabels:
    """names: the names of the classes by value. regions: unions of classes. ignored_value: the value of voxels without annotation."""

    names: dict[int, str]
    regions: tuple[Region, ...] = ()
    ignored_value: int | None = None


def read_labels_field(labels: object, path: Path) -> DeclaredLabels:
    """Return the classes, the regions, and the value of nnU-Net's label `ignore`, which is no class.

    Without regions every name is a class: {"background": 0, "name": 1, ...}. With regions, such as {"whole tumour": [1, 2, 4]}, every value
    that occurs is a class, so that labels keep all that the files tell, and every name but the background is a region.
    Raises DataError for anything else.
    """
    if not isinstance(labels, dict) or not all(isinstance(value, str | int | list) for value in labels.values()):
        raise _not_labels(labels, path)
    if any(isinstance(value, list) for value in labels.values()):
        return _read_regions(labels, path)
    declared = _names_and_values(labels)
    if declared is None:
        raise _not_labels(labels, path)
    names = {value: name for name, value in declared}
    if len(names) < len(declared):
        raise DataError("two labels have the same value", path=path, field="labels", found=dict(declared))
    return split_ignored(names, path)


def split_ignored(names: dict[int, str], path: Path) -> DeclaredLabels:
    """Return the names of the classes without the label `ignore`, and its value. Raises DataError for two labels of one name."""
    ignored = [value for value, name in names.items() if name.casefold() == _IGNORE]
    if len(ignored) > 1:
        raise DataError("several labels are named ignore", path=path, field="labels", found=names, expected="at most one")
    classes = {value: name for value, name in names.items() if value not in ignored}
    if twice := values_of_one_name(classes):
        raise DataError(
            "two labels have the same name",
            path=path,
            field="labels",
            found=twice,
            expected="a name for each label",
            remedy="rename one of them; to make them one class, give their voxels one value",
        )
    return DeclaredLabels(classes, ignored_value=ignored[0] if ignored else None)


def _read_regions(labels: dict[object, object], path: Path) -> DeclaredLabels:
    regions = []
    ignored: set[int] = set()
    for name, content in labels.items():
        listed = content if isinstance(content, list) else [content]
        values = {value for value in listed if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31}
        if not listed or len(values) < len(listed):
            raise _not_labels(labels, path)
        if str(name).casefold() == _IGNORE:
            ignored |= values
        elif values != {0}:
            regions.append(Region(name=str(name), label_values=tuple(sorted(values))))
    if any(0 in region.label_values for region in regions):
        raise DataError("a region holds the background", path=path, field="labels", found=labels, expected="regions of values above 0")
    known = {0}.union(*(region.label_values for region in regions))
    if len(ignored) > 1 or ignored & known:
        raise DataError("the ignore label is part of another", path=path, field="labels", found=labels, expected="a value of its own")
    return DeclaredLabels({value: undeclared_name(value) for value in sorted(known)}, tuple(regions), *ignored)


def _names_and_values(labels: dict[object, object]) -> list[tuple[str, int]] | None:
    """Return nnU-Net's labels, or None if invalid. Values may be text, and the mapping inverted, {"0": "background"}."""
    if any(isinstance(value, bool) for value in labels.values()):
        return None
    pairs = [(str(name), str(value)) for name, value in labels.items()]
    if all(name.isdigit() for name, _ in pairs) and not any(value.isdigit() for _, value in pairs):
        pairs = [(value, name) for name, value in pairs]
    try:
        return [(name, int(value)) for name, value in pairs]
    except ValueError:
        return None


def _not_labels(labels: object, path: Path) -> DataError:
    return DataError(
        "labels must map names to integers, or to lists of them",
        path=path,
        field="labels",
        found=labels,
        expected='{"background": 0, "name": 1, ...}, or regions: {"background": 0, "name": [1, 2], ...}',
    )
