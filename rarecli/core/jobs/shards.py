"""Part I of N of a list of cases, for the tasks of a job array."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rarecli.core.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of `num` parts, counted from 1. Together the parts are the whole, and no two share anything."""

    number: int
    num: int

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """From I/N; None is the whole. Raises UsageError for anything else."""
        if text is None:
            return WHOLE
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError("this is no part of a whole", field="shard", found=text, expected="I/N with I from 1 to N, e.g. 2/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.num}"

    def file_name(self, name: Path) -> str:
        """The name of this part's own file, beside `name`, that of the whole: finished_2of8.jsonl, of finished.jsonl."""
        return name.name if self == WHOLE else f"{name.stem}_{self.number}of{self.num}{name.suffix}"

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The part of these items."""
        return list(items[self.number - 1 :: self.num])


WHOLE = Shard(1, 1)
