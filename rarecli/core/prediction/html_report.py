"""The page of a prediction: where each scan entered and why, its seconds, the volumes of its labels.

Decision: docs/decisions/0022-report.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rarecli.core.config.geometry import entry_taken, entry_text, spacing_text
from rarecli.core.reporting.axes import Axis
from rarecli.core.reporting.charts import strip_plot
from rarecli.core.reporting.figure import Figure
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import Page, Picture, Section
from rarecli.core.reporting.tables import Table, number, text

_MOST_PICTURES = 12
"""So many pictures of cases still make a small page: at most about 100 kB each."""


def prediction_page(
    result: dict[str, Any], options: ReportOptions, warnings: Sequence[str] = (), pictures: Mapping[str, Path] = MappingProxyType({})
) -> Page:
    """Returns the page of the content of predictions.json. warnings: those that belong to no case; each case has its own in the table.

    pictures: the PNG files of cases; those that may be wrong are shown first.
    """
    cases, failed = result["cases"], result["failed"]
    entries = Counter(entry_text(entry_taken(record)) for record in cases.values())
    seconds = sum(record["seconds"] for record in cases.values())
    models = f", mean of {result['num_models']} models" if result["num_models"] > 1 else ""
    facts = [("Cases", str(len(cases))), ("Backend", result["backend"]), ("Seconds, all cases", f"{seconds:.1f}")]
    facts += [(f"At {entry}", str(count)) for entry, count in sorted(entries.items())[:6]]
    facts += [("Failed cases", str(len(failed)))] if failed else []
    warned = sum(bool(record["warnings"]) for record in cases.values())
    lead = f"{len(cases)} of {len(cases) + len(failed)} scans are segmented" + (f"; {warned} unlike the training scans." if warned else ".")
    rows = [[text(name), text(why)] for name, why in failed.items()]
    sections = [
        Section("Cases", tables=[_cases(cases, calibrated=result["calibrated"])]),
        _pictures(cases, pictures),
        Section("Volumes of the labels", figures=_volumes(cases)),
        Section("Failed cases", tables=[Table("Cases that failed", ["case", "reason"], rows)] if rows else []),
    ]
    return Page(f"{result['model']}{models}: predictions", "rare predict", lead, facts, sections, warnings, options.command)


def _cases(cases: dict[str, dict[str, Any]], *, calibrated: bool) -> Table:
    """calibrated: whether the model is; if not, the confidence says nothing and is left out."""
    labels = list(dict.fromkeys(name for record in cases.values() for name in record["volumes_mm3"]))
    rows = []
    for name, record in cases.items():
        x, y, z = record["spacing_mm"]
        row = [text(name), text(entry_text(entry_taken(record))), text(record["reason"]), text(spacing_text((x, y, z)))]
        row += [number(record["seconds"], ".2f"), *(number(record["volumes_mm3"].get(label), ".0f") for label in labels)]
        quality = record["quality"]
        row += [number(quality["confidence"].get(label) if calibrated else None, ".2f") for label in labels]
        rows.append([*row, text("; ".join(record["warnings"])), text("; ".join(quality["doubts"]))])
    columns = ["case", "entry", "reason", "spacing (mm)", "seconds", *(f"{label} (mm³)" for label in labels)]
    columns += [*(f"confidence of {label}" for label in labels), "unlike the training scans", "may be wrong"]
    return Table("Every case, with the volume of each label", columns, rows).without_empty


def _pictures(cases: dict[str, dict[str, Any]], pictures: Mapping[str, Path]) -> Section:
    doubts = {name: [*cases[name]["quality"]["doubts"], *cases[name]["warnings"]] for name in pictures}
    chosen = sorted(pictures, key=lambda name: -len(doubts[name]))[:_MOST_PICTURES]
    notes = [f"{len(chosen)} of {len(pictures)} cases, those that may be wrong first."] if len(chosen) < len(pictures) else []
    return Section("Pictures", notes=notes, pictures=[Picture("; ".join([name, *doubts[name]]), pictures[name]) for name in chosen])


def _volumes(cases: dict[str, dict[str, Any]]) -> list[Figure]:
    labels = list(dict.fromkeys(name for record in cases.values() for name in record["volumes_mm3"]))
    if len(cases) < 2:
        return []
    rows = [(label, [record["volumes_mm3"].get(label) for record in cases.values()]) for label in labels]
    words = "; ".join(
        f"{label}: {min(known):.0f} to {max(known):.0f} mm³" for label, values in rows if (known := [v for v in values if v is not None])
    )
    return [strip_plot("Volume of each label, one mark per case", words, rows, Axis("volume (mm³)"), list(cases))]
