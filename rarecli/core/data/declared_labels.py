"""The `labels` of an nnU-Net dataset.json: names and values, or regions, which are unions of values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rarecli.core.config.plan import Region
from rarecli.core.data.cases import undeclared_name
from rarecli.core.errors import DataError


def read_labels_field(labels: object, path: Path) -> tuple[dict[int, str], tuple[Region, ...]]:
    """Return the names of the classes by value, and the regions.

    Without regions every name is a class: {"background": 0, "name": 1, ...}. With regions, such as {"whole tumour": [1, 2, 4]}, every value
    that occurs is a class, so that labels keep all that the files tell, and every name but the background is a region.
    Raises DataError for anything else, and for an ignore label.
    """
    if not isinstance(labels, dict) or not all(isinstance(value, str | int | list) for value in labels.values()):
        raise _not_labels(labels, path)
    require_no_ignore_label(map(str, labels), path)
    if any(isinstance(value, list) for value in labels.values()):
        return _read_regions(labels, path)
    declared = _values_by_name(labels)
    if declared is None:
        raise _not_labels(labels, path)
    names = {value: name for name, value in declared.items()}
    if len(names) < len(declared):
        raise DataError("two labels have the same value", path=path, field="labels", found=declared)
    return names, ()


def _read_regions(labels: dict[object, object], path: Path) -> tuple[dict[int, str], tuple[Region, ...]]:
    regions = []
    for name, content in labels.items():
        listed = content if isinstance(content, list) else [content]
        values = {value for value in listed if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31}
        if not listed or len(values) < len(listed):
            raise _not_labels(labels, path)
        if values != {0}:
            regions.append(Region(name=str(name), label_values=tuple(sorted(values))))
    if any(0 in region.label_values for region in regions):
        raise DataError("a region holds the background", path=path, field="labels", found=labels, expected="regions of values above 0")
    known = sorted({0}.union(*(region.label_values for region in regions)))
    return {value: undeclared_name(value) for value in known}, tuple(regions)


def _values_by_name(labels: dict[object, object]) -> dict[str, int] | None:
    """Return nnU-Net's label values by name, or None if invalid. Values may be text, and the mapping inverted, {"0": "background"}."""
    if any(isinstance(value, bool) for value in labels.values()):
        return None
    if all(str(name).isdigit() for name in labels) and not any(str(value).isdigit() for value in labels.values()):
        labels = {str(value): name for name, value in labels.items()}
    try:
        return {str(name): int(str(value)) for name, value in labels.items()}
    except ValueError:
        return None


def require_no_ignore_label(names: Iterable[str], path: Path) -> None:
    """Raise DataError for nnU-Net's ignore label: it would be trained and predicted like a structure."""
    if ignored := [name for name in names if name.casefold() == "ignore"]:
        raise DataError(
            "the dataset has an ignore label, which rare does not support yet",
            path=path,
            field="labels",
            found=ignored[0],
            expected="labels that are all structures",
            remedy="remove the label from dataset.json, and its voxels from the labels",
        )


def _not_labels(labels: object, path: Path) -> DataError:
    return DataError(
        "labels must map names to integers, or to lists of them",
        path=path,
        field="labels",
        found=labels,
        expected='{"background": 0, "name": 1, ...}, or regions: {"background": 0, "name": [1, 2], ...}',
    )
