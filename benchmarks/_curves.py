"""Curves of the best so far over the number of measurements, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Interval = Callable[[FloatArray], tuple[float, float]]

WIDTH: Final = 330
HEIGHT: Final = 220
LEFT: Final = 48
TOP: Final = 40
GAP: Final = 60
BOTTOM: Final = 62
GREY: Final = "#808890"  # legible on white and on black
COLOURS: Final = ("#808890", "#8a6fc0", "#4a90c4", "#d0a030", "#e5694a")
#: Slowdowns are drawn by their logarithm from here on; what is below lies on the axis [%].
LEAST: Final = 0.1
TICKS: Final = (1, 2, 4, 8, 16, 32, 48)


def drawing(means: Mapping[str, Mapping[str, FloatArray]], interval: Interval) -> str:
    """Panels side by side, one per collection.

    Parameters
    ----------
    means : mapping of collection to mapping of method to float64 (graphs, measurements)
        Slowdown of the best so far [%].
    interval : callable
        Of the mean over graphs.

    Returns
    -------
    str
        SVG.
    """
    methods = list(next(iter(means.values())))
    total = LEFT + len(means) * WIDTH + (len(means) - 1) * GAP + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {TOP + HEIGHT + BOTTOM}" '
        f'font-family="sans-serif" font-size="11" fill="{GREY}">',
        "<title>Slowdown of the best configuration so far over the number of measurements</title>",
    ]
    for number, (name, curves) in enumerate(means.items()):
        lines += _panel(name, curves, interval, LEFT + number * (WIDTH + GAP))
    x = LEFT
    for method, colour in zip(methods, COLOURS, strict=True):
        lines.append(f'<path d="M{x} {TOP + HEIGHT + 48}h18" stroke="{colour}" stroke-width="2.5"/>')
        lines.append(f'<text x="{x + 23}" y="{TOP + HEIGHT + 52}">{method}</text>')
        x += 45 + 7 * len(method)
    return "\n".join([*lines, "</svg>", ""])


def _panel(name: str, curves: Mapping[str, FloatArray], interval: Interval, left: float) -> list[str]:
    most = max(curve.shape[1] for curve in curves.values())
    top = max(float(curve.mean(axis=0).max()) for curve in curves.values())

    def x(count: int) -> float:
        return left + WIDTH * float(np.log(count) / np.log(most))

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - float(np.log(max(value, LEAST) / LEAST) / np.log(top / LEAST)))

    lines = [f'<text x="{left}" y="18" font-weight="bold">{name}</text>']
    for value in (0.1, 1, 2, 10, 100):
        if value <= top:
            weight = 0.8 if value == 2 else 0.2
            lines.append(f'<path d="M{left} {y(value):.1f}h{WIDTH}" stroke="{GREY}" stroke-opacity="{weight}"/>')
            lines.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g} %</text>')
    lines += [
        f'<text x="{x(tick):.1f}" y="{TOP + HEIGHT + 15}" text-anchor="middle">{tick}</text>'
        for tick in TICKS
        if tick <= most
    ]
    lines.append(
        f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 31}" text-anchor="middle">'
        "measurements; height: slowdown of the best so far</text>"
    )
    for (_method, curve), colour in zip(curves.items(), COLOURS, strict=True):
        low, high = (np.asarray(bound) for bound in interval(curve))
        steps = range(1, curve.shape[1] + 1)
        edge = [f"{x(n):.1f},{y(high[n - 1]):.1f}" for n in steps]
        edge += [f"{x(n):.1f},{y(low[n - 1]):.1f}" for n in reversed(steps)]
        lines.append(f'<polygon points="{" ".join(edge)}" fill="{colour}" fill-opacity="0.13"/>')
        points = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in enumerate(curve.mean(axis=0).tolist(), 1))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return lines
