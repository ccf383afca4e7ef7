"""The routing of a model as a small picture of text."""

from __future__ import annotations

from rarecli.core.config.geometry import Entry, spacing_text
from rarecli.core.imaging.scan_rules import ScanRules
from rarecli.core.types import Triple


def routing_picture(rules: ScanRules) -> list[str]:
    """Return the lines of a picture: the entry of an isotropic scan over its spacing, and the encoder levels that run from there.

    It asks the model's own rule, so it shows the entries that a bundle has.
    """
    parts = _parts(rules)
    bounds = [_text(_scaled(rules, 2.0 ** (first - 0.5))) for first, _ in parts[1:]]
    width = max(map(len, [*bounds, "mm"]))
    lines = [f"{'mm':>{width}}     depth, and the levels that run"]
    for index, (_, entry) in enumerate(parts):
        if index:
            lines.append(f"{bounds[index - 1]:>{width}} ──┤")
        grid = f"grid {_text(rules.entry(entry).grid_spacing_mm)} mm"
        first = rules.spec.network.entry_level(entry)
        levels = "   " * first + "──".join("■" * (rules.spec.network.num_levels + 1 - first))
        lines.append(f"{'':>{width}}   │  {min(entry)}  {levels}  {grid}")
    if rules.routing.by == "nearest":
        lines.append(f"every axis so on its own: {_example(rules)}")
    else:
        lines.append("the finest axis decides, the others are resampled")
    return lines


def _parts(rules: ScanRules) -> list[tuple[int, Entry]]:
    """Return the entries of isotropic scans, finest first, each with the least wanted depth that leads to it."""
    parts: list[tuple[int, Entry]] = []
    for wanted in range(-1, rules.spec.network.num_levels + 1):
        entry = rules.route(_scaled(rules, 2.0**wanted)).entry
        if not parts or parts[-1][1] != entry:
            parts.append((wanted, entry))
    return parts


def _example(rules: ScanRules) -> str:
    x, y, z = rules.routing.trained_spacing_mm
    thick = (x, y, 4 * z)
    return f"{_text(thick)} mm enters at {','.join(map(str, rules.route(thick).entry))}"


def _scaled(rules: ScanRules, factor: float) -> Triple:
    x, y, z = rules.routing.trained_spacing_mm
    return x * factor, y * factor, z * factor


def _text(spacing_mm: Triple) -> str:
    x, y, z = (float(f"{step:.3g}") for step in spacing_mm)
    return spacing_text((x, y, z))
