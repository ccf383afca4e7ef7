"""`rare preprocess`."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarecli.commands.completion import presets
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.layout import print_table
from rarecli.commands.options import DATA, MACHINE, MODEL, OUTPUT, Json, Overwrite, ResampleChannels, Resume, SchedulerOption, ShardOption
from rarecli.commands.parsing import three_integers, three_numbers
from rarecli.core.errors import some
from rarecli.core.jobs.words import counted

if TYPE_CHECKING:
    from rarecli.core.config.plan import Plan


class Normalisation(str, Enum):
    """How intensities are normalised."""

    percentile = "percentile"
    percentile_nonzero = "percentile-nonzero"
    ct = "ct"
    z_score = "z-score"
    rescale = "rescale"
    none = "none"


class Crop(str, Enum):
    """Whether scans are cropped."""

    none = "none"
    nonzero = "nonzero"


DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A dataset: MSD, nnU-Net raw, or a folder with images/ and labels/.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the prepared dataset.", rich_help_panel=OUTPUT)]
NumLevelsOption = Annotated[int, typer.Option(min=2, max=8, help="Encoder levels of the network to train.", rich_help_panel=MODEL)]
NormalisationOption = Annotated[
    Normalisation | None,
    typer.Option(
        help="For all channels. percentile: by percentiles of each scan; percentile-nonzero: of its voxels that are not 0; ct: by "
        "statistics of the dataset's foreground; z-score; rescale: from the least to the largest value; none.",
        show_default="ct for channels named CT, nnU-Net's zscore, noNorm and rescale_to_0_1 for channels of these names, else percentile",
        rich_help_panel=DATA,
    ),
]
CropOption = Annotated[
    Crop,
    typer.Option(
        help="nonzero: crop every scan to the box of what is not 0, as for skull-stripped brains; prediction does the same.",
        rich_help_panel=DATA,
    ),
]
SpacingOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Trained spacing in mm, RAS axes.", show_default="the median", rich_help_panel=DATA),
]
PatchSizeOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Patch in voxels.", show_default="from the median shape of the cases", rich_help_panel=MODEL),
]
FixedShapeOption = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,Z",
        help="Crop or pad every case to this shape in voxels (the paper's protocol).",
        show_default="whole cases",
        rich_help_panel=DATA,
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, metavar="N", help="Worker processes.", show_default="one per core", rich_help_panel=MACHINE),
]


def run(
    dataset: DatasetArgument,
    output: OutputOption,
    num_levels: NumLevelsOption = 4,
    normalisation: NormalisationOption = None,
    crop: CropOption = Crop.none,
    resample_channels: ResampleChannels = False,
    spacing: SpacingOption = None,
    patch_size: PatchSizeOption = None,
    fixed_shape: FixedShapeOption = None,
    jobs: JobsOption = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    shard: ShardOption = None,
    scheduler: SchedulerOption = None,
    json: Json = False,
) -> None:
    """Read every header of a dataset, choose the grid and the patch, and bring every case to its grid.

    Example: rare preprocess Task04_Hippocampus -o prepared

    Example: rare preprocess brains -o prepared --crop nonzero --normalisation percentile-nonzero --jobs 4
    """
    from rarecli.core.data.planning import PreprocessOptions
    from rarecli.core.data.preprocess import preprocess, preprocess_part
    from rarecli.core.jobs.shards import WHOLE, Shard

    part = Shard.parse(shard)
    options = PreprocessOptions(
        num_levels=num_levels,
        normalisation=normalisation and normalisation.value,
        crop=crop.value,
        resample_channels=resample_channels,
        spacing_mm=three_numbers(spacing, "--spacing"),
        patch_size=three_integers(patch_size, "--patch-size"),
        fixed_shape=three_integers(fixed_shape, "--fixed-shape"),
        num_jobs=jobs,
        scheduler=scheduler,
        resume=resume,
        overwrite=overwrite,
    )
    console = Console()
    if part != WHOLE:  # the library says what follows after all parts
        result = preprocess_part(dataset, output, part, options, console)
        if json:
            print_json(result)
        return
    index = preprocess(dataset, output, options, console)
    plan = index.plan
    if json:
        print_json(index.model_dump(mode="json", exclude={"cases"}))
    else:
        spacing_text, patch = " x ".join(f"{s:g}" for s in plan.spacing_mm), " x ".join(map(str, plan.patch_size))
        print_table(
            f"{plan.dataset}: {counted(len(index.cases), 'case')}, trained spacing {spacing_text} mm, patch {patch} voxels",
            ["depth", "grid (mm)", "cases that enter here"],
            [[str(k), " x ".join(f"{s * 2**k:g}" for s in plan.spacing_mm), str(count)] for k, count in enumerate(index.routing_plan)],
        )
        typer.echo(f"classes: {some(plan.label_names, most=20)}")
    console.end(output, command("train", output, "-o", "run", *_preset(plan)))


def _preset(plan: "Plan") -> list[str]:
    """Return the option for the preset that is named as the dataset, if there is one. The presets are for whole cases."""
    name = plan.dataset.lower()
    return ["--preset", name] if name in presets() and not plan.fixed_shape else []
