"""`rare export`: one ONNX engine per routing depth, all on one weights file, and the manifest.

BUNDLE/
  manifest.json, depth0.onnx, depth1.onnx, ..., weights.safetensors

The graphs hold no weights: each initializer points by offset into `weights.safetensors` as ONNX external data, so four
entries cost one set of weights, in a file that PyTorch loads as well.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rarecli.core import checkpoint, routing, run_folder
from rarecli.core.config import ModelSpec
from rarecli.core.engines.manifest import MANIFEST, Engine, Manifest, TensorInfo
from rarecli.core.engines.parity import check_parity
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.errors import ModelError, UsageError, missing_extra
from rarecli.core.files import atomic_folder, sha256
from rarecli.core.model import RareUNet, build_network
from rarecli.core.progress import Reporter, Silent

OPSET = 20
WEIGHTS = "weights.safetensors"
INPUT, OUTPUT = "image", "logits"
SHAPE_FREE_OPS = {"Conv", "InstanceNormalization", "LeakyRelu", "MaxPool", "ConvTranspose", "Concat"}


class EntryPoint(nn.Module):
    """The network entered at one fixed depth: what an engine computes."""

    def __init__(self, network: RareUNet, depth: int) -> None:
        super().__init__()
        self.network, self.depth = network, depth

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> logits (B, K, X, Y, Z)."""
        logits: Tensor = self.network(image, self.depth)
        return logits


def export(model: Path, bundle: Path, *, depths: Sequence[int] | None = None, reporter: Reporter = Silent()) -> Manifest:
    """Write the bundle of a run, or of a weights file inside one: whole, and only if every engine agrees with PyTorch.

    Raises ModelError when an engine fails its parity gate or the model is a bundle, UsageError for a depth it lacks.
    """
    from rarecli.core.engines.runners import model_kind

    kind = model_kind(model)
    if kind == "bundle":
        raise ModelError("a bundle is an export already", path=model, expected="a run")
    if bundle.exists() and not (bundle / MANIFEST).is_file() and (bundle.is_file() or any(bundle.iterdir())):
        raise UsageError("the output exists and is no bundle", path=bundle, remedy="choose another -o, or remove it")
    run, weights = (model.parent, model) if kind == "weights" else (model, model / run_folder.WEIGHTS)
    spec = run_folder.load_run_spec(run)
    chosen = list(range(spec.network.num_depths)) if depths is None else sorted(set(depths))
    if stray := [depth for depth in chosen if not 0 <= depth < spec.network.num_depths]:
        raise UsageError("the model has no such depth", field="depths", found=stray, expected=f"0 to {spec.network.num_depths - 1}")
    network = build_network(spec.network)
    checkpoint.load_weights(network, weights)
    network.eval()
    with atomic_folder(bundle) as folder:
        shutil.copyfile(weights, folder / WEIGHTS)
        places = _places(folder / WEIGHTS)
        engines = []
        with TorchRunner(network, torch.device("cpu")) as reference:
            for depth in reporter.track(chosen, "export", len(chosen)):
                file = folder / f"depth{depth}.onnx"
                _export_depth(network, spec, depth, places, file)
                parity = check_parity(file, spec, depth, reference)
                engines.append(_describe(spec, depth, file, parity))
                reporter.say(
                    f"depth {depth}: {file.name}, largest difference to PyTorch {parity.max_abs:.1e}, {parity.label_changes} labels changed"
                )
        manifest = Manifest(
            spec=spec,
            opset=OPSET,
            weights_file=WEIGHTS,
            weights_sha256=sha256(folder / WEIGHTS),
            engines=tuple(engines),
            versions={"torch": torch.__version__, "numpy": np.__version__},
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _describe(spec: ModelSpec, depth: int, file: Path, parity: Any) -> Engine:
    network = spec.network
    return Engine(
        depth=depth,
        grid_spacing_mm=spec.grid_spacing_mm(depth),
        file=file.name,
        sha256=sha256(file),
        input=TensorInfo(name=INPUT, shape=(-1, network.in_channels, -1, -1, -1)),
        output=TensorInfo(name=OUTPUT, shape=(-1, network.num_classes, -1, -1, -1)),
        divisor=routing.divisor(network.num_levels, depth),
        min_axis=routing.min_axis(network.num_levels, depth),
        patch_shape=spec.patch_shape(depth),
        parity=parity,
    )


def _export_depth(network: RareUNet, spec: ModelSpec, depth: int, places: dict[str, tuple[int, int]], file: Path) -> None:
    """Trace one entry and write its graph without weights."""
    try:
        import onnx
    except ImportError:
        raise missing_extra("onnx", "train") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would tell that torchvision is not installed
    step = routing.divisor(spec.network.num_levels, depth)
    least = routing.min_axis(spec.network.num_levels, depth)
    example = torch.zeros(2, spec.network.in_channels, least, least + step, least + 2 * step)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        program = torch.onnx.export(
            EntryPoint(network, depth).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    _free_shapes(model, step)
    _share_weights(model, places)
    facts = {
        "depth": depth,
        "grid_spacing_mm": spec.grid_spacing_mm(depth),
        "labels": spec.plan.label_names,
        "channels": spec.plan.channel_names,
    }
    onnx.helper.set_model_props(model, {f"rare.{key}": json.dumps(value) for key, value in facts.items()})
    file.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(file), full_check=True)


def _free_shapes(model: Any, step: int) -> None:
    """Make batch and space dynamic, space in multiples of `step`.

    The graph was traced with fixed sizes, which takes a tenth of the time of tracing with symbolic ones. None of the
    operators below holds a size, so nothing but the declared shapes has to change; another operator is refused.
    """
    if stray := {node.op_type for node in model.graph.node} - SHAPE_FREE_OPS:
        raise ModelError(
            "the exporter used operators that may hold a size", found=", ".join(sorted(stray)), expected=", ".join(sorted(SHAPE_FREE_OPS))
        )
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        batch, _, *space = value.type.tensor_type.shape.dim
        batch.dim_param = "batch"
        for dim, axis in zip(space, "xyz", strict=True):
            dim.dim_param = f"{step}*{axis}"


def _strip(model: Any) -> None:
    """Remove what the exporter notes of this machine: stack traces with source paths."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _share_weights(model: Any, places: dict[str, tuple[int, int]]) -> None:
    """Point every weight of the graph into the shared file. What is no weight (a constant of the exporter) stays inside."""
    from onnx import TensorProto

    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix("network.")
        if name not in places:
            if np.prod(tensor.dims, dtype=np.int64) > 64:
                raise ModelError("the exporter made a tensor that is no weight", field=tensor.name)
            continue
        offset, length = places[name]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))


def _places(file: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor of a safetensors file lies: name -> (offset, length) in bytes. Source: the safetensors README."""
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
    start = 8 + header_bytes
    return {
        name: (start + item["data_offsets"][0], item["data_offsets"][1] - item["data_offsets"][0])
        for name, item in header.items()
        if name != "__metadata__"
    }
