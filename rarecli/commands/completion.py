"""Values that the shell completes, and that the help lists. Reads names of files and small JSON, and imports nothing heavy."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

_PACKAGE = Path(__file__).parents[1]
BACKENDS = ("torch", "onnx", "openvino", "tensorrt")
MORE_BACKENDS = ("torch-compile", "torch-cuda-graph", "browser")
"""What `rare benchmark` also measures."""
PRECISIONS = ("fp32", "bf16", "int8")
ENTRY_SETS = ("isotropic", "thick", "all")
FORMATS = ("onnx", "tensorrt", "html")


def built_in_models() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(path.parent.name for path in (_PACKAGE / "models").glob("*/manifest.json"))


def presets() -> list[str]:
    """Return the names of the training configurations in the package."""
    return sorted(path.stem for path in (_PACKAGE / "presets").glob("*.yaml"))


def suites() -> list[str]:
    """Return the names of the benchmark suites in the package."""
    return sorted(path.stem for path in (_PACKAGE / "suites").glob("*.json"))


def complete_model(incomplete: str) -> list[str]:
    """Complete a built-in model, or a run or bundle in the working directory. The shell itself completes other paths."""
    here = [path.parent.name for name in ("run.json", "manifest.json") for path in Path().glob(f"*/{name}")]
    return _starting([*built_in_models(), *sorted(here)], incomplete)


def complete_preset(incomplete: str) -> list[str]:
    """Complete the name of a training configuration."""
    return _starting(presets(), incomplete)


def complete_suite(incomplete: str) -> list[str]:
    """Complete the name of a benchmark suite."""
    return _starting(suites(), incomplete)


def complete_backend(incomplete: str) -> list[str]:
    """Complete the backend of a prediction."""
    return _starting(["auto", *BACKENDS], incomplete)


def complete_backends(incomplete: str) -> list[str]:
    """Complete a list of backends to measure."""
    return _in_list([*BACKENDS, *MORE_BACKENDS], incomplete)


def complete_precision(incomplete: str) -> list[str]:
    """Complete the precision of a prediction."""
    return _starting(["auto", *PRECISIONS], incomplete)


def complete_precisions(incomplete: str) -> list[str]:
    """Complete a list of precisions to measure."""
    return _in_list(["auto", *PRECISIONS], incomplete)


def complete_format(incomplete: str) -> list[str]:
    """Complete a list of formats of engines."""
    return _in_list(FORMATS, incomplete)


def complete_depth(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete one depth that the model of the command line has."""
    return _starting(_depths(ctx), incomplete)


def complete_depths(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a list of depths that the model of the command line has."""
    return _in_list(_depths(ctx), incomplete)


def complete_entry(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete an entry that the model of the command line has."""
    return _starting([",".join(map(str, entry)) for entry in _entries(ctx)], incomplete)


def complete_entries(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a set of entries, or an entry of the model."""
    return _starting([*ENTRY_SETS, *(",".join(map(str, entry)) for entry in _entries(ctx))], incomplete)


def _depths(ctx: typer.Context) -> list[str]:
    return [str(entry[0]) for entry in _entries(ctx) if len(set(entry)) == 1]


def _entries(ctx: typer.Context) -> list[list[int]]:
    """Return the entries of the model that was typed so far: of a bundle, those of its engines; of a run, one for each depth."""
    text = str(ctx.params.get("model") or "").partition(",")[0]
    folder = Path(text) if text and Path(text).exists() else _PACKAGE / "models" / text
    folder = folder.parent if folder.suffix == ".safetensors" else folder
    try:
        if (folder / "manifest.json").is_file():
            return [engine["entry"] for engine in _read(folder / "manifest.json")["engines"]]
        return [[depth] * 3 for depth in range(_read(folder / "run.json")["spec"]["network"]["num_depths"])]
    except (OSError, ValueError, KeyError, TypeError):  # nothing to complete; the command itself names what is wrong
        return []


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _starting(values: Iterable[str], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


def _in_list(values: Sequence[str], incomplete: str) -> list[str]:
    """Complete the last value of a comma-separated list; the values before it are not offered again."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + value for value in values if value.startswith(last) and value not in before.split(",")]
