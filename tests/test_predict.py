from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from gbr import Ranker, read_graph
from gbr import predict as command
from gbr.data.build import extract
from gbr.errors import DataError, ModelError
from tests.collection import rewrite, trained, write_collection


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_collection(tmp_path_factory.mktemp("data"), {"train": 4, "valid": 2, "test": 2})
    trained(root)
    return root


@pytest.fixture
def graphs(root: Path) -> list[Path]:
    return sorted((root / "npz/tile/cpu/test").iterdir())


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert command.main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_csv_orders_every_row_of_every_graph(
    root: Path, graphs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, "--model", root / "run", *graphs))))
    ranker = Ranker.load(root / "run")
    for path in graphs:
        mine = [row for row in rows if row["graph"] == str(path)]
        _, X, _ = extract(read_graph(path))
        scores = ranker.predict(X)
        assert [int(row["place"]) for row in mine] == list(range(1, 31))
        configs = [int(row["config"]) for row in mine]
        assert configs == sorted(range(30), key=lambda row: (scores[row], row))
        assert [float(row["score"]) for row in mine] == scores[configs].tolist()
        assert ranker.rank(path).tolist() == configs
        assert ranker.rank(str(path)).dtype == np.int64


@pytest.mark.parametrize("jobs", [1, 2])
def test_folders_are_ranked_in_processes_as_file_by_file(
    root: Path, graphs: list[Path], jobs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = sorted((root / "npz/tile/cpu/valid").iterdir())
    places = [graphs[1], valid[0].parent, graphs[0].parent]
    found = run(capsys, "--model", root / "run", *places, "--jobs", jobs)
    ranker = Ranker.load(root / "run")
    wanted = [command.ranking(ranker, path) for path in (graphs[1], *valid, *graphs)]
    assert command.rank_files(root / "run", [graphs[1], *valid, *graphs], jobs=jobs) == wanted
    lines = [(row["graph"], int(row["config"])) for row in csv.DictReader(io.StringIO(found))]
    assert lines == [(one["graph"], config) for one in wanted for config in one["configs"]]


def test_what_fails_in_a_process_is_one_line(
    root: Path, graphs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK")
    line = ["--model", str(root / "run"), str(graphs[0]), str(tmp_path), "--jobs", "2"]
    assert command.main(line) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"gbr predict: error: {tmp_path}/torn.npz: no whole .npz archive" in told.err
    assert told.err.splitlines()[-1].startswith("gbr predict: error: ")


def test_a_folder_without_graphs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.npz files; name graph files"):
        command.graph_paths([tmp_path])


def test_identical_configurations_get_one_score(root: Path, graphs: list[Path]) -> None:
    scores = Ranker.load(root / "run").predict_graph(graphs[0])
    assert scores[-1] == scores[0]


def test_json_and_top(root: Path, graphs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    every = json.loads(run(capsys, "--model", root / "run", *graphs, "--format", "json"))
    best = json.loads(run(capsys, "--model", root / "run", *graphs, "--format", "json", "--top", 3))
    assert [one["graph"] for one in every] == [str(path) for path in graphs]
    for whole, cut in zip(every, best, strict=True):
        assert sorted(whole["configs"]) == list(range(30))
        assert whole["scores"] == sorted(whole["scores"])
        assert cut == {"graph": whole["graph"], "configs": whole["configs"][:3], "scores": whole["scores"][:3]}


def test_runtimes_are_not_looked_at(root: Path, graphs: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / graphs[0].name
    bare.write_bytes(graphs[0].read_bytes())
    rewrite(bare, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))
    ranker = Ranker.load(root / "run")
    assert np.array_equal(ranker.rank(bare), ranker.rank(graphs[0]))


def test_a_model_of_other_features_is_refused(root: Path, graphs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = Ranker.load(root / "run")
    monkeypatch.setitem(ranker.trained_on_, "schema_hash", "0" * 12)
    with pytest.raises(ModelError, match=r"matmul_6.npz: feature schema .*train again: python -m gbr.train"):
        ranker.rank(graphs[0])
    monkeypatch.setitem(ranker.trained_on_, "kind", "layout")
    with pytest.raises(ModelError, match="the model ranks layout"):
        ranker.rank(graphs[0])


def test_nothing_is_printed_when_one_graph_fails(
    root: Path, graphs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn.npz"
    torn.write_bytes(graphs[0].read_bytes()[:100])
    assert command.main(["--model", str(root / "run"), str(graphs[0]), str(torn)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "torn.npz" in told.err
    with pytest.raises(DataError, match=r"torn\.npz"):
        Ranker.load(root / "run").rank(torn)


@pytest.mark.parametrize(
    ("arguments", "status", "match"),
    [
        (["--model", "nowhere", "g.npz"], 1, "nowhere: holds no model"),
        (["--model", "nowhere"], 2, "GRAPH.npz"),
        (["--model", "nowhere", "g.npz", "--top", "0"], 2, "0 is not in the range x>=1"),
        (["--model", "nowhere", "g.npz", "--jobs", "0"], 2, "0 is not in the range x>=1"),
        (["--model", "nowhere", "g.npz", "--format", "xml"], 2, "'xml' is not one of 'csv', 'json'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], status: int, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert match in line
