"""Columns without two values change nothing: not the model, not its file, not what it costs to ask it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gbr.models import base
from gbr.ranker import Ranker
from tests.ranking import QUICK, problem

#: Places of the columns of `problem` among columns that say nothing.
PLACES = np.array([1, 2, 5, 6, 9])


def beside_constants(X: np.ndarray) -> np.ndarray:
    wide = np.full((len(X), 11), 7, np.float32)
    wide[:, 4] = np.nan
    wide[:, PLACES] = X
    return wide


@pytest.mark.parametrize("stops", [False, True])
def test_the_model_is_that_of_the_other_columns(stops: bool) -> None:
    X, runtime, qid = problem()
    X[3, 4] = np.nan  # a missing value is one that differs
    other = problem(8, seed=1)
    narrow = Ranker("xgboost", costs=[1], monotone=True, **QUICK)
    wide = Ranker("xgboost", costs=[2], monotone=True, **QUICK)
    wide_other = (beside_constants(other[0]), *other[1:])
    narrow.fit(X, runtime, qid=qid, eval_set=other if stops else None)
    wide.fit(beside_constants(X), runtime, qid=qid, eval_set=wide_other if stops else None)
    assert np.array_equal(narrow.predict(other[0]), wide.predict(wide_other[0]))
    assert np.array_equal(narrow.feature_importances_, wide.feature_importances_[PLACES])
    assert wide.model_.n_features == 11
    loaded = base.backend("xgboost").load(wide.model_.to_bytes(), wide.settings_)
    relevance = loaded.predict(wide_other[0], 1, np.array([0, len(other[0])]))
    assert np.array_equal(-relevance, wide.predict(wide_other[0]))
    # What was the same everywhere in training may be anything later.
    strange = wide_other[0].copy()
    strange[:, np.setdiff1d(np.arange(11), PLACES)] = -1e9
    assert np.array_equal(wide.predict(strange), wide.predict(wide_other[0]))


def test_one_missing_value_makes_a_column_one_to_split() -> None:
    rng = np.random.default_rng(0)
    slow = rng.random(400) < 0.5
    X = np.stack([np.where(slow, np.nan, 1), np.ones(400)], axis=1).astype(np.float32)
    ranker = Ranker("xgboost", **QUICK).fit(X, np.where(slow, 2.0, 1.0), qid=np.repeat(np.arange(20), 20))
    assert ranker.feature_importances_[0] == 1
    assert np.ptp(ranker.predict(X)) > 0


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("backend", ["lightgbm", "xgboost"])
def test_nothing_but_constants_gives_one_score(backend: str, stops: bool) -> None:
    _, runtime, qid = problem(6)
    X = np.ones((len(runtime), 3), np.float32)
    ranker = Ranker(backend, **QUICK).fit(X, runtime, qid=qid, eval_set=(X, runtime, qid) if stops else None)
    scores = ranker.predict(X)
    assert np.ptp(scores) == 0


@pytest.mark.parametrize("stops", [False, True])
def test_bins_may_be_chosen(stops: bool) -> None:
    X, runtime, qid = problem()
    ranker = Ranker("xgboost", params={"max_bin": 4}, **QUICK)
    ranker.fit(X, runtime, qid=qid, eval_set=problem(8, seed=1) if stops else None)
    fine = Ranker("xgboost", **QUICK).fit(X, runtime, qid=qid)

    def thresholds(model: Ranker) -> int:
        fitted: Any = model.model_
        table = fitted.booster.trees_to_dataframe()
        return len(table[table["Feature"] == "f1"]["Split"].unique())

    assert thresholds(ranker) <= 4 < thresholds(fine)
