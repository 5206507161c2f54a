"""Commands on measured tables: train, evaluate, predict, explain, reports, features, load."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import gbr
from gbr import Ranker
from gbr import evaluate as evaluate_command
from gbr import explain as explain_command
from gbr import predict as predict_command
from gbr import train as train_command
from gbr.attribution import explain
from gbr.data.table import read_table, write_table
from gbr.data.table_roles import Roles
from gbr.errors import GbrWarning, UsageError
from tests.tables import made_rows, made_table
from tests.test_report import checked

Capture = pytest.CaptureFixture[str]
PARAMETERS = ["a", "b", "kind"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a table whose rows may fail, with a model (``run``) and the report of its training."""
    root = made_table(tmp_path_factory.mktemp("table"))
    paths = ["--data", root, "--out", root / "run", "--report", root / "train.html", "--jobs", 1]
    assert train_command.main([*map(str, ["--subset", "table:made", *paths, "--json"])]) == 0
    return root


@pytest.fixture(scope="module")
def rows(root: Path) -> Path:
    """Rows of two groups without a target, in random order."""
    frame = made_rows(2, 30, seed=7).drop("time").sample(fraction=1.0, shuffle=True, seed=1)
    frame.write_csv(path := root / "rows.csv")
    return path


def run(command: Any, capsys: Capture, root: Path, *arguments: object) -> str:
    capsys.readouterr()
    assert command.main([*map(str, ["--model", root / "run", *arguments])]) == 0
    return capsys.readouterr().out


def error(command: Any, capsys: Capture, *arguments: object, status: int = 1) -> str:
    assert command.main([*map(str, arguments)]) == status
    return capsys.readouterr().err.splitlines()[-1]


def test_metrics_have_figures_of_failures(root: Path) -> None:
    figures = json.loads((root / "run/metrics.json").read_text())
    table = read_table(root / "table/made")
    for split in ("train", "valid", "test"):
        (*_, last) = groups = [group for group in table.groups if group.split == split]
        failed = np.isinf(table.cost[groups[0].start : last.stop])
        assert figures[split]["failures"]["failed"] == pytest.approx(failed.mean())
        assert figures[split]["failures"]["auc"] > 0.6
    assert figures["test"]["kendall_tau"] > 0.6


def test_csv_has_every_row_by_group_best_first(root: Path, rows: Path, capsys: Capture) -> None:
    found = list(csv.DictReader(io.StringIO(run(predict_command, capsys, root, rows))))
    frame = pl.read_csv(rows)
    scored = Ranker.load(root / "run").predict_table(frame)
    assert scored["group"].to_list() == frame["prog"].to_list()
    for group in ("p0", "p1"):
        own = [row for row in found if row["group"] == group]
        assert [int(row["rank"]) for row in own] == list(range(1, 31))
        assert {frame["prog"][int(row["row"])] for row in own} == {group}
        assert [row["kind"] for row in own] == [frame["kind"][int(row["row"])] for row in own]
        scores = [float(row["score"]) for row in own]
        assert scores == sorted(scores)
        assert scores == pytest.approx([scored["score"][int(row["row"])] for row in own], rel=1e-5)
        assert [float(row["failure"]) for row in own] == pytest.approx(
            [scored["failure"][int(row["row"])] for row in own], rel=1e-5
        )
        chances = {int(row["row"]): float(row["failure"]) for row in own}
        large = [chance for row, chance in chances.items() if frame["b"][row] > 3]
        assert np.mean(large) > 0.3 > np.mean([chance for row, chance in chances.items() if frame["b"][row] < 3])


def test_json_top_and_python(root: Path, rows: Path, capsys: Capture) -> None:
    every = gbr.predict(root / "run", [rows])
    best = json.loads(run(predict_command, capsys, root, rows, "--json", "--top", 3))
    assert [each["group"] for each in best] == ["p0", "p1"]
    for whole, top in zip(every, best, strict=True):
        assert top == {key: value[:3] if isinstance(value, list) else value for key, value in whole.items()}
        assert top.keys() == {"file", "group", "rows", "scores", "failures", "configs"}
        assert top["configs"] == pl.read_csv(rows)[top["rows"]].select("a", "b", "kind").to_dicts()
    ranked = Ranker.load(root / "run").rank_table(str(rows))
    assert ranked.columns == ["group", "rank", "row", "score", "failure"]
    assert ranked["row"].to_list() == [row for each in every for row in each["rows"]]


def test_frames_of_other_libraries_and_targets_are_taken(root: Path, rows: Path) -> None:
    ranker, frame = Ranker.load(root / "run"), pl.read_csv(rows)
    scores = ranker.predict_table(rows)
    named = frame.with_columns(pl.col("kind").cast(pl.Categorical), time=pl.lit("ignored"))
    for source in (frame.to_pandas(), frame.to_arrow(), named, frame.to_dict()):
        assert ranker.predict_table(source).equals(scores)


def test_a_model_saved_elsewhere_has_its_rows(root: Path, rows: Path, tmp_path: Path) -> None:
    ranker = Ranker.load(root / "run")
    ranker.save(tmp_path / "copy")
    assert Ranker.load(tmp_path / "copy").predict_table(rows).equals(ranker.predict_table(rows))


def test_errors_are_one_line(root: Path, rows: Path, tmp_path: Path, capsys: Capture) -> None:
    model = "--model", root / "run"
    pl.read_csv(rows).rename({"kind": "kinds"}).write_csv(tmp_path / "renamed.csv")
    assert "no column 'kind', which the model needs; did you mean 'kinds'?" in error(
        predict_command, capsys, *model, tmp_path / "renamed.csv"
    )
    (tmp_path / "empty").mkdir()
    assert "no data files of a table" in error(predict_command, capsys, *model, tmp_path / "empty")
    (tmp_path / "graph.npz").write_bytes(b"")
    assert "expected a file that ends in .parquet, .csv, .tsv" in error(
        predict_command, capsys, *model, tmp_path / "graph.npz"
    )
    cluster = "--subset", "table:made", "--data", root, "--cluster", "tcp://a:1"
    assert "table:made is a table, which needs one machine only" in error(train_command, capsys, *cluster, status=2)
    (tmp_path / "model").mkdir()
    for path in (root / "run").iterdir():
        if path.is_file():
            (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    assert "training rows of the model: " in error(predict_command, capsys, "--model", tmp_path / "model", rows)


def test_explanations_sum_to_the_lead(root: Path, rows: Path) -> None:
    ranker, frame = Ranker.load(root / "run"), pl.read_csv(rows)
    group = np.flatnonzero(frame["prog"].to_numpy() == "p1").tolist()
    scores = ranker.predict_table(frame)["score"]
    for first, second in ((group[0], group[1]), (group[5], None)):
        found = explain(ranker, rows, first, second)
        other = found.configs[1]
        assert frame["prog"][other] == "p1"
        assert found.graph == "p1"
        assert found.lead == pytest.approx(scores[other] - scores[first])
        assert sum(block.effect for block in found.blocks) == pytest.approx(found.lead, abs=1e-6)
        changed = {name for name in PARAMETERS if frame[name][first] != frame[name][other]}
        assert {each.name for each in found.parameters} == changed
        assert found.failures == tuple(ranker.predict_table(frame)["failure"][row] for row in found.configs)


def test_the_effect_of_the_only_parameter_that_differs_is_the_lead(root: Path) -> None:
    ranker = Ranker.load(root / "run")
    frame = made_rows(1, 20).with_columns(b=pl.lit(2.5), kind=pl.lit("x"))
    a = frame["a"].to_list()
    found = explain(ranker, frame, a.index(min(a)), a.index(max(a)))
    (change,) = found.parameters
    assert change.name == "a"
    assert change.effect == pytest.approx(found.lead, abs=1e-6)


def test_explain_prints_parameters_and_refuses_other_groups(root: Path, rows: Path, capsys: Capture) -> None:
    frame = pl.read_csv(rows)
    first, second = (int((frame["prog"] == group).arg_max() or 0) for group in ("p0", "p1"))
    text = run(explain_command, capsys, root, rows, "--config", first)
    assert "Parameters that differ" in text
    assert "Chance to fail: " in text
    with pytest.raises(UsageError, match=f"row {second} is not of group p0, as row {first} is"):
        explain(Ranker.load(root / "run"), rows, first, second)


def test_reports(root: Path, rows: Path, capsys: Capture) -> None:
    page = checked((root / "train.html").read_text())
    assert "of the configurations of test failed" in page.text
    assert "graph" not in page.text
    run(predict_command, capsys, root, rows, "--report", root / "predict.html")
    assert "chance to fail" in checked((root / "predict.html").read_text()).text
    run(explain_command, capsys, root, rows, "--config", 0, "--report", root / "explain.html")
    assert "Parameters that differ" in checked((root / "explain.html").read_text()).text


def test_evaluate_scores_other_tables_with_the_features_of_the_model(root: Path, capsys: Capture) -> None:
    same = evaluate_command.evaluate(root / "run", "table:made", "test", root)
    figures = json.loads((root / "run/metrics.json").read_text())
    assert same["test"]["kendall_tau"] == figures["test"]["kendall_tau"]
    made_table(root, "other", groups=3)
    evaluate_command.evaluate(root / "run", "table:other", "test", root)
    assert "1 of 1 groups are among those that the model has seen: p2" in capsys.readouterr().err
    before = (root / "store/table/made/manifest.json").read_bytes()
    other = json.loads(
        run(evaluate_command, capsys, root, "--subset", "table:other", "--split", "train", "--data", root, "--json")
    )
    assert other["train"]["n_graphs"] == 1
    assert other["train"]["kendall_tau"] > 0.5
    assert (root / "store/table/made/manifest.json").read_bytes() == before
    roles = read_table(root / "table/other").roles
    write_table(root / "table/less", made_rows(2, 9).drop("kind"), replace(roles, config=("a", "b"), test={}, valid={}))
    less = ["--model", root / "run", "--subset", "table:less", "--split", "train", "--data", root]
    assert "less: no column 'kind', which the model needs" in error(evaluate_command, capsys, *less)


def test_features_and_load(root: Path, capsys: Capture) -> None:
    from gbr import features as features_command

    assert features_command.main(["columns", "--subset", "table:made", "--data", str(root), "--json"]) == 0
    blocks = json.loads(capsys.readouterr().out)["blocks"]
    names = [column["name"] for block in blocks for column in block["columns"]]
    frame = gbr.load("table:made", "train", data=root)
    assert frame.columns[6:] == names
    cost = read_table(root / "table/made").cost[: len(frame)]
    failed = np.isinf(cost)
    target = frame.select(pl.col("runtime") / pl.col("normalizer")).to_series().fill_null(np.inf)
    np.testing.assert_allclose(target, cost)
    assert frame["runtime"].is_null().to_numpy().tolist() == failed.tolist()
    path = root / "table/made/table.toml"
    text = path.read_text()
    try:
        path.write_text(text + "# changed\n")
        with pytest.warns(GbrWarning, match="6 groups of train changed since"):
            gbr.load("table:made", "train", data=root)
    finally:
        path.write_text(text)


def test_hyperparameter_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("gbr.search.INTEGERS", (("n_estimators", 5, 10), ("num_leaves", 3, 7)))
    made_table(tmp_path, groups=6, size=25)
    figures = train_command.train("table:made", tmp_path, out=tmp_path / "run", trials=2, jobs=1)
    assert figures["test"]["kendall_tau"] > 0.3


def test_words_of_notes(tmp_path: Path, capsys: Capture) -> None:
    made_table(tmp_path, groups=3, size=20, failing=0.0)
    train_command.train("table:made", tmp_path, out=tmp_path / "run", jobs=1)
    assert "only 1 training groups with 20 configurations" in capsys.readouterr().err
    scores = Ranker.load(tmp_path / "run").predict_table(made_rows(1, 5))
    assert not scores["failure"].to_numpy().any()


def test_the_history_is_left_where_the_columns_of_the_table_rank_better(tmp_path: Path, capsys: Capture) -> None:
    """Groups with configurations of their own, of which the size decides."""
    rng = np.random.default_rng(1)
    prog, size = np.repeat(np.arange(20), 30), np.repeat(rng.choice([100, 300, 500, 900], 20), 30)
    a, b = rng.integers(1, 100, (2, 600))
    frame = pl.DataFrame({"prog": prog, "size": size, "a": a, "b": b, "time": np.abs(a - size / 10) + b / 20 + 1.0})
    split = {"test": {"prog": (0, 1, 2)}, "valid": {"prog": (3, 4, 5, 6)}}
    write_table(
        tmp_path / "table/made", frame, Roles(("prog",), ("a", "b"), "time", context=("size",), unit="ms", **split)
    )
    figures = gbr.train("table:made", tmp_path, out=tmp_path / "run", jobs=1)
    assert "columns of the table itself: tau of valid" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    names = set(manifest["features"]["names"])
    assert names > {"config.a", "config.b", "context.size"}
    assert not any(name.startswith("history.") for name in names)
    assert figures["test"]["kendall_tau"] > figures["test"]["baselines"]["mean_rank"]["kendall_tau"] + 0.1
