"""Tables at any width: a table that is too wide is folded into several, and no number is cut."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from rarecli.commands.layout import fold, print_table
from rarecli.commands.tables import print_scores

COLUMNS = ["label", "Dice", "IoU", "precision", "recall"]
ROWS = [["head", "0.9123", "0.8345", "0.9456", "0.8789"], ["tail of it", "0.8012", "0.6789", "0.7654", "0.7001"]]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NUMBERS = {number for row in ROWS for number in row[1:]}


def test_a_table_that_fits_stays_whole():
    # 1 for the left line, then per column its widest cell and 3: 13 + 9 + 9 + 12 + 9
    assert fold(COLUMNS, ROWS, 53) == [[0, 1, 2, 3, 4]]
    assert fold(COLUMNS, ROWS, None) == [[0, 1, 2, 3, 4]]


def test_a_table_that_is_too_wide_repeats_its_keys():
    assert fold(COLUMNS, ROWS, 52) == [[0, 1, 2, 3], [0, 4]]
    assert fold(COLUMNS, ROWS, 32) == [[0, 1, 2], [0, 3], [0, 4]]
    assert fold(COLUMNS, ROWS, 45, num_keys=2) == [[0, 1, 2, 3], [0, 1, 4]]


def test_a_column_that_fits_nowhere_stands_alone():
    assert fold(["case", "Dice"], [["a very long name", "0.5"]], 10) == [[0, 1]]


def test_headers_and_sentences_break_between_words():
    why = "skipped: the backend is not installed on this machine"
    # "installed" is the longest word: 4 + 3, then 9 + 3, and the line
    assert fold(["row", "number of cases", "status"], [["a", "1", why]], 6 + 9 + 12 + 1) == [[0, 1, 2]]
    assert fold(["row", "number of cases", "status"], [["a", "1", why]], 6 + 9 + 11 + 1) == [[0, 1], [0, 2]]


def cells(text):
    return {cell.strip() for line in text.splitlines() if line.startswith("│") for cell in line.strip("│").split("│")}


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_every_number_is_printed_whole_at_every_width(monkeypatch, capsys, width):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    print_table("scores", COLUMNS, ROWS)
    said = ESCAPE.sub("", capsys.readouterr().out)
    assert cells(said) >= NUMBERS
    assert max(len(line) for line in said.splitlines()) <= width
    assert "…" not in said


def test_without_a_terminal_a_table_is_as_wide_as_it_needs(capsys):
    columns = ["case", *(f"label number {index}" for index in range(60))]
    print_table("many", columns, [["a", *(f"0.{1000 + index}" for index in range(60))]])
    said = capsys.readouterr().out
    assert {f"0.{1000 + index}" for index in range(60)} <= cells(said)
    assert len([line for line in said.splitlines() if line.startswith("│")]) == 1


@pytest.mark.parametrize(("num_cases", "shown"), [(1, "0.812"), (42, "0.812"), (1000, "0.8123")])
def test_a_mean_has_the_decimals_that_its_standard_error_allows(capsys, num_cases, shown):
    # .015 / sqrt(42) is .0023, .015 / sqrt(1000) is .00047
    part = {"num_cases": num_cases, "dice": 0.81234, "dice_std": 0.015, "dice_p5": 0.7, "both_empty": {}, "mean": {}}
    print_scores({"mean": {}, "per_method": {"routed": {"0": part}}, "per_depth": {}}, "scores")
    assert f"{shown} (0.015)" in cells(capsys.readouterr().out)


def test_brackets_are_text(capsys):
    print_table("a [red] title", ["label"], [["[bold]left[/bold]"]])
    said = capsys.readouterr().out
    assert "a [red] title" in said
    assert "[bold]left[/bold]" in said


def on_terminal(width, *arguments, **environment):
    """Run `rare ARGUMENTS` on a terminal of this width; return what it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "TERM", "NO_COLOR")}
    command = [sys.executable, "-m", "rarecli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=inherited | environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_command_on_a_real_terminal_shows_all_its_numbers(dataset, tmp_path, width):
    labels = dataset / "labelsTr"
    shown = ESCAPE.sub("", on_terminal(width, "score", labels, labels, "-o", tmp_path / "s", "--no-surface", TERM="xterm"))
    assert {"label", "Dice", "IoU", "precision", "recall"} <= {cell.strip() for cell in re.split("[┃\r\n]", shown)}
    # four metrics of two labels and their mean, then the percentile of Dice
    assert len(re.findall(r"1\.0000", shown)) == 4 * 3 + 1


def test_a_dumb_terminal_and_no_colour_get_plain_lines(dataset, tmp_path):
    labels = dataset / "labelsTr"
    dumb = on_terminal(80, "score", labels, labels, "-o", tmp_path / "s", "--no-surface", TERM="dumb")
    assert "\x1b" not in dumb
    colourless = on_terminal(80, "info", labels, TERM="xterm-256color", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", colourless)
