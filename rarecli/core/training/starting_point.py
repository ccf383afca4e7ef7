"""Where a training starts: from random weights, from a model's weights, or from the checkpoint of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from rarecli.core.config import run_folder
from rarecli.core.engines.model_files import ModelFiles
from rarecli.core.errors import ModelError, UsageError, some
from rarecli.core.jobs.files import atomic_file
from rarecli.core.model import checkpoint
from rarecli.core.training.initial_weights import initialise, inputs_differ
from rarecli.core.training.learner import is_frozen
from rarecli.core.training.loop import TrainingLoop
from rarecli.core.training.state import (
    EpochSums,
    TrainState,
    origin,
    require_same_meaning,
    require_same_network,
    require_same_origin,
    unpack,
    unpack_plateau,
)


def start_anew(loop: TrainingLoop, model: ModelFiles | None) -> None:
    """Start a new run, from the weights of `model` if given. Raises ModelError if they do not fit."""
    if model:
        learner = loop.learner
        loaded = initialise(learner.network, loop.spec, model.spec, checkpoint.load_tensors(model.weights)[0], model.weights)
        for line in loaded.words():
            loop.reporter.say(line)
        if told := inputs_differ(loop.spec, model.spec):
            loop.reporter.warn(told)
        if missing := [name for name in loaded.random if is_frozen(name, loop.config.freeze)]:
            raise ModelError(
                "a frozen weight would stay random",
                path=model.weights,
                field="freeze",
                found=f"{some(missing)}: {loaded.random[missing[0]]}",
                expected="a model with all weights of the encoder",
                remedy="train it too: leave --freeze out",
            )
        learner.average.module.load_state_dict(learner.network.state_dict())
        loop.started_from = model.spec.name
    if loop.ranks.leads:
        run_folder.save_run_info(loop.run, loop.info())
        loop.save()


def go_on_from(loop: TrainingLoop, source: Path) -> None:
    """Load the last checkpoint of the run `source` into a loop. `source` is the loop's own run, or another one, which stays unchanged.

    Raises UsageError if the loop's own run was started with another configuration, dataset or split, if another run's state does not
    suit the loop, and if the run is finished; ModelError if another version of rare wrote the checkpoint.
    """
    here, info = source == loop.run, run_folder.load_run_info(source)
    tensors, facts = checkpoint.load_state(source, loop.reporter, mend=loop.ranks.leads and here)
    if "state" not in facts:
        remedy = "start a new run with --init from this one"
        raise ModelError("the checkpoint was written by another version of rare", path=source, remedy=remedy)
    if here:
        require_same_origin(origin(loop.config, loop.spec, loop.dataset, loop.split), facts, loop.run)
    else:
        require_same_network(loop.spec, facts, source)
        require_same_meaning(loop.config, info.config, source)
    unpack(tensors, loop.learner)
    if info.config.optimiser == loop.config.optimiser:  # else the new schedule starts at its own rate
        unpack_plateau(facts["plateau"], loop.learner, loop.plateau)
    loop.state = TrainState.from_facts(facts["state"])
    if not here and info.config != loop.config:  # the steps differ: start the current epoch again
        loop.state.position, loop.state.sums = 0, EpochSums()
        loop.state.step = loop.state.epoch * loop.steps_per_epoch
    epochs = f"{loop.state.epoch} epochs"
    if loop.state.epoch >= loop.config.epochs:
        raise UsageError("the run is finished", path=source, found=epochs, remedy="increase --epochs to extend it")
    if loop.has_stood_still():
        found = f"{epochs}, best epoch {loop.state.best_epoch}"
        raise UsageError("the run is finished", path=source, found=found, remedy="increase patience to extend it")
    loop.started_from = info.started_from if here else f"{source.name}, epoch {loop.state.epoch}"
    loop.record.read(loop.state.epoch, source)
    if loop.ranks.leads and not here:
        for name in (run_folder.BEST, run_folder.SPLITS):
            if (source / name).is_file():
                with atomic_file(loop.run / name) as temporary:
                    shutil.copyfile(source / name, temporary)
        loop.record.write()
    if loop.ranks.leads:
        run_folder.save_run_info(loop.run, loop.info())
    if not here:
        loop.save()
