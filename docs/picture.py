"""Draw ``docs/order.svg`` from a trained model: measured runtimes of unseen kernels, in predicted order.

python docs/picture.py --model runs/demo/ensemble
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr import Ranker, read_graph
from gbr.data.collection import graph_files, resolve
from gbr.data.files import atomic_write
from gbr.evaluation.metrics import kendall_tau

WIDTH: Final = 250
HEIGHT: Final = 170
LEFT: Final = 44
TOP: Final = 34
GAP: Final = 16
BOTTOM: Final = 34
GREY: Final = "#808890"  # legible on white and on black
BEST: Final = "#e5694a"
OTHERS: Final = "#4a90c4"

Panel = tuple[str, float, NDArray[np.float64]]


def panels(ranker: Ranker, paths: list[Path]) -> list[Panel]:
    """Name, tau and relative runtimes in predicted order of the kernels at the quartiles of tau, best first."""
    found: list[Panel] = []
    for path in paths:
        graph = read_graph(path)
        assert graph.runtime is not None
        scores = ranker.predict_graph(path)
        order = np.argsort(scores, kind="stable")
        tau = kendall_tau(scores, graph.runtime.astype(np.float64))
        found.append((graph.name, tau, graph.runtime[order] / graph.runtime.min()))
    found.sort(key=lambda panel: -panel[1])
    return [found[round(quantile * (len(found) - 1))] for quantile in (0.25, 0.5, 0.75)]


def drawing(shown: list[Panel], n_kernels: int) -> str:
    """The panels side by side, as SVG."""
    slowest = max(float(relative.max()) for _name, _tau, relative in shown)
    octaves = int(np.ceil(np.log2(slowest)))

    def y(relative: float) -> float:
        return TOP + HEIGHT * (1 - float(np.log2(relative)) / octaves)

    total = LEFT + len(shown) * WIDTH + (len(shown) - 1) * GAP + 8, TOP + HEIGHT + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" font-family="sans-serif" '
        f'font-size="12" fill="{GREY}">',
        f"<title>Measured runtimes in predicted order, kernels at the quartiles of tau over {n_kernels}</title>",
    ]
    lines += [
        f'<text x="{LEFT - 8}" y="{y(2**octave) + 4:.1f}" text-anchor="end">{2**octave}×</text>'
        for octave in range(octaves + 1)
    ]
    for number, (name, tau, relative) in enumerate(shown):
        left = LEFT + number * (WIDTH + GAP)
        for octave in range(octaves + 1):
            height = f"{y(2**octave):.1f}"
            lines.append(
                f'<path d="M{left} {height}h{WIDTH}" stroke="{GREY}" stroke-opacity="{0.6 if octave == 0 else 0.2}"/>'
            )
        lines.append(f'<text x="{left}" y="16">{name}</text>')
        lines.append(f'<text x="{left + WIDTH}" y="16" text-anchor="end">τ {tau:.2f}</text>')
        for rank, value in enumerate(relative):
            x = left + WIDTH * (rank + 0.5) / len(relative)
            colour, radius = (BEST, 3.0) if rank < 5 else (OTHERS, 2.2)
            lines.append(f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="{radius}" fill="{colour}"/>')
    middle = (LEFT + total[0]) / 2
    lines.append(
        f'<text x="{middle:.0f}" y="{TOP + HEIGHT + 24}" text-anchor="middle">configurations in predicted order '
        f'(<tspan fill="{BEST}">first five</tspan>) · height: measured runtime over the best measured</text>'
    )
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write the picture beside this file."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", type=Path, required=True, metavar="DIR")
    arguments.add_argument("--subset", default="tile:cpu", metavar="NAME")
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    args = arguments.parse_args()
    paths = graph_files(resolve(args.subset, args.data), args.data, "test")
    shown = panels(Ranker.load(args.model), paths)
    with atomic_write(Path(__file__).with_name("order.svg")) as part:
        part.write_text(drawing(shown, len(paths)), encoding="utf-8")


if __name__ == "__main__":
    main()
