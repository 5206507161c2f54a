"""Backends and model directories: streamed fits, constant columns, attribution, ensembles, saving and loading."""

from __future__ import annotations

import io as bytes_io
import json
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.errors import GbrWarning, ModelError, StoreError, UsageError
from gbr.evaluation.metrics import kendall_tau
from gbr.models import ensemble, io, lightgbm, xgboost
from gbr.models.base import backend
from gbr.models.ensemble import greedy_weights
from gbr.models.lightgbm import random_parts
from gbr.models.params import MEMBERS, Settings, resolve
from gbr.models.rows import Rows, StreamedMatrix
from gbr.models.stopping import ValidTau
from gbr.ranker import Ranker
from tests.ranking import BACKENDS, EVERY, QUICK, amounts, frame, problem, streamed

ALL = [*EVERY, ("costmodel", "nnls")]


# --- early stopping and splitting ------------------------------------------------------------------------------------


def test_valid_tau_samples_large_groups_and_skips_flat_ones() -> None:
    target = np.concatenate([np.arange(3000.0), np.ones(5), np.arange(4.0)])
    valid = Rows(np.arange(3009, dtype=np.float64)[:, None], target, np.array([0, 3000, 3005, 3009]))
    tau = ValidTau(valid, seed=0)
    assert tau.rows.sizes.tolist() == [1000, 4]
    assert tau(-tau.rows.X[:, 0]) == 1.0
    assert tau(np.concatenate([-np.arange(1000.0), np.arange(4.0)])) == 0.0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 15))
@settings(max_examples=80, deadline=None)
def test_random_parts_keep_every_row(sizes: list[int], limit: int) -> None:
    rows, indptr = random_parts(np.cumsum([0, *sizes]).astype(np.int64), limit, seed=1)
    assert sorted(rows.tolist()) == list(range(sum(sizes)))
    group = np.repeat(np.arange(len(sizes)), sizes)
    for start, stop in pairwise(indptr):
        assert stop - start <= limit
        assert len(set(group[rows[start:stop]])) <= 1
    assert len(indptr) - 1 == sum(max(1, -(-size // limit)) for size in sizes)


def test_lambdarank_trains_on_groups_above_lightgbms_limit() -> None:
    X = np.random.default_rng(0).normal(size=(10_400, 2)).astype(np.float32)
    ranker = Ranker("lightgbm", "lambdarank", **(QUICK | {"n_estimators": 3})).fit(X, X[:, 0])
    assert ranker.score(X, X[:, 0]) > 0.6


# --- streamed matrices -----------------------------------------------------------------------------------------------


def settings_for(name: str, objective: str, **capacity: Any) -> Settings:
    return resolve(
        name, objective, capacity={**QUICK, **capacity}, early_stopping_rounds=10, seed=0, n_jobs=1,
        params={}, n_groups=40, n_rows=1000, costs=(2, 4),
    )  # fmt: skip


def groups(n_groups: int = 40, size: int = 24, seed: int = 0) -> Rows:
    X, runtime, _ = problem(n_groups, size, seed)
    X[:, [2, 4]] = np.abs(X[:, [2, 4]])
    X[::7, 3] = np.nan
    return Rows(X, runtime, np.arange(0, len(X) + 1, size))


def as_streamed(rows: Rows, cells: int = 700, memory: int = 1 << 30) -> Rows:
    assert isinstance(rows.X, np.ndarray)
    X, _ = streamed(rows.X, rows.indptr, np.arange(len(rows.X)), cells, memory)
    return Rows(X, rows.target, rows.indptr)


def mean_tau(relevance: np.ndarray, rows: Rows) -> float:
    taus = [kendall_tau(-relevance[a:b], rows.target[a:b]) for a, b in pairwise(rows.indptr.tolist())]
    return float(np.mean(taus))


@pytest.mark.parametrize(("name", "objective"), ALL)
@pytest.mark.parametrize("stopping", [False, True])
def test_streamed_fit_equals_the_fit_in_memory(name: str, objective: str, stopping: bool) -> None:
    train, valid, chosen = groups(), groups(10, seed=1), settings_for(name, objective)
    whole, parts = (
        backend(name).fit(rows, valid if stopping else None, chosen) for rows in (train, as_streamed(train))
    )
    if name in ("lightgbm", "costmodel"):
        assert parts.to_bytes() == whole.to_bytes()
    assert isinstance(valid.X, np.ndarray)
    expected, found = whole.predict(valid.X, 1), parts.predict(valid.X, 1)
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    assert mean_tau(found, valid) == pytest.approx(mean_tau(expected, valid), abs=0.01)


def test_streamed_lightgbm_details(monkeypatch: pytest.MonkeyPatch) -> None:
    train = groups()
    assert isinstance(train.X, np.ndarray)
    train.X[:, 0] = np.arange(len(train.X)) < 12
    fit = backend("lightgbm").fit
    for least in (5, 15):  # columns that are dropped for min_child_samples
        chosen = settings_for("lightgbm", "l2", min_child_samples=least)
        whole = fit(train, None, chosen).to_bytes()
        assert fit(as_streamed(train), None, chosen).to_bytes() == whole
        assert (b"feature_infos=none " in whole) == (least > 12)
    monkeypatch.setattr(lightgbm, "ROWS_PER_PART", 9)
    chosen = settings_for("lightgbm", "lambdarank")
    assert fit(as_streamed(train), None, chosen).to_bytes() == fit(train, None, chosen).to_bytes()
    monkeypatch.setattr(lightgbm, "_LEAST_BIN_ROWS", 100)
    few = fit(as_streamed(train, memory=300 * 32 * 5), None, settings_for("lightgbm", "l2"))
    assert b"bin_construct_sample_cnt: 300" in few.to_bytes()


def test_xgboost_in_one_batch_gives_the_same_bytes() -> None:
    train, chosen = groups(), settings_for("xgboost", "pairwise")
    whole = backend("xgboost").fit(train, None, chosen).to_bytes()
    assert backend("xgboost").fit(as_streamed(train, 1 << 20), None, chosen).to_bytes() == whole


@pytest.mark.parametrize(("name", "objective"), [("lightgbm", "l2"), ("xgboost", "pairwise"), ("costmodel", "nnls")])
def test_errors_of_the_source_are_raised(name: str, objective: str) -> None:
    def damaged(first: int, last: int) -> np.ndarray:
        raise StoreError("damaged")

    train = groups()
    X = StreamedMatrix(damaged, train.indptr, np.arange(len(train.target)), 5, 1 << 30)
    with pytest.raises(StoreError, match="damaged"):
        backend(name).fit(Rows(X, train.target, train.indptr), None, settings_for(name, objective))


@pytest.mark.parametrize("objective", ["lambdarank", "l2"])
def test_unused_columns_do_not_change_lightgbms_scores(objective: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.random((600, 40)).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    X[rng.random(X.shape) < 0.1] = 0
    runtime = np.nan_to_num(X[:, 7]) + np.nan_to_num(X[:, 31] * X[:, 12])
    ranker = Ranker("lightgbm", objective, n_estimators=3, num_leaves=4).fit(X, runtime, qid=np.arange(600) // 100)
    model: Any = ranker.model_
    assert 1 < np.count_nonzero(model.gains()) < 20
    assert np.array_equal(model.predict(X, 1), model.booster.predict(X, raw_score=True))


@pytest.mark.parametrize("n_rows", range(2, 11))
def test_few_rows_can_be_split(n_rows: int) -> None:
    X = np.arange(n_rows)[:, None] ** 2
    ranker = Ranker("lightgbm", n_jobs=1).fit(X, 100 - X[:, 0])
    assert kendall_tau(100 - X[:, 0], ranker.predict(X)) > 0.6


def test_parameters_replace_defaults_that_contradict_them() -> None:
    X, runtime, qid = problem()
    plain = Ranker("lightgbm", **QUICK).fit(X, runtime, qid=qid)
    goss = [
        Ranker("lightgbm", params=params, **QUICK).fit(X, runtime, qid=qid).predict(X)
        for params in ({"data_sample_strategy": "goss"}, {"boosting_type": "goss"})
    ]
    assert np.array_equal(*goss)
    assert not np.array_equal(goss[0], plain.predict(X))
    rows = Ranker("lightgbm", params={"force_row_wise": True}, **QUICK).fit(X, runtime, qid=qid)
    assert np.array_equal(rows.predict(X), plain.predict(X))
    by_query = Ranker("lightgbm", "l2", params={"bagging_by_query": True}, **QUICK).fit(X, runtime, qid=qid)
    assert by_query.score(X, runtime, qid=qid) > 0.5


# --- constant columns ------------------------------------------------------------------------------------------------

#: Indices of the columns of `problem` among constant columns.
VARYING = np.array([1, 2, 5, 6, 9])


def with_constants(X: np.ndarray) -> np.ndarray:
    wide = np.full((len(X), 11), 7, np.float32)
    wide[:, 4] = np.nan
    wide[:, VARYING] = X
    return wide


@pytest.mark.parametrize("stopping", [False, True])
def test_constant_columns_do_not_change_xgboost(stopping: bool) -> None:
    X, runtime, qid = problem()
    X[3, 4] = np.nan  # a missing value makes a column vary
    other = problem(8, seed=1)
    wide_other = (with_constants(other[0]), *other[1:])
    narrow, wide = (Ranker("xgboost", costs=[column], monotone=True, **QUICK) for column in (1, 2))
    narrow.fit(X, runtime, qid=qid, eval_set=other if stopping else None)
    wide.fit(with_constants(X), runtime, qid=qid, eval_set=wide_other if stopping else None)
    assert np.array_equal(narrow.predict(other[0]), wide.predict(wide_other[0]))
    assert np.array_equal(narrow.feature_importances_, wide.feature_importances_[VARYING])
    loaded = backend("xgboost").load(wide.model_.to_bytes())
    assert loaded.n_features == 11
    assert np.array_equal(-loaded.predict(wide_other[0], 1), wide.predict(wide_other[0]))
    changed = wide_other[0].copy()
    changed[:, np.setdiff1d(np.arange(11), VARYING)] = -1e9
    assert np.array_equal(wide.predict(changed), wide.predict(wide_other[0]))


def test_parameters_of_xgboost_name_all_columns_and_other_boosters() -> None:
    X, runtime, qid = problem()
    wide = with_constants(X)
    groups = [[int(column)] for column in VARYING]
    for constraints in (groups, json.dumps(groups)):
        ranker = Ranker("xgboost", params={"interaction_constraints": constraints}, **QUICK).fit(wide, runtime, qid=qid)
        model: Any = ranker.model_
        split = [set(tree["Feature"]) - {"Leaf"} for _, tree in model.booster.trees_to_dataframe().groupby("Tree")]
        assert set(map(len, split)) == {1}
    dart: Any = Ranker("xgboost", params={"booster": "dart", "rate_drop": 0.5}, **QUICK).fit(wide, runtime, qid=qid)
    expected = dart.model_.booster.predict(xgb.DMatrix(wide), output_margin=True)
    assert np.array_equal(dart.predict(wide), -expected.astype(np.float64))
    assert np.ptp(expected) > 0


@pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
def test_constant_matrix_gives_equal_scores(name: str) -> None:
    _, runtime, qid = problem(6)
    X = np.ones((len(runtime), 3), np.float32)
    for eval_set in (None, (X, runtime, qid)):
        assert np.ptp(Ranker(name, **QUICK).fit(X, runtime, qid=qid, eval_set=eval_set).predict(X)) == 0


def test_max_bin_of_xgboost_is_respected() -> None:
    X, runtime, qid = problem()
    thresholds = []
    for params in ({"max_bin": 4}, None):
        model: Any = Ranker("xgboost", params=params, **QUICK).fit(X, runtime, qid=qid, eval_set=(X, runtime, qid))
        table = model.model_.booster.trees_to_dataframe()
        thresholds.append(len(table[table["Feature"] == "f1"]["Split"].unique()))
    assert thresholds[0] <= 4 < thresholds[1]


# --- attribution -----------------------------------------------------------------------------------------------------


def explained(name: str, objective: str, **parameters: Any) -> tuple[Ranker, np.ndarray]:
    """A ranker of non-negative columns, the last of which is constant, and its first group."""
    X, runtime, qid = problem(12)
    X = np.concatenate([np.abs(X), np.full((len(X), 1), 3, np.float32)], axis=1)
    ranker = Ranker(name, objective, costs=[0, 1, 3], **{**QUICK, "n_estimators": 12}, **parameters)
    return ranker.fit(X, runtime, qid=qid), X[qid == 0]


@pytest.mark.parametrize(("name", "objective"), ALL)
def test_contributions_sum_to_the_difference_of_scores(name: str, objective: str) -> None:
    ranker, X = explained(name, objective)
    relevance = -ranker.predict(X)
    assert np.ptp(relevance) > 0
    for first, second in ((0, 1), (3, 17), (5, 5)):
        parts = ranker.model_.compare(X, first, second, 1)
        assert parts.shape == (6,)
        assert parts.sum() == pytest.approx(relevance[first] - relevance[second], rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(ranker.model_.compare(X, second, first, 1), -parts, rtol=1e-4, atol=1e-6)
        assert parts[5] == 0


def test_contributions_in_trees_of_one_split() -> None:
    ranker, X = explained("lightgbm", "l2", params={"boost_from_average": False, "max_depth": 1})
    for first, second in ((0, 1), (2, 9)):
        swapped = X[[first] * 6]  # each column in turn takes the other row's value
        swapped[np.arange(6), np.arange(6)] = X[second]
        expected = ranker.predict(swapped) - ranker.predict(X[[first]])
        np.testing.assert_allclose(ranker.model_.compare(X, first, second, 1), expected, atol=1e-9)


def test_linear_trees_cannot_be_attributed() -> None:
    ranker, X = explained("lightgbm", "l2", params={"linear_tree": True})
    with pytest.raises(UsageError, match=r"LightGBM: .*linear"):
        ranker.model_.compare(X, 0, 1, 1)


# --- ensemble and cost model -----------------------------------------------------------------------------------------


def test_ensemble_is_the_weighted_mean_of_its_scaled_members() -> None:
    X, runtime, qid = problem(20)
    eval_set = problem(20, seed=1)
    ranker = Ranker("ensemble", **QUICK).fit(X, runtime, qid=qid, eval_set=eval_set)
    members: Any = ranker.model_
    weights = {(each.settings.backend, each.settings.objective): each.weight for each in members.members}
    expected, taus = np.zeros(len(X)), []
    for number, (name, objective) in enumerate(MEMBERS["mixed"][:-1]):  # no costs are named
        member = Ranker(name, objective, random_state=number, **QUICK).fit(X, runtime, qid=qid, eval_set=eval_set)
        scores = member.predict(X)
        spread = np.mean([scores[qid == group].std() for group in range(20)])
        expected += weights.get((name, objective), 0.0) * scores / spread
        taus.append(member.best_score_)
    np.testing.assert_allclose(ranker.predict(X), expected, rtol=1e-9)
    assert sum(weights.values()) == pytest.approx(1)
    assert ranker.best_score_ is not None
    assert ranker.best_score_ >= max(taus)


def test_greedy_weights_drop_members_that_do_not_help() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    outputs = truth + rng.normal(size=(4, 300)) * np.array([[0.5], [0.5], [50.0], [50.0]])

    def quality(output: np.ndarray) -> float:
        return float(np.corrcoef(output, truth)[0, 1])

    weights = greedy_weights(outputs, quality)
    assert weights[:2].min() > 0.3
    assert weights[2:].max() < 0.1
    assert weights.sum() == pytest.approx(1)
    assert quality(weights @ outputs) >= max(quality(output) for output in outputs)
    assert greedy_weights(outputs[[2, 2]], quality).tolist() == [1, 0]


@pytest.mark.parametrize("n_groups", [20, 1])
def test_members_that_hurt_are_dropped_without_an_eval_set(n_groups: int) -> None:
    X, runtime, _ = problem(20)
    wrong = np.log2(1 + np.abs(X[:, 4]).astype(np.float64))  # a price of noise
    X = np.column_stack([X, wrong]).astype(np.float32)
    ranker = Ranker(costs=[5], **QUICK).fit(X, runtime, qid=np.repeat(np.arange(n_groups), len(X) // n_groups))
    members: Any = ranker.model_
    weights = {each.settings.backend: each.weight for each in members.members}
    assert weights["lightgbm"] > 0.8


def test_default_model_depends_on_costs_and_goal() -> None:
    X, runtime, qid = amounts()

    def chosen(**parameters: Any) -> tuple[str, str]:
        settings = Ranker(**{**QUICK, "n_estimators": 2}, **parameters).fit(X, runtime, qid=qid).settings_
        return settings.backend, settings.objective

    assert chosen() == ("lightgbm", "pairwise")
    assert chosen(costs=[0, 2]) == ("ensemble", "costed")
    assert chosen(costs=[0, 2], objective="l2") == ("lightgbm", "l2")
    assert chosen(costs=[0], goal="topk") == ("lightgbm", "speed")
    assert chosen(backend="ensemble", goal="topk") == ("ensemble", "mixed-top")


def test_cost_model_finds_the_prices(tmp_path: Path) -> None:
    X, runtime, qid = amounts()
    prices = Ranker("costmodel", costs=[0, 1, 2]).fit(X, runtime, qid=qid).model_.gains()
    assert prices[0] / prices[2] == pytest.approx(6.0, rel=0.1)
    assert prices[1] < 0.02 * prices[2]
    ranker = Ranker("costmodel", costs=["block0.c2", "block0.c0"]).fit(frame(X), runtime, qid=qid)
    X_new, runtime_new, qid_new = amounts(seed=1)
    assert ranker.score(frame(X_new), runtime_new, qid=qid_new) > 0.9
    ranker.save(tmp_path)
    loaded = Ranker.load(tmp_path)
    assert loaded.costs == ["block0.c2", "block0.c0"]
    assert np.array_equal(loaded.predict(frame(X)), ranker.predict(frame(X)))


# --- model directories -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=BACKENDS)
def fitted(request: pytest.FixtureRequest) -> Ranker:
    X, runtime, qid = problem(10)
    ranker = Ranker(request.param, early_stopping_rounds=3, **QUICK)
    other = problem(5, seed=4)
    return ranker.fit(frame(X), runtime, qid=qid, eval_set=(frame(other[0]), *other[1:]))


def test_loaded_model_equals_the_saved_one(fitted: Ranker, tmp_path: Path) -> None:
    fitted.save(tmp_path / "one")
    loaded = Ranker.load(tmp_path / "one")
    X = frame(problem(6, seed=9)[0])
    assert np.array_equal(loaded.predict(X), fitted.predict(X))
    assert np.array_equal(loaded.feature_importances_, fitted.feature_importances_)
    assert loaded.settings_ == fitted.settings_
    assert loaded.feature_names_in_.tolist() == fitted.feature_names_in_.tolist()
    assert (loaded.best_iteration_, loaded.best_score_) == (fitted.best_iteration_, fitted.best_score_)
    loaded.save(tmp_path / "two")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_libraries_older_than_those_of_the_fit_are_named(fitted: Ranker, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    library, installed = sorted(fitted.model_.versions.items())[0]
    for version, warned in (("3.0.0", False), (installed, False), (f"{installed}.1", False), ("100.0.1", True)):
        changed = manifest | {"versions": manifest["versions"] | {library: version}}
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.warns(GbrWarning, match=f"trained with {library} {version}, but") if warned else nullcontext():
            Ranker.load(tmp_path)


def test_constants_of_newer_xgboost_are_written_for_all() -> None:
    assert (
        xgboost._LIST_OF_ONE.sub(rb"\1", b'{"base_score":"[-5E-1]","x":"[1]"}') == b'{"base_score":"-5E-1","x":"[1]"}'
    )


def test_libraries_read_the_model_file(fitted: Ranker, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    X = problem(3, seed=9)[0]
    (path,) = tmp_path.glob("model-*")
    if fitted.backend == "ensemble":
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).suffix for name in archive.namelist()]
        assert names == [".txt", ".txt", ".txt", ".json", ".json"]
        return
    if fitted.backend == "lightgbm":
        import lightgbm

        raw = lightgbm.Booster(model_file=str(path)).predict(X)
    else:
        import xgboost

        raw = xgboost.Booster(model_file=str(path)).inplace_predict(X, predict_type="margin")
    assert np.array_equal(-np.asarray(raw, np.float64), fitted.predict(frame(X)))


def test_saving_again_replaces_the_model(fitted: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, runtime, qid = problem(6)
    (tmp_path / "notes.md").write_text("text")
    for name in BACKENDS:
        Ranker(name, **QUICK).fit(X, runtime, qid=qid).save(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".md"]
    expected = Ranker.load(tmp_path).predict(X)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gbr.models.io.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(tmp_path)
    assert np.array_equal(Ranker.load(tmp_path).predict(X), expected)


def edit(**changes: Any) -> Callable[[Path, Path], None]:
    def apply(manifest: Path, _: Path) -> None:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda manifest, _: manifest.unlink(), "holds no model .*python -m gbr.train"),
        (lambda manifest, _: manifest.write_text('{"format": '), "damaged or not JSON"),
        (edit(format="other"), "not the manifest of a gbr model"),
        (edit(format_version=1), "format version 1, this gbr reads 3"),
        (edit(model=None), "model is missing or invalid"),
        (edit(model={"file": "../x.txt", "sha256": "0"}), "names no model file"),
        (edit(best_iteration="x"), "best_iteration is missing or invalid"),
        (edit(trained_on=7), "trained_on is missing or invalid"),
        (edit(settings={"backend": []}), "invalid settings"),
        (edit(features={"count": 5, "names": ["a"]}), "do not match"),
        (edit(features={"count": 5, "names": "abcde"}), "features in the model"),
        (edit(backend="catboost"), "do not match .*catboost"),
        (lambda _, model: model.unlink(), "the model file is missing"),
        (lambda _, model: model.write_bytes(model.read_bytes()[:-40]), "damaged or edited"),
    ],
)
def test_damaged_models_are_refused(fitted: Ranker, tmp_path: Path, damage: Any, match: str) -> None:
    fitted.save(tmp_path)
    (model,) = tmp_path.glob("model-*")
    damage(tmp_path / "manifest.json", model)
    with pytest.raises(ModelError, match=match):
        Ranker.load(tmp_path)


@pytest.mark.parametrize("junk", [b"", b"tree\nversion=v4\n"])
def test_files_that_are_no_model_are_refused(fitted: Ranker, junk: bytes, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    manifest = io.read_manifest(tmp_path)
    io.write(tmp_path, junk, ".txt", {key: value for key, value in manifest.items() if key != "model"})
    with pytest.raises(ModelError, match="manifest and model do not match"):
        Ranker.load(tmp_path)


@pytest.mark.parametrize("changes", [{"file": "missing.txt"}, {"spread": 0}, {"settings": None}])
def test_ensembles_with_an_invalid_index_are_refused(changes: dict[str, Any]) -> None:
    X, runtime, qid = problem(4)
    ranker = Ranker("ensemble", **QUICK).fit(X, runtime, qid=qid)
    archive, buffer = zipfile.ZipFile(bytes_io.BytesIO(ranker.model_.to_bytes())), bytes_io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as edited:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "members.json":
                index = json.loads(content)
                content = json.dumps([index[0] | changes, *index[1:]]).encode()
            edited.writestr(name, content)
    with pytest.raises(ValueError, match=r"not an? |expected|invalid settings"):
        ensemble.load(buffer.getvalue())
