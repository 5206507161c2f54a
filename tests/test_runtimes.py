"""Runtimes of tables: prices, intervals, figures and baselines."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.table import amounts
from gbr import Ranker
from gbr.attribution import explain
from gbr.data.collection import resolve
from gbr.data.table import make_table, write_table
from gbr.data.table_features import TableFeatures
from gbr.data.table_roles import Roles
from gbr.errors import ModelError, UsageError
from gbr.evaluation import runtimes
from gbr.evaluation.metrics import Scored
from gbr.models import runtime, simple
from gbr.models.rows import Rows
from gbr.report.report import render, summarise_run
from gbr.train import train

ROOT = Path(__file__).parents[1]
QUICK = {"n_estimators": 30, "n_jobs": 1}
GROUPS, SIZE = 8, 40


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logs of two amounts and a column of noise, runtimes by prices 3 and 0.5, and a group per row."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.uniform(3, 20, (GROUPS * SIZE, 2)), rng.random(GROUPS * SIZE)]).astype(np.float32)
    work = np.exp2(X[:, :2].astype(float)) - 1
    qid = np.repeat(np.arange(GROUPS), SIZE)
    each = rng.normal(0, 0.1, GROUPS)[qid]
    return X, (3 * work[:, 0] + 0.5 * work[:, 1]) * np.exp2(each + rng.normal(0, 0.02, len(X))), qid


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    X, y, qid = problem()
    return Ranker(objective="runtime", costs=[0, 1], **QUICK).fit(X, y, qid=qid)


def test_prices_are_found_and_extrapolate(ranker: Ranker) -> None:
    assert ranker.settings_.backend == "runtime"
    assert ranker.model_.prices == pytest.approx({0: 3, 1: 0.5}, rel=0.1)
    X, y, _ = problem(1)
    found, low, high = ranker.predict_runtime(X + np.array([8, 8, 0]))
    np.testing.assert_allclose(found, 2**8 * y, rtol=0.5)
    assert (low < found).all()
    assert (found < high).all()


def test_intervals_hold_their_share_of_new_groups(ranker: Ranker) -> None:
    X, y, _ = problem(2)
    _, low, high = ranker.predict_runtime(X, 0.8)
    assert 0.6 < ((low <= y) & (y <= high)).mean() <= 1
    assert np.all(np.diff([ranker.model_.factor(share) for share in (0.5, 0.7, 0.85)]) >= 0)


def test_a_saved_model_predicts_the_same(ranker: Ranker, tmp_path: Path) -> None:
    X, _, _ = problem(1)
    ranker.save(tmp_path)
    loaded = Ranker.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_runtime(X), ranker.predict_runtime(X))
    np.testing.assert_array_equal(loaded.predict(X), np.log2(ranker.predict_runtime(X)[0]))
    for damaged in (b"{}\n", b'{"prices": {"9": 1}, "line": null, "offset": 0, "quantiles": [], "folds": 1}\n'):
        with pytest.raises(ValueError, match="not a model of runtimes"):
            runtime.load(damaged + ranker.model_.trees.to_bytes())


def test_one_fold_is_split_by_rows() -> None:
    X, y, _ = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranker = Ranker(objective="runtime", costs=[0, 1], **QUICK).fit(X[:SIZE], y[:SIZE])
    _, low, high = ranker.predict_runtime(X[:SIZE])
    assert 0.75 < ((low <= y[:SIZE]) & (y[:SIZE] <= high)).mean() <= 1


def test_contributions_add_up(ranker: Ranker) -> None:
    X, y, qid = problem(1)
    line = Ranker(objective="runtime", **QUICK).fit(X, y, qid=qid)
    for model in (ranker.model_, line.model_):
        relevance = model.predict(X, 1)
        parts = model.compare(X, 3, 5, 1)
        assert parts.sum() == pytest.approx(relevance[3] - relevance[5])
        assert model.gains().shape == (3,)


def test_a_ridge_regression_equals_its_naive_twin() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(0, 30, (50, 3)), rng.random(50)
    logs = np.sign(X) * np.log2(1 + np.abs(X))
    standard = np.clip((logs - logs.mean(axis=0)) / logs.std(axis=0), -4, 4)
    weights = np.linalg.solve(standard.T @ standard + 2 * np.eye(3), standard.T @ (y - y.mean()))
    line = runtime.fit_line(X, y - y.mean(), 2.0)
    np.testing.assert_allclose(runtime.line_terms(line, X), standard * weights)


def test_invalid_runtimes_and_models_are_refused() -> None:
    X, y, qid = problem()
    with pytest.raises(UsageError, match="expected positive runtimes"):
        Ranker(objective="runtime").fit(X, y - y.mean(), qid=qid)
    with pytest.raises(ModelError, match="objective runtime"):
        Ranker(**QUICK).fit(X, y, qid=qid).predict_runtime(X)


def test_failed_rows_do_not_count() -> None:
    X, y, _ = problem()
    failed = np.where(X[:, 2] > 0.8, np.inf, y)
    ranker = Ranker(objective="runtime", costs=[0, 1], **QUICK)
    ranker.fit_rows(Rows(X, failed, np.arange(GROUPS + 1) * SIZE), None)
    assert np.median(np.abs(ranker.runtime_rows(X)[0] / y - 1)) < 0.2
    assert ranker.predict_both(X)[1][X[:, 2] > 0.85].mean() > 0.8


def test_figures() -> None:
    found = runtimes.figures(np.array([1.0, 3.0, 4.0, 9.0]), np.array([1.0, 2.0, 8.0, np.inf]), 2.0)
    assert found["mape"] == pytest.approx(1 / 3)
    assert found["median_ape"] == pytest.approx(0.5)
    assert found["coverage"] == 1
    assert found["width"] == 4
    assert found["rows"] == 3
    assert runtimes.figures(np.array([2.0, 4.0]), np.array([2.0, 4.0]))["r2_log"] == 1


def test_amounts_are_split_by_type() -> None:
    names = ("batch", "flops", "weight_bytes", "operations")
    found = amounts.recognised(names)
    assert [each[:2] for each in found] == [(1, "flops"), (2, "bytes"), (3, "count")]
    assert amounts.recognised(("batch", "weight_bytes")) == []
    loops = amounts.recognised((*names, "loops", "sequence"))[-2:]
    values = np.array([[1, 1, 30.0, 1, 2, 5], [1, 1, 30.0, 1, 0, 5]])
    steps = amounts.logs(values, loops, np.ones(2), np.full(2, 10.0), np.zeros(2, np.int64), 0)
    np.testing.assert_allclose(np.exp2(steps) - 1, [[10, 15, 1], [0, 0, 1]])
    values = np.array([[1, 700.0, 30.0, 3.0], [1, 1500.0, 70.0, 7.0]])
    logs = amounts.logs(values, found, np.array([100.0, 100.0]), np.array([10.0, 10.0]), np.array([0, 1]), 2)
    assert [column.name for column in amounts.columns(names, found, ("f", "b"))] == [
        "flops[f]", "weight_bytes[f]", "operations[f]", "flops[b]", "weight_bytes[b]", "operations[b]", "call",
    ]  # fmt: skip
    np.testing.assert_allclose(logs, [[3, 2, 2, 0, 0, 0, 1], [0, 0, 0, 4, 3, 3, 1]])


def measured(rows: int = 240) -> tuple[pl.DataFrame, Roles]:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "family": np.repeat([*"abcdef"], rows // 6),
            "dtype": np.tile(["f", "b"], rows // 2),
            "flops": (2 ** rng.uniform(20, 34, rows)).round(),
            "weight_bytes": (2 ** rng.uniform(14, 26, rows)).round(),
            "peak_gflops": np.tile([100.0, 150.0], rows // 2),
            "bandwidth_gbs": 20.0,
        }
    )
    needed = pl.col("flops") / pl.col("peak_gflops") + pl.col("weight_bytes") / pl.col("bandwidth_gbs")
    frame = frame.with_columns(time=(2 * needed + 5000) / 1e9)
    roles = Roles(
        ("dtype",), ("flops", "weight_bytes"), "time", ("peak_gflops", "bandwidth_gbs"), unit="s",
        test={"family": ("e", "f")}, valid={"family": ("d",)},
    )  # fmt: skip
    return frame, roles


def test_baselines_beside_a_table() -> None:
    frame, roles = measured()
    table = make_table("t", roles, [(None, Path("t.csv"), frame)], Path("table.toml"))
    features = TableFeatures(table, True)
    assert set(features.known.fold) == {*"abcd"}
    assert {"kinds.dtype=f", "amounts.flops[b]", "amounts.call"} <= {*features.schema.names}
    assert not TableFeatures(table).schema.costs
    X = features(features.known.frame, features.known.groups)
    found = simple.baselines(features.schema.names, X, features.known.cost, X)
    assert {*found} == {*runtimes.NAMES}
    np.testing.assert_allclose(found["nearest"], features.known.cost)
    assert runtimes.figures(found["roofline"], features.known.cost)["r2_log"] > 0.5


def test_train_evaluate_and_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame, roles = measured()
    scored: list[Scored] = []
    write_table(tmp_path / "table/t", frame, replace(roles, unit="parsec"))
    figures = train("table:t", tmp_path, out=tmp_path / "run", objective="runtime", jobs=1, scored=scored)
    assert "'parsec' is no unit of time" in capsys.readouterr().err
    assert "Only 4 folds were held out in turn" in (tmp_path / "run/MODEL.md").read_text()
    subset = resolve("table:t", tmp_path)
    summary = summarise_run("train", tmp_path / "run", subset, figures, scored, tmp_path / "store")
    (shown, _) = summary["runtimes"]
    assert shown["split"] == "test"
    assert {each["name"]: each["rows"] for each in shown["by"]["family"]} == {"e": 40, "f": 40}
    target, predicted, low, high = np.array(shown["points"]).T
    np.testing.assert_allclose(np.sort(target), np.sort(frame["time"][160:]))
    assert np.median(abs(predicted / target - 1)) == pytest.approx(figures["test"]["runtime"]["median_ape"])
    assert ((low < predicted) & (predicted < high)).all()
    assert "Predicted against measured" in render(summary)
    found = figures["test"]["runtime"]
    assert found["mape"] < 0.15
    assert found["mape"] < found["baselines"]["roofline"]["mape"]
    assert found["coverage"] > 0.7
    frame.head(6).drop("time").write_csv(tmp_path / "rows.csv")
    ranked = Ranker.load(tmp_path / "run").rank_table(tmp_path / "rows.csv")
    assert ranked.columns == ["group", "rank", "row", "score", "failure", "predicted", "low", "high"]
    np.testing.assert_allclose(ranked.sort("row")["predicted"], frame["time"][:6], rtol=0.5)
    half = Ranker.load(tmp_path / "run").rank_table(tmp_path / "rows.csv", coverage=0.5)
    assert half["predicted"].equals(ranked["predicted"])
    assert (half["low"] > ranked["low"]).all()
    assert (half["high"] < ranked["high"]).all()
    loaded, rows = Ranker.load(tmp_path / "run"), frame.drop("time")
    predicted = loaded.rank_table(rows).sort("row")["predicted"]
    why = explain(loaded, rows, 0)  # contributions in the unit of the table
    assert why.unit == "parsec"
    assert why.lead == pytest.approx(predicted[why.configs[1]] - predicted[0])
    assert sum(block.effect for block in why.blocks) == pytest.approx(why.lead)
