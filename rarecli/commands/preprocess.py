"""`rare preprocess`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, Json, Overwrite, Resume, ShardOption, print_json, print_table, three_integers, three_numbers


class Normalisation(str, Enum):
    """How intensities are normalised."""

    percentile = "percentile"
    percentile_nonzero = "percentile-nonzero"
    ct = "ct"


class Crop(str, Enum):
    """Whether scans are cropped."""

    none = "none"
    nonzero = "nonzero"


DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A dataset: MSD, nnU-Net raw, or a folder with images/ and labels/.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the prepared dataset.")]
NumLevelsOption = Annotated[int, typer.Option(min=2, max=8, help="Encoder levels of the network to train.")]
NormalisationOption = Annotated[
    Normalisation,
    typer.Option(
        help="percentile: by percentiles of each scan; percentile-nonzero: of its voxels that are not 0; ct: by statistics of the "
        "dataset's foreground."
    ),
]
CropOption = Annotated[
    Crop, typer.Option(help="nonzero: crop every scan to the box of what is not 0, as for skull-stripped brains; prediction does the same.")
]
SpacingOption = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Trained spacing in mm, RAS axes; the median by default.")]
PatchSizeOption = Annotated[
    str | None, typer.Option(metavar="X,Y,Z", help="Patch in voxels; by default from the median shape of the cases.")
]
FixedShapeOption = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Crop or pad every case to this shape (the paper's protocol).")]
JobsOption = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Worker processes; one per core by default.")]


def run(
    dataset: DatasetArgument,
    output: OutputOption,
    num_levels: NumLevelsOption = 4,
    normalisation: NormalisationOption = Normalisation.percentile,
    crop: CropOption = Crop.none,
    spacing: SpacingOption = None,
    patch_size: PatchSizeOption = None,
    fixed_shape: FixedShapeOption = None,
    jobs: JobsOption = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    shard: ShardOption = None,
    json: Json = False,
) -> None:
    """Read every header of a dataset, choose the grid and the patch, and bring every case to its grid.

    Example: rare preprocess Task04_Hippocampus -o prepared
    """
    from rarecli.core.data.planning import PreprocessOptions
    from rarecli.core.data.preprocess import preprocess, preprocess_part
    from rarecli.core.errors import SomeCasesFailed
    from rarecli.core.jobs.shards import WHOLE, Shard

    part = Shard.parse(shard)
    options = PreprocessOptions(
        num_levels=num_levels,
        normalisation=normalisation.value,
        crop=crop.value,
        spacing_mm=three_numbers(spacing, "--spacing"),
        patch_size=three_integers(patch_size, "--patch-size"),
        fixed_shape=three_integers(fixed_shape, "--fixed-shape"),
        num_jobs=jobs,
        resume=resume,
        overwrite=overwrite,
    )
    console = Console()
    try:
        if part != WHOLE:
            result = preprocess_part(dataset, output, part, options, console)
            if json:
                print_json(result)
            return
        index = preprocess(dataset, output, options, console)
    except SomeCasesFailed as failure:
        if json and failure.result is not None:
            print_json(failure.result)
        raise
    if json:
        print_json(index.model_dump(mode="json", exclude={"cases"}))
        return
    plan = index.plan
    spacing_text = " x ".join(f"{s:g}" for s in plan.spacing_mm)
    print_table(
        f"{plan.dataset}: {len(index.cases)} cases, trained spacing {spacing_text} mm, patch {' x '.join(map(str, plan.patch_size))}",
        ["depth", "grid (mm)", "cases that enter here"],
        [[str(k), " x ".join(f"{s * 2**k:g}" for s in plan.spacing_mm), str(count)] for k, count in enumerate(index.routing_plan)],
    )
