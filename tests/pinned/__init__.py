"""Values of every feature column for a few measured graphs, kept beside this file.

``python -m tests.pinned`` writes them again, after a change of values that is meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from gbr import read_graph
from gbr.data.build import extract
from tests.conftest import ROOT

#: Graphs by kind, and the configurations that are kept of each.
GRAPHS: Final = {
    "tile": (
        "tile/cpu/train/conv2d_1x17x23x61x37x3",
        "tile/cpu/test/attention_scores_12x77x101x80",
        "tile/cpu/train/softmax_1021x773",
    ),
    "layout": ("layout/cpu/random/test/pixelcnn_nhwc", "layout/cpu/random/train/transformer_encoder-grad"),
}
CONFIGS: Final = (5, 17)


def path_of(kind: str) -> Path:
    """The table of a kind: a line per column, its name and one value per graph and configuration."""
    return Path(__file__).with_name(f"{kind}.csv")


def computed(kind: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the columns, and their values as they are now, float32 (columns, graphs * configurations)."""
    rows = []
    for name in GRAPHS[kind]:
        schema, X, _ = extract(read_graph(ROOT / "data" / "npz" / f"{name}.npz"))
        rows.append(X[list(CONFIGS)])
    return schema.names, np.concatenate(rows).T


def kept(kind: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and values of the table."""
    lines = [line.split(",") for line in path_of(kind).read_text().splitlines()]
    return tuple(name for name, *_ in lines), np.array([values for _, *values in lines], np.float64)


def write(kind: str) -> None:
    """Keep the values as they are now, to six digits."""
    names, values = computed(kind)
    lines = [",".join([name, *(f"{value:.6g}" for value in row)]) for name, row in zip(names, values, strict=True)]
    path_of(kind).write_text("\n".join(lines) + "\n")
