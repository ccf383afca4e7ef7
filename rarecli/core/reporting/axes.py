"""An axis of a figure: from values to places, and the ticks along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Axis:
    """An axis. ticks: values and their texts; chosen from the values where None. limits: the range; that of the values where None."""

    label: str
    log: bool = False
    ticks: Sequence[tuple[float, str]] | None = None
    limits: tuple[float, float] | None = None

    def fitted(self, values: Sequence[float]) -> Axis:
        """Returns the axis with limits and ticks for these values. A logarithmic axis ignores values that are not above 0."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not self.log)]
        known = known or ([1.0, 10.0] if self.log else [0.0, 1.0])
        low, high = self.limits or self._padded(min(known), max(known))
        ticks = self.ticks if self.ticks is not None else _log_ticks(low, high) if self.log else _linear_ticks(low, high)
        return replace(self, limits=(low, high), ticks=[tick for tick in ticks if low - 1e-9 <= tick[0] <= high * (1 + 1e-9) + 1e-12])

    def place(self, value: float) -> float:
        """Returns where a value lies, from 0 to 1; beyond the limits at the nearer end."""
        assert self.limits is not None
        low, high = self.limits
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def _padded(self, low: float, high: float) -> tuple[float, float]:
        if self.log:
            ratio = max(high / low, 1.2) ** 0.06
            return low / ratio, high * ratio
        room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
        return low - room, high + room


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    values = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value:.6g}") for value in values]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [value for value in values if low <= value <= high]
        if len(inside) >= 3:
            break
    return [(value, f"{value:g}") for value in inside[:: max(1, len(inside) // 7)]]
