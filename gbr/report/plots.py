"""Scales, ticks and curves of the report's inline SVG plots.

Positions are percentages of the width or height of a plot, from its left and top edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Scale(NamedTuple):
    """Map values to positions."""

    low: float
    high: float
    ticks: tuple[float, ...] = ()  # values to label
    transform: Callable[[float], float] = float  # or a logarithm or square root
    flip: bool = False  # whether ``low`` is at 100 %, as on a vertical axis

    def __call__(self, value: float) -> float:
        """Position of a value in percent; outside 0 to 100 for a value beyond the ends."""
        start, stop = self.transform(self.low), self.transform(self.high)
        share = (self.transform(value) - start) / (stop - start) if stop > start else 0.5
        return round(100 * (1 - share if self.flip else share), 2)


def linear(low: float, high: float, max_ticks: int = 6, *, flip: bool = False) -> Scale:
    """Linear scale with at most ``max_ticks`` round ticks."""
    if not high > low:
        return Scale(low, high, (low,), flip=flip)
    power = 10.0 ** math.floor(math.log10((high - low) / max_ticks))
    for factor in (1, 2, 5, 10):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < max_ticks:
            break
    return Scale(low, high, tuple(round(number * step, 10) for number in range(first, last + 1)), flip=flip)


def logarithmic(low: float, high: float, *, flip: bool = False) -> Scale:
    """Logarithmic scale with ticks at 1, 2 and 5 times powers of ten, or fewer over a wide range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = tuple(step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high)
        if len(ticks) <= 7:
            break
    return Scale(low, high, ticks, math.log10, flip)


def square_root(high: float, *, flip: bool = False) -> Scale:
    """Square-root scale from 0 to the round value at or above ``high``, which separates small values."""
    candidates = [step * 10.0**power for power in range(-4, 7) for step in (1, 2, 5)]
    top = next((value for value in candidates if value >= high * 0.999), high)
    ticks = [0.0]
    for value in candidates:
        # A label needs about a tenth of the height.
        if value <= top and math.sqrt(value / top) - math.sqrt(ticks[-1] / top) >= 0.1:
            ticks.append(value)
    return Scale(0.0, top, tuple(ticks), math.sqrt, flip)


def curve(xs: Sequence[float], ys: Sequence[float], x: Scale, y: Scale) -> str:
    """SVG path through points, for a viewBox of 100 by 100; points may be outside the plot."""
    return "M" + "L".join(f"{x(a):g} {y(b):g}" for a, b in zip(xs, ys, strict=True))
