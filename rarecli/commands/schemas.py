"""The JSON schemas of what `rare X --json` prints. `make schema` writes them to docs/schemas:

    python -m rarecli.commands.schemas docs/schemas

A result that is a pydantic model has the schema of its class; the others are written here, and tests hold every command to them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
KINDS = ("bug", "usage", "data", "model", "environment", "some-failed", "stopped", "interrupted")


def record(required: Schema, optional: Schema | None = None) -> Schema:
    """Return the schema of an object with exactly these keys."""
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def table(values: Schema) -> Schema:
    """Return the schema of an object with any keys, whose values are alike."""
    return {"type": "object", "additionalProperties": values}


def items(schema: Schema, num: int | None = None) -> Schema:
    """Return the schema of a list. num: its length, if it is fixed."""
    return {"type": "array", "items": schema} | ({} if num is None else {"minItems": num, "maxItems": num})


def optional(schema: Schema) -> Schema:
    """Return the schema of a value or null."""
    return {"anyOf": [schema, {"type": "null"}]}


ENTRY, SHAPE, SPACING = items(COUNT, 3), items({"type": "integer", "minimum": 1}, 3), items({"type": "number", "exclusiveMinimum": 0}, 3)
ERROR = record(
    {
        "kind": {"enum": list(KINDS)},
        "message": TEXT,
        **dict.fromkeys(("case", "path", "expected", "found", "remedy"), optional(TEXT)),
        "exit_code": {"type": "integer", "minimum": 1, "maximum": 255},
    }
)
"""`RareError.facts`."""
FAILED = table(TEXT)
"""The failed cases, and why."""
SHARD = record({"shard": TEXT, "cases": items(TEXT), "failed": FAILED})


def preprocess() -> list[Schema]:
    """prepared.json without its cases; or of one part of a job array, the cases."""
    from rarecli.core.data.prepared import PreparedIndex

    schema = PreparedIndex.model_json_schema(mode="serialization")
    for name in ("CaseRecord", "cases"):
        schema["$defs"].pop(name, None)
        schema["properties"].pop(name, None)
    return [schema | {"required": [name for name in schema["required"] if name != "cases"]}, SHARD]


def train() -> list[Schema]:
    """The last line of log.jsonl with the best epoch; or the plan of --dry-run."""
    line = {"epoch": COUNT, "lr": NUMBER, "seconds": NUMBER, "waited_for_data": SHARE, "computed": SHARE, "consistency": NUMBER}
    log = record({"best": optional(NUMBER), "best_epoch": COUNT}, line)
    log |= {"patternProperties": {"^loss": NUMBER, "^dice_": SHARE}}
    plan = {"parameters": table(COUNT), "cases": table(COUNT), "patch_size": SHAPE}
    plan |= {"network": table({"type": ["string", "number", "boolean"]})}
    plan |= {"steps_per_epoch": COUNT, "steps": COUNT, "device": TEXT, "precision": TEXT, "memory_bytes": table(NUMBER)}
    return [log, record(plan)]


def predict() -> list[Schema]:
    """The content of predictions.json."""
    case = {"entry": ENTRY, "reason": TEXT, "residual_zoom": SPACING, "spacing_mm": SPACING, "backend": TEXT, "seconds": NUMBER}
    quality = {"confidence": table(optional(SHARE)), "components": optional(table(COUNT)), "against": optional(ENTRY)}
    quality |= {"agreement": optional(table(SHARE)), "doubts": items(TEXT)}
    steps = record({"steps": items(TEXT), "removed_mm3": NUMBER, "filled_mm3": NUMBER})
    case |= {"postprocessing": optional(table(steps))}
    case |= {"warnings": items(TEXT), "volumes_mm3": table({"type": "number", "minimum": 0}), "quality": record(quality)}
    outcomes = {"cases": table(record(case)), "failed": FAILED}
    return [record({"model": TEXT, "num_models": COUNT, "backend": TEXT, "precision": TEXT, "tta": FLAG, "calibrated": FLAG, **outcomes})]


METRICS = table(optional(NUMBER))
ROW = record(dict.fromkeys(("dice", "dice_against", "difference"), NUMBER) | dict.fromkeys(("low", "high"), optional(NUMBER)))
COMPARISON = record(
    {
        "against": TEXT,
        "num_cases": COUNT,
        "num_resamples": COUNT,
        "confidence": SHARE,
        "seed": COUNT,
        "per_resolution": items(record({"resolution": TEXT, **ROW["properties"]})),
        "mean": ROW,
    }
)


def _summary() -> tuple[Schema, Schema]:
    """Return the keys of summary.json that always exist, and those that depend on the options."""
    means = {"foreground_mean": METRICS, "mean": table(METRICS), "dice_p5": NUMBER}
    part = record(
        means | {"num_cases": COUNT, "dice": NUMBER, "dice_std": NUMBER, "both_empty": table(COUNT)},
        {"hd95_null": table(COUNT), "regions": table(METRICS), "restored": {"type": "object"}, "ceiling": {"type": "object"}},
    )
    more = dict.fromkeys(("restored", "ceiling", "regions"), table(METRICS)) | {"depth": COUNT, "spacing_mm": TEXT, "entry": ENTRY}
    case = record({"case": TEXT, "method": TEXT, "metrics": table(METRICS)}, more)
    always = means | {"per_method": table(table(part)), "metric_per_case": items(case)}
    tables = {"per_depth": table(part), "per_spacing": table(part)}
    return always, {"hd95_null": table(COUNT), "regions": table(METRICS), **tables, "comparison": COMPARISON}


def evaluate() -> list[Schema]:
    """The content of summary.json; or of one part of a job array, the cases."""
    always, sometimes = _summary()
    facts = {"model": TEXT, "protocol": TEXT, "route": TEXT, "backend": TEXT, "failed": FAILED}
    tables = {"curve": items({"type": "object"}), "curve_facts": table({"type": "object"}), "thick_slices": items({"type": "object"})}
    return [record(always | facts, sometimes | tables), record(facts | {"shard": TEXT, "cases": items(TEXT)})]


def calibrate() -> list[Schema]:
    """The content of calibration.json."""
    from rarecli.core.config.calibration import Calibration

    return [Calibration.model_json_schema(mode="serialization")]


def score() -> list[Schema]:
    """The content of summary.json. label_names: the names of the labels by value."""
    always, sometimes = _summary()
    return [record(always | {"label_names": table(TEXT), "failed": FAILED}, sometimes)]


def export() -> list[Schema]:
    """The content of manifest.json, the names of the models for Triton, or both; or of a page, what it holds."""
    from rarecli.core.engines.manifest import Manifest

    names = items(TEXT)
    manifest = Manifest.model_json_schema(mode="serialization")
    manifest["properties"]["triton_models"] = names
    page = {"page": TEXT, "bytes": COUNT, "entries": items(ENTRY), "precision": {"enum": ["fp32", "fp16"]}}
    return [manifest, record({"triton_models": names}), record(page)]


def benchmark() -> list[Schema]:
    """The content of results.json."""
    key = {"backend": TEXT, "precision": TEXT, "threads": optional(COUNT), "batch": optional(COUNT), "entry": optional(ENTRY)}
    row = key | {"method": optional(TEXT), "status": TEXT, "shape": optional(SHAPE)}
    numbers = ("volumes_per_s", "voxels_per_s", "spread", "artefact_mb")
    unknown = ("load_ms", "cold_start_ms", "peak_memory_mb", "max_rel_off_torch", "dice")
    measured = dict.fromkeys(numbers, NUMBER) | dict.fromkeys(unknown, optional(NUMBER)) | {"num_samples": COUNT, "stable": FLAG}
    measured |= {"statistics": table(table(NUMBER)), "paper_timing": table(NUMBER), "work": table(optional(NUMBER))}
    measured |= {"samples_ms": table(items(items(NUMBER)))}
    ratios = {"median_ratio": optional(NUMBER), "rows": items({"type": "object"}), "num_missing": COUNT, "threshold": NUMBER}
    result = {
        "schema_version": {"const": 3},
        "name": TEXT,
        "suite": optional(TEXT),
        "model": record({"name": TEXT, "random_weights": FLAG, "network": {"type": "object"}, "patch_size": SHAPE}),
        "machine": {"type": "object", "required": ["cpu", "num_cores", "versions"]},
        "peaks": items({"type": "object", "required": ["threads", "on_gpu"]}),
        "others_cpu_share": optional(NUMBER),
        "timer": table(optional(NUMBER)),
        "effort": table(NUMBER),
        "accuracy": items({"type": "object", "required": ["precision", "status"]}),
        "speed_up": items(record(key | {"compute": NUMBER, "end_to_end": NUMBER})),
        "paper_timing": items(record(key | {"p50_ms": NUMBER, "ratio": NUMBER, "paper_ratio": optional(NUMBER)})),
        "against": optional(record(ratios)),
        "fitting": optional(items({"type": "object"})),
        "rows": items(record(row, measured)),
        "notes": items(TEXT),
    }
    return [record(result)]


def info() -> list[Schema]:
    """Facts by name, as text or lists of text. `kind` says what the path is; `per_case` has a line for every case of a dataset."""
    facts = {"anyOf": [TEXT, items(TEXT)]}
    return [{"type": "object", "properties": {"per_case": table(TEXT)}, "required": ["kind"], "additionalProperties": facts}]


def models() -> list[Schema]:
    """The built-in models. dice: by resolution, on held-out folds, of models trained with the same recipe."""
    names = items(TEXT)
    model = {"name": TEXT, "about": TEXT, "data": TEXT, "channels": names, "labels": names, "trained_spacing_mm": SPACING}
    model |= {"entries": items(ENTRY), "num_bytes": COUNT, "dice": table(SHARE), "protocol": optional(TEXT), "card": TEXT}
    return [record({"models": items(record(model))})]


def convert() -> list[Schema]:
    """Facts about the run or the dataset."""
    common = {"path": TEXT, "spacing_mm": SPACING}
    network = {"network": {"type": "object"}, "num_parameters": COUNT, "patch_size": SHAPE, "epoch": optional(COUNT)}
    dataset = {"cases": COUNT, "labels": items(COUNT)}
    return [record({"kind": {"const": "run"}, **common, **network}), record({"kind": {"const": "dataset"}, **common, **dataset})]


def demo() -> list[Schema]:
    """Dice and latency of the phantoms at each resolution."""
    row = {"resolution": TEXT, "depth": COUNT, **dict.fromkeys(("routed", "upsampled", "threshold"), SHARE)}
    row |= dict.fromkeys(("torch_ms", "onnx_ms"), optional(NUMBER))
    return [record({"num_test": COUNT, "seconds": NUMBER, "rows": items(record(row))})]


RESULTS = (preprocess, train, predict, evaluate, calibrate, score, export, benchmark, info, models, convert, demo)


def schemas() -> dict[str, Schema]:
    """Return the schemas by the name of the command, and `error`, which every command may print instead of its result or beside it."""
    found = {"error": _document("error", record({"error": ERROR}), "What every command prints if it fails.")}
    for results in RESULTS:
        name, about = results.__name__, (results.__doc__ or "").strip()
        found[name] = _document(name, _one_of([*map(_beside_an_error, results()), record({"error": ERROR})]), about)
    return found


def _beside_an_error(result: Schema) -> Schema:
    """Allow an error beside a result: what the other cases gave, if some failed."""
    return result | {"properties": result.get("properties", {}) | {"error": ERROR}}


def _one_of(results: list[Schema]) -> Schema:
    """Return the schema of either result; the definitions of pydantic's move to the top, where their references look for them."""
    definitions = {name: schema for result in results for name, schema in result.pop("$defs", {}).items()}
    return {"anyOf": results} | ({"$defs": definitions} if definitions else {})


def _document(name: str, schema: Schema, about: str) -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rare --json: an error" if name == "error" else f"rare {name} --json",
        "description": about,
    } | schema


if __name__ == "__main__":
    for name, schema in schemas().items():
        Path(sys.argv[1], f"{name}.schema.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
