"""The `rare` command. Only this module prints errors and exits."""

import os
import signal
import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands import benchmark, convert, demo, evaluate, export, info, predict, preprocess, score, train
from rarecli.commands.console import settings
from rarecli.core.errors import EnvironmentFault, RareError, meaning
from rarecli.core.jobs.ranks import find_ranks
from rarecli.core.jobs.signals import Interrupted, raise_interrupted

app = typer.Typer(
    name="rare",
    help="3D medical image segmentation whose cost follows the resolution of the scan.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (preprocess, train, predict, evaluate, score, export, benchmark, info, convert, demo):
    app.command(room.__name__.rpartition(".")[2])(room.run)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rare {installed_version('rare-unet')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)] = False,
) -> None:
    """3D medical image segmentation whose cost follows the resolution of the scan."""
    settings.debug = debug


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        print(f"Warning: {message}", file=sys.stderr)


def main() -> None:
    """Run the command line; exit with 0, or with the code of the error (`rarecli/core/errors.py`)."""
    _let_threads_sleep()
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGINT, raise_interrupted)
    try:
        _require_working_directory()
        try:
            app()
        finally:
            if sys.stdout:  # None where the caller has closed it
                sys.stdout.flush()
    except Interrupted as interruption:
        if find_ranks().leads:
            print(f"Interrupted: {str(interruption) or 'nothing more is written'}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if settings.debug:
            raise
        meant = error if isinstance(error, RareError) else meaning(error)
        if not isinstance(error, RareError) or find_ranks().leads or meant.rank is not None:  # an error of all ranks is printed once
            print(f"Error: {meant}", file=sys.stderr)
        sys.exit(meant.exit_code)


def _let_threads_sleep() -> None:
    """Make waiting OpenMP threads sleep after a short spin. Must run before torch loads OpenMP.

    By default they spin for milliseconds, and so take CPU time from the threads they wait for when other processes use the cores. On two
    cores, beside two busy loops, `rare demo` took 463 s with the default and takes 163 s with this.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _require_working_directory() -> None:
    """Raise EnvironmentFault if the working directory was removed: torch's libraries abort the process there."""
    try:
        Path.cwd()
    except OSError as error:
        raise EnvironmentFault(
            "the working directory no longer exists", found=error.strerror, remedy="cd into a folder that exists"
        ) from error
