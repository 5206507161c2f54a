"""Alarms: columns whose values change under the same name and version, and models that rank worse than before.

``python -m tests.test_drift`` writes the pinned values again, after an intended change.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gbr import Ranker, read_graph
from gbr.data.build import extract, schema_of
from tests.conftest import ROOT
from tests.ranking import embedded_files, rows_of

#: Take every n-th graph of a split.
STEPS = {"tile": {"train": 4, "test": 2}, "layout": {"train": 1, "test": 1}}
#: Small models whose hyperparameters do not follow the defaults.
SETTINGS = {"n_estimators": 60, "learning_rate": 0.1, "num_leaves": 15, "min_child_samples": 30, "n_jobs": 1}
#: Kendall tau on the test graphs, the mean over seeds 0 to 4.  After an intended change, pin the reported figure and
#: say in the commit what changed it.
TAU = {
    ("tile", "lightgbm"): 0.708,
    ("tile", "xgboost"): 0.710,
    ("layout", "costmodel"): 0.603,
}
BAND = 0.02
#: Graphs with pinned values, by kind, and the configurations of each.
PINNED = {
    "tile": (
        "tile/cpu/train/conv2d_1x17x23x61x37x3",
        "tile/cpu/test/attention_scores_12x77x101x80",
        "tile/cpu/train/softmax_1021x773",
    ),
    "layout": ("layout/cpu/random/test/pixelcnn_nhwc", "layout/cpu/random/train/transformer_encoder-grad"),
}
CONFIGS = (5, 17)


@cache
def groups(kind: str, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rows_of(embedded_files(kind, split)[:: STEPS[kind][split]])


@pytest.mark.parametrize(("kind", "backend"), TAU)
def test_models_rank_as_well_as_before(kind: str, backend: str) -> None:
    costs = [schema_of(kind).names.index(name) for name in schema_of(kind).costs]
    X, runtime, qid = groups(kind, "train")
    ranker = Ranker(backend, costs=costs or None, random_state=0, **SETTINGS).fit(X, runtime, qid=qid)
    X_test, runtime_test, qid_test = groups(kind, "test")
    tau = ranker.score(X_test, runtime_test, qid=qid_test)
    assert tau == pytest.approx(TAU[kind, backend], abs=BAND), (
        f"Kendall tau of {backend} on {kind} graphs: expected {TAU[kind, backend]:.3f} ± {BAND}, got {tau:.3f}"
    )


def computed(kind: str) -> tuple[list[str], np.ndarray]:
    """Column names and present values, float32 (columns, graphs * configurations)."""
    found = [extract(read_graph(ROOT / "data" / "npz" / f"{name}.npz")) for name in PINNED[kind]]
    return list(found[0][0].names), np.concatenate([X[list(CONFIGS)] for _, X, _ in found]).T


def pinned_path(kind: str) -> Path:
    """The table of a kind: a line per column, its name and one value per graph and configuration."""
    return Path(__file__).parent / "pinned" / f"{kind}.csv"


@pytest.mark.parametrize("kind", PINNED)
def test_columns_have_their_pinned_values(kind: str) -> None:
    lines = [line.split(",") for line in pinned_path(kind).read_text().splitlines()]
    expected = np.array([values for _, *values in lines], np.float64)
    names, values = computed(kind)
    assert names == [name for name, *_ in lines]
    changed = np.flatnonzero(~np.isclose(values, expected, rtol=1e-4, atol=1e-5).all(axis=1))
    examples = [f"{names[row]}: expected {expected[row].tolist()}, got {values[row].tolist()}" for row in changed[:5]]
    assert not len(changed), (
        f"{len(changed)} columns have changed: {'; '.join(examples)}. "
        "If intended, increment the version of their block and run `python -m tests.test_drift`"
    )
    varying = {name for name, row in zip(names, expected, strict=True) if np.ptp(row)}
    for block in schema_of(kind).blocks:
        assert varying & set(block.names), f"no pinned value of {block.name} varies"


if __name__ == "__main__":
    for kind in PINNED:
        names, values = computed(kind)
        lines = [",".join([name, *(f"{value:.6g}" for value in row)]) for name, row in zip(names, values, strict=True)]
        pinned_path(kind).write_text("\n".join(lines) + "\n")
