"""Runs of one cross-validation as one predictor: each case is predicted by the run that held it out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

from rarecli.core.config.run_folder import RUN, load_run_info
from rarecli.core.errors import ModelError, UsageError, some
from rarecli.core.jobs.journal import key_of
from rarecli.core.prediction.ensemble import require_one_plan
from rarecli.core.prediction.predictor import ModelChoice, Predictor


class Folds:
    """The predictors of several runs, looked up by held-out case. `evaluate` accepts it in place of a `Predictor`. A context manager.

    choice: the runs and how to run each of them.

    Raises ModelError for a model that is not a run or does not match the others, UsageError for a case that two runs held out and if
    the runs held out no cases.
    """

    def __init__(self, choice: ModelChoice) -> None:
        runs = choice.models
        held_out: dict[str, Path] = {}
        for run in runs:
            folder = run if run.is_dir() else run.parent
            if not (folder / RUN).is_file():
                raise ModelError("only a run records which cases it held out", path=run, expected=f"a folder with {RUN}")
            for case in load_run_info(folder).split["val"]:
                if case in held_out:
                    found = f"{held_out[case]} and {run}"
                    raise UsageError("two runs held out the same case", case=case, found=found, expected="runs of different folds")
                held_out[case] = run
        if not held_out:
            raise UsageError("the runs held out no cases", field="folds", found=some(map(str, runs)), expected="runs of --fold 0, 1, ...")
        self.choice = choice
        self._stack = ExitStack()
        predictors = {run: self._stack.enter_context(replace(choice, models=(run,)).open()) for run in runs}
        require_one_plan({str(run): (predictor.rules, predictor.runner.entries) for run, predictor in predictors.items()})
        self._by_case = {case: predictors[run] for case, run in held_out.items()}
        first = predictors[runs[0]]
        self.rules, self.spec, self.runner = first.rules, first.spec, first.runner

    @cached_property
    def key(self) -> str:
        """A hash of the models and of how they are run; see `Predictor.key`."""
        return key_of([], [self._by_case[case].key for case in self.case_names])

    def __enter__(self) -> Folds:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def case_names(self) -> list[str]:
        """The names of all held-out cases."""
        return sorted(self._by_case)

    def for_case(self, name: str) -> Predictor:
        """The predictor of the run that held out the case. Raises UsageError if no run did."""
        if name not in self._by_case:
            raise UsageError("no run held out this case", case=name, field="folds", remedy="leave it out of --cases, or add its run to -m")
        return self._by_case[name]
