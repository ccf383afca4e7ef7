"""What the Python functions return: dataclasses that notebooks show as a table, with a picture where the command draws one.

A result that lies in a folder is a path, too: `rarecli.evaluate(dataset, run, "scores")` takes the `run` that `rarecli.train` returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rarecli.api.html import shown
from rarecli.core.config.geometry import Entry, Shape, Triple, entry_text
from rarecli.core.jobs.words import times, volume

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class InFolder:
    """A result in a folder. Functions that take a path take it as well."""

    path: Path
    picture: ClassVar[str | None] = None
    """The file in the folder that a notebook shows, if it is there."""

    def __fspath__(self) -> str:
        return str(self.path)

    def table(self) -> Table:
        """Return the columns and the rows that a notebook shows."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return shown(f"{type(self).__name__} in {self.path}", *self.table(), self.path / self.picture if self.picture else None)


@dataclass(frozen=True)
class Prepared(InFolder):
    """A prepared dataset. num_cases_at: how many cases enter at each depth. failed: the reason by case."""

    dataset: str
    num_cases: int
    spacing_mm: Triple
    patch_size: Shape
    num_cases_at: tuple[int, ...]
    failed: Mapping[str, str]

    def table(self) -> Table:
        """Return the cases by depth."""
        grids = [times(step * 2.0**depth for step in self.spacing_mm) for depth in range(len(self.num_cases_at))]
        rows = [[str(depth), grids[depth], str(num)] for depth, num in enumerate(self.num_cases_at)]
        return ["depth", "grid (mm)", f"of {self.num_cases} cases enter here"], rows


@dataclass(frozen=True)
class Run(InFolder):
    """A training. last: the last line of its log. best: the best value of the monitored metric, None before a validation."""

    last: Mapping[str, Any]
    best: float | None
    best_epoch: int | None
    picture = "progress.png"

    def table(self) -> Table:
        """Return the numbers of the last epoch, and the best one."""
        rows = [[name, f"{value:.4g}"] for name, value in self.last.items()]
        if self.best is not None:
            rows.append(["best", f"{self.best:.4f} in epoch {self.best_epoch}"])
        return ["of the last epoch", ""], rows


@dataclass(frozen=True)
class CasePrediction:
    """One predicted case: where it entered and why, the volume of each label in mm³, and how the scan differs from the training scans."""

    entry: Entry
    reason: str
    volumes_mm3: Mapping[str, float]
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Predictions(InFolder):
    """Predicted scans. path: the folder, or the file of a single scan. failed: the reason by case."""

    model: str
    backend: str
    cases: Mapping[str, CasePrediction]
    failed: Mapping[str, str]

    def table(self) -> Table:
        """Return the entry and the volumes of each case."""
        labels = list(dict.fromkeys(label for case in self.cases.values() for label in case.volumes_mm3))
        rows = [
            [name, entry_text(case.entry), *(volume(case.volumes_mm3[label]) for label in labels), "; ".join(case.warnings)]
            for name, case in self.cases.items()
        ]
        rows += [[name, "failed", *[""] * len(labels), why] for name, why in self.failed.items()]
        return ["case", "entry", *labels, "remarks"], rows


@dataclass(frozen=True)
class Scores(InFolder):
    """Scores of `evaluate` or `score`. dice: the mean over classes, cases and resolutions. summary: the content of summary.json."""

    dice: float
    summary: Mapping[str, Any]
    picture = "dice_over_resolution.png"

    def table(self) -> Table:
        """Return the Dice by method and resolution."""
        names = self.summary.get("label_names", {})
        labels = list(self.summary["mean"])
        rows = [
            [method, _resolution(key), str(part["num_cases"]), f"{part['dice']:.4f} ({part['dice_std']:.3f})"]
            + [f"{part['mean'][label]['dice']:.4f}" for label in labels]
            for method, parts in self.summary["per_method"].items()
            for key, part in parts.items()
        ]
        return ["method", "resolution", "cases", "Dice (std)", *(names.get(label, label) for label in labels)], rows


@dataclass(frozen=True)
class ExportedBundle(InFolder):
    """A bundle, or a page that holds one. manifest: the content of manifest.json. triton_models: the models rendered from it."""

    name: str
    entries: tuple[Entry, ...]
    manifest: Mapping[str, Any]
    triton_models: tuple[str, ...] = ()

    def table(self) -> Table:
        """Return the engines."""
        rows = [[entry_text(tuple(one["entry"])), times(one["grid_spacing_mm"]), one["file"]] for one in self.manifest["engines"]]
        return ["entry", "grid (mm)", "engine"], rows


@dataclass(frozen=True)
class Timing(InFolder):
    """A benchmark. columns, rows: its table, with times in ms. result: the content of results.json."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    result: Mapping[str, Any]
    picture = "latency.png"

    def table(self) -> Table:
        """Return the rows as results.md has them."""
        return self.columns, self.rows


@dataclass(frozen=True)
class Description:
    """Facts about a file, a folder or a model, by name: text, lists of text, or for `per_case` text by case."""

    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    @property
    def kind(self) -> str:
        """What the path is."""
        return str(self.facts["kind"])

    def _repr_html_(self) -> str:
        facts = {name: value for name, value in self.facts.items() if name not in ("kind", "per_case")}
        rows = [[name, value if isinstance(value, str) else "\n".join(value)] for name, value in facts.items()]
        return shown(self.kind, ["", ""], rows)


def _resolution(key: str) -> str:
    return ("full" if key == "0" else f"1/{2 ** int(key)}") if key.isdigit() else key
