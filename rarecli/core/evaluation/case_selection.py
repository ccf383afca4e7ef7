"""Choose the cases of a dataset to score, and check that its labels match the model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.run_folder import load_run_info
from rarecli.core.data.cases import Case, undeclared_name
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.jobs.files import read_json
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.safe_text import read_text
from rarecli.core.jobs.words import counted


def choose_cases(cases: Sequence[Case], names: Sequence[str] | None) -> list[Case]:
    """Returns the cases with these names, or all cases for None. Raises UsageError for an unknown name."""
    if names is None:
        return list(cases)
    known = {case.name: case for case in cases}
    if stray := [name for name in names if name not in known]:
        raise UsageError(
            "the dataset has no such cases",
            field="cases",
            found=", ".join(stray[:5]),
            expected=f"{counted(len(known), 'case')}, e.g. {next(iter(known))}",
        )
    return [known[name] for name in names]


def held_out_names(cases: Sequence[Case], models: Sequence[Path], reporter: Reporter) -> list[str] | None:
    """Returns the names of the cases that no run among `models` was trained on.

    Returns None, for all cases, if no run was trained on any of them. Also returns None, with a warning, if every case was trained on.
    Reports how many cases are scored, and why.
    """
    trained: set[str] = set()
    for model in models:
        files = find_model(model)
        if files.bundle is None:
            trained |= set(load_run_info(files.folder).split["train"])
    names = [case.name for case in cases]
    held_out = [name for name in names if name not in trained]
    if not trained:
        reporter.say(f"scoring all {counted(len(names), 'case')}: a bundle does not tell what its model was trained on")
    elif not held_out:
        reporter.warn("the model was trained on all of these cases: the scores do not show how it performs on other scans")
    elif len(held_out) == len(names):
        reporter.say(f"scoring all {counted(len(names), 'case')}: the model was trained on none of them")
    else:
        reporter.say(f"scoring the {counted(len(held_out), 'case')} that the model was not trained on; --all-cases scores all {len(names)}")
        return held_out
    return None


def require_same_labels(label_names: dict[int, str] | None, spec: ModelSpec, dataset: Path) -> None:
    """Raise ModelError unless the labels that the dataset declares match the model's in value and in name, ignoring case."""
    if label_names is None:
        return
    known = dict(zip(spec.plan.label_values, spec.plan.label_names, strict=True))
    if not set(label_names) <= set(known):
        raise ModelError("the model was trained on different labels", path=dataset, field="labels", found=label_names, expected=known)
    for value, name in label_names.items():
        if value and known[value] != undeclared_name(value) and name.casefold() != known[value].casefold():
            raise ModelError(
                "a label has a different name than in training",
                path=dataset,
                field=f"label {value}",
                found=name,
                expected=known[value],
                remedy="if both names mean the same structure, correct dataset.json",
            )


def read_case_names(path: Path) -> list[str]:
    """Read case names from a JSON list, a run.json (its validation cases), or a text file with one name per line."""
    if path.suffix != ".json":
        try:
            text = read_text(path, UsageError)
        except OSError as error:
            raise UsageError("the list of cases cannot be read", path=path, found=error) from error
        return [line.strip() for line in text.splitlines() if line.strip()]
    content = read_json(path)
    if isinstance(content, dict):
        split = content.get("split")
        content = split.get("val") if isinstance(split, dict) else content.get("test")
    if not content or not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise UsageError("not a list of cases", path=path, expected='["case", ...], or the run.json of a run')
    return content
