"""Which cases of a dataset are scored, and whether their labels are the model's."""

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


def choose_cases(cases: Sequence[Case], names: Sequence[str] | None) -> list[Case]:
    """The cases of these names, all by default. Raises UsageError for a name that no case has."""
    if names is None:
        return list(cases)
    known = {case.name: case for case in cases}
    if stray := [name for name in names if name not in known]:
        raise UsageError(
            "the dataset has no such cases",
            field="cases",
            found=", ".join(stray[:5]),
            expected=f"{len(known)} cases, e.g. {next(iter(known))}",
        )
    return [known[name] for name in names]


def held_out_names(cases: Sequence[Case], models: Sequence[Path], reporter: Reporter) -> list[str] | None:
    """The cases that no run among `models` was trained on; None, for all cases, if none of them was trained on any.

    Reports which cases that leaves, and warns where every case was trained on.
    """
    trained: set[str] = set()
    for model in models:
        files = find_model(model)
        if files.bundle is None:
            trained |= set(load_run_info(files.folder).split["train"])
    names = [case.name for case in cases]
    held_out = [name for name in names if name not in trained]
    if len(held_out) == len(names):
        return None
    if not held_out:
        reporter.warn("the model was trained on every one of these cases: the scores say nothing about other scans")
        return None
    reporter.say(f"scoring the {len(held_out)} cases that the model was not trained on; --all-cases scores all {len(names)}")
    return held_out


def require_same_labels(label_names: dict[int, str] | None, spec: ModelSpec, dataset: Path) -> None:
    """Raise ModelError unless the labels that the dataset declares are the model's: values and, in any case of letters, names."""
    if label_names is None:
        return
    known = dict(zip(spec.plan.label_values, spec.plan.label_names, strict=True))
    if not set(label_names) <= set(known):
        raise ModelError("the model was trained on other labels", path=dataset, field="labels", found=label_names, expected=known)
    for value, name in label_names.items():
        if value and known[value] != undeclared_name(value) and name.casefold() != known[value].casefold():
            raise ModelError(
                "a label has another name than in training",
                path=dataset,
                field=f"label {value}",
                found=name,
                expected=known[value],
                remedy="correct the names in dataset.json, if they mean the same",
            )


def read_case_names(path: Path) -> list[str]:
    """Case names from a JSON list, a run.json (its validation cases), or a text file with one per line."""
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
        raise UsageError("this is no list of cases", path=path, expected='["case", ...], or the run.json of a run')
    return content
