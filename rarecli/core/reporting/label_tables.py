"""Names and colours of labels, for the programs that people open labels with: ITK-SNAP and 3D Slicer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rarecli.core.jobs.files import atomic_file
from rarecli.core.reporting.plotting import label_colour

ITK_SNAP, SLICER = "labels_itksnap.txt", "labels_slicer.ctbl"


def write_label_tables(folder: Path, labels: Mapping[int, str]) -> None:
    """Write a label description file of ITK-SNAP and a colour table of 3D Slicer into `folder`. labels: names by value, no background."""
    for name, text in ((ITK_SNAP, itk_snap_table(labels)), (SLICER, slicer_table(labels))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def itk_snap_table(labels: Mapping[int, str]) -> str:
    """Return value, red, green, blue, opacity, visible in slices, visible as a mesh, and the name in quotes, a line per label.

    Source: the files that ITK-SNAP 4 saves (Segmentation, Export Label Descriptions).
    """
    lines = ["# ITK-SnAP Label Description File", "# IDX  -R-  -G-  -B-  -A--  VIS MSH  LABEL", '0 0 0 0 0 0 0 "Clear Label"']
    for index, (value, name) in enumerate(labels.items(), start=1):
        red, green, blue = label_colour(index)
        quoted = _one_line(name).replace('"', "'")
        lines.append(f'{value} {red} {green} {blue} 1 1 1 "{quoted}"')
    return "\n".join(lines) + "\n"


def slicer_table(labels: Mapping[int, str]) -> str:
    """Return value, name without blanks, red, green, blue, opacity (0 to 255), a line per label.

    Source: slicer.readthedocs.io/en/5.6/developer_guide/modules/colors.html.
    """
    lines = ["# Color table file", f"# {len(labels) + 1} values", "0 Background 0 0 0 0"]
    for index, (value, name) in enumerate(labels.items(), start=1):
        red, green, blue = label_colour(index)
        lines.append(f"{value} {'_'.join(name.split()) or value} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"


def _one_line(name: str) -> str:
    return " ".join(name.split())
