"""Draw the pictures of ``docs/concepts.md``: ``flow.svg`` and ``tau.svg``.

python docs/diagrams.py
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Final

GREY: Final = "#808890"  # legible on white and on black
RED: Final = "#e5694a"
BLUE: Final = "#4a90c4"
#: Measured position of the configurations in predicted order.
MEASURED: Final = (1, 0, 2, 4, 3)


def flow() -> str:
    """From a graph and its configurations to an order."""
    boxes = (
        ("graph", "operations, shapes"),
        ("features", "one vector for each"),
        ("trees", "LightGBM, XGBoost"),
        ("scores", "lower is faster"),
        ("order", "best first"),
    )
    width, step = 132, 160
    parts = [_arrow(step * n + width, 40, step * (n + 1) + 4) for n in range(len(boxes) - 1)]
    for n, (name, about) in enumerate(boxes):
        parts.append(_box(4 + step * n, 12, width, name, about))
    parts += [_box(4, 92, width, "configurations", "tiles, layouts, rows"), _arrow(width + 4, 120, 230, up=68)]
    return _svg(step * len(boxes) - 20, 152, "From a graph and its configurations to an order", parts)


def tau() -> str:
    """Predicted and measured order side by side; lines of discordant pairs cross."""
    parts = [
        f'<text x="{x}" y="18" text-anchor="middle">{name}</text>' for x, name in ((90, "predicted"), (330, "measured"))
    ]
    crossing = {n for pair in discordant() for n in pair}
    for n, position in enumerate(MEASURED):
        colour, left, right = RED if n in crossing else BLUE, 44 + 30 * n, 44 + 30 * position
        parts += [
            f'<path d="M104 {left}L316 {right}" stroke="{colour}" stroke-width="2" fill="none"/>',
            f'<circle cx="104" cy="{left}" r="4" fill="{colour}"/>',
            f'<circle cx="316" cy="{right}" r="4" fill="{colour}"/>',
            f'<text x="84" y="{left + 4}" text-anchor="end">{"ABCDE"[n]}</text>',
            f'<text x="336" y="{right + 4}">{"ABCDE"[n]}</text>',
        ]
    return _svg(
        420, 184, "Five configurations in predicted and in measured order; two of ten pairs are discordant", parts
    )


def discordant() -> list[tuple[int, int]]:
    """Pairs of configurations whose predicted and measured orders differ."""
    return [(a, b) for a, b in combinations(range(len(MEASURED)), 2) if MEASURED[a] > MEASURED[b]]


def _box(x: int, y: int, width: int, name: str, about: str) -> str:
    middle = x + width // 2
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="56" rx="6" fill="none" stroke="{BLUE}" stroke-width="1.5"/>'
        f'<text x="{middle}" y="{y + 24}" text-anchor="middle" font-size="14" font-weight="bold">{name}</text>'
        f'<text x="{middle}" y="{y + 44}" text-anchor="middle" font-size="10.5">{about}</text>'
    )


def _arrow(x: int, y: int, end: int, up: int = 0) -> str:
    line = f"M{x} {y}H{end}V{up + 6}" if up else f"M{x + 4} {y}H{end - 6}"
    head = (
        f"M{end - 4} {up + 8}L{end} {up}L{end + 4} {up + 8}z"
        if up
        else f"M{end - 8} {y - 4}L{end} {y}L{end - 8} {y + 4}z"
    )
    return f'<path d="{line}" stroke="{GREY}" stroke-width="1.5" fill="none"/><path d="{head}" fill="{GREY}"/>'


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
    style = f'font-family="sans-serif" font-size="13" fill="{GREY}"'
    return "\n".join([f"{head} {style}>", f"<title>{title}</title>", *parts, "</svg>", ""])


if __name__ == "__main__":
    for name, drawing in (("flow", flow()), ("tau", tau())):
        Path(__file__).with_name(f"{name}.svg").write_text(drawing, encoding="utf-8")
