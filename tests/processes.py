"""Trainings in separate processes, to be killed; they are forked from a server that has imported torch once."""

import multiprocessing
import os
import socket
import sys
from contextlib import contextmanager

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rarecli.core.training.train", "torch._dynamo"])  # the latter is imported by the first optimiser

BOUND_S = 60
"""Whatever happens to one process, all others end within this time."""


class Told:
    """A reporter that writes all messages to a file."""

    def __init__(self, path):
        self.path = path

    def say(self, text):
        with self.path.open("a") as file:
            file.write(f"{text}\n")

    warn = say

    def track(self, items, label, total, costs=None):
        yield from items


def draw_nothing(log, path):
    """Write a placeholder figure like the real one, without the seconds that drawing takes."""
    from rarecli.core.jobs.files import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_bytes(bytes(10_000))


def _train(prepared, run, overrides, environment, spoil, words, options):
    import torch

    from rarecli.core.config import run_folder
    from rarecli.core.config.train_config import load_train_config
    from rarecli.core.errors import RareError
    from rarecli.core.training import progress_report
    from rarecli.core.training.train import TrainOptions, train

    os.environ.update(environment)
    torch.set_num_threads(1)
    progress_report.draw_progress = draw_nothing
    if spoil:
        spoil()
    base = run_folder.load_resumed_config(run) if options.get("resume") else None
    try:
        train(prepared, run, load_train_config(overrides=overrides, base=base), TrainOptions(device="cpu", **options), reporter=Told(words))
    except RareError as error:
        Told(words).say(f"Error: {error}")
        sys.exit(error.exit_code)


def in_environment(environment, function, *args):
    """Call a function with these environment variables and one thread."""
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*args)


def start_training(prepared, run, overrides, *, environment=None, spoil=None, **options):
    """Start a training with one thread; its messages go to a file beside the run. spoil: called in the process first."""
    rank = (environment or {}).get("RANK", "0")
    words = run.with_name(f"{run.name}.said{rank}")
    process = CONTEXT.Process(target=_train, args=(prepared, run, overrides, environment or {}, spoil, words, options))
    process.start()
    process.words = words
    return process


def start_ranks(num, prepared, run, overrides, *, spoil=None, environments=None, **options):
    """Start a training on several ranks as torchrun would. spoil: by rank, called in its process first."""
    environments = environments or torchrun_environments(num)
    spoil = spoil or {}
    return [start_training(prepared, run, overrides, environment=environments[i], spoil=spoil.get(i), **options) for i in range(num)]


def torchrun_environments(num):
    port = free_port()
    return [
        {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for i in range(num)
    ]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def ended(*processes):
    """End all processes, whatever the result of the test."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def exit_codes(processes):
    """Return the exit codes of all processes after a bounded time; None for a process that did not end."""
    for process in processes:
        process.join(BOUND_S)
    return [process.exitcode for process in processes]
