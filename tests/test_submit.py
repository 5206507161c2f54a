from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from gbr import Ranker
from gbr import submit as command
from gbr.data.collection import OFFICIAL_TEST
from gbr.errors import DataError, GbrError, ModelError, UsageError
from tests.collection import trained, write_collection
from tests.made import collection

Capture = pytest.CaptureFixture[str]
#: Test graphs of each collection made here.
COUNTS = {"tile:xla": 3, "layout:xla:random": 2, "layout:nlp:default": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three collections, two models of the first and one of the second."""
    root = tmp_path_factory.mktemp("data")
    write_collection(root, {"train": 3, "valid": 1, "test": 3}, name="tile:xla")
    collection(root, "layout:xla:random", train=3, test=2)
    collection(root, "layout:nlp:default", test=2)
    plain: dict[str, Any] = {"backend": "lightgbm", "objective": "l2"}
    trained(root, subset="tile:xla", out=root / "first", **plain)
    trained(root, subset="tile:xla", out=root / "second", seed=1, backend="xgboost", objective="pairwise")
    trained(root, subset="layout:xla:random", out=root / "layout", **plain)
    return root


def graph(root: Path, name: str) -> Path:
    collection_name, _, stem = name.rpartition(":")
    return root.joinpath("npz", *collection_name.split(":"), "test", f"{stem}.npz")


def rows_of(path: Path) -> dict[str, list[int]]:
    header, *lines = path.read_text().splitlines()
    assert header == "ID,TopConfigs"
    return {name: list(map(int, order.split(";"))) for name, order in (line.split(",") for line in lines)}


def test_rows_are_the_orders_of_the_models(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    told = command.submit([root / "first", root / "layout"], root, root / "store", out, jobs=1)
    rows = rows_of(out)
    assert len(rows) == told["rows"] == 5
    assert list(rows) == sorted(rows, key=lambda name: (list(OFFICIAL_TEST).index(name.rpartition(":")[0]), name))
    for name, order in rows.items():
        tile = name.startswith("tile")
        wanted = Ranker.load(root / ("first" if tile else "layout")).rank(graph(root, name)).tolist()
        assert order == (wanted[:5] if tile else wanted)
    assert {name: one["order"] for name, one in told["collections"].items()} == {
        "tile:xla": "model",
        "layout:xla:default": "missing",
        "layout:xla:random": "model",
        "layout:nlp:default": "missing",
        "layout:nlp:random": "missing",
    }
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("mean", ["rank", "minmax"])
def test_models_of_one_collection_are_taken_together(root: Path, tmp_path: Path, mean: str) -> None:
    out = tmp_path / "s.csv"
    models = [root / "first", root / "second", root / "second"]
    command.submit(models, root, root / "store", out, mean=mean, jobs=1)
    for name, order in rows_of(out).items():
        total = np.zeros(30)
        for model in models:
            scores = Ranker.load(model).predict_graph(graph(root, name))
            total += rankdata(scores) if mean == "rank" else (scores - scores.min()) / (scores.max() - scores.min())
        assert order == sorted(range(30), key=lambda row: (total[row] / 3, row))[:5]


def test_a_mean_of_one_keeps_its_order_and_equal_scores_are_no_division_by_zero() -> None:
    scores = np.random.default_rng(0).integers(0, 5, 40).astype(float)
    for mean in command.MEANS:
        one = command.combined([scores], mean)
        assert np.argsort(one, kind="stable").tolist() == np.argsort(scores, kind="stable").tolist()
        both = command.combined([scores, np.full(40, 3.0)], mean)
        assert np.argsort(both, kind="stable").tolist() == np.argsort(scores, kind="stable").tolist()


def test_a_model_may_rank_another_collection_of_its_kind(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    command.submit([f"layout:nlp:default={root / 'layout'}"], root, root / "store", out, jobs=1)
    rows = rows_of(out)
    assert rows.keys() == {"layout:nlp:default:test_0", "layout:nlp:default:test_1"}
    for name, order in rows.items():
        assert order == Ranker.load(root / "layout").rank(graph(root, name)).tolist()


def test_an_interrupted_submission_goes_on_per_graph(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "s.csv", tmp_path / "whole.csv"
    arguments = ([root / "first", root / "layout"], root, root / "store")
    command.submit(*arguments, whole, jobs=1)
    ranked: list[str] = []
    scores = command._scores

    def stopping(models: object, store: object, stem: str) -> list[np.ndarray]:
        if len(ranked) == 2:
            raise KeyboardInterrupt
        ranked.append(stem)
        return scores(models, store, stem)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(command, "_scores", stopping)
        with pytest.raises(KeyboardInterrupt):
            command.submit(*arguments, out, jobs=1)
    assert not out.exists()
    assert len(list((tmp_path / "s.csv.parts").rglob("matmul*"))) == 2

    def counting(models: object, store: object, stem: str) -> list[np.ndarray]:
        ranked.append(stem)
        return scores(models, store, stem)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "_scores", counting)
    command.submit(*arguments, out, jobs=1)
    assert len(ranked) == 5
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv", "whole.csv"]


def test_what_is_kept_is_of_these_models_and_these_graphs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.csv"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            command.submit([root / "first"], root, root / "store", out, jobs=1)
    command.submit([root / "second"], root, root / "store", out, jobs=1)
    for name, order in rows_of(out).items():
        assert order == Ranker.load(root / "second").rank(graph(root, name)).tolist()[:5]
    assert list(tmp_path.iterdir()) == [out]


def test_filled_rows_hold_the_order_of_the_files(root: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "s.csv"
    line = ["--models", root / "layout", "--data", root, "--store", root / "store", "--out", out, "--jobs", 1]
    assert command.main([*map(str, line), "--fill"]) == 0
    rows = rows_of(out)
    assert len(rows) == sum(COUNTS.values())
    assert rows["tile:xla:matmul_4"] == [0, 1, 2, 3, 4]
    assert rows["layout:nlp:default:test_1"] == [0, 1, 2, 3, 4, 5]
    assert rows["layout:xla:random:test_0"] != [0, 1, 2, 3, 4]
    told = capsys.readouterr()
    assert "tile:xla, layout:nlp:default: no model; the rows hold the order of the files" in told.err
    assert "no rows for layout:xla:default, layout:nlp:random, whose test graphs are not there; fetch" in told.err
    assert "name models of them" not in told.err
    assert "tile:xla: 3 of its 844 test graphs are there" in told.err
    assert "WARNING: 7 of 894 rows; Kaggle refuses" in told.err
    assert max(map(len, told.out.splitlines()[1:])) <= 80

    assert command.main(["--check", str(out), "--data", str(root)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "7 rows; Kaggle wants 894" in told.err

    assert command.main([*map(str, line)]) == 0
    assert "no rows for tile:xla, layout:nlp:default; name models of them, or take --fill" in capsys.readouterr().err


def test_a_faulty_submission_is_exit_1_with_every_fault(root: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "s.csv"
    path.write_text("ID,TopConfigs\n" + "nothing,1\n" * 30)
    line = ["--check", str(path), "--data", str(root)]
    assert command.main(line) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 21
    assert told.out.splitlines()[-1] == "and 13 more"
    assert f"{path}: 33 faults in 30 rows" in told.err
    assert command.main([*line, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["n_faults"] == 33
    assert len(found["faults"]) == 20
    assert found["wanted"] == 894


def test_a_whole_submission_is_fit_to_be_submitted(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "s.csv"
    rows = [f"{name}:g{number},1;0" for name, count in OFFICIAL_TEST.items() for number in range(count)]
    path.write_text("\n".join(["ID,TopConfigs", *rows]))
    assert command.main(["--check", str(path), "--data", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "894 rows, every one well-formed: fit to be submitted" in told.out
    assert "layout:nlp:random: 17 rows were checked for their form alone" in told.err


def test_real_test_graphs(root: Path, shared_data: Path, tmp_path: Path) -> None:
    """Models of made collections on files of TpuGraphs, from features to a file without a fault."""
    data = tmp_path / "data"
    for name in ("tile/xla", "layout/nlp/random"):
        shutil.copytree(shared_data / "npz" / name / "test", data / "npz" / name / "test")
    out = tmp_path / "s.csv"
    models = [str(root / "first"), f"layout:nlp:random={root / 'layout'}"]
    told = command.submit(models, data, tmp_path / "store", out, jobs=1)
    assert told["rows"] == 3
    for name, order in rows_of(out).items():
        with np.load(graph(data, name)) as arrays:
            count = len(arrays["config_runtime"])
        assert sorted(order) == list(range(count)) if name.startswith("layout") else len(order) == min(5, count)


def test_models_that_cannot_rank_a_collection_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*models: object, data: Path = root) -> None:
        command.submit([*map(str, models)], data, root / "store", tmp_path / "s.csv", jobs=1)

    other = write_collection(tmp_path / "other", {"train": 2})
    run = trained(other, backend="lightgbm", objective="l2")
    with pytest.raises(UsageError, match="was trained on tile:cpu, which is no collection of the competition; name"):
        submit(run)
    with pytest.raises(UsageError, match="rank tile:xla for different hardware"):
        submit(root / "first", f"tile:xla={run}")
    with pytest.raises(ModelError, match=r"tile:xla, .*layout: a tile collection, but the model ranks layout"):
        submit(f"tile:xla={root / 'layout'}")
    with pytest.raises(ModelError, match="nowhere: holds no model"):
        submit("nowhere")
    with pytest.raises(DataError, match="tile/xla/test: no such folder; tile:xla needs its test graphs"):
        submit(root / "first", data=tmp_path)
    with pytest.raises(UsageError, match="--mean sum: want rank or minmax"):
        command.submit([root / "first"], root, root / "store", tmp_path / "s.csv", mean="sum")
    with pytest.raises(UsageError, match="is a folder; name a file"):
        command.submit([root / "first"], root, root / "store", tmp_path)
    monkeypatch.setattr(command, "_filled", lambda sets: ["nothing,0\n"])
    with pytest.raises(GbrError, match=r"s\.csv: not written: line 5: unknown ID 'nothing'"):
        submit(root / "first")
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    ("line", "status", "match"),
    [
        ([], 2, "expected either --models"),
        (["--models", "x", "--check", "y"], 2, "expected either --models"),
        (["--check", "nowhere.csv"], 1, "nowhere.csv: cannot be read (No such file or directory); name a submission"),
    ],
)
def test_mistakes_are_one_line(line: list[str], status: int, match: str, tmp_path: Path, capsys: Capture) -> None:
    assert command.main([*line, "--data", str(tmp_path)]) == status
    (told,) = capsys.readouterr().err.splitlines()
    assert match in told
