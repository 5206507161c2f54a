from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import Ranker, read_graph
from gbr import predict as command
from gbr.data.build import extract
from gbr.errors import GbrWarning, warn_once
from tests.made import rewrite, write_collection
from tests.reference_hlo import DATA

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def graphs(tile_run: Path) -> list[Path]:
    return sorted((tile_run / "npz/tile/cpu/test").iterdir())


def run(capsys: Capture, tile_run: Path, *arguments: object) -> str:
    assert command.main([*map(str, ["--model", tile_run / "run", *arguments])]) == 0
    return capsys.readouterr().out


def test_csv_has_every_configuration_in_predicted_order(tile_run: Path, graphs: list[Path], capsys: Capture) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, tile_run, *graphs))))
    ranker = Ranker.load(tile_run / "run")
    for path in graphs:
        ranking = [row for row in rows if row["graph"] == str(path)]
        schema, X, _ = extract(read_graph(path))
        scores = ranker.predict_rows(X[:, np.isin(schema.names, ranker.feature_names_in_)])
        configs = [int(row["config"]) for row in ranking]
        assert [int(row["rank"]) for row in ranking] == list(range(1, 31))
        assert configs == sorted(range(30), key=lambda row: (scores[row], row))
        assert [float(row["score"]) for row in ranking] == pytest.approx(scores[configs], rel=1e-5)
        assert len({row["score"] for row in ranking}) == len(set(scores))  # as many digits as tell them apart
        assert scores[-1] == scores[0]  # identical configurations
        assert ranker.rank(path).tolist() == configs
        assert ranker.rank(str(path)).dtype == np.int64


def test_json_and_top(tile_run: Path, graphs: list[Path], capsys: Capture) -> None:
    every = json.loads(run(capsys, tile_run, *graphs, "--format", "json"))
    best = json.loads(run(capsys, tile_run, *graphs, "--json", "--top", 3))
    assert [ranking["graph"] for ranking in every] == [str(path) for path in graphs]
    for whole, top in zip(every, best, strict=True):
        assert sorted(whole["configs"]) == list(range(30))
        assert whole["scores"] == sorted(whole["scores"])
        assert top == {"graph": whole["graph"], "configs": whole["configs"][:3], "scores": whole["scores"][:3]}


def test_folders_and_processes(tile_run: Path, graphs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    valid = tile_run / "npz/tile/cpu/valid"
    files = [graphs[1], *sorted(valid.iterdir()), *graphs]
    expected = command.predict(tile_run / "run", files)
    assert [ranking["graph"] for ranking in expected] == [str(path) for path in files]

    def reversed_processes(work: Any, tasks: list[Any], jobs: int, what: str) -> Iterator[Any]:
        """As real processes, which tests of the build start, but finished in the opposite order."""
        assert jobs == 2
        work = pickle.loads(pickle.dumps(work))
        yield from [(task, work(task)) for task in reversed(tasks)]

    monkeypatch.setattr(command, "in_processes", reversed_processes)
    assert command.predict(tile_run / "run", [graphs[1], valid, graphs[0].parent], jobs=2) == expected


def test_runtimes_are_not_used(tile_run: Path, graphs: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / graphs[0].name
    bare.write_bytes(graphs[0].read_bytes())
    rewrite(bare, ("config_runtime_repeat",), config_runtime=np.zeros(30, np.int64))
    ranker = Ranker.load(tile_run / "run")
    assert np.array_equal(ranker.rank(bare), ranker.rank(graphs[0]))


def test_no_output_if_a_file_is_damaged(tile_run: Path, graphs: list[Path], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "truncated.npz").write_bytes(graphs[0].read_bytes()[:100])
    assert command.main([*map(str, ["--model", tile_run / "run", graphs[0], tmp_path])]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"gbr predict: error: {tmp_path}/truncated.npz: ")


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("--model nowhere g.npz", 1, "nowhere: "),
        ("--model nowhere", 2, "Missing argument 'FILE...'"),
        ("--model run empty", 1, "no .npz files"),
        ("--model run module.pb", 1, "module.pb: a program without configurations; give them by --configs FILE.csv, "),
        ("--model physics:a100 module.pb", 1, "module.pb: a program without configurations; give them by --configs"),
        ("--model run module.pb --configs c.csv", 2, "with bounds without names, kernel_bounds, output_bounds"),
        ("--model run module.pb --configs c.csv --adapt", 2, "--configs: expected no --adapt, --report or --describe"),
        ("--model run c.csv", 1, "c.csv: expected a graph file that ends in .npz, or an HLO module in .pb or .hlo"),
        ("--model run text.hlo", 1, "text.hlo: expected an HLO protobuf, got HLO text"),
    ],
)
def test_errors_are_one_line(
    line: str, status: int, message: str, tile_run: Path, tmp_path: Path, monkeypatch: Any, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(tile_run / "run")
    Path("empty").mkdir()
    shutil.copy(DATA / "matmul.hlo.pb", "module.pb")
    shutil.copy(DATA / "matmul.hlo.txt", "text.hlo")
    Path("c.csv").write_text("BLOCK_M,num_warps\n64,4\n")
    assert command.main(line.split()) == status
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error


def test_configurations_of_a_table_are_ranked(tmp_path: Path, capsys: Capture) -> None:
    configs = [{"BLOCK_M": m, "BLOCK_N": 64, "num_warps": warps} for m in (16, 64, 128) for warps in (2, 8)]
    del configs[1]["num_warps"]
    lines = [f"{each['BLOCK_M']},64,{each.get('num_warps', '')}" for each in configs]
    (tmp_path / "c.csv").write_text("\n".join(["BLOCK_M,BLOCK_N,num_warps", *lines]))
    program = str(DATA / "matmul.hlo.pb")
    assert command.main(["--model", "physics:a100", program, "--configs", str(tmp_path / "c.csv"), "--top", "3"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    order = Ranker.physics("a100").rank(program, configs)
    assert [int(row["config"]) for row in rows] == order[:3].tolist()


def test_graphs_measured_on_other_hardware_are_reported(tile_run: Path, tmp_path: Path, capsys: Capture) -> None:
    path = next(write_collection(tmp_path, {"valid": 1}, name="tile:xla").rglob("*.npz"))
    with pytest.warns(
        GbrWarning,
        match="tile:xla was measured on 'tpu' .assumed: no hardware.toml., but the model was trained on tile:cpu",
    ):
        Ranker.load(tile_run / "run").rank(path)
    warn_once.cache_clear()
    assert command.main(["--model", str(tile_run / "run"), str(path), str(path)]) == 0
    assert capsys.readouterr().err.count("gbr: warning: ") == 1
    assert command.main(["--model", str(tile_run / "run"), str(path)]) == 0
    assert "gbr: warning: " not in capsys.readouterr().err
