"""`rare score`: scores label files from any source against reference label files.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.config.geometry import entry_taken, is_isotropic
from rarecli.core.data.case_files import label_files
from rarecli.core.data.cases import Case, class_indices, folders_of, require_few_classes
from rarecli.core.data.declared_labels import DeclaredLabels, read_labels_field
from rarecli.core.errors import DataError, RareError, blamed_on, some, some_failed
from rarecli.core.evaluation.comparison import load_result, write_comparison
from rarecli.core.evaluation.metrics import Record, case_record
from rarecli.core.evaluation.summary import RESULT_FILES, ROUTED, Score, summarise, write_result
from rarecli.core.evaluation.surfaces import IN_NEITHER, measure, measure_regions, require_monai
from rarecli.core.imaging.scan_files import files_of
from rarecli.core.imaging.volume import MOST_VALUES_OF_LABELS, read_labels, require_same_grid
from rarecli.core.jobs.cluster import joined_cluster, shared_paths
from rarecli.core.jobs.files import read_json, require_writable
from rarecli.core.jobs.journal import FILE_NAME as JOURNAL
from rarecli.core.jobs.journal import Journal, key_of
from rarecli.core.jobs.outcomes import Done, collect
from rarecli.core.jobs.outputs import require_new_result
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.signals import CASES_ARE_KEPT, interruption_means
from rarecli.core.jobs.workers import ThisProcess

_SCORING = 2
"""Incremented whenever the scoring of a pair changes, so that older scores are not resumed."""


@dataclass(frozen=True)
class ScoreOptions:
    """How to score, and how to process the pairs.

    surface: also compute HD95 and surface Dice with MONAI. against: an earlier result on the same cases; writes comparison.json and adds
    the comparison to the returned summary. resume: skip the pairs that an earlier call into the same output finished. overwrite: replace
    the results of an earlier call. scheduler: the address of a Dask scheduler whose workers share the pairs; see `jobs/cluster.py`.
    """

    surface: bool = True
    against: Path | None = None
    resume: bool = False
    overwrite: bool = False
    scheduler: str | None = None


def score(
    references: Path, predictions: Path, output: Path, options: ScoreOptions = ScoreOptions(), reporter: Reporter = Silent()
) -> dict[str, Any]:
    """Score a folder of label files against references of the same names; write summary.json and cases.csv; return the summary.

    Depths come from the predictions.json of `rare predict`, if the folder has one. A worker has one pair in memory at a time.
    A dataset.json in or beside `references` names the labels; the keys of the summary are their values. Its regions are scored too.
    Voxels that it declares to be without annotation, by the label `ignore`, are left out. A warning tells of one that cannot be read.
    A label that is in no reference is not scored; a warning names it.
    A pair that cannot be scored, as one on two grids, does not stop the others; SomeCasesFailed is raised at the end. A single pair raises
    its own error. Raises DataError for a prediction without a reference.
    """
    references, predictions, output = shared_paths(options.scheduler, references, predictions, output)
    pairs = _pairs(references, predictions, reporter)
    other = load_result(options.against) if options.against is not None else None
    if options.surface:
        require_monai()
    depths, declared = _depths_taken(predictions), _declared_labels(references, reporter)
    require_new_result(output, RESULT_FILES, JOURNAL, again=options.resume or options.overwrite)
    require_writable(output)
    found, failures = _score_pairs(pairs, declared, output, options, reporter)
    if not found:
        raise some_failed(failures, len(pairs), predictions, None, "check that both folders hold label files")
    records = {name: {int(value): metrics for value, metrics in one["labels"].items()} for name, one in found.items()}
    values = sorted({value for record in records.values() for value, metrics in record.items() if metrics["n_ref"]})
    if not values:
        raise DataError("the references contain only background", path=references, expected="a label above 0 in a reference")
    _warn_of_images(values, records, reporter)
    names = declared.names
    stray = [(name, value) for name, record in records.items() for value in record if value not in values]
    for value in sorted({value for _, value in stray}):
        holding = [name for name, other_value in stray if other_value == value]
        # a scored label would count as right wherever it is not predicted, and raise the mean
        reporter.warn(f"label {names.get(value, value)} is in no reference and is not scored; it is predicted in {some(holding)}")
    scored = [
        Score(name, ROUTED, _whole(record, values, options.surface), depths.get(name), regions=found[name]["regions"] or None)
        for name, record in records.items()
    ]
    summary = summarise(scored, ["background", *map(str, values)])
    summary["label_names"] = {str(value): names.get(value, str(value)) for value in values}
    summary["failed"] = {name: error.brief for name, error in failures.items()}
    write_result(scored, summary, output)
    if failures:
        raise some_failed(failures, len(pairs), output, summary, *(["nothing was compared"] if other else []))
    return write_comparison(summary, other, output)


def _warn_of_images(values: Sequence[int], records: Mapping[str, Mapping[int, Mapping[str, Any]]], reporter: Reporter) -> None:
    """Warn if the references have so many more values than the predictions that the folders are probably swapped."""
    predicted = {value for record in records.values() for value, metrics in record.items() if metrics["n_pred"]}
    if predicted and len(values) > MOST_VALUES_OF_LABELS * len(predicted):
        seen = f"they have {len(values)} values, the predictions {len(predicted)}"
        reporter.warn(f"the references look like images: {seen}; are the folders swapped? REFERENCES come first")


def _pairs(references: Path, predictions: Path, reporter: Reporter) -> list[Case]:
    """Returns the predictions, each with its reference as its labels. Raises DataError for a prediction without a reference."""
    predicted = [case for case in label_files(predictions) if not case.name.endswith("_probabilities")]
    available = {case.name: case.images[0] for case in label_files(references)}
    if not predicted:
        raise DataError("the folder has no predictions", path=predictions, expected="files with the names of the references")
    for case in predicted:
        if case.name not in available:
            raise DataError("the prediction has no reference", case=case.name, path=references, expected=f"{case.name}.nii.gz")
    if unscored := sorted(available.keys() - {case.name for case in predicted}):
        without = "1 reference has" if len(unscored) == 1 else f"{len(unscored)} references have"
        reporter.warn(f"not scored: {without} no prediction: {some(unscored)}")
    return [replace(case, labels=available[case.name]) for case in predicted]


@interruption_means(CASES_ARE_KEPT)
def _score_pairs(
    pairs: Sequence[Case], declared: DeclaredLabels, output: Path, options: ScoreOptions, reporter: Reporter
) -> tuple[dict[str, dict[str, Record]], dict[str, RareError]]:
    """Returns what `_score_pair` does, and the errors, each by case."""
    scheduler = options.scheduler
    with joined_cluster(scheduler, folders_of(pairs), output, reporter) if scheduler else nullcontext(ThisProcess()) as workers:
        journal = Journal(output, resume=options.resume)
        work = partial(_attempt, declared=declared, surface=options.surface)
        outcomes = workers.outcomes(work, [(pair, journal.of(pair.name)) for pair in pairs])
        return collect([pair.name for pair in pairs], outcomes, reporter, "score", journal=journal)


def _attempt(item: tuple[Case, Journal], *, declared: DeclaredLabels, surface: bool) -> Done[dict[str, Record]] | RareError:
    """Returns what `_score_pair` does, or the error of the pair."""
    pair, journal = item
    assert pair.labels is not None
    try:
        with blamed_on(pair.name):
            facts = [declared.ignored_value, [region.model_dump() for region in declared.regions], surface, _SCORING]
            key = key_of([*files_of(pair.images[0]), *files_of(pair.labels)], *facts)
            if finished := journal.find(pair.name, key):
                return Done(finished, key, new=False)
            return Done(_score_pair(pair.name, pair.images[0], pair.labels, declared, surface), key)
    except RareError as error:
        return error


def _score_pair(name: str, prediction_file: Path, reference_file: Path, declared: DeclaredLabels, surface: bool) -> dict[str, Record]:
    """Returns the metrics of one pair of files: `labels`, by value as text, of those that occur in either file; `regions`, by name."""
    ignored_value = declared.ignored_value
    prediction, reference = read_labels(prediction_file, case=name), read_labels(reference_file, case=name)
    require_same_grid(prediction, reference, "prediction and reference lie on different grids", case=name, path=prediction_file)
    values = sorted({0}.union(*(np.unique(volume.data).tolist() for volume in (prediction, reference))) - {ignored_value})
    require_few_classes(values, reference_file)
    predicted, true = (class_indices(volume.data[0], values, name, ignored_value=ignored_value) for volume in (prediction, reference))
    spacing_mm = reference.spacing_mm if surface else None
    classes = {region.name: [values.index(value) for value in region.label_values if value in values] for region in declared.regions}
    return {
        "labels": measure(predicted, true, [str(value) for value in values], spacing_mm),
        "regions": measure_regions(predicted, true, classes, spacing_mm),
    }


def _whole(record: dict[int, dict[str, Any]], values: list[int], surface: bool) -> Record:
    """Returns a record over all labels of the result. A label in neither prediction nor reference counts as right."""
    nothing = case_record(np.zeros((2, 2), dtype=np.int64), ("background", "nothing"))["nothing"] | (IN_NEITHER if surface else {})
    return {str(value): record.get(value, nothing) for value in values}


def _declared_labels(references: Path, reporter: Reporter) -> DeclaredLabels:
    """Returns the labels that the dataset.json in or beside the folder declares; none without one that declares them."""
    for folder in (references, references.resolve().parent):
        if (path := folder / "dataset.json").is_file():
            try:
                content = read_json(path)
                return read_labels_field(content.get("labels", {}) if isinstance(content, dict) else content, path)
            except DataError as error:  # labels can be scored without their names
                reporter.warn(f"names, regions and the ignore label of {path} are not used: {error.problem}")
            break
    return DeclaredLabels({})


def _depths_taken(predictions: Path) -> dict[str, int]:
    """Returns the depth by case from the predictions.json of `rare predict`, if it is the same along all axes; empty without the file."""
    path = predictions / "predictions.json"
    try:
        entries = {name: entry_taken(record) for name, record in read_json(path)["cases"].items()} if path.is_file() else {}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError("this predictions.json was not written by rare predict", path=path, remedy="move it elsewhere") from error
    return {name: entry[0] for name, entry in entries.items() if is_isotropic(entry)}
