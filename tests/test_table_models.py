"""Models of measured tables: boosting from a prior, and the calibrated chance to fail."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from gbr.data.groups import FAILED
from gbr.errors import ModelError
from gbr.evaluation import metrics
from gbr.evaluation.metrics import kendall_tau
from gbr.models import failures, prior
from gbr.models.rows import Rows
from gbr.ranker import Ranker
from tests.ranking import groups_of

GROUPS, SIZE = 10, 150
QUICK = {"n_estimators": 30, "num_leaves": 7, "learning_rate": 0.1, "n_jobs": 1}


def problem(seed: int = 0, *, failing: bool = True) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Columns, costs (infinite where failed), query groups, and the chance by which each row failed."""
    rng = np.random.default_rng(seed)
    X = rng.random((GROUPS * SIZE, 4)).astype(np.float32)
    cost = 1 + X[:, 0] + 0.5 * X[:, 1] + 0.02 * rng.random(len(X))
    chance = expit(8 * (X[:, 2] - 0.7)) if failing else np.zeros(len(X))
    cost = np.where(rng.random(len(X)) < chance, np.inf, cost)
    frame = pd.DataFrame(X, columns=["a.prior", "a.b", "a.fails", "a.noise"])
    return frame, cost, np.arange(GROUPS + 1) * SIZE, chance


def fitted(seed: int = 0, *, failing: bool = True) -> Ranker:
    frame, cost, indptr, _ = problem(seed, failing=failing)
    return Ranker(prior="a.prior", **QUICK).fit_rows(Rows(frame.to_numpy(), cost, indptr), tuple(frame))


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return fitted()


def test_chances_are_calibrated(ranker: Ranker) -> None:
    """On new groups, shares of failures are as predicted, and near the chances they are drawn by."""
    frame, cost, _, truth = problem(1)
    chance, failed = ranker.predict_both(frame.to_numpy())[1], np.isinf(cost)
    order = np.argsort(chance)
    for part in np.array_split(order, 5):
        assert chance[part].mean() == pytest.approx(failed[part].mean(), abs=0.09)
    assert np.abs(chance - truth).mean() < 0.08
    assert 0 <= chance.min() <= chance.max() <= 1


def test_failures_demote(ranker: Ranker) -> None:
    frame, cost, indptr, _ = problem(2)
    scores, chance = ranker.predict_both(frame.to_numpy())
    np.testing.assert_array_equal(scores, ranker.predict_rows(frame.to_numpy()))
    np.testing.assert_array_equal(chance, ranker.predict_both(frame.to_numpy())[1])
    runtime = np.where(np.isinf(cost), FAILED, np.nan_to_num(cost * 1e6, posinf=0).astype(np.int64))
    groups = groups_of(*(each.tolist() for each in np.split(runtime, GROUPS)))
    found = metrics.failures(scores, chance, groups)
    assert found is not None
    assert found["failed"] == pytest.approx(np.isinf(cost).mean())
    assert found["failed@10"] < found["failed"] / 2
    areas = [
        (chance[a:b][np.isinf(cost[a:b])][:, None] > chance[a:b][np.isfinite(cost[a:b])]).mean()
        for a, b in pairwise(indptr)
    ]
    assert found["auc"] == pytest.approx(np.mean(areas), abs=1e-3)


def test_attributions_sum_to_the_difference_of_scores(ranker: Ranker) -> None:
    X = problem(3)[0].to_numpy()
    scores = ranker.predict_rows(X)
    for first, second in ((0, 1), (5, 9), (7, 7)):
        effects = ranker.model_.compare(X, first, second, 1)
        assert effects.sum() == pytest.approx(scores[second] - scores[first], abs=1e-6)


def test_a_saved_model_predicts_the_same(ranker: Ranker, tmp_path: Path) -> None:
    ranker.save(tmp_path)
    loaded, X = Ranker.load(tmp_path), problem(4)[0].to_numpy()
    np.testing.assert_array_equal(loaded.predict_both(X), ranker.predict_both(X))
    assert loaded.prior == "a.prior"
    with pytest.raises(ModelError, match="was not trained on a table"):
        _ = loaded.table


def test_groups_that_failed_altogether_do_not_count() -> None:
    frame, cost, indptr, _ = problem()
    cost[:SIZE] = np.inf
    ranker = Ranker(prior="a.prior", **QUICK).fit_rows(Rows(frame.to_numpy(), cost, indptr), tuple(frame))
    new, cost, _, _ = problem(1)
    chance = ranker.predict_both(new.to_numpy())[1]
    assert chance[np.isinf(cost)].mean() > 2 * chance[np.isfinite(cost)].mean()
    only = np.where(np.isinf(problem(failing=False)[1]), 1.0, problem(failing=False)[1])
    only[:SIZE] = np.inf
    none = Ranker(prior="a.prior", **QUICK).fit_rows(Rows(frame.to_numpy(), only, indptr), tuple(frame))
    assert not none.predict_both(new.to_numpy())[1].any()


def test_boosting_begins_with_the_prior() -> None:
    frame, cost, _, _ = problem(5, failing=False)
    X = frame.to_numpy()
    model = fitted(failing=False).model_
    assert isinstance(model, prior.PriorModel)
    np.testing.assert_allclose(model.stopped_at(1).predict(X, 1), -np.sqrt(X[:, 0]), atol=0.1)
    begin, end = (kendall_tau(-relevance, cost) for relevance in (prior.start(X[:, 0]), model.predict(X, 1)))
    assert end > begin + 0.05
    assert model.gains()[0] == model.gains().max()
    np.testing.assert_array_equal(prior.start(np.array([np.nan, 2.0, 0.0])), -np.sqrt([0.5, 1.0, 0.0]))


@pytest.mark.parametrize("data", [b"", b"prior x 1\n", b"other 0 1.0\n", b"prior 0 1.0\nno trees"])
def test_other_bytes_are_no_model(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        prior.load(data)
    with pytest.raises(ValueError, match="not a model with failures"):
        failures.load(data)
