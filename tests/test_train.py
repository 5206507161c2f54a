from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import Ranker
from gbr import train as command
from gbr.data.collection import resolve
from gbr.data.groups import QueryGroups
from gbr.data.store import FeatureStore
from gbr.errors import DataError, ModelError, UsageError
from gbr.evaluation import metrics
from tests.collection import matmul_arrays, rewrite, trained, write_collection
from tests.test_metrics import slates_of


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("data"), {"train": 6, "valid": 3, "test": 2})


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return trained(root)


@pytest.fixture(scope="module")
def figures(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def test_metrics_have_the_contracts_shape(figures: dict[str, Any]) -> None:
    assert list(figures) == ["subset", "train", "valid", "test", "seconds"]
    assert figures["subset"] == "tile:cpu"
    assert figures["seconds"].keys() == {"build", "fit", "predict"}
    assert all(seconds > 0 for seconds in figures["seconds"].values())
    for split, count in (("train", 6), ("valid", 3), ("test", 2)):
        found = figures[split]
        assert found.keys() >= {
            *("kendall_tau", "kendall_tau_ci", "opa", "slowdown@1", "slowdown@5", "slowdown@10", "score"),
            *("graphs", "n_graphs", "skipped", "baselines"),
        }
        assert found["n_graphs"] == len(found["graphs"]) == count
        assert found["baselines"].keys() == {"raw_l2", "default_configuration", "random_order", "retest"}


def test_the_model_learns_and_the_baselines_stand_where_they_must(figures: dict[str, Any]) -> None:
    for split in ("valid", "test"):
        found, beside = figures[split], figures[split]["baselines"]
        assert found["kendall_tau"] > 0.5
        assert found["kendall_tau"] < beside["retest"]["kendall_tau"] < 1
        assert beside["random_order"]["slowdown@1"] > found["slowdown@1"]
        assert beside["default_configuration"]["slowdown@1"] > 0


def test_figures_are_those_of_the_saved_model(root: Path, run: Path, figures: dict[str, Any]) -> None:
    slates = FeatureStore(root / "store", "tile:cpu").load("test")
    expected = metrics.evaluate(Ranker.load(run).predict(slates.X), slates, "tile")
    assert {name: figures["test"][name] for name in expected} == expected


def test_the_manifest_says_what_was_trained_on_what(run: Path, root: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["settings"]["objective"] == "mixed"
    assert manifest["settings"]["n_estimators"] == 30
    assert manifest["trained_on"]["subset"] == "tile:cpu"
    schema = FeatureStore(root / "store", "tile:cpu").manifest["schema"]
    assert manifest["trained_on"]["schema_hash"] == schema["hash"]
    assert manifest["features"]["names"] == schema["columns"]
    assert manifest["trained_on"]["data"].keys() == {"train", "valid", "test"}
    assert manifest["versions"].keys() == {"gbr", "python", "numpy", "lightgbm", "xgboost"}
    (model,) = run.glob("model-*.zip")
    assert model.name == manifest["model"]["file"]


def test_the_fingerprint_follows_the_files(root: Path, tmp_path: Path) -> None:
    prints = []
    for seed in (1, 1, 2):
        data = tmp_path / f"{len(prints)}"
        write_collection(data, {"train": 2})
        rewrite(data / "npz/tile/cpu/train/matmul_0.npz", **matmul_arrays((64, 64, 32), 20, seed))
        run = trained(data)
        prints.append(json.loads((run / "manifest.json").read_text())["trained_on"]["data"]["train"])
    assert prints[0] == prints[1] != prints[2]


def test_a_seed_gives_the_same_run_again(root: Path, run: Path, figures: dict[str, Any], tmp_path: Path) -> None:
    again = trained(root, out=tmp_path / "again")
    (first,), (second,) = run.glob("model-*"), again.glob("model-*")
    assert first.name == second.name
    other = json.loads((again / "metrics.json").read_text())
    assert {k: v for k, v in other.items() if k != "seconds"} == {k: v for k, v in figures.items() if k != "seconds"}


def test_splits_without_runtimes_are_not_scored(tmp_path: Path) -> None:
    write_collection(tmp_path, {"train": 3, "valid": 1, "test": 1})
    (path,) = (tmp_path / "npz/tile/cpu/test").iterdir()
    rewrite(path, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))
    figures = json.loads((trained(tmp_path) / "metrics.json").read_text())
    assert list(figures) == ["subset", "train", "valid", "seconds"]


def test_valid_is_not_needed(tmp_path: Path) -> None:
    write_collection(tmp_path, {"train": 3})
    assert Ranker.load(trained(tmp_path, backend="xgboost")).best_iteration_ == 30


def test_training_needs_graphs_with_runtimes(tmp_path: Path) -> None:
    write_collection(tmp_path, {"valid": 1})
    with pytest.raises(DataError, match="train: no graphs to train on"):
        trained(tmp_path)
    write_collection(tmp_path, {"train": 1})
    (path,) = (tmp_path / "npz/tile/cpu/train").iterdir()
    rewrite(path, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))
    with pytest.raises(DataError, match="no graph has runtimes; there is nothing to learn from"):
        trained(tmp_path)


def test_duplicates_count_once_with_their_smallest_target() -> None:
    slates = slates_of([40, 20, 10, 30], [7, 5], duplicate_of=np.array([0, 1, 0, 1, 0, 0], np.int64))
    rows, target = command.distinct(slates)
    assert rows.tolist() == [0, 1, 4]
    assert target.tolist() == [10, 20, 5]


def naive_distinct(slates: QueryGroups) -> list[tuple[int, float]]:
    groups: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for row, (query, first) in enumerate(zip(slates.qid, slates.duplicate_of, strict=True)):
        groups.setdefault((query, first), []).append((row, slates.target[row]))
    return [(members[0][0], min(target for _, target in members)) for members in groups.values()]


def test_duplicates_against_a_naive_twin() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 6, 15) for _ in range(4)]
    first = np.concatenate([[int(np.argmax(code == value)) for value in code] for code in codes]).astype(np.int64)
    slates = slates_of(*rng.integers(1, 99, (4, 15)).tolist(), duplicate_of=first)
    rows, target = command.distinct(slates)
    assert list(zip(rows.tolist(), target.tolist(), strict=True)) == naive_distinct(slates)


def test_columns_narrow_what_is_learned_from(root: Path, tmp_path: Path) -> None:
    run = trained(root, out=tmp_path / "run", columns=["config", "geometry.tiles"])
    names = Ranker.load(run).feature_names_in_.tolist()
    assert len(names) == 25
    assert names[-1] == "geometry.tiles"
    path = next((root / "npz/tile/cpu/test").iterdir())
    assert sorted(Ranker.load(run).rank(path)) == list(range(30))
    with pytest.raises(UsageError, match="'nothing' is neither a column nor a block"):
        trained(root, out=tmp_path / "other", columns=["nothing"])


def cli(*arguments: object) -> int:
    return command.main([*map(str, arguments)])


def arguments(root: Path, out: Path) -> list[object]:
    return ["--subset", "tile", "--data", root, "--store", root / "store", "--out", out, "--jobs", 1]


def test_the_command_prints_tables_of_80_columns(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "run"
    given = ["--backend", "lightgbm", "--set", "n_estimators=5", "--set", "feature_fraction=0.5", "--seed", 3]
    assert cli(*arguments(root, out), *given) == 0
    told = capsys.readouterr()
    assert max(map(len, told.out.splitlines())) <= 80
    for text in ("tile:cpu valid: 3 graphs", "tile:cpu test: 2 graphs", "raw columns, L2", "retest ceiling", "tau"):
        assert text in told.out
    assert "tile means tile:cpu here" in told.err
    assert str(out) in told.err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["params"] == {"feature_fraction": 0.5}
    assert (manifest["settings"]["n_estimators"], manifest["seed"]) == (5, 3)


def test_json_on_stdout_is_the_metrics_file(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*arguments(root, tmp_path / "run"), "--set", "n_estimators=5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "run/metrics.json").read_text())


def test_a_run_goes_to_a_folder_of_its_own(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = arguments(root, tmp_path)
    assert cli(*line[:6], "--jobs", 1, "--set", "n_estimators=5") == 0
    (run,) = (tmp_path / "runs/tile-cpu").iterdir()
    assert (run / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("extra", "status", "match"),
    [
        (["--set", "num_leaves"], 2, "--set num_leaves: want key=value"),
        (["--backend", "lightgbm", "--set", "num_leafs=3"], 2, "LightGBM has no parameter 'num_leafs'"),
        (["--set", "num_leaves=many"], 2, "num_leaves: expected an integer of at least 2, got 'many'"),
        (["--objective", "l2"], 2, "objective: expected 'mixed' or 'mixed-few' or 'mixed-top' for ensemble, got 'l2'"),
        (["--backend", "catboost"], 2, "catboost"),
        (["--columns", "nope"], 2, "'nope' is neither a column nor a block"),
    ],
)
def test_mistakes_are_one_line(
    root: Path, tmp_path: Path, extra: list[str], status: int, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*arguments(root, tmp_path / "run"), *extra) == status
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert match in errors[0]
    assert not (tmp_path / "run").exists()


def test_out_takes_only_new_empty_or_gbr_folders(root: Path, run: Path, tmp_path: Path) -> None:
    command.claim(tmp_path / "new")
    command.claim(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are no gbr run"):
        command.claim(tmp_path)
    with pytest.raises(UsageError, match="is a file; name a folder"):
        command.claim(tmp_path / "file")
    command.claim(run)


def test_a_run_that_was_killed_as_it_wrote_its_model_is_begun_again(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model-0123456789ab.txt").write_text("tree")
    (tmp_path / "run" / ".manifest.json.01234567-1-x.part").write_text("{")
    os.utime(tmp_path / "run" / ".manifest.json.01234567-1-x.part", (0, 0))
    out = trained(root, out=tmp_path / "run")
    assert {re.sub("[0-9a-f]{12}", "N", path.name) for path in out.iterdir()} == {
        "manifest.json", "metrics.json", "model-N.zip",
    }  # fmt: skip


def test_a_run_is_replaced_whole(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = trained(root, out=tmp_path / "run")
    trained(root, out=out, backend="xgboost")
    assert sorted(path.suffix for path in out.glob("model-*")) == [".json"]
    figures = (out / "metrics.json").read_bytes()

    def full(*_: object) -> None:
        raise ModelError("no space")

    monkeypatch.setattr("gbr.models.io.write_json", full)
    with pytest.raises(ModelError, match="no space"):
        trained(root, out=out)
    assert Ranker.load(out).backend == "xgboost"
    assert (out / "metrics.json").read_bytes() == figures  # those of the model that is still there
    assert not list(out.glob(".*"))


def test_subsets_are_resolved_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_collection(tmp_path, {"train": 1})
    assert cli("--subset", "tile:nope", "--data", tmp_path) == 2
    assert "there is tile:cpu" in capsys.readouterr().err
    assert resolve("tile:cpu", tmp_path).kind == "tile"


def test_settings_are_searched_on_the_training_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_collection(tmp_path, {"train": 4, "valid": 1})
    train = tmp_path / "npz/tile/cpu/train"
    for number, path in enumerate(sorted(train.iterdir())):
        path.rename(path.with_name(f"f{number}_x.npz"))
    run = trained(tmp_path, backend="lightgbm", trials=3)
    assert "search: " in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_text())["valid"]["n_graphs"] == 1
