"""Numbers as people say them: counts with their noun, seconds as minutes and hours, volumes and memory in SI units."""

from __future__ import annotations

from collections.abc import Iterable


def counted(num: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 case`, `8 cases`. plural: unless it is the noun with an s."""
    return f"{num:,} {noun if num == 1 else plural or noun + 's'}"


def times(numbers: Iterable[float]) -> str:
    """Return numbers of up to four digits as a product: `35 x 50 x 35`."""
    return " x ".join(f"{number:.4g}" for number in numbers)


def duration(seconds: float) -> str:
    """Return a time with one or two units: `4.2 s`, `48 s`, `2 min 30 s`, `12 min`, `3 h 20 min`, `2 d 3 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if (whole := round(seconds)) < 60:
        return f"{whole} s"
    if whole < 600:
        return _two_units(whole, 60, "min", "s")
    if (minutes := round(seconds / 60)) < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return _two_units(minutes, 60, "h", "min")
    return _two_units(round(seconds / 3600), 24, "d", "h")


def volume(mm3: float) -> str:
    """Return a volume in millilitres, with three digits."""
    ml = mm3 / 1000
    return f"{ml:.3g} mL" if ml < 1000 else f"{ml:,.0f} mL"


def memory(num_bytes: float) -> str:
    """Return an amount of memory in MB or GB, which are powers of ten."""
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def _two_units(num: int, ratio: int, large: str, small: str) -> str:
    rest = num % ratio
    return f"{num // ratio} {large}" + (f" {rest} {small}" if rest else "")
