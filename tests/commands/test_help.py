"""The help of every command: examples, panels, defaults, units and choices; and that it starts as fast as an empty Typer app."""

import subprocess
import sys

import pytest
import typer

from rarecli.cli import app
from rarecli.commands import options
from rarecli.core.benchmarking.suites import suite_names
from rarecli.core.config.train_config import preset_names
from rarecli.core.engines.model_files import built_in_models
from rarecli.core.engines.open_model import BACKENDS

COMMANDS = typer.main.get_command(app).commands
PANELS = {options.DATA, options.MODEL, options.TRAINING, options.OUTPUT, options.MACHINE, "TensorRT", "Triton"}
UNITS = {"--spacing": "mm", "--spacings": "mm", "--patch-size": "voxels", "--fixed-shape": "voxels", "--shape": "voxels"}
UNITS |= {"--max-latency-ms": "milliseconds", "--max-memory": "MB", "--max-delay-us": "Microseconds", "--shape-min": "voxels"}


def spelling(param):
    return max(param.opts, key=len)


ALL = [(name, param) for name, command in COMMANDS.items() for param in command.params if param.param_type_name == "option"]


@pytest.mark.parametrize("command", COMMANDS)
def test_two_examples_that_parse(command):
    text = COMMANDS[command].help
    examples = [line.strip().removeprefix("Example: ") for line in text.splitlines() if line.strip().startswith("Example: ")]
    assert len(examples) >= 2
    for example in examples:
        rare, name, *arguments = example.split()
        assert (rare, name) == ("rare", command)
        COMMANDS[command].make_context(command, arguments)  # raises if an option is unknown or missing


@pytest.mark.parametrize(("command", "param"), ALL, ids=[f"{name} {spelling(param)}" for name, param in ALL])
def test_every_option_is_in_a_panel_and_tells_its_default_and_unit(command, param):
    assert spelling(param) == spelling(param).lower()  # Typer takes a metavar like the parameter's name for its spelling
    assert param.rich_help_panel in PANELS
    assert param.help
    if not (param.required or (param.is_flag and param.default is not None)):
        shown = param.show_default if isinstance(param.show_default, str) else param.default
        assert shown not in (None, "", [], ()), "neither a default nor the words of show_default"
    if unit := UNITS.get(spelling(param)):
        assert unit in f"{param.help} {param.metavar}"


def help_of(command, option):
    return next(param.help for name, param in ALL if (name, spelling(param)) == (command, option))


def test_choices_are_listed_from_where_they_are_kept():
    assert ", ".join(preset_names()) in help_of("train", "--preset")
    assert ", ".join(suite_names()) in help_of("benchmark", "--suite")
    assert ", ".join(built_in_models()) in help_of("predict", "--model")
    for backend in BACKENDS:
        assert backend in help_of("predict", "--backend")


def modules_after(source, *arguments):
    ending = "except SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    probe = f"import sys\nsys.argv = ['x', *sys.argv[1:]]\ntry:\n    {source}\n{ending}"
    result = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True)
    return set(result.stderr.splitlines()[-1].split())


def test_the_help_imports_little_more_than_an_empty_typer_app():
    """Imports are the time of --help, and unlike it they do not depend on the machine's other work."""
    empty = modules_after("import typer; app = typer.Typer(); app.command()(lambda: None); app.command('b')(lambda: None); app()", "--help")
    ours = modules_after("from rarecli.cli import main; main()", "--help")
    foreign = {name for name in ours - empty if not name.startswith("rarecli")}
    assert len(ours & empty) > 200  # both show a help
    assert {name.partition(".")[0] for name in foreign} <= set(sys.stdlib_module_names) | {"__editable__"}
    assert len(ours) <= 1.3 * len(empty)
