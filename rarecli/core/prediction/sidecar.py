"""CASE.json beside the labels of a case, with the keys of BIDS derivatives and some of our own.

Source: bids-specification.readthedocs.io, "Common data types and metadata" and "Imaging data types" of derivatives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rarecli.core.data.cases import Case
from rarecli.core.errors import DataError
from rarecli.core.jobs.files import read_json
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.versions import installed_versions

_PACKAGE = "rare-unet"


def is_sidecar(path: Path) -> bool:
    """Return whether a JSON file is one of these."""
    try:
        return bool(read_json(path)["GeneratedBy"][0]["Name"] == _PACKAGE)
    except (DataError, KeyError, IndexError, TypeError):
        return False


def sidecar(case: Case, record: dict[str, Any], predictor: Predictor) -> dict[str, Any]:
    """Return the content of CASE.json. record: of predictions.json. Of the scan it holds file names, never the header's text."""
    spec, choice, quality = predictor.spec, predictor.choice, record["quality"]
    values = dict(zip(spec.plan.label_names[1:], spec.plan.label_values[1:], strict=True))
    return {
        "Description": f"Labels that the model {spec.name} found in the scan",
        "Sources": [image.name for image in case.images],
        "SpatialReference": "orig",
        "Manual": False,
        "GeneratedBy": [{"Name": _PACKAGE, "Version": installed_versions([_PACKAGE]).get(_PACKAGE)}],
        "Labels": [
            {"Value": value, "Name": name, "VolumeMm3": record["volumes_mm3"][name], "Confidence": quality["confidence"].get(name)}
            for name, value in values.items()
        ],
        "Entry": record["entry"],
        "EntryReason": record["reason"],
        "SpacingMm": record["spacing_mm"],
        "ResidualZoom": record["residual_zoom"],
        "Backend": record["backend"],
        "Precision": choice.precision,
        "NumModels": len(choice.models),
        "TestTimeFlips": choice.tta,
        "Postprocessing": record["postprocessing"],
        "Warnings": [*record["warnings"], *quality["doubts"]],
    }
