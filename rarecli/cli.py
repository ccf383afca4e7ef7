"""The `rare` command. Only this module prints errors and exits."""

import os
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rarecli.commands import benchmark, calibrate, convert, demo, evaluate, export, info, models, predict, preprocess, score, train
from rarecli.commands.console import Console, print_json, settings
from rarecli.commands.usage import is_typers, usage_error
from rarecli.core.errors import EnvironmentFault, RareError, meaning
from rarecli.core.jobs.ranks import find_ranks, started_by_launch
from rarecli.core.jobs.signals import Interrupted, raise_interrupted
from rarecli.core.jobs.words import duration

_SHOWN_VERSIONS = ("rare-unet", "numpy", "torch", "onnxruntime", "openvino", "tensorrt")

app = typer.Typer(
    name="rare",
    help="3D medical image segmentation whose cost follows the resolution of the scan.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (preprocess, train, predict, evaluate, calibrate, score, export, benchmark, info, models, convert, demo):
    app.command(room.__name__.rpartition(".")[2])(room.run)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed_version  # imports the email package

        typer.echo(f"rare {installed_version('rare-unet')}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print versions, decisions and timings.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)] = False,
) -> None:
    """3D medical image segmentation whose cost follows the resolution of the scan.

    These options come before the command: rare --quiet predict ...
    """
    settings.quiet, settings.verbose, settings.debug = quiet, verbose, debug
    settings.started = time.monotonic()
    if verbose:
        import platform

        from rarecli.core.versions import installed_versions

        versions = {"Python": platform.python_version()} | installed_versions(_SHOWN_VERSIONS)
        Console().explain(", ".join(f"{name} {number}" for name, number in versions.items()))


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
            code = app(prog_name="rare", standalone_mode=False)
        finally:
            if sys.stdout:  # None where the caller has closed it
                sys.stdout.flush()
    except Interrupted as interruption:
        _end_interrupted(interruption)
    except BrokenPipeError:
        _end_unread()
    except SystemExit as end:  # Typer's answer to a broken pipe is exit code 1
        if isinstance(end.__context__, BrokenPipeError):
            _end_unread()
        raise
    except Exception as error:
        _end_with_error(error)
    Console().explain(f"took {duration(time.monotonic() - settings.started)}")
    sys.exit(code if isinstance(code, int) else 0)


def _end_unread() -> NoReturn:
    """End silently, with the exit code of a process that SIGPIPE ends. At its exit, Python writes what is left to nowhere."""
    if sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
    sys.exit(141)


def _end_interrupted(interruption: Interrupted) -> NoReturn:
    message = str(interruption) or "nothing more is written"
    if _leads():
        print(f"Interrupted: {message}", file=sys.stderr)
        unknown = dict.fromkeys(("case", "path", "expected", "found", "remedy"))
        _print_as_json({"kind": "interrupted", "message": message, **unknown, "exit_code": 130})
    sys.exit(130)


def _end_with_error(error: Exception) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":  # not an error to the user: the text is the help
        print(error, file=sys.stderr)
        sys.exit(2)
    if is_typers(error):
        meant: RareError = usage_error(error)
    elif settings.debug:
        raise error
    else:
        meant = error if isinstance(error, RareError) else meaning(error)
    if not isinstance(error, RareError) or meant.rank is not None or _leads():  # an error of all ranks is printed once
        print(f"Error: {meant}", file=sys.stderr)
        _print_as_json(meant.facts, getattr(meant, "result", None))
    sys.exit(meant.exit_code)


def _leads() -> bool:
    try:
        return find_ranks().leads
    except EnvironmentFault:  # this may be the very error to print
        return True


def _print_as_json(error: dict[str, Any], result: dict[str, Any] | None = None) -> None:
    """Print an error on stdout if `--json` was given, beside the result of the cases that went well.

    The command line may be wrong, so `--json` is looked for among the words as they were typed. A rank that `rare train` started leaves
    this to the process that started it.
    """
    words = sys.argv[1:]
    if "--json" not in words[: words.index("--") if "--" in words else None] or started_by_launch():
        return
    with suppress(OSError):  # stdout itself may be the fault, full or closed; stderr has named it
        print_json((result or {}) | {"error": error})


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
