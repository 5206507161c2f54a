from __future__ import annotations

import builtins
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from gbr.errors import MissingLibraryError, UsageError
from gbr.evaluation.metrics import count_pairs, kendall_tau
from gbr.models.base import Rows, ValidTau, sub_slates
from gbr.models.base import backend as load_backend
from gbr.ranker import Ranker
from tests.ranking import BACKENDS, EVERY, QUICK, frame, problem


@pytest.fixture(scope="module", params=BACKENDS)
def fitted(request: pytest.FixtureRequest) -> Ranker:
    X, runtime, qid = problem()
    return Ranker(request.param, **QUICK).fit(frame(X), runtime, qid=qid)


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_every_objective_learns_order_within_slates(backend: str, objective: str) -> None:
    X, runtime, qid = problem()
    ranker = Ranker(backend, objective, **QUICK).fit(X, runtime, qid=qid)
    X_new, runtime_new, qid_new = problem(seed=1)
    pooled = [
        kendall_tau(X_new[qid_new == slate, 1].astype(float), runtime_new[qid_new == slate]) for slate in range(30)
    ]
    assert abs(np.mean(pooled)) < 0.1
    assert ranker.score(X_new, runtime_new, qid=qid_new) > 0.7


def test_predictions_read_like_runtimes(fitted: Ranker) -> None:
    X, runtime, qid = problem(seed=2)
    scores = fitted.predict(X)
    assert scores.dtype == np.float64
    assert scores.shape == (len(X),)
    first = qid == 0
    assert runtime[first][np.argsort(scores[first])[:6]].mean() < runtime[first][np.argsort(scores[first])[-6:]].mean()


def test_prediction_goes_row_by_row(fitted: Ranker) -> None:
    X, _, _ = problem(seed=2)
    order = np.random.default_rng(0).permutation(len(X))
    assert np.array_equal(fitted.predict(X[order]), fitted.predict(X)[order])
    assert fitted.predict(X[:0]).shape == (0,)


ORDERS = [(backend, objective) for backend, objective in EVERY if objective in ("lambdarank", "pairwise", "l2")]


@pytest.mark.parametrize(("backend", "objective"), ORDERS)
def test_only_the_order_within_a_query_matters(backend: str, objective: str) -> None:
    X, runtime, qid = problem(12)
    ranker = Ranker(backend, objective, **(QUICK | {"n_estimators": 5}))
    expected = ranker.fit(X, runtime, qid=qid).predict(X)
    stretched = np.log(runtime) * np.repeat(np.arange(1, 13), 24) - 1e4
    assert np.array_equal(ranker.fit(X, stretched, qid=qid).predict(X), expected)


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_the_unit_of_time_does_not_matter(backend: str, objective: str) -> None:
    X, runtime, qid = problem(12)
    ranker = Ranker(backend, objective, **(QUICK | {"n_estimators": 5}))
    expected = ranker.fit(X, runtime, qid=qid).predict(X)
    per_slate = runtime * 2.0 ** np.repeat(np.arange(-6, 6), 24)
    assert np.array_equal(ranker.fit(X, per_slate, qid=qid).predict(X), expected)


def test_runtimes_above_float32_are_told_apart() -> None:
    X = np.tile(np.arange(40, dtype=np.float32)[:, None], (4, 1))
    runtime = np.tile(2**40 + np.arange(40), 4)
    assert len(np.unique(runtime.astype(np.float32))) == 1
    ranker = Ranker(**QUICK, min_child_samples=1).fit(X, runtime, qid=np.repeat(np.arange(4), 40))
    assert ranker.score(X, runtime, qid=np.repeat(np.arange(4), 40)) > 0.95


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_a_seed_makes_the_same_bytes_for_any_number_of_threads(backend: str, objective: str) -> None:
    X, runtime, qid = problem(12)
    eval_set = problem(6, seed=5)
    sampled = {"lightgbm": {"bagging_fraction": 0.7, "bagging_freq": 1}, "xgboost": {"subsample": 0.7}}
    params = sampled.get(backend)

    def scores(seed: int, n_jobs: int) -> np.ndarray:
        ranker = Ranker(backend, objective, random_state=seed, params=params, **(QUICK | {"n_jobs": n_jobs}))
        return ranker.fit(X, runtime, qid=qid, eval_set=eval_set).predict(X)

    assert np.array_equal(scores(7, 1), scores(7, 1))
    assert np.array_equal(scores(7, 1), scores(7, 2))
    assert not np.array_equal(scores(7, 1), scores(8, 1))


def test_no_random_state_draws_a_seed_and_keeps_it() -> None:
    X, runtime, qid = problem(4)
    seeds = {Ranker(random_state=None, **QUICK).fit(X, runtime, qid=qid).settings_.seed for _ in range(3)}
    assert len(seeds) > 1
    state = np.random.RandomState(3)
    assert Ranker(random_state=state, **QUICK).fit(X, runtime, qid=qid).settings_.seed == np.random.RandomState(
        3
    ).randint(2**31 - 1)


def untied_tau(ranker: Ranker, X: np.ndarray, runtime: np.ndarray, qid: np.ndarray) -> float:
    scores = ranker.predict(X)
    return float(np.mean([count_pairs(scores[qid == own], runtime[qid == own]).untied_tau for own in np.unique(qid)]))


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost"])
def test_early_stopping_keeps_the_round_with_the_best_tau(backend: str) -> None:
    X, runtime, qid = problem(20)
    noise = np.random.default_rng(1).permutation(len(runtime))
    other = problem(10, seed=4)
    ranker = Ranker(backend, early_stopping_rounds=5, **(QUICK | {"n_estimators": 60}))
    ranker.fit(X, np.where(np.arange(len(X)) % 3, runtime, runtime[noise]), qid=qid, eval_set=other)
    assert ranker.best_score_ == pytest.approx(untied_tau(ranker, *other), abs=1e-9)
    lengths = range(1, ranker.best_iteration_ + 1)
    target = np.where(np.arange(len(X)) % 3, runtime, runtime[noise])
    shorter = [
        untied_tau(Ranker(backend, **(QUICK | {"n_estimators": rounds})).fit(X, target, qid=qid), *other)
        for rounds in list(lengths)[-4:]
    ]
    assert max(shorter) == pytest.approx(ranker.best_score_, abs=1e-9)


def test_early_stopping_samples_large_slates_and_leaves_flat_ones_out() -> None:
    target = np.concatenate([np.arange(3000.0), np.ones(5), np.arange(4.0)])
    valid = Rows(np.arange(3009, dtype=np.float64)[:, None], target, np.array([0, 3000, 3005, 3009]))
    tau = ValidTau(valid, seed=0)
    assert tau.rows.sizes.tolist() == [1000, 4]
    assert tau(-tau.rows.X[:, 0]) == 1.0
    assert tau(np.concatenate([-np.arange(1000.0), np.arange(4.0)])) == 0.0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 15))
@settings(max_examples=80, deadline=None)
def test_sub_slates_cut_only_what_is_too_long_and_lose_no_row(sizes: list[int], limit: int) -> None:
    indptr = np.cumsum([0, *sizes]).astype(np.int64)
    cut = sub_slates(indptr, limit, seed=1)
    if max(sizes) <= limit:
        assert cut is None
        return
    assert cut is not None
    rows, parts = cut
    assert sorted(rows.tolist()) == list(range(sum(sizes)))
    slate = np.repeat(np.arange(len(sizes)), sizes)
    for start, stop in pairwise(parts):
        assert stop - start <= limit
        assert len(set(slate[rows[start:stop]])) <= 1
    assert len(parts) - 1 == sum(max(1, -(-size // limit)) for size in sizes)


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_slates_that_teach_nothing_do_no_harm(backend: str, objective: str) -> None:
    X, runtime, qid = problem(10)
    single, flat = qid == 3, qid == 7
    keep = ~single | (np.cumsum(single) == 1)
    runtime = np.where(flat, 5.0, runtime)
    ranker = Ranker(backend, objective, **QUICK).fit(X[keep], runtime[keep], qid=qid[keep])
    assert ranker.score(X, runtime, qid=qid) > 0.7


def test_lambdarank_trains_on_slates_above_lightgbms_limit() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10_400, 2)).astype(np.float32)
    ranker = Ranker(**(QUICK | {"n_estimators": 3})).fit(X, X[:, 0], qid=np.zeros(10_400))
    assert ranker.score(X, X[:, 0], qid=np.zeros(10_400)) > 0.6


# --- what may come in ------------------------------------------------------------------------------------------------


def test_numpy_pandas_and_polars_give_the_same_model() -> None:
    X, runtime, qid = problem(8)
    table = frame(X)
    expected = Ranker(**QUICK).fit(X, runtime, qid=qid).predict(X)
    for rows, times, queries in (
        (table, pd.Series(runtime), pd.Series(qid)),
        (pl.from_pandas(table), pl.Series(runtime), pl.Series(qid)),
        (X.tolist(), runtime.tolist(), [f"q{query}" for query in qid]),
        (X.astype(np.float64), runtime, qid.astype(str)),
    ):
        assert np.array_equal(Ranker(**QUICK).fit(rows, times, qid=queries).predict(rows), expected)


def test_frames_are_matched_by_column_name(fitted: Ranker) -> None:
    X, _, _ = problem(3, seed=3)
    table = frame(X)
    assert fitted.feature_names_in_.tolist() == list(table.columns)
    assert fitted.n_features_in_ == 5
    assert np.array_equal(fitted.predict(table[table.columns[::-1]]), fitted.predict(X))
    with pytest.raises(UsageError, match=r"1 missing \(first 'block1.c3'\), 1 unknown \(first 'zzz'\)"):
        fitted.predict(table.rename(columns={"block1.c3": "zzz"}))
    with pytest.raises(UsageError, match="got 4 columns, the model was fitted on 5"):
        fitted.predict(X[:, :4])


def test_missing_values_are_features_infinities_are_errors() -> None:
    X, runtime, qid = problem(8)
    X[::3, 2] = np.nan
    for backend in BACKENDS:
        assert np.isfinite(Ranker(backend, **QUICK).fit(X, runtime, qid=qid).predict(X)).all()
    X[17, 4] = np.inf
    with pytest.raises(UsageError, match="row 17, column 4 is infinite"):
        Ranker(**QUICK).fit(X, runtime, qid=qid)
    with pytest.raises(UsageError, match=r"row 17, column 'block0\.c4' is infinite"):
        Ranker(**QUICK).fit(frame(X), runtime, qid=qid)


def test_missing_cells_of_frames_are_nan(fitted: Ranker) -> None:
    X, _, _ = problem(3, seed=3)
    with_nan = X.copy()
    with_nan[0, 0] = np.nan
    expected = fitted.predict(with_nan)
    table = pl.from_pandas(frame(X)).with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(None).otherwise(pl.col("block0.c0")).alias("block0.c0")
    )
    assert np.array_equal(fitted.predict(table), expected)
    assert np.array_equal(fitted.predict(frame(with_nan).convert_dtypes()), expected)


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.zeros(4), r"shape \(4,\), want \(rows, columns\)"),
        (np.zeros((4, 0)), "got no columns"),
        ([["a", "b"]] * 4, "no table of numbers"),
        (pd.DataFrame({"a.x": [1, 2, 3, 4], "a.y": list("wxyz")}), "column 'a.y' does not hold numbers"),
    ],
)
def test_tables_that_are_none(X: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Ranker().fit(X, [1, 2, 3, 4], qid=[0, 0, 1, 1])


@pytest.mark.parametrize(
    ("qid", "match"),
    [
        ([0, 0, 1, 0, 1, 1], r"row 3 returns to query 0, whose rows ended at row 1; .*stand together"),
        (["a", "b", "b", "b", "a", "b"], r"row 4 returns to query a, whose rows ended at row 0"),
        ([0, 0, 1], r"qid: got shape \(3,\), want \(6,\)"),
        ([0, 0, np.nan, 1, 1, 1], "row 2 has no query"),
    ],
)
def test_queries_that_cannot_be_right(qid: list[Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Ranker().fit(np.zeros((6, 2)), np.arange(6), qid=qid)


@pytest.mark.parametrize(
    ("runtime", "match"),
    [
        ([1, 2, np.nan, 4], "row 2 is nan; drop rows"),
        ([1, 2, 3, np.inf], "row 3 is inf"),
        ([1, 2, 3], r"runtime: got shape \(3,\), want \(4,\)"),
        (["a", "b", "c", "d"], "runtime: got .* values, want numbers"),
        ([1, 1, 3, 3], "no query has two different runtimes"),
    ],
)
def test_runtimes_that_cannot_be_right(runtime: list[Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Ranker().fit(np.zeros((4, 2)), runtime, qid=[0, 0, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"backend": "catboost"}, "got 'catboost', want 'ensemble' or 'lightgbm' or 'xgboost' or 'costmodel'"),
        ({"goal": "top5"}, "goal: got 'top5', want 'tau' or 'topk'"),
        ({"backend": "ensemble", "params": {"max_bin": 9}}, "'max_bin' belongs to one library; choose it with backend"),
        ({"backend": "costmodel"}, "needs columns that are log2 of amounts"),
        ({"backend": "costmodel", "costs": [0], "params": {"a": 1}}, "the cost model has none, got 'a'"),
        ({"costs": ["block0.c0"]}, "costs: X has no column 'block0.c0'"),
        ({"monotone": True}, "there are no costs to be monotone in"),
        ({"monotone": 1, "costs": [0]}, "monotone: got 1, want True or False"),
        ({"costs": [5]}, "costs: X has no column 5; want names of its columns, or places below 5"),
        (
            {"objective": "difference", "backend": "xgboost"},
            "got 'difference', xgboost has 'pairwise', 'lambdarank', 'l2', 'speed'",
        ),
        ({"num_leaves": 1}, "num_leaves: got 1, want a whole number from 2 on"),
        ({"n_estimators": 2.5}, "n_estimators: got 2.5, want a whole number"),
        ({"learning_rate": 0}, "learning_rate: got 0, want a number above 0"),
        ({"n_jobs": 0}, "n_jobs: got 0"),
        ({"random_state": -1}, "random_state: got -1"),
        ({"random_state": 2**31}, "random_state: got 2147483648, want a number below"),
        (
            {"params": {"num_leaf": 3}, "backend": "lightgbm"},
            r"'num_leaf' is set by the ranker; use Ranker\(num_leaves",
        ),
        ({"params": {"bagging_fractoin": 0.5}, "backend": "lightgbm"}, "LightGBM has no parameter 'bagging_fractoin'"),
        ({"params": {"max_bin": object()}, "backend": "lightgbm"}, "'max_bin' is a object"),
        ({"params": {"eta": 0.5}, "backend": "xgboost"}, r"'eta' is set by the ranker; use Ranker\(learning_rate"),
        ({"params": {"subsampel": 0.5}, "backend": "xgboost"}, "XGBoost: .*subsampel.* not used"),
    ],
)
def test_parameters_that_cannot_be_right(arguments: dict[str, Any], match: str) -> None:
    X, runtime, qid = problem(4)
    with pytest.raises(UsageError, match=match):
        Ranker(**arguments).fit(X, runtime, qid=qid)


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost", "ensemble"])
def test_a_monotone_ranker_never_rewards_a_larger_cost(backend: str) -> None:
    X, runtime, qid = problem(12)
    raised = X.copy()
    raised[:, 1] += 1.0
    free = Ranker(backend, **QUICK).fit(X, runtime, qid=qid)
    assert (free.predict(raised) < free.predict(X) - 1e-9).any()  # by half of the rows, more of it is faster
    bound = Ranker(backend, objective="mixed" if backend == "ensemble" else None, costs=[1], monotone=True, **QUICK)
    bound.fit(X, runtime, qid=qid)
    assert (bound.predict(raised) >= bound.predict(X) - 1e-6).all()


def test_an_eval_set_without_an_order_is_refused() -> None:
    X, runtime, qid = problem(4)
    with pytest.raises(UsageError, match="eval_set: no query has two different runtimes"):
        Ranker(**QUICK).fit(X, runtime, qid=qid, eval_set=(X[:3], [1, 1, 1], [0, 0, 0]))


def test_conventions_of_scikit_learn() -> None:
    ranker = Ranker("xgboost", "l2", num_leaves=9, params={"subsample": 0.5})
    assert clone(ranker).get_params() == ranker.get_params()
    assert ranker.set_params(num_leaves=5, random_state=3).get_params()["num_leaves"] == 5
    assert "num_leaves=5" in repr(ranker)
    X, runtime, qid = problem(4)
    with pytest.raises(ValueError, match="not fitted yet"):
        ranker.predict(X)
    before = ranker.get_params()
    assert ranker.fit(X, runtime, qid=qid) is ranker
    assert ranker.get_params() == before
    assert not hasattr(ranker, "feature_names_in_")
    refit = ranker.fit(frame(X), runtime, qid=qid)
    assert hasattr(refit, "feature_names_in_")
    assert not hasattr(refit.fit(X, runtime, qid=qid), "feature_names_in_")


def test_gain_finds_the_columns_that_matter(fitted: Ranker) -> None:
    shares = fitted.feature_importances_
    assert shares.sum() == pytest.approx(1.0)
    assert set(np.argsort(shares)[-2:]) == {0, 1}
    assert fitted.block_importances_ == pytest.approx(
        {"block0": shares[[0, 2, 4]].sum(), "block1": shares[[1, 3]].sum()}
    )


def test_blocks_need_names() -> None:
    X, runtime, qid = problem(4)
    with pytest.raises(AttributeError, match="needs named columns"):
        _ = Ranker(**QUICK).fit(X, runtime, qid=qid).block_importances_


# --- the libraries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "fault", "match"),
    [
        (
            "lightgbm",
            OSError("libgomp.so.1: cannot open shared object file: No such file or directory"),
            "LightGBM needs the OpenMP runtime libgomp.so.1: apt-get install libgomp1",
        ),
        (
            "xgboost",
            ValueError("XGBoost Library (libxgboost.so) could not be loaded.\n  - libgomp.so for Linux"),
            "XGBoost needs the OpenMP runtime libgomp.so.1",
        ),
        ("xgboost", ModuleNotFoundError("No module named 'xgboost'"), "XGBoost is not installed; pip install xgboost-"),
        ("lightgbm", OSError("wrong ELF\nclass"), "LightGBM cannot be loaded: wrong ELF class"),
    ],
)
def test_a_library_that_does_not_load_is_one_line(
    backend: str, fault: Exception, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def failing(name: str, *rest: Any) -> Any:
        if name == backend:
            raise fault
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, f"gbr.models.{backend}", raising=False)
    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(MissingLibraryError, match=match):
        load_backend(backend)


def test_idle_threads_sleep_unless_the_user_says_otherwise() -> None:
    def policy(**environ: str) -> str:
        code = "import os, gbr; gbr.Ranker; print(os.environ['OMP_WAIT_POLICY'])"
        return subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert policy() == "PASSIVE"
    assert policy(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_importing_the_ranker_loads_no_boosting_library() -> None:
    code = "import sys, gbr; gbr.Ranker; print([m for m in ('lightgbm', 'xgboost', 'numba') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
