"""Where the results of `rare predict` go, in which format, and their writing.

Decision: docs/decisions/0021-formats.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.data.cases import Case
from rarecli.core.errors import UsageError, some
from rarecli.core.imaging.formats.dicom_scan import DicomSource
from rarecli.core.imaging.formats.dicom_seg import require_highdicom, write_segmentation
from rarecli.core.imaging.formats.itk import simple_itk
from rarecli.core.imaging.formats.segment_codes import Segment, segments_of
from rarecli.core.imaging.formats.writers import LABELS, PROBABILITIES, intent_of, require_same_format, written_files
from rarecli.core.imaging.scan_files import DICOM_SEG, RESULT_SUFFIXES, SUFFIXES, files_of, format_name, result_suffix
from rarecli.core.imaging.volume import Volume, write_labels, write_probabilities
from rarecli.core.jobs.journal import written_names
from rarecli.core.jobs.outputs import require_folder_name, require_replaceable
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.words import counted
from rarecli.core.prediction.options import PredictOptions
from rarecli.core.prediction.predictor import Prediction
from rarecli.core.prediction.sidecar import is_sidecar
from rarecli.core.prediction.volumes_table import VOLUMES
from rarecli.core.reporting.label_tables import ITK_SNAP, SLICER
from rarecli.core.reporting.plotting import is_our_figure
from rarecli.core.types import IntArray

RECORDS = "predictions.json"
"""In an output folder: what was done for every case."""
TABLES = (VOLUMES, ITK_SNAP, SLICER)
_PROBABILITIES = "_probabilities.nii.gz"
_RESERVED = re.compile(r"predictions(_\d+of\d+)?|dataset|prepared|run|manifest|summary")
"""Names of cases whose JSON files would be the records, those of a shard, or files by which rare knows a folder of another kind."""


def is_file_name(output: Path) -> bool:
    """Return whether an output is the name of one labels file, rather than of a folder."""
    return output.name.endswith((*SUFFIXES, RESULT_SUFFIXES[DICOM_SEG])) and not output.is_dir()


def choose_targets(cases: Sequence[Case], output: Path, wanted: str | None = None, *, resume: bool = False) -> dict[str, Path]:
    """Return the path of the labels file by case name. wanted: a format; by default that of a file name, or of each scan.

    Raises UsageError for an output that does not suit the cases.
    """
    to_file = is_file_name(output)
    if to_file and resume:
        raise UsageError("only a folder can be resumed", path=output, remedy="give a folder with -o, or leave --resume out")
    if to_file and len(cases) > 1:
        raise UsageError("several scans do not fit one file", path=output, found=counted(len(cases), "scan"), expected="a folder")
    if not to_file and output.is_file():
        raise UsageError("the output is a file", path=output, expected="a folder, or a name ending in .nii.gz for one scan")
    if to_file and wanted is not None and format_name(output) != wanted:
        require_same_format(output, wanted, RESULT_SUFFIXES.get(wanted, wanted))
    format_of_all = format_name(output) if to_file else wanted
    suffixes = {case.name: result_suffix(case.images[0], format_of_all) for case in cases}
    targets = {case.name: output if to_file else output / f"{case.name}{suffixes[case.name]}" for case in cases}
    for case in cases:
        if not to_file and _RESERVED.fullmatch(case.name):
            problem, remedy = f"{case.name}.json has a meaning of its own in a folder", "rename the scan, or give a file with -o"
            raise UsageError(problem, case=case.name, path=case.images[0], remedy=remedy)
        written = {path.resolve() for path in written_files(targets[case.name])}
        if case.images[0].is_dir() and case.images[0].resolve() in targets[case.name].resolve().parents:
            remedy = "choose an -o outside of it"
            raise UsageError("the output lies among the images of the scan", case=case.name, path=targets[case.name], remedy=remedy)
        if any(file.resolve() in written for image in case.images for file in files_of(image)):
            raise UsageError("the output would replace the scan", case=case.name, path=targets[case.name], remedy="choose another -o")
    return targets


def require_writers(targets: dict[str, Path], spec: ModelSpec, codes: Path | None, reporter: Reporter) -> None:
    """Raise EnvironmentFault for a format whose package is missing, UsageError for a broken table of codes; warn of labels without code."""
    formats = {format_name(target) for target in targets.values()}
    if formats & {"mha", "mhd", "nrrd"}:
        simple_itk()
    if DICOM_SEG not in formats:
        if codes is not None:
            raise UsageError("codes are for DICOM segmentations", field="--codes", path=codes, remedy=f"add --format {DICOM_SEG}")
        return
    require_highdicom()
    if unknown := [segment.name for segment in _segments(spec, codes) if segment.code is None]:
        reporter.warn(f"no code for {some(unknown)}: coded as tissue in DICOM segmentations; --codes FILE adds codes by label name")


def require_replaceable_results(files: Mapping[str, Sequence[Path]], output: Path, *, again: bool, resumable: bool) -> None:
    """Raise UsageError if a file of a case, the records or the tables exist in `output` and may not be replaced.

    files: by case. again: --resume or --overwrite was given. resumable: the command has --resume.
    """
    everything = [path for paths in files.values() for path in paths]
    if twice := [path.name for path, times in Counter(everything).items() if times > 1]:
        raise UsageError("two cases would write one file", path=output, found=some(twice), remedy="rename a scan, or use another -o for it")
    if is_file_name(output):
        require_replaceable(everything, [path for path in everything if _may_be_ours(path)], again=again, resumable=resumable)
        return
    require_folder_name(output)
    ours = written_names(output)
    tables = [output / name for name in (RECORDS, *TABLES)]
    require_replaceable(tables, tables if ours else [], again=True)
    written = [path for name, paths in files.items() if name in ours for path in paths if _may_be_ours(path)]
    require_replaceable(everything, written, again=again, resumable=resumable)


def result_files(target: Path, options: PredictOptions, *, in_folder: bool) -> list[Path]:
    """Return every file that a case gets. target: its labels. in_folder: the output is a folder, where each case also has a JSON file."""
    files = written_files(target) + [sidecar_file(target)] * in_folder
    return files + [probabilities_file(target)] * options.probabilities + [picture_file(target)] * options.picture


def remove_stale_files(target: Path, written: Collection[Path]) -> None:
    """Remove the JSON file, the picture and the probabilities that an earlier call left beside `target`, unless they are `written` anew.

    They would tell of other labels. Files that rare did not write stay.
    """
    marks = (
        (sidecar_file(target), is_sidecar),
        (picture_file(target), is_our_figure),
        (probabilities_file(target), lambda path: intent_of(path) == PROBABILITIES),
    )
    for path, is_ours in marks:
        if path not in written and path.is_file() and is_ours(path):
            path.unlink()


def _may_be_ours(path: Path) -> bool:
    """Returns False for a picture, a JSON file or probabilities that rare did not write; other files have no mark."""
    if path.suffix == ".json":
        return is_sidecar(path)
    if path.name.endswith(_PROBABILITIES):  # or the labels of a case with such a name
        return intent_of(path) in (LABELS, PROBABILITIES)
    return is_our_figure(path) if path.suffix == ".png" else True


def probabilities_file(target: Path) -> Path:
    """The path of the probabilities that belong to a labels file. They are NIfTI in every format."""
    return target.with_name(f"{_stem(target)}{_PROBABILITIES}")


def sidecar_file(target: Path) -> Path:
    """The path of the JSON file that belongs to a labels file."""
    return target.with_name(f"{_stem(target)}.json")


def picture_file(target: Path) -> Path:
    """The path of the picture that belongs to a labels file."""
    return target.with_name(f"{_stem(target)}.png")


def _stem(target: Path) -> str:
    suffix = next((known for known in (*SUFFIXES, RESULT_SUFFIXES[DICOM_SEG]) if target.name.endswith(known)), "")
    return target.name.removesuffix(suffix)


def write_result(
    target: Path, prediction: Prediction, volume: Volume, spec: ModelSpec, *, codes: Path | None = None, anonymous: bool = False
) -> None:
    """Write the labels of a scan in the format of the target's name, and its probabilities if there are any."""
    if format_name(target) == DICOM_SEG:
        source = volume.header
        assert isinstance(source, DicomSource)
        labels: IntArray = prediction.labels
        write_segmentation(target, labels, source, _segments(spec, codes), spec.name, anonymous=anonymous)
    else:
        write_labels(target, prediction.labels, volume)
    if prediction.probabilities is not None:
        write_probabilities(probabilities_file(target), prediction.probabilities, volume)


def _segments(spec: ModelSpec, codes: Path | None) -> list[Segment]:
    return segments_of(spec.name, spec.plan.label_names, spec.plan.label_values, codes)
