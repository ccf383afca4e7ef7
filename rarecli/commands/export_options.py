"""Options of `rare export` for TensorRT and Triton."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class TritonBackend(str, Enum):
    """What runs the entries on the server."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    python = "python"


_TENSORRT, _TRITON = "TensorRT", "Triton"

ShapeMinOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Smallest shape, in voxels at depth 0.", show_default="the patch", rich_help_panel=_TENSORRT),
]
ShapeOptOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="The shape to tune for, in voxels at depth 0.", show_default="the patch", rich_help_panel=_TENSORRT),
]
ShapeMaxOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Largest shape, in voxels at depth 0.", show_default="the patch", rich_help_panel=_TENSORRT),
]
TimingCacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="File that keeps the results of tuning for later builds.", show_default="none", rich_help_panel=_TENSORRT
    ),
]
TritonOption = Annotated[
    Path | None,
    typer.Option(
        metavar="REPOSITORY",
        help="Render a model repository from the bundle, or from MODEL without -o.",
        show_default="none",
        rich_help_panel=_TRITON,
    ),
]
TritonBackendOption = Annotated[
    TritonBackend,
    typer.Option(help="What runs the entries; python: onnxruntime inside the Python backend.", rich_help_panel=_TRITON),
]
ModelNameOption = Annotated[
    str,
    typer.Option(metavar="PREFIX", help="Name of the router; entries are named PREFIX_entry_X_Y_Z.", rich_help_panel=_TRITON),
]
MaxBatchOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="2,4,8,16",
        help="Maximum windows per execution, one number or one per entry.",
        show_default="by the size of the entry",
        rich_help_panel=_TRITON,
    ),
]
InstancesOption = Annotated[int, typer.Option(min=1, metavar="N", help="Instances of each entry's model.", rich_help_panel=_TRITON)]
RoutersOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Instances of the router, each with one scan at a time.", rich_help_panel=_TRITON)
]
MaxDelayUsOption = Annotated[
    int,
    typer.Option(min=0, metavar="US", help="Microseconds that a window waits to be batched with others.", rich_help_panel=_TRITON),
]
