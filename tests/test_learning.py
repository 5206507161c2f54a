from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gbr import Ranker
from gbr.data.store import FeatureStore
from gbr.errors import UsageError
from gbr.evaluation.metrics import count_pairs
from gbr.models.base import Rows
from gbr.report import learning
from tests.collection import trained, write_collection


def problem(seed: int = 0, n_slates: int = 12, n_rows: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.random((n_slates * n_rows, 4)).astype(np.float32)
    return X, X[:, 0] + X[:, 1] ** 2 + 0.1 * rng.random(len(X)), np.repeat(np.arange(n_slates), n_rows)


@pytest.mark.parametrize(
    ("backend", "objective"),
    [("lightgbm", "pairwise"), ("lightgbm", "difference"), ("xgboost", "pairwise"), ("ensemble", "mixed")],
)
def test_a_model_stopped_early_is_one_trained_for_fewer_rounds(backend: str, objective: str) -> None:
    X, runtime, qid = problem()

    def fitted(rounds: int) -> Ranker:
        settings = {"n_estimators": rounds, "num_leaves": 7, "learning_rate": 0.2}
        return Ranker(backend, objective, random_state=3, n_jobs=1, **settings).fit(X, runtime, qid=qid)

    indptr = np.arange(0, len(X) + 1, 30)
    long, short = fitted(12), fitted(5)
    stopped = long.model_.stopped_at(5).predict(X, 1, indptr)
    expected = short.model_.predict(X, 1, indptr)
    if backend == "ensemble":  # members are divided by the spread of the whole, not of the first rounds
        pairs = zip(long.model_.members, short.model_.members, strict=True)
        expected = sum(own.model.predict(X, 1, indptr) / whole.spread for whole, own in pairs)
        expected /= len(long.model_.members)
    assert np.allclose(stopped, expected, rtol=1e-6, atol=1e-7)
    assert np.array_equal(long.model_.stopped_at(99).predict(X, 1, indptr), long.model_.predict(X, 1, indptr))


def test_the_cost_model_has_one_round() -> None:
    X, runtime, qid = problem()
    ranker = Ranker("costmodel", costs=[0, 1], n_jobs=1).fit(np.log2(1 + X), runtime, qid=qid)
    assert ranker.model_.stopped_at(1) is ranker.model_


@pytest.mark.parametrize("last", [1, 2, 3, 10, 997])
def test_rounds_rise_to_the_last(last: int) -> None:
    found = learning.rounds_of(last)
    assert found == sorted(set(found))
    assert found[0] == 1
    assert found[-1] == last
    assert len(found) < 25


def test_curves_end_at_the_models_own_tau() -> None:
    X, runtime, qid = problem()
    held_out, truth, _ = problem(seed=1)
    ranker = Ranker(n_estimators=20, num_leaves=7, n_jobs=1).fit(X, runtime, qid=qid)
    rows = Rows(held_out, truth, np.arange(0, len(X) + 1, 30))
    whole, *members = learning.curves(ranker, rows)
    scores = ranker.predict(held_out, qid=qid)
    slates = [slice(start, start + 30) for start in range(0, len(X), 30)]
    assert whole["tau"][-1] == pytest.approx(
        np.mean([count_pairs(scores[one], truth[one]).untied_tau for one in slates]), abs=1e-9
    )
    assert whole["tau"][-1] > whole["tau"][0]
    assert [curve["name"] for curve in (whole, *members)] == [
        "ensemble",
        "lightgbm, pairwise",
        "lightgbm, lambdarank",
        "lightgbm, speed",
        "xgboost, pairwise",
    ]
    assert all(curve["rounds"] == learning.rounds_of(20) for curve in members)
    with pytest.raises(UsageError, match="no query has two different runtimes"):
        learning.curves(ranker, Rows(held_out, np.ones(len(X)), rows.indptr))


def test_rows_are_whole_graphs_with_the_models_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_collection(tmp_path, {"train": 4})
    ranker = Ranker.load(trained(root, backend="lightgbm", columns=["geometry", "config"]))
    store = FeatureStore(root / "store", "tile:cpu")
    names = store.stems("train")
    rows, count = learning.sampled(store, "train", names, ranker)
    assert count == len(names) == 4
    slates = store.load("train")
    assert np.array_equal(rows.target, slates.target)
    assert np.array_equal(rows.X, slates.select(["geometry", "config"]).X, equal_nan=True)
    monkeypatch.setattr(learning, "MOST_ROWS", 70)
    rows, count = learning.sampled(store, "train", names, ranker)
    assert count == 2
    assert np.array_equal(rows.target, store.load("train", [names[0], names[-1]]).target)
