from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gbr
from gbr import Ranker
from gbr import train as command
from gbr.data.store import FeatureStore
from gbr.errors import DataError, ModelError, UsageError
from gbr.evaluation import metrics
from gbr.evaluation.figures import Figures
from gbr.models.base import Round
from gbr.models.rows import Rows, normalised_rank
from gbr.models.training_set import distinct
from gbr.report.card import model_card
from tests.made import matmul_arrays, rewrite, trained, write_collection
from tests.ranking import groups_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def figures(tile_run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tile_run / "run/metrics.json").read_text())
    return found


def test_metrics_file(figures: dict[str, Any]) -> None:
    assert list(figures) == ["subset", "train", "valid", "test", "seconds"]
    assert figures["subset"] == "tile:cpu"
    assert figures["seconds"].keys() == {"build", "fit", "predict"}
    assert all(seconds > 0 for seconds in figures["seconds"].values())
    for split, count in (("train", 6), ("valid", 3), ("test", 2)):
        found, baselines = figures[split], figures[split]["baselines"]
        assert found.keys() >= {
            *("kendall_tau", "kendall_tau_ci", "opa", "slowdown@1", "slowdown@5", "slowdown@10", "score"),
            *("graphs", "n_graphs", "skipped", "baselines"),
        }
        assert found["n_graphs"] == len(found["graphs"]) == count
        assert baselines.keys() == {"raw_l2", "physics", "default_configuration", "random_order", "retest"}
        assert 0.5 < found["kendall_tau"] < baselines["retest"]["kendall_tau"] < 1 or split == "train"
        assert baselines["random_order"]["slowdown@1"] > found["slowdown@1"]


def test_figures_are_those_of_the_saved_model(tile_run: Path, figures: dict[str, Any]) -> None:
    ranker = Ranker.load(tile_run / "run")
    groups = FeatureStore(tile_run / "store", "tile:cpu").load("test", columns=ranker.feature_names_in_.tolist())
    expected = metrics.evaluate(ranker.predict_rows(groups.X), groups, "tile")
    assert {name: figures["test"][name] for name in expected} == expected


def test_manifest_records_model_settings_and_data(tile_run: Path) -> None:
    manifest = json.loads((tile_run / "run/manifest.json").read_text())
    schema = FeatureStore(tile_run / "store", "tile:cpu").manifest["schema"]
    assert manifest["seed"] == 0
    assert (manifest["backend"], manifest["settings"]["objective"]) == ("lightgbm", "pairwise")
    assert manifest["settings"]["n_estimators"] == 30
    assert manifest["trained_on"]["subset"] == "tile:cpu"
    assert manifest["trained_on"]["schema_hash"] == schema["hash"]
    assert manifest["trained_on"]["data"].keys() == {"train", "valid", "test"}
    screening = manifest["trained_on"]["screening"]
    (chosen,) = (each for each in screening["candidates"] if each["name"] == screening["chosen"])
    assert chosen["columns"] == manifest["features"]["count"] == len(manifest["features"]["names"])
    assert set(manifest["features"]["names"]) < set(schema["columns"])
    (model,) = (tile_run / "run").glob("model-*.txt")
    assert model.name == manifest["model"]["file"]


def test_model_card_has_data_hardware_figures_and_limits(tile_run: Path, figures: dict[str, Any]) -> None:
    card = (tile_run / "run/MODEL.md").read_text(encoding="utf-8")
    manifest = json.loads((tile_run / "run/manifest.json").read_text())
    assert f"- Trained on: `tile:cpu`, {manifest['trained_on']['rows']} distinct configurations\n" in card
    assert "- Scored graphs: 6 train, 3 valid, 2 test\n" in card
    assert '- Hardware: `{"name": "cpu", ' in card
    assert f"| model | {figures['test']['kendall_tau']:.3f} |" in card
    worst = min(figures["test"]["graphs"].items(), key=lambda graph: graph[1]["kendall_tau"])[0]
    assert f"- Quality varies: tau of test is lowest for '{worst}'" in card
    assert "- Only 2 graphs of test were scored" in card


def test_model_card_without_held_out_graphs(figures: dict[str, Any], tile_run: Path) -> None:
    manifest = json.loads((tile_run / "run/manifest.json").read_text())
    manifest["trained_on"] |= {"kind": "table", "hardware": None}
    card = model_card(manifest, Figures(subset="table:\udcff", train=figures["train"]))
    assert "- No held-out groups were scored" in card
    assert "- Hardware: as in the table\n" in card


def test_fingerprint_changes_with_the_graph_files(tmp_path: Path) -> None:
    fingerprints = []
    for index, seed in enumerate((1, 1, 2)):
        root = write_collection(tmp_path / str(index), {"train": 2})
        rewrite(root / "npz/tile/cpu/train/matmul_0.npz", **matmul_arrays((64, 64, 32), 20, seed))
        manifest = json.loads((trained(root) / "manifest.json").read_text())
        fingerprints.append(manifest["trained_on"]["data"]["train"])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_same_seed_gives_the_same_run(tile_run: Path, figures: dict[str, Any], tmp_path: Path) -> None:
    again = trained(tile_run, out=tmp_path / "again")
    assert {path.name for path in again.glob("model-*")} == {path.name for path in (tile_run / "run").glob("model-*")}
    assert json.loads((again / "metrics.json").read_text()) | {"seconds": None} == figures | {"seconds": None}


def without_runtimes(split: Path) -> None:
    for path in split.iterdir():
        rewrite(path, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))


def test_splits_without_runtimes_are_not_scored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train: no graphs with runtimes; add"):
        trained(write_collection(tmp_path, {"test": 1}))
    write_collection(tmp_path, {"train": 3, "test": 1})
    without_runtimes(tmp_path / "npz/tile/cpu/test")
    run = trained(tmp_path, backend="xgboost")
    assert list(json.loads((run / "metrics.json").read_text())) == ["subset", "train", "seconds"]
    assert Ranker.load(run).best_iteration_ == 30  # no early stopping without valid
    without_runtimes(tmp_path / "npz/tile/cpu/train")
    with pytest.raises(DataError, match="train: no graphs with runtimes; add"):
        trained(tmp_path)


def test_identical_configurations_are_merged() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 6, 15) for _ in range(4)]
    first = np.concatenate([[int(np.argmax(code == value)) for value in code] for code in codes]).astype(np.int64)
    groups = groups_of(*rng.integers(1, 99, (4, 15)).tolist(), duplicate_of=first)
    naive: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for row, (query, same) in enumerate(zip(groups.qid, groups.duplicate_of, strict=True)):
        naive.setdefault((query, same), []).append((row, groups.target[row]))
    found = distinct(groups)
    assert list(zip(found.rows.tolist(), found.target.tolist(), strict=True)) == [
        (rows[0][0], min(target for _, target in rows)) for rows in naive.values()
    ]
    assert np.diff(found.indptr).tolist() == [len(np.unique(code)) for code in codes]


def test_raw_baseline_is_lightgbm_with_defaults() -> None:
    import lightgbm

    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)).astype(np.float32)
    target = np.exp(5 + X[:, 0] + X[:, 2])
    indptr = np.arange(0, 401, 20)
    assert command.raw_blocks(("config.a", "geometry.b", "nodes.c")) == ["config", "nodes"]
    assert command.raw_blocks(("nodes.a",)) == []
    ranker = command.fit_raw(Rows(X, target, indptr), ("config.a", "nodes.c", "config.d"), seed=0, jobs=1)
    plain = lightgbm.LGBMRegressor(random_state=0, verbosity=-1, n_jobs=1)
    plain.fit(X, normalised_rank(target, indptr))
    assert ranker.predict_rows(X) == pytest.approx(-plain.predict(X), abs=1e-6)


def test_columns_option_selects_features(tile_run: Path, tmp_path: Path) -> None:
    ranker = Ranker.load(trained(tile_run, out=tmp_path / "run", columns=["config", "geometry.tiles"]))
    assert len(ranker.feature_names_in_) == 25
    assert ranker.feature_names_in_[-1] == "geometry.tiles"
    path = next((tile_run / "npz/tile/cpu/test").iterdir())
    assert sorted(ranker.rank(path)) == list(range(30))


def test_public_functions_take_names_and_strings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_collection(tmp_path / "data", {"train": 2, "valid": 1})
    assert gbr.build("tile:cpu", jobs=1).built == 3
    trained_figures = gbr.train("tile:cpu", out="run", settings={"n_estimators": 5}, jobs=1)
    figures = gbr.evaluate("run", "tile:cpu", jobs=1)
    assert figures["valid"]["graphs"] == trained_figures["valid"]["graphs"]
    (ranking,) = gbr.predict("run", ["data/npz/tile/cpu/valid/matmul_2.npz"], top=3)
    assert len(ranking["configs"]) == 3
    capsys.readouterr()
    assert command.main(["--subset", "tile", "--out", "run", "--set", "n_estimators=5", "--json", "--jobs", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("run/metrics.json").read_text())


def run_command(root: Path, out: Path, *options: object) -> int:
    paths = ["--data", root, "--store", root / "store", "--out", out]
    return command.main([*map(str, ["--subset", "tile", *paths, "--jobs", 1, *options])])


def test_command_prints_tables(tile_run: Path, tmp_path: Path, capsys: Capture) -> None:
    options = ["--backend", "lightgbm", "--set", "n_estimators=5", "--set", "feature_fraction=0.5", "--seed", 3]
    assert run_command(tile_run, tmp_path / "run", *options) == 0
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    for text in ("tile:cpu valid: 3 graphs", "tile:cpu test: 2 graphs", "raw columns, L2", "retest  ", "tau"):
        assert text in out
    assert "gbr: tile means tile:cpu" in err
    assert str(tmp_path / "run") in err
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["settings"]["params"] == {"feature_fraction": 0.5}
    assert (manifest["settings"]["n_estimators"], manifest["seed"]) == (5, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "num_leaves"], "--set: expected KEY=VALUE, got 'num_leaves'"),
        (["--backend", "lightgbm", "--set", "num_leafs=3"], "num_leafs"),
        (["--backend", "ensemble", "--objective", "l2"], "'l2'"),
        (["--columns", "nope"], "'nope'"),
        (["--backend", "xgboost", "--set", "max_depth=zero"], "params: XGBoost: Invalid Parameter"),
        (["--backend", "lightgbm", "--set", "lambda_l1=abc"], "params: LightGBM: "),
    ],
)
def test_invalid_options_are_usage_errors(
    tile_run: Path, tmp_path: Path, options: list[str], message: str, capsys: Capture
) -> None:
    assert run_command(tile_run, tmp_path / "run", *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["--set", "n_estimator=5"], ["--objective", "best"], ["--columns", "geometri"]])
def test_invalid_options_are_reported_before_features_are_built(
    tmp_path: Path, options: list[str], capsys: Capture
) -> None:
    root = write_collection(tmp_path, {"train": 1})
    assert run_command(root, root / "run", *options) == 2
    assert options[1].split("=")[-2:][0] in capsys.readouterr().err
    assert not (root / "store").exists()


def test_graphs_without_runtimes_and_without_an_order_are_reported(tmp_path: Path, capsys: Capture) -> None:
    root = write_collection(tmp_path, {"train": 3})
    path = min((root / "npz/tile/cpu/train").iterdir())
    rewrite(path, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))
    trained(root)
    assert f"train: 1 of 3 graphs have no runtimes and are left out: {path.stem}" in capsys.readouterr().err
    for path in (root / "npz/tile/cpu/train").iterdir():
        rewrite(path, ("config_runtime_repeat",), config_runtime=np.full(30, 5))
    with pytest.raises(DataError, match="train: no graph has two configurations with different runtimes"):
        trained(root)


def test_out_must_be_new_empty_or_a_run_of_the_collection(tile_run: Path, tmp_path: Path, capsys: Capture) -> None:
    for out in (tmp_path / "new", tmp_path, tile_run / "run"):
        command.check_out(out, "tile:cpu")
    assert capsys.readouterr().err == f"gbr: {tile_run / 'run'}: the model of tile:cpu will be replaced\n"
    with pytest.raises(UsageError, match="has a model of tile:cpu, not layout:cpu; name another folder"):
        command.check_out(tile_run / "run", "layout:cpu")
    command.check_out(tile_run / "run", "layout:cpu", force=True)
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match="not a gbr run directory"):
        command.check_out(tmp_path, "tile:cpu")
    with pytest.raises(ModelError, match="file/run: cannot be written"):
        trained(tile_run, out=tmp_path / "file/run")


def test_run_that_was_killed_while_writing_is_replaced(tile_run: Path, tmp_path: Path) -> None:
    (tmp_path / "model-0123456789ab.txt").write_text("tree")
    part = tmp_path / ".manifest.json.01234567-1-x.part"
    part.write_text("{")
    os.utime(part, (0, 0))
    names = {re.sub("[0-9a-f]{12}", "N", path.name) for path in trained(tile_run, out=tmp_path).iterdir()}
    assert names == {"MODEL.md", "manifest.json", "metrics.json", "model-N.txt"}


def test_failed_write_keeps_the_previous_run(tile_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(tile_run / "run", tmp_path / "run"))
    figures = (out / "metrics.json").read_bytes()

    def full(*_: object) -> None:
        raise ModelError("no space")

    monkeypatch.setattr("gbr.models.io.write_json", full)
    with pytest.raises(ModelError, match="no space"):
        trained(tile_run, out=out, backend="xgboost")
    assert Ranker.load(out).backend == "lightgbm"
    assert (out / "metrics.json").read_bytes() == figures
    assert not list(out.glob(".*"))


def test_interrupted_training_keeps_the_best_model_so_far(
    tile_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*fields: Any) -> Round:
        if fields[1] == 4:
            signal.raise_signal(signal.SIGINT)
        return Round(*fields)

    monkeypatch.setattr("gbr.models.stopping.Round", interrupted)
    assert run_command(tile_run, tmp_path / "run", "--columns", "geometry") == 0
    assert "interrupted in round 4 of lightgbm pairwise" in capsys.readouterr().err
    assert 1 <= Ranker.load(tmp_path / "run").best_iteration_ <= 4
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["n_graphs"] == 2


def test_time_limit_ends_the_fit(tile_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("gbr.models.stopping.time.monotonic", lambda: float(next(clock)))
    for backend in ("lightgbm", "xgboost"):
        run = trained(tile_run, out=tmp_path / backend, backend=backend, time_limit=7)
        assert 1 <= Ranker.load(run).best_iteration_ <= 7


def test_training_without_graphs_to_judge_it_is_reported(tmp_path: Path, capsys: Capture) -> None:
    trained(write_collection(tmp_path, {"train": 2}))
    err = capsys.readouterr().err
    assert "only 2 training graphs with " in err
    assert "no valid or test graphs with runtimes" in err


def test_hyperparameter_search(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("optuna", reason="optuna comes with gbr[search]")
    write_collection(tmp_path, {"train": 4, "valid": 1})
    for index, path in enumerate(sorted((tmp_path / "npz/tile/cpu/train").iterdir())):
        path.rename(path.with_name(f"f{index}_x.npz"))  # a family each
    run = trained(tmp_path, backend="lightgbm", trials=3)
    assert "search: " in capsys.readouterr().err
    (default, *_) = json.loads((run / "manifest.json").read_text())["trained_on"]["search"]
    assert default["settings"] == {}
    assert 0 < default["value"] <= 1
    assert json.loads((run / "metrics.json").read_text())["valid"]["n_graphs"] == 1
