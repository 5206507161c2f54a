"""Where things stand in a picture: scales, ticks and paths.

Positions are per cent of a plot's width or height, from the left and from the top.  The templates put them into inline
SVG whose text keeps its size on any screen and whose colours follow the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: Steps of round numbers.
_ROUND: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """A way from values to positions.

    Parameters
    ----------
    low, high : float
        Values at the ends.
    ticks : tuple of float
        Values to be named.
    bend : callable
        What makes distances even: identity, logarithm, square root.
    flip : bool
        Whether ``low`` stands at 100 %, as on a vertical axis.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    bend: Callable[[float], float] = float
    flip: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value in per cent, at the edge where it lies beyond."""
        return self.beyond(min(max(value, self.low), self.high))

    def beyond(self, value: float) -> float:
        """Position of a value in per cent, outside 0 to 100 where it lies beyond the ends."""
        start, stop = self.bend(self.low), self.bend(self.high)
        share = (self.bend(value) - start) / (stop - start) if stop > start else 0.5
        return round(100 * (1 - share if self.flip else share), 2)


def linear(low: float, high: float, most_ticks: int = 6, *, flip: bool = False) -> Scale:
    """An even scale with round ticks inside."""
    return Scale(low, high, round_ticks(low, high, most_ticks), flip=flip)


def counted(high: int, most_ticks: int = 4, *, flip: bool = False) -> Scale:
    """An even scale of whole numbers from 0."""
    ticks = tuple(tick for tick in round_ticks(0, high, most_ticks) if tick == int(tick))
    return Scale(0, high, ticks, flip=flip)


def bare(low: float, high: float) -> Scale:
    """An even scale whose values go without names."""
    return Scale(low, high, ())


def logarithmic(low: float, high: float, *, flip: bool = False) -> Scale:
    """A scale of equal factors, with ticks at 1, 2 and 5 times powers of ten, thinned out where they would crowd."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = tuple(step * 10.0**power for power in exponents for step in steps if low <= step * 10.0**power <= high)
        if len(ticks) <= 7:
            break
    return Scale(low, high, ticks, math.log10, flip)


def rooted(high: float, *, flip: bool = False) -> Scale:
    """A scale by square roots from 0 to at least ``high``: small values stay apart beside large ones."""
    offered = [step * 10.0**power for power in range(-4, 7) for step in (1, 2, 5)]
    top = next((tick for tick in offered if tick >= high * 0.999), high)
    ticks = [0.0]
    for tick in offered:
        # A label needs about a tenth of the height.
        if tick <= top and math.sqrt(tick / top) - math.sqrt(ticks[-1] / top) >= 0.1:
            ticks.append(tick)
    return Scale(0.0, top, tuple(ticks), math.sqrt, flip)


def round_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """At most ``most`` round values from ``low`` to ``high``, evenly spaced."""
    if not high > low:
        return (low,)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in _ROUND:
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return tuple(round(number * step, 10) for number in range(first, last + 1))


def path(points: Iterable[tuple[float, float]]) -> str:
    """SVG path through positions in per cent, for a drawing 100 by 100 that is stretched to its plot."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def curve(xs: Sequence[float], ys: Sequence[float], x: Scale, y: Scale) -> str:
    """SVG path through values, which may leave the plot."""
    return path(zip(map(x.beyond, xs), map(y.beyond, ys), strict=True))
