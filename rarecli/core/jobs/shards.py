"""Part I of N of a list of cases, for the tasks of a job array."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rarecli.core.errors import UsageError
from rarecli.core.jobs.words import counted

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of `num` parts, counted from 1. Every item is in exactly one part."""

    number: int
    num: int

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """Parse I/N; None means all items. Raises UsageError for anything else."""
        if text is None:
            return WHOLE
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError("invalid shard", field="shard", found=text, expected="I/N with I from 1 to N, e.g. 2/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.num}"

    def file_name(self, name: Path) -> str:
        """Return the name of this part's own file, e.g. finished_2of8.jsonl for finished.jsonl; for all items, `name` itself."""
        return name.name if self == WHOLE else f"{name.stem}_{self.number}of{self.num}{name.suffix}"

    def done(self, num_cases: int, result: str) -> str:
        """Return the words for the end of this part. result: what is written once all parts are done."""
        return f"part {self} is done: {counted(num_cases, 'case')}; after all parts, --resume instead of --shard writes {result}"

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return this part of the items."""
        return list(items[self.number - 1 :: self.num])


WHOLE = Shard(1, 1)
