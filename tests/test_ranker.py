"""The public estimator: quality of its order, input that it accepts, and scikit-learn conventions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array
from sklearn.utils.estimator_checks import parametrize_with_checks

from gbr.errors import GbrWarning, MissingLibraryError, ModelError, UsageError
from gbr.evaluation.metrics import count_pairs, kendall_tau
from gbr.models.arrays import table
from gbr.models.base import loading
from gbr.ranker import Ranker, group_bounds
from tests.ranking import BACKENDS, EVERY, QUICK, frame, problem


@pytest.fixture(scope="module", params=BACKENDS)
def fitted(request: pytest.FixtureRequest) -> Ranker:
    X, runtime, qid = problem()
    return Ranker(request.param, **QUICK).fit(frame(X), runtime, qid=qid)


# --- quality of the order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_every_objective_fits_the_order_within_groups(backend: str, objective: str) -> None:
    X, runtime, qid = problem()
    single, flat = qid == 3, qid == 7  # groups without an order are ignored
    keep, runtime = ~single | (np.cumsum(single) == 1), np.where(flat, 5.0, runtime)
    ranker = Ranker(backend, objective, **QUICK).fit(X[keep], runtime[keep], qid=qid[keep])
    X_new, runtime_new, qid_new = problem(seed=1)
    groups = [qid_new == group for group in range(30)]
    assert abs(np.mean([kendall_tau(X_new[rows, 1].astype(float), runtime_new[rows]) for rows in groups])) < 0.1
    assert ranker.score(X_new, runtime_new, qid=qid_new) > 0.7
    first = runtime_new[groups[0]][ranker.predict(X_new[groups[0]]).argsort()]
    assert first[:6].mean() < first[-6:].mean()


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_unit_and_scale_of_runtimes_do_not_matter(backend: str, objective: str) -> None:
    X, runtime, qid = problem(12)
    ranker = Ranker(backend, objective, **(QUICK | {"n_estimators": 5}))
    expected = ranker.fit(X, runtime, qid=qid).predict(X)
    per_group = runtime * 2.0 ** np.repeat(np.arange(-6, 6), 24)
    assert np.array_equal(ranker.fit(X, per_group, qid=qid).predict(X), expected)
    if objective in ("lambdarank", "pairwise", "l2"):  # these depend on the order only
        stretched = np.log(runtime) * np.repeat(np.arange(1, 13), 24) - 1e4
        assert np.array_equal(ranker.fit(X, stretched, qid=qid).predict(X), expected)


def test_random_state() -> None:
    X, runtime, qid = problem(4)
    seeds = {Ranker("lightgbm", random_state=None, **QUICK).fit(X, runtime, qid=qid).settings_.seed for _ in range(3)}
    assert len(seeds) > 1
    state = Ranker("lightgbm", random_state=np.random.RandomState(3), **QUICK).fit(X, runtime, qid=qid)
    assert state.settings_.seed == np.random.RandomState(3).randint(2**31 - 1)


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost"])
def test_early_stopping_keeps_the_best_round(backend: str) -> None:
    X, runtime, qid = problem(20)
    target = np.where(np.arange(len(X)) % 3, runtime, runtime[np.random.default_rng(1).permutation(len(runtime))])
    X_valid, runtime_valid, qid_valid = problem(10, seed=4)

    def tau(ranker: Ranker) -> float:
        scores = ranker.predict(X_valid)
        groups = [qid_valid == group for group in range(10)]
        return float(np.mean([count_pairs(scores[rows], runtime_valid[rows]).untied_tau for rows in groups]))

    ranker = Ranker(backend, early_stopping_rounds=5, **(QUICK | {"n_estimators": 60}))
    ranker.fit(X, target, qid=qid, eval_set=[(X_valid, runtime_valid, qid_valid)])
    assert ranker.best_score_ == pytest.approx(tau(ranker), abs=1e-9)
    shorter = [
        tau(Ranker(backend, **(QUICK | {"n_estimators": rounds})).fit(X, target, qid=qid))
        for rounds in range(max(1, ranker.best_iteration_ - 3), ranker.best_iteration_ + 1)
    ]
    assert max(shorter) == pytest.approx(ranker.best_score_, abs=1e-9)


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost", "ensemble"])
def test_monotone_rankers_never_reward_a_larger_cost(backend: str) -> None:
    X, runtime, qid = problem(12)
    raised = X.copy()
    raised[:, 1] += 1.0
    free = Ranker(backend, **QUICK).fit(X, runtime, qid=qid)
    assert (free.predict(raised) < free.predict(X) - 1e-9).any()
    bound = Ranker(backend, objective="mixed" if backend == "ensemble" else None, costs=[1], monotone=True, **QUICK)
    bound.fit(X, runtime, qid=qid)
    assert (bound.predict(raised) >= bound.predict(X) - 1e-6).all()


def test_importances_find_the_informative_columns(fitted: Ranker) -> None:
    shares = fitted.feature_importances_
    assert shares.sum() == pytest.approx(1.0)
    assert set(np.argsort(shares)[-2:]) == {0, 1}
    blocks = {"block0": shares[[0, 2, 4]].sum(), "block1": shares[[1, 3]].sum()}
    assert fitted.block_importances_ == pytest.approx(blocks)


def test_a_model_that_cannot_order_anything_is_reported() -> None:
    X = np.arange(8.0)[:, None]
    with pytest.warns(GbrWarning, match="no split of 8 rows improves the order: all scores are equal"):
        Ranker(min_child_samples=5, n_jobs=1).fit(X, X[:, 0])
    assert Ranker(n_jobs=1).fit(X, X[:, 0]).score(X, X[:, 0]) > 0.5


# --- input -----------------------------------------------------------------------------------------------------------


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


def test_columns_are_matched_by_name(fitted: Ranker) -> None:
    X, _, _ = problem(3, seed=3)
    table = frame(X)
    expected = fitted.predict(table)
    assert np.array_equal(fitted.predict(table[table.columns[::-1]]), expected)
    assert np.array_equal(fitted.predict(pl.from_pandas(table)[list(table.columns[::-1])]), expected)
    with pytest.raises(ValueError, match="4 features, but Ranker is expecting 5"):
        fitted.predict(X[:, :4])


def test_missing_values_are_accepted(fitted: Ranker) -> None:
    X, _, _ = problem(3, seed=3)
    X[0, 0] = np.nan
    expected = fitted.predict(frame(X))
    assert np.isfinite(expected).all()
    assert np.array_equal(fitted.predict(pl.from_pandas(frame(X), nan_to_null=True)), expected)
    assert np.array_equal(fitted.predict(frame(X).convert_dtypes()), expected)


def absent(values: np.ndarray) -> list[Any]:
    """Kinds of arrays with these numbers but the second one missing."""
    listed = [None if number == 1 else value for number, value in enumerate(values.tolist())]
    durations = values.astype("m8[ns]")
    durations[1] = "NaT"
    return [
        listed,
        [str(value) for value in listed[:1]] + [float("nan")] + [str(value) for value in listed[2:]],
        np.where(np.arange(len(values)) == 1, np.nan, values),
        np.ma.masked_array(values, np.arange(len(values)) == 1),
        durations,
        pd.Series(durations),
        pd.Series(listed, dtype="Int64"),
        pd.Series(listed, dtype=object).fillna(pd.NA),
        pl.Series(listed, dtype=pl.Duration),
        pa.array(listed),
        list(pa.array(listed)),
    ]


@pytest.mark.parametrize("values", absent(np.arange(1, 9)))
def test_missing_runtimes_and_groups_are_refused(values: Any) -> None:
    X, ranker = np.arange(8.0)[:, None], Ranker("lightgbm", min_child_samples=1, **QUICK)
    with pytest.raises(UsageError, match=r"^y: expected a value in every row, got a missing one in row 1; leave"):
        ranker.fit(X, values)
    for name in ("qid", "sample_weight"):
        with pytest.raises(UsageError, match=f"^{name}: expected a value in every row, got a missing one in row 1"):
            ranker.fit(X, X[:, 0]).score(X, X[:, 0], **{name: values})


@pytest.mark.parametrize("number", range(11))
def test_missing_values_of_every_kind_are_nan(number: int) -> None:
    values = absent(np.arange(1, 9))[number]
    tables = [pd.DataFrame({"a": range(8), "b": pd.Series(values)})]
    if isinstance(values, np.ndarray):
        tables = [np.ma.stack([values, values], axis=1)[:, [1]] if np.ma.isMA(values) else values[:, None]]
    elif isinstance(values, pa.Array):
        tables = [pa.table({"b": values}), pa.record_batch({"b": values})]
    for X in tables:
        found = np.asarray(check_array(table(X, None), ensure_all_finite=False))[:, -1]
        assert np.array_equal(found, [1, np.nan, *range(3, 9)], equal_nan=True)


@pytest.mark.parametrize("dtype", ["string", "category", "string[pyarrow]", None])
def test_query_groups_of_any_type(dtype: str | None) -> None:
    X, _, qid = problem(4)
    names = pd.Series([f"q{group}" for group in qid], dtype=dtype)
    for queries in (names, pa.array(names.tolist()), pl.Series(names.tolist()), qid.astype("M8[D]")):
        assert np.array_equal(group_bounds(queries, len(X)), np.arange(5) * 24)
    with pytest.raises(UsageError, match=r"qid: expected integers or strings .*unhashable"):
        group_bounds(pd.Series([[1], [2]]), 2)


def test_columns_of_every_kind_of_table_are_matched_by_label() -> None:
    X, runtime, qid = problem(4)
    for labels in (list("abcde"), [7, 3, 9, 1, 2], list(range(5)), ["a", 1, "c", 3, "e"]):
        frame_ = pd.DataFrame(X, columns=labels)
        ranker = Ranker("lightgbm", **QUICK).fit(frame_, runtime, qid=qid)
        assert np.array_equal(ranker.predict(frame_[labels[::-1]]), ranker.predict(frame_))
    arrow = pa.table({name: X[:, number] for number, name in enumerate("abcde")})
    ranker.fit(arrow, runtime, qid=qid)
    assert ranker.feature_names_in_.tolist() == list("abcde")
    for other in (arrow, arrow.to_batches()[0]):
        assert np.array_equal(ranker.predict(other.select(list("edcba"))), ranker.predict(arrow))
    for twice in (frame_.set_axis(list("abcda"), axis=1), arrow.rename_columns(list("abcda"))):
        with pytest.raises(UsageError, match="X: expected different column names, got 'a' twice"):
            ranker.predict(twice)


def test_scalars_and_arrays_of_numpy_are_parameters(tmp_path: Path) -> None:
    X, runtime, qid = problem(4)
    values = {"n_estimators": np.int64(3), "learning_rate": np.float32(0.5), "random_state": np.uint8(1)}
    params = {"max_bin": np.int64(9), "extra_trees": np.bool_(True), "feature_contri": np.ones(5, np.float32)}
    ranker = Ranker("lightgbm", **values, params=params, costs=np.array([1]), monotone=np.bool_(True))
    ranker.fit(X, runtime, qid=qid, eval_set=((X, runtime, qid),)).save(tmp_path)
    expected = {"max_bin": 9, "extra_trees": True, "feature_contri": [1.0] * 5}
    assert Ranker.load(tmp_path).params == ranker.settings_.params == expected
    assert type(ranker.settings_.params["max_bin"]) is int


INF = [[0.0, 1.0], [1.0, np.inf], [0.0, 2.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"X": INF}, r"X: expected numbers within ±3.4e\+38, the range of float32, got inf in row 1, column 1"),
        ({"X": [[1e39], [0], [0], [0]]}, r"X: .* got 1e\+39 in row 0, column 0"),
        ({"X": [[10**400], [0], [0], [0]]}, "X: expected numbers in the range of float32"),
        ({"X": pd.DataFrame({"a": range(4), "type": pd.Categorical(["f16", "f32"] * 2)})}, "X: column 'type': .*'f16'"),
        (
            {"X": pl.DataFrame({"a": range(4), "type": ["f16", "f32"] * 2})},
            "X: column 'type': expected .*OneHotEncoder",
        ),
        ({"y": [1, 2, "fast", 4]}, "y: expected numbers .*'fast'"),
        ({"qid": 3}, r"qid: expected shape \(4,\), one id per row of X, got \(\)"),
        ({"y": [1, 1, 3, 3]}, "y: expected a query group with two different runtimes"),
        ({"qid": [0, 1, 0, 1]}, "qid: expected contiguous groups, got more rows of 0 at row 2"),
        ({"qid": [0, 0, 1]}, r"qid: expected shape \(4,\), one id per row of X, got \(3,\)"),
        ({"eval_set": (np.zeros((3, 2)), [1, 1, 1], [0, 0, 0])}, "eval_set: expected at least one query group"),
        ({"eval_set": [([[1.0]], [1]), ([[1.0]], [1])]}, r"eval_set: expected one \(X, y\) or \(X, y, qid\)"),
        ({"eval_set": 5}, "eval_set: expected one"),
        ({"eval_set": ([[1.0, 2.0]], [None])}, "eval_set: y: expected a value in every row"),
        ({"eval_set": [1, 2]}, r"eval_set: expected one \(X, y\) or \(X, y, qid\)"),
    ],
)
def test_invalid_input_is_refused(changes: dict[str, Any], match: str) -> None:
    arguments = {"X": np.zeros((4, 2)), "y": [1, 2, 3, 4], "qid": [0, 0, 1, 1], **changes}
    with pytest.raises(ValueError, match=match):
        Ranker(**QUICK).fit(**arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            {"backend": "catboost"},
            "backend: expected 'auto' or 'ensemble' or .* got 'catboost'",
        ),
        ({"goal": "top5"}, "goal: expected 'tau' or 'topk', got 'top5'"),
        ({"backend": "ensemble", "params": {"max_bin": 9}}, "'max_bin': the members .* are of several libraries"),
        ({"backend": "costmodel"}, "needs columns that are log2 of amounts"),
        ({"backend": "costmodel", "costs": [0], "params": {"a": 1}}, "the cost model has none, got 'a'"),
        ({"costs": ["block0.c0"]}, "costs: expected names of columns of X, or indices below 5, got 'block0.c0'"),
        ({"costs": 1.5}, "costs: expected names of columns of X, or indices below 5, got 1.5"),
        ({"costs": [1, 1]}, r"costs: expected different columns, got \[1, 1\]"),
        ({"params": [("max_bin", 9)]}, "params: expected a mapping from names to values, got a list"),
        ({"monotone": True}, "expected cost columns, got none"),
        ({"monotone": 1, "costs": [0]}, "monotone: expected True or False, got 1"),
        ({"objective": "nnls", "backend": "xgboost"}, "'l2' or 'speed' for xgboost, got 'nnls'"),
        ({"n_estimators": 2.5}, "n_estimators: expected an integer of at least 1, got 2.5"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0 and at most 1, got 0"),
        ({"n_jobs": 0}, "n_jobs: .* got 0"),
        ({"random_state": 2**31}, "random_state: expected an integer .* got 2147483648"),
        ({"params": {"num_leaf": 3}, "backend": "lightgbm"}, r"'num_leaf' is set by the ranker; use Ranker\(num_leav"),
        ({"params": {"bagging_fractoin": 0.5}, "backend": "lightgbm"}, "LightGBM has no parameter 'bagging_fractoin'"),
        ({"params": {"max_bin": object()}, "backend": "lightgbm"}, "'max_bin': expected text, .* got a object"),
        ({"params": {"eta": 0.5}, "backend": "xgboost"}, r"'eta' is set by the ranker; use Ranker\(learning_rate"),
        ({"params": {"subsampel": 0.5}, "backend": "xgboost"}, "XGBoost has no parameter 'subsampel'; did you mean"),
    ],
)
def test_invalid_parameters_are_refused(arguments: dict[str, Any], match: str) -> None:
    X, runtime, qid = problem(4)
    with pytest.raises(UsageError, match=match):
        Ranker(**arguments).fit(X, runtime, qid=qid)


def test_models_of_plain_tables_rank_no_graphs(fitted: Ranker) -> None:
    with pytest.raises(ModelError, match=r"fitted on a plain table, not on graphs.*python -m gbr.train"):
        fitted.rank("graph.npz")


# --- scikit-learn ----------------------------------------------------------------------------------------------------


@parametrize_with_checks([Ranker(backend, n_estimators=3, n_jobs=1) for backend in BACKENDS])
def test_scikit_learn_estimator_checks(estimator: Ranker, check: Any) -> None:
    check(estimator)


def test_refit_without_names_forgets_them() -> None:
    X, runtime, qid = problem(4)
    ranker = Ranker("xgboost", "l2", n_estimators=3).fit(frame(X), runtime, qid=qid)
    assert hasattr(ranker, "feature_names_in_")
    ranker.fit(X, runtime, qid=qid)
    assert not hasattr(ranker, "feature_names_in_")
    with pytest.raises(AttributeError, match="needs named columns"):
        _ = ranker.block_importances_


def test_score_weights_groups_by_their_rows() -> None:
    X, runtime, qid = problem(4)
    ranker = Ranker("lightgbm", **QUICK).fit(X, runtime, qid=qid)
    taus = [ranker.score(X[qid == group], runtime[qid == group]) for group in range(4)]
    assert ranker.score(X, runtime, qid=qid) == pytest.approx(np.mean(taus))
    assert ranker.score(X, runtime, qid=qid, sample_weight=qid == 2) == pytest.approx(taus[2])
    with pytest.raises(UsageError, match="no order to score"):
        ranker.score(X[:2], [1, 1])
    with pytest.raises(UsageError, match="sample_weight: expected positive numbers"):
        ranker.score(X, runtime, sample_weight=0 * qid)


OLD_PIPELINE = pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8), reason="scikit-learn 1.8 passes metadata on to score"
)


@pytest.mark.parametrize("in_pipeline", [False, pytest.param(True, marks=OLD_PIPELINE)])
def test_model_selection_with_metadata_routing(in_pipeline: bool) -> None:
    X, runtime, qid = problem(12)
    ranker = Ranker("lightgbm", **QUICK)
    folds = GroupKFold(3)
    expected = []
    for training, test in folds.split(X, groups=qid):
        model = clone(ranker).fit(X[training], runtime[training], qid=qid[training])
        expected.append(model.score(X[test], runtime[test], qid=qid[test]))
    with config_context(enable_metadata_routing=True):
        ranker.set_fit_request(qid=True).set_score_request(qid=True)
        estimator = make_pipeline(StandardScaler(), ranker) if in_pipeline else ranker
        taus = cross_val_score(estimator, X, runtime, cv=folds, params={"qid": qid, "groups": qid})
        name = "ranker__num_leaves" if in_pipeline else "num_leaves"
        search = GridSearchCV(estimator, {name: [2, 7]}, cv=folds).fit(X, runtime, qid=qid, groups=qid)
    assert taus == pytest.approx(expected, abs=0.1 if in_pipeline else 1e-12)
    assert search.best_params_ == {name: 7}
    assert search.best_score_ > 0.5


def test_cross_validation_without_metadata_routing() -> None:
    X, runtime, qid = problem(12)
    within = runtime / np.repeat([runtime[qid == group].min() for group in range(12)], 24)
    pipeline = make_pipeline(StandardScaler(), Ranker("lightgbm", **QUICK))
    with pytest.warns(GbrWarning, match="score: no qid, so that all 96 rows are one query group"):
        taus = cross_val_score(pipeline, X, within, groups=qid, cv=GroupKFold(3), params={"ranker__qid": qid})
    assert (taus > 0.3).all()  # of each fold as one group


def test_forgotten_groups_are_reported() -> None:
    X, runtime, qid = problem(12)
    ranker = Ranker("lightgbm", **QUICK)
    with pytest.warns(GbrWarning, match="fit: no qid, so that all 288 rows are one query group; pass qid"):
        ranker.fit(X, runtime)
    with pytest.warns(GbrWarning, match="eval_set: no qid, so that all 288 rows"):
        ranker.fit(X, runtime, qid=qid, eval_set=(X, runtime))


def test_save_keeps_a_run_of_train(tile_run: Path, fitted: Ranker) -> None:
    with pytest.raises(ModelError, match="has a model of gbr train with its figures; save this one in another folder"):
        fitted.save(tile_run / "run")


# --- libraries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (OSError("libgomp.so.1: cannot open shared object file"), "needs the OpenMP runtime libgomp.so.1: apt-get"),
        (ValueError("libxgboost.so could not be loaded.\n  - libgomp.so for Linux"), "needs the OpenMP runtime"),
        (ModuleNotFoundError("No module named 'xgboost'"), "XGBoost is not installed; pip install xgboost-cpu"),
        (OSError("wrong ELF\nclass"), "XGBoost cannot be loaded: wrong ELF class"),
    ],
)
def test_library_that_cannot_be_loaded_is_a_one_line_error(error: Exception, match: str) -> None:
    with pytest.raises(MissingLibraryError, match=match), loading("XGBoost", "xgboost-cpu"):
        raise error


def test_ranker_is_light_to_import_and_sets_the_wait_policy() -> None:
    code = (
        "import os, sys, gbr; gbr.Ranker; print(os.environ['OMP_WAIT_POLICY'], "
        "[m for m in ('lightgbm', 'xgboost', 'numba', 'polars', 'sklearn.ensemble') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PASSIVE []"
