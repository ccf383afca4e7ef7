"""Turns the text of options into numbers, lists and entries. Each function raises UsageError, naming the option."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rarecli.core.errors import UsageError

if TYPE_CHECKING:
    from rarecli.core.reporting.options import ReportOptions


def models(text: str) -> tuple[Path, ...]:
    """RUN1,RUN2 -> two paths. A path that exists is one path, even if it contains commas."""
    if Path(text).exists() or "," not in text:
        return (Path(text),)
    return tuple(Path(part.strip()) for part in text.split(",") if part.strip())


def report_options(wanted: bool, num_cases: int = 0) -> ReportOptions | None:
    """--report -> options of the report, with the command as it was typed; None for --no-report."""
    from rarecli.core.reporting.options import ReportOptions

    return ReportOptions(shlex.join(["rare", *sys.argv[1:]]), num_cases) if wanted else None


def case_names(path: Path | None) -> list[str] | None:
    """A file with the names of cases -> the names; None without one."""
    from rarecli.core.evaluation.case_selection import read_case_names

    return list(read_case_names(path)) if path else None


def words(text: list[str] | None) -> list[str] | None:
    """a,b (or the option repeated) -> ["a", "b"]."""
    return [part.strip() for item in text for part in item.split(",") if part.strip()] if text else None


def integers(text: list[str] | None, option: str) -> list[int] | None:
    """0,1,2 (or the option repeated) -> [0, 1, 2]."""
    if not text:
        return None
    parts = [part for item in text for part in item.split(",") if part.strip()]
    try:
        if not parts:
            raise ValueError
        return [int(part) for part in parts]
    except ValueError:
        raise UsageError("not a list of whole numbers", field=option, found=",".join(text), expected="e.g. 0,1,2") from None


def spacings_or_range(text: str | None, option: str) -> list[tuple[float, float, float]] | None:
    """0.8,1x1x4 -> [(0.8, 0.8, 0.8), (1, 1, 4)]; LOW:HIGH:NUM -> NUM isotropic spacings with equal ratios from LOW to HIGH."""
    if text is None:
        return None
    error = UsageError(
        "neither a list of spacings above 0 nor LOW:HIGH:NUM", field=option, found=text, expected="e.g. 2,1x1x4 or 0.8:8:25, in mm"
    )
    try:
        if ":" in text:
            low, high, num = text.split(":")
            first, ratio, steps = float(low), float(high) / float(low), int(num) - 1
            found = [[first * ratio ** (step / steps)] * 3 for step in range(steps + 1)]
        else:
            parts = [[float(number) for number in part.split("x")] for part in text.split(",") if part.strip()]
            found = [numbers * 3 if len(numbers) == 1 else numbers for numbers in parts]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise error from None
    if not found or not all(len(numbers) == 3 and all(0 < number < 1e6 for number in numbers) for numbers in found):
        raise error
    return [(x, y, z) for x, y, z in found]


def parse_entry(text: str | None, option: str) -> tuple[int, int, int] | None:
    """X,Y,Z -> the depth of each axis."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 3 for part in parts):
        raise UsageError("not X,Y,Z with a depth per axis", field=option, found=text, expected="e.g. 0,0,2")
    x, y, z = (int(part) for part in parts)
    return x, y, z


def chosen_entries(text: str | None, depths: list[str] | None) -> Any:
    """`thick`, or 0,0,0;0,0,2, or depths along all axes -> the name of a set, or a list of entries; None for neither."""
    from rarecli.core.config.geometry import EntrySet

    wanted = integers(depths, "--depths")
    if text is not None and wanted is not None:
        raise UsageError("--depths and --entries exclude each other", field="--entries", remedy="give only one of the two")
    if wanted is not None:
        return [(depth, depth, depth) for depth in wanted]
    if text is None or text in get_args(EntrySet):
        return text
    parts = [part for part in text.split(";") if part.strip()]
    if not parts or (len(parts) == 1 and "," not in text):
        expected = f"{', '.join(get_args(EntrySet))}, or a list such as '0,0,0;0,0,2'"
        raise UsageError("no such set of entries", field="--entries", found=text, expected=expected)
    return [parse_entry(part, "--entries") for part in parts]


def three_numbers(text: str | None, option: str) -> tuple[float, float, float] | None:
    """X,Y,Z, or one number for all axes -> three positive numbers."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(0 < number < 1e6 for number in numbers):
        raise UsageError("not X,Y,Z with numbers above 0", field=option, found=text, expected="e.g. 1,1,2.5, or one number for all axes")
    return numbers[0], numbers[1], numbers[2]


def three_integers(text: str | None, option: str) -> tuple[int, int, int] | None:
    """X,Y,Z, or one number for all axes -> three positive whole numbers."""
    numbers = three_numbers(text, option)
    if numbers is None:
        return None
    if any(number != int(number) for number in numbers):
        raise UsageError("not X,Y,Z with whole numbers above 0", field=option, found=text, expected="e.g. 32,64,32")
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def region(text: str | None) -> Any:
    """x0:x1,y0:y1,z0:z1 -> a box; the name of a file -> its path; None without a text."""
    from rarecli.core.imaging.regions import read_box

    if text is None or (box := read_box(text)) is not None:
        return None if text is None else box
    if not Path(text).is_file():
        raise UsageError("neither a box nor a file", field="--roi", found=text, expected="e.g. 10:120,40:200,0:80, or a mask")
    return Path(text)


def fold_choice(text: str | None) -> int | str | None:
    """The number of a fold, or `all`, as an option of `rare train`."""
    if text is None or text == "all":
        return text
    if not text.isdecimal():
        raise UsageError("neither a number nor all", field="--fold", found=text, expected="e.g. 0, or all")
    return int(text)


def overrides(items: list[str], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the keys changed by --set and by the other options, which override --set. An option that is not given changes nothing."""
    import yaml

    changed = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError("not KEY=VALUE", field="--set", found=item, expected="e.g. optimiser.lr=1e-3")
        try:
            changed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError("the value is not valid YAML", field="--set", found=item, expected="a number, a word or a list") from None
    given = {key: value.value if isinstance(value, Enum) else value for key, value in chosen.items() if value is not None}
    return changed | given
