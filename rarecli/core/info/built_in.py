"""`rare models`: the models that ship with the package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rarecli.core.config.geometry import spacing_text
from rarecli.core.engines.model_files import built_in_models, find_model
from rarecli.core.types import Entry, Triple

CARD = "README.md"
_SCORE_COLUMNS = 4
"""The table of a card begins with recipe, protocol, method and folds; then follow Dice by resolution."""


@dataclass(frozen=True)
class BuiltInModel:
    """A built-in model. Sizes in bytes, spacings in mm.

    about: the first sentence of its card. dice: mean Dice on held-out folds by resolution, of models trained with its recipe, as the card
    says; empty if the card has none.
    """

    name: str
    about: str
    data: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    trained_spacing_mm: Triple
    entries: tuple[Entry, ...]
    num_bytes: int
    dice: dict[str, float]
    protocol: str | None
    card: Path

    @property
    def spacing(self) -> str:
        """The trained spacing and that of the deepest entry, as text."""
        deepest = 2.0 ** max(min(entry) for entry in self.entries)
        x, y, z = self.trained_spacing_mm
        return f"{spacing_text((x, y, z))} to {spacing_text((x * deepest, y * deepest, z * deepest))} mm"


def models() -> list[BuiltInModel]:
    """Return the built-in models by name. Raises ModelError for a broken one."""
    return [_describe(name, folder) for name, folder in built_in_models().items()]


def _describe(name: str, folder: Path) -> BuiltInModel:
    rules = find_model(folder).rules
    plan, card = rules.spec.plan, folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    protocol, dice = _score(text)
    return BuiltInModel(
        name=name,
        about=_first_sentence(text),
        data=plan.dataset,
        channels=plan.channel_names,
        labels=plan.label_names[1:],
        trained_spacing_mm=plan.spacing_mm,
        entries=rules.routing.entries,
        num_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        dice=dice,
        protocol=protocol,
        card=card,
    )


def _first_sentence(card: str) -> str:
    """Return the first sentence below the title."""
    _, _, body = card.partition("\n\n")
    paragraph = " ".join(body.partition("\n\n")[0].split())
    return re.split(r"(?<=[a-z\d])\.(?: |$)", paragraph)[0] + "." if paragraph else ""


def _score(card: str) -> tuple[str | None, dict[str, float]]:
    """Return the protocol and the Dice by resolution of the routed row in the card's table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    for row in rows[2:]:
        if row[2] == "routed":
            return row[1], {name: float(cell) for name, cell in zip(rows[0][_SCORE_COLUMNS:], row[_SCORE_COLUMNS:], strict=True) if cell}
    return None, {}
