"""The journal of a batch: one line per finished case, so that `--resume` processes only the missing cases.

A line holds the key of the case: a hash of its files, the model and the options. If one of them changes, the key differs
and the case is processed again. Lines are appended, so a stopped batch loses at most the cases in progress. Each task of a
job array has its own file; `--resume` reads them all, and a batch of all cases merges their lines into its own file.
Decision: docs/decisions/0011-batches.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any

from rarecli.core.errors import DataError
from rarecli.core.jobs.files import atomic_file, sha256
from rarecli.core.jobs.safe_text import json_lines
from rarecli.core.jobs.shards import WHOLE, Shard

FILE_NAME = "finished.jsonl"


class Journal:
    """The finished cases of an output folder, or of one shard of them. Without `resume` it starts empty.

    writes: names of the cases whose files will be written. They are noted first, so that rare recognises the files of a killed call.
    """

    def __init__(self, folder: Path, *, resume: bool, shard: Shard = WHOLE, writes: Iterable[str] = ()) -> None:
        name = Path(FILE_NAME)
        self._path = folder / shard.file_name(name)
        parts = set(folder.glob(f"{name.stem}_*of*{name.suffix}"))
        self._lines: dict[str, dict[str, Any]] = {}
        noted_in: dict[str, Path] = {}
        if resume:
            there = [path for path in parts | {folder / name, self._path} if path.is_file()]
            # of two lines for one case the newer counts: the files of the case belong to it
            for path in sorted(there, key=lambda path: path.stat().st_mtime_ns):
                lines = _read(path)
                self._lines |= lines
                noted_in |= dict.fromkeys(lines, path)
        whole = shard == WHOLE
        kept = [line for case, line in self._lines.items() if whole or noted_in[case] == self._path]
        with atomic_file(self._path) as temporary:
            noted = sorted({*writes, *written_names(folder)}) if writes else []
            lines_to_keep = [{"writes": noted}] * bool(noted) + kept
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines_to_keep), encoding="utf-8")
        for path in parts if whole else ():
            path.unlink(missing_ok=True)

    def find(self, case: str, key: str) -> Any:
        """Return the noted result of a case with the same key, or None."""
        line = self._lines.get(case)
        return line["result"] if line and line["key"] == key else None

    def of(self, case: str) -> Journal:
        """Return a copy that knows only this case: small enough to be sent with it."""
        part = copy(self)
        part._lines = {case: self._lines[case]} if case in self._lines else {}
        return part

    def add(self, case: str, key: str, result: Any) -> None:
        """Note a case as finished. Its files must be complete by now."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"case": case, "key": key, "result": result}, allow_nan=False) + "\n")


def written_names(folder: Path) -> set[str]:
    """Return the cases whose files in a folder were written by calls with a journal there, killed calls included."""
    names: set[str] = set()
    for path in folder.glob("finished*.jsonl"):
        for line in json_lines(path):
            noted = line["writes"] if isinstance(line.get("writes"), list) else [line.get("case")]
            names |= {name for name in noted if isinstance(name, str)}
    return names


def key_of(files: Iterable[Path], *facts: Any) -> str:
    """Hash the content of files and facts that JSON can hold. Raises DataError for a file that cannot be read."""
    total = hashlib.sha256()
    for path in files:
        if not path.is_file():  # a pipe would never end
            raise DataError("the file is missing", path=path, expected="a regular file")
        try:
            total.update(sha256(path).encode())
        except OSError as error:
            raise DataError("the file cannot be read", path=path, found=error.strerror, remedy="check its permissions") from error
    total.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return total.hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the newest line of each case. Incomplete lines are left out, so their cases are processed again."""
    lines = {}
    for line in json_lines(path):
        if isinstance(line.get("case"), str) and {"key", "result"} <= line.keys():
            lines[line["case"]] = {name: line[name] for name in ("case", "key", "result")}
    return lines
