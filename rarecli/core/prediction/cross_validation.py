"""Runs of one cross-validation as one predictor: each case is scored by the run that held it out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from rarecli.core.config.run_folder import RUN, load_run_info
from rarecli.core.errors import ModelError, UsageError, some
from rarecli.core.prediction.ensemble import require_one_plan
from rarecli.core.prediction.predictor import ModelChoice, Predictor


class Folds:
    """Predictors of runs by the cases that they held out. See `Predictor`, as which `evaluate` takes it; a context manager, too.

    Raises ModelError for what is no run or suits the others not, UsageError for a case that two runs held out.
    """

    def __init__(self, runs: Sequence[Path], device: str = "auto", backend: str = "auto", num_threads: int | None = None) -> None:
        held_out: dict[str, Path] = {}
        for run in runs:
            folder = run if run.is_dir() else run.parent
            if not (folder / RUN).is_file():
                raise ModelError("only a run knows which cases it held out", path=run, expected=f"a folder with {RUN}")
            for case in load_run_info(folder).split["val"]:
                if case in held_out:
                    found = f"{held_out[case]} and {run}"
                    raise UsageError("two runs held out one case", case=case, found=found, expected="runs of different folds")
                held_out[case] = run
        if not held_out:
            raise UsageError("no run held out a case", field="folds", found=some(map(str, runs)), expected="runs of --fold 0, 1, ...")
        self._stack = ExitStack()
        predictors = {run: self._stack.enter_context(Predictor(run, device, backend, num_threads)) for run in runs}
        require_one_plan({str(run): (predictor.spec, predictor.runner.depths) for run, predictor in predictors.items()})
        self._by_case = {case: predictors[run] for case, run in held_out.items()}
        first = predictors[runs[0]]
        self.spec, self.runner = first.spec, first.runner

    def __enter__(self) -> Folds:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def case_names(self) -> list[str]:
        """All cases that some run held out."""
        return sorted(self._by_case)

    def for_case(self, name: str) -> Predictor:
        """The predictor that has not seen the case. Raises UsageError if none held it out."""
        if name not in self._by_case:
            raise UsageError("no run held out this case", case=name, field="folds", remedy="leave it out of --cases, or add its run to -m")
        return self._by_case[name]


def pooled(choice: ModelChoice) -> Folds:
    """Open the runs of a cross-validation. Raises what `Folds` raises."""
    return Folds(choice.models, choice.device, choice.backend, choice.num_threads)
