"""The volumes of all labels as a table for a spreadsheet: volumes.csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from rarecli.core.jobs.files import atomic_file

VOLUMES = "volumes.csv"
_COLUMNS = ("case", "label", "volume_mm3", "confidence", "components", "agreement", "doubts")


def write_volumes(output: Path, records: dict[str, dict[str, Any]]) -> None:
    """Write volumes.csv from the records of predictions.json: one row per case and label. What is not known is empty.

    doubts: the number of doubts about the case.
    """
    with (
        atomic_file(output / VOLUMES) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for case, record in records.items():
            quality = record["quality"]
            for label, mm3 in record["volumes_mm3"].items():
                known = [(quality[name] or {}).get(label) for name in ("confidence", "components", "agreement")]
                writer.writerow([case, label, mm3, *known, len(quality["doubts"])])
