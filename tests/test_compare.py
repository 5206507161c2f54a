"""What every column adds to the difference of two rows, checked against the models' own scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gbr import Ranker
from gbr.errors import UsageError
from tests.ranking import EVERY, QUICK, problem

ALL = [*EVERY, ("ensemble", "mixed-few"), ("costmodel", "nnls")]


def amounts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slates of :func:`problem` with columns that cannot be negative, and one that nothing depends on."""
    X, runtime, qid = problem(n_slates=12)
    return np.concatenate([np.abs(X), np.full((len(X), 1), 3, np.float32)], axis=1), runtime, qid


def fitted(backend: str, objective: str, **parameters: Any) -> tuple[Ranker, np.ndarray]:
    X, runtime, qid = amounts()
    quick = {**QUICK, "n_estimators": 12}
    ranker = Ranker(backend, objective, costs=[0, 1, 3], **quick, **parameters).fit(X, runtime, qid=qid)
    return ranker, X[: int((qid == 0).sum())]


@pytest.mark.parametrize(("backend", "objective"), ALL)
def test_columns_sum_to_the_difference_of_the_scores(backend: str, objective: str) -> None:
    ranker, slate = fitted(backend, objective)
    relevance = -ranker.predict(slate)
    assert np.ptp(relevance) > 0
    for first, second in ((0, 1), (3, 17), (23, 2), (5, 5)):
        found = ranker.model_.compare(slate, first, second, 1)
        assert found.shape == (6,)
        assert found.sum() == pytest.approx(relevance[first] - relevance[second], rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(ranker.model_.compare(slate, second, first, 1), -found, rtol=1e-4, atol=1e-6)
        assert found[5] == 0


def test_a_cost_model_says_price_times_amount() -> None:
    ranker, slate = fitted("costmodel", "nnls")
    prices = ranker.model_.gains()
    assert prices.sum() > 0
    amount = 2.0 ** slate.astype(np.float64) - 1
    np.testing.assert_allclose(ranker.model_.compare(slate, 4, 9, 1), prices * (amount[9] - amount[4]), rtol=1e-6)


def test_an_ensemble_says_what_its_members_say_over_their_spreads() -> None:
    ranker, slate = fitted("ensemble", "mixed-few")
    members = ranker.model_.members
    assert len({member.spread for member in members}) == len(members) > 1
    expected = sum(member.model.compare(slate, 7, 8, 1) / member.spread for member in members) / len(members)
    np.testing.assert_allclose(ranker.model_.compare(slate, 7, 8, 1), expected, rtol=1e-12)


def test_columns_of_one_tree_are_those_of_its_paths() -> None:
    """A stump on one column: all of the difference is that column's."""
    ranker, slate = fitted("lightgbm", "l2", params={"boost_from_average": False, "max_depth": 1})
    gains = ranker.model_.gains()
    for first, second in ((0, 1), (2, 9)):
        found = ranker.model_.compare(slate, first, second, 1)
        assert (found[gains == 0] == 0).all()
        alone = slate[[first] * 6]  # each column in turn takes the other's value: trees of one split add up
        alone[np.arange(6), np.arange(6)] = slate[second]
        np.testing.assert_allclose(found, ranker.predict(alone) - ranker.predict(slate[[first]]), atol=1e-9)


def test_trees_with_models_in_their_leaves_are_refused() -> None:
    ranker, slate = fitted("lightgbm", "l2", params={"linear_tree": True})
    with pytest.raises(UsageError, match=r"LightGBM: .*linear"):
        ranker.model_.compare(slate, 0, 1, 1)
