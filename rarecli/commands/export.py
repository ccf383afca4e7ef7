"""`rare export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarecli.commands.console import Console, Json, Overwrite, chosen_entries, integers, print_json, print_table, three_integers, words

if TYPE_CHECKING:
    from rarecli.core.engines.manifest import Manifest


class TritonBackend(str, Enum):
    """What runs the entries on the server."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    python = "python"


class Precision(str, Enum):
    """The precision of the weights."""

    fp32 = "fp32"
    fp16 = "fp16"


ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a bundle, or the name of a built-in model.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the bundle.")]
DepthsOption = Annotated[list[str] | None, typer.Option(metavar="0,1,2,3", help="Depths to export, one along all axes.")]
EntriesOption = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="isotropic: one depth along all axes. thick: also one coarser axis (22 for 4 depths). all: any depth per axis (64). Or a list "
        "such as '0,0,0;0,0,2', in quotes. By default thick if the model was trained for thick slices.",
    ),
]
FormatsOption = Annotated[
    list[str] | None, typer.Option("--format", metavar="onnx,tensorrt", help="onnx is always written; tensorrt needs a GPU.")
]
PrecisionOption = Annotated[Precision, typer.Option(help="fp16: weights and convolutions in fp16; norms, input and output stay fp32.")]
SelfContainedOption = Annotated[
    bool, typer.Option("--self-contained", help="Store the weights inside each graph instead of one shared file.")
]
ShapeMinOption = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="tensorrt: smallest shape, at depth 0; the patch by default.")]
ShapeOptOption = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="tensorrt: the shape to tune for.")]
ShapeMaxOption = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="tensorrt: largest shape.")]
TimingCacheOption = Annotated[Path | None, typer.Option(help="tensorrt: file that keeps the results of tuning for later builds.")]
TritonOption = Annotated[
    Path | None,
    typer.Option(metavar="REPOSITORY", help="Triton: render a model repository from the bundle, or from MODEL without -o."),
]
TritonBackendOption = Annotated[
    TritonBackend, typer.Option(help="Triton: what runs the entries; python: onnxruntime inside the Python backend.")
]
ModelNameOption = Annotated[str, typer.Option(metavar="PREFIX", help="Triton: name of the router; entries are named PREFIX_entry_X_Y_Z.")]
MaxBatchOption = Annotated[
    list[str] | None, typer.Option(metavar="2,4,8,16", help="Triton: maximum windows per execution, one number or one per entry.")
]
InstancesOption = Annotated[int, typer.Option(min=1, help="Triton: instances of each entry's model.")]
RoutersOption = Annotated[int, typer.Option(min=1, help="Triton: instances of the router, each with one scan at a time.")]
MaxDelayUsOption = Annotated[int, typer.Option(min=0, help="Triton: how long a window waits to be batched with others.")]


def run(
    model: ModelArgument,
    output: OutputOption = None,
    depths: DepthsOption = None,
    entries: EntriesOption = None,
    formats: FormatsOption = None,
    precision: PrecisionOption = Precision.fp32,
    self_contained: SelfContainedOption = False,
    shape_min: ShapeMinOption = None,
    shape_opt: ShapeOptOption = None,
    shape_max: ShapeMaxOption = None,
    timing_cache: TimingCacheOption = None,
    triton: TritonOption = None,
    triton_backend: TritonBackendOption = TritonBackend.onnxruntime,
    model_name: ModelNameOption = "rare",
    max_batch: MaxBatchOption = None,
    instances: InstancesOption = 1,
    routers: RoutersOption = 2,
    max_delay_us: MaxDelayUsOption = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write one ONNX engine per entry, each checked against PyTorch, or render a Triton model repository.

    Example: rare export run -o bundle

    Example: rare export bundle --triton repository
    """
    from rarecli.core.errors import UsageError, missing_extra
    from rarecli.core.serving.repository import TritonOptions, render_repository

    if output is None and triton is None:
        raise UsageError("nothing to write", field="output", expected="-o BUNDLE, --triton REPOSITORY, or both")
    serving = TritonOptions(triton_backend.value, model_name, integers(max_batch, "--max-batch"), instances, routers, max_delay_us)
    result: dict[str, Any] = {}
    if output is not None:
        try:
            from rarecli.core.engines.export import ExportOptions, TensorRtOptions, export
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "train") from None
        given = ((shape_min, "--shape-min"), (shape_opt, "--shape-opt"), (shape_max, "--shape-max"))
        least, usual, most = (three_integers(text, option) for text, option in given)
        options = ExportOptions(
            entries=chosen_entries(entries, depths),
            formats=words(formats) or ("onnx",),
            precision=precision.value,
            self_contained=self_contained,
            overwrite=overwrite,
            tensorrt=TensorRtOptions(least, usual, most, timing_cache),
        )
        manifest = export(model, output, options, Console())
        result = manifest.model_dump(mode="json")
        if not json:
            _print_engines(manifest, output)
    if triton is not None:
        result["triton_models"] = render_repository(output or model, triton, serving)
        if not json:
            print_table(str(triton), ["Triton model"], [[name] for name in result["triton_models"]])
    if json:
        print_json(result)


def _print_engines(manifest: Manifest, output: Path) -> None:
    from rarecli.core.config.geometry import entry_text

    rows = [
        [
            entry_text(e.entry).removeprefix("entry "),
            " x ".join(f"{s:g}" for s in e.grid_spacing_mm),
            e.file,
            " x ".join(map(str, e.divisors)),
            f"{max(e.parity.max_abs, e.parity.large_max_abs or 0):.1e}" if e.parity else "",
        ]
        for e in manifest.engines
    ]
    print_table(f"{manifest.spec.name}: {output}", ["entry", "grid (mm)", "engine", "divisors", "max difference"], rows)
