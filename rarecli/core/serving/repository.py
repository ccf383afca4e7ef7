"""`rare export --triton`: render a Triton model repository from a bundle.

REPOSITORY/
  PREFIX/                    the router: accepts a scan and its spacing, returns the labels of its voxels
    config.pbtxt
    1/model.py               runs rarecli in the server's Python
    1/manifest.json
  PREFIX_entry_0_0_0/ ...    one model per entry; clients may also call it directly
    config.pbtxt             dynamic batching, warm-up, instances
    1/manifest.json
    1/entry_0_0_0.onnx       or entry_0_0_0.plan
    1/weights.safetensors    one file, hard-linked into the folder of every entry
    1/model.py               only with the backend `python`

Decision: docs/decisions/0010-one-implementation-on-the-server.md.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from rarecli.core.config.geometry import entry_text
from rarecli.core.engines.bundle import Bundle
from rarecli.core.engines.manifest import MANIFEST, Engine, HashedFile
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import UsageError
from rarecli.core.imaging.restore import label_values
from rarecli.core.jobs.folders import atomic_folder
from rarecli.core.serving import contract
from rarecli.core.serving.router import WINDOWS_IN_FLIGHT
from rarecli.core.types import Entry

Backend = Literal["onnxruntime", "tensorrt", "python"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
CONFIG = "config.pbtxt"
VERSION = "1"
_MARK = "# Rendered by rare export --triton."
_KIND = {"onnxruntime": "KIND_AUTO", "tensorrt": "KIND_GPU", "python": "KIND_CPU"}


@dataclass(frozen=True)
class TritonOptions:
    """How the server runs the models of a bundle.

    backend: runs the entries. name: the name of the router and the prefix of the entries' names.
    max_batch: the most windows per execution, one number for all entries or one per entry; by default 2 at depth 0, doubled at each next
    depth, at most 16. num_instances: instances of each entry's model. num_routers: instances of the router, each with one scan at a time.
    max_delay_us: how long a window waits to be batched with others.
    """

    backend: Backend = "onnxruntime"
    name: str = "rare"
    max_batch: Sequence[int] | None = None
    num_instances: int = 1
    num_routers: int = 2
    max_delay_us: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name, flags=re.ASCII):
            raise UsageError("invalid model name", field="model-name", found=self.name, expected="letters, digits, _ . -")


def writes_page(formats: Sequence[str], output: object, triton: object, calibrate: object) -> bool:
    """Return whether `rare export` writes a page in place of a bundle. output, triton, calibrate: None if not asked for.

    Raises UsageError if nothing would be written, or something beside a page.
    """
    if output is None and (triton is None or calibrate is not None):
        expected = "-o BUNDLE" if calibrate is not None else "-o BUNDLE, --triton REPOSITORY, or both"
        raise UsageError("nothing to write", field="output", expected=expected)
    if "html" not in formats:
        return False
    if tuple(formats) != ("html",) or output is None or triton is not None or calibrate is not None:
        raise UsageError("a page is written alone", field="format", expected="--format html -o PAGE.html, no --triton, no --calibrate")
    return True


def render_repository(model: Path, repository: Path, options: TritonOptions) -> tuple[str, ...]:
    """Write the models of a bundle (a path, or a built-in name) into `repository` and return their names.

    Other models in `repository` stay. Models of the same names from an earlier call are replaced, the router last.
    Raises UsageError for a run, for a name taken by a folder that rare did not render, for a wrong number of batch sizes, and for the
    backend `tensorrt` without plans in the bundle; ModelError for a changed file of the bundle.
    """
    bundle = find_model(model).bundle
    if bundle is None:
        raise UsageError("a run has no engines to serve", path=model, remedy="add -o BUNDLE")
    manifest = bundle.manifest
    batches = _batch_sizes(manifest.entries, options.max_batch)
    if options.backend == "tensorrt" and not all(engine.plan for engine in manifest.engines):
        remedy = "rare export --format onnx,tensorrt, on the machine that serves"
        raise UsageError("the bundle has no TensorRT plans", path=bundle.path, field="triton-backend", found="tensorrt", remedy=remedy)
    models = {contract.entry_model(options.name, engine.entry): engine for engine in manifest.engines}
    present = [repository / options.name, *_entry_folders(repository, options.name)]
    for folder in present:
        if folder.exists() and not _is_rendered(folder):
            raise UsageError("the folder exists and was not rendered by rare", path=folder, remedy="choose another --model-name")
    links: dict[str, Path] = {}
    for (name, engine), max_batch in zip(models.items(), batches, strict=True):
        with atomic_folder(repository / name) as folder:
            version = _write_model(folder, _entry_config(name, engine, max_batch, options), bundle)
            files: list[HashedFile] = [engine]
            if options.backend == "tensorrt" and engine.plan:
                files = [engine.plan]
            elif manifest.weights:
                files.append(manifest.weights)
            for hashed in files:
                _place(links.get(hashed.file, bundle.file(hashed)), version / hashed.file, link=hashed.file in links)
                links[hashed.file] = repository / name / VERSION / hashed.file
            if options.backend == "python":
                _write_glue(version, "entry_model")
    with atomic_folder(repository / options.name) as folder:
        _write_glue(_write_model(folder, _router_config(bundle, options), bundle), "router_model")
    for folder in present[1:]:
        if folder.name not in models:  # an entry of an earlier bundle
            shutil.rmtree(folder)
    return (options.name, *models)


def _batch_sizes(entries: Sequence[Entry], wanted: Sequence[int] | None) -> list[int]:
    if wanted is None:
        return [min(2 * 2 ** (sum(entry) // 3), WINDOWS_IN_FLIGHT) for entry in entries]
    if len(wanted) not in (1, len(entries)) or min(wanted) < 1:
        expected = f"one number above 0, or {len(entries)}, one per entry"
        raise UsageError("invalid batch sizes", field="max-batch", found=list(wanted), expected=expected)
    return list(wanted) * (len(entries) if len(wanted) == 1 else 1)


def _entry_folders(repository: Path, name: str) -> list[Path]:
    pattern = re.compile(re.escape(name) + r"_(entry_\d+_\d+_\d+|depth\d+)")  # depths: from older bundles
    return sorted(folder for folder in repository.glob("*") if pattern.fullmatch(folder.name))


def _is_rendered(folder: Path) -> bool:
    config = folder / CONFIG
    return config.is_file() and config.read_text(encoding="utf-8", errors="replace").startswith(_MARK)


def _write_model(folder: Path, config: str, bundle: Bundle) -> Path:
    (folder / CONFIG).write_text(config, encoding="utf-8")
    version = folder / VERSION
    version.mkdir()
    shutil.copyfile(bundle.path / MANIFEST, version / MANIFEST)
    return version


def _write_glue(version: Path, module: str) -> None:
    (version / "model.py").write_text(f"from rarecli.core.serving.{module} import TritonPythonModel  # noqa: F401\n", encoding="utf-8")


def _place(source: Path, target: Path, *, link: bool) -> None:
    """Copy the bundle's file, or hard-link the copy that is already in the repository."""
    if link:
        try:
            os.link(source, target)
            return
        except OSError:  # a file system without hard links
            pass
    shutil.copyfile(source, target)


def _entry_config(name: str, engine: Engine, max_batch: int, options: TritonOptions) -> str:
    spatial, warm = [-1, -1, -1], engine.patch_shape
    file = engine.file
    if options.backend == "tensorrt" and engine.plan:
        plan = engine.plan
        file, warm = plan.file, plan.shape_opt[2:]
        max_batch = min(max_batch, plan.shape_max[0])
        spatial = [low if low == high else -1 for low, high in zip(plan.shape_min[2:], plan.shape_max[2:], strict=True)]
    channels, classes = engine.input.shape[1], engine.output.shape[1]
    filename = "" if options.backend == "python" else f'default_model_filename: "{file}"\n'
    warmups = ",\n".join(
        f'  {{ name: "batch of {batch}" batch_size: {batch} inputs {{ key: "{engine.input.name}" '
        f"value {{ data_type: TYPE_FP32 dims: {_dims(channels, *warm)} random_data: true }} }} }}"
        for batch in sorted({1, max_batch})
    )
    return f"""{_MARK} {entry_text(engine.entry).capitalize()}: {" x ".join(f"{size:g}" for size in engine.grid_spacing_mm)} mm.
name: "{name}"
backend: "{options.backend}"
{filename}max_batch_size: {max_batch}
input [ {{ name: "{engine.input.name}" data_type: TYPE_FP32 dims: {_dims(channels, *spatial)} }} ]
output [ {{ name: "{engine.output.name}" data_type: TYPE_FP32 dims: {_dims(classes, *spatial)} }} ]
dynamic_batching {{ max_queue_delay_microseconds: {options.max_delay_us} }}
instance_group [ {{ kind: {_KIND[options.backend]} count: {options.num_instances} }} ]
model_warmup [
{warmups}
]
parameters {{ key: "entry" value {{ string_value: "{list(engine.entry)}" }} }}
"""


def _router_config(bundle: Bundle, options: TritonOptions) -> str:
    spec = bundle.manifest.spec
    label_type = f"TYPE_{label_values(np.zeros(0, dtype=np.uint8), spec).dtype.name.upper()}"
    # the number of channels is left open, so that the router, not Triton, reports a wrong one
    inputs = [_tensor(contract.IMAGE, "TYPE_FP32", -1, -1, -1, -1), _tensor(contract.SPACING, "TYPE_FP64", 3)]
    inputs.append(_tensor(contract.ENTRY, "TYPE_INT32", 3, more=" optional: true"))
    outputs = [
        _tensor(contract.LABELS, label_type, -1, -1, -1),
        _tensor(contract.ENTRY, "TYPE_INT32", 3),
        _tensor(contract.REASON, "TYPE_STRING", 1),
        _tensor(contract.GRID_SPACING, "TYPE_FP64", 3),
        _tensor(contract.ZOOM, "TYPE_FP64", 3),
        _tensor(contract.PROBABILITIES, "TYPE_FP32", spec.network.num_classes, -1, -1, -1),
        _tensor(contract.WARNINGS, "TYPE_STRING", -1),
    ]
    line = ",\n  "
    return f"""{_MARK} The router.
name: "{options.name}"
backend: "python"
max_batch_size: 0
input [
  {line.join(inputs)}
]
output [
  {line.join(outputs)}
]
instance_group [ {{ kind: KIND_CPU count: {options.num_routers} }} ]
parameters {{ key: "backend" value {{ string_value: "{options.backend}" }} }}
parameters {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value {{ string_value: "yes" }} }}
"""


def _tensor(name: str, kind: str, *dims: int, more: str = "") -> str:
    return f'{{ name: "{name}" data_type: {kind} dims: {_dims(*dims)}{more} }}'


def _dims(*sizes: int) -> str:
    return f"[ {', '.join(map(str, sizes))} ]"
