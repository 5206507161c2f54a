"""Invalid files and folders, through the commands: one clear line, exit status 1, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import evaluate, features, predict, train
from tests.made import matmul_arrays

Capture = pytest.CaptureFixture[str]
ARRAYS = matmul_arrays((96, 192, 128), 20, seed=5)


def save(path: Path, **changes: Any) -> None:
    """Write a graph file without checks; a change to None removes the array."""
    np.savez_compressed(path, **{key: value for key, value in (ARRAYS | changes).items() if value is not None})


def changed(key: str, index: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    array = np.array(ARRAYS[key])
    array[index] = value
    return {key: array}


def truncated(path: Path) -> None:
    save(path)
    path.write_bytes(path.read_bytes()[:-200])


#: Kind of damage -> function that writes the file, and a pattern of the message.
FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, r"\.npz"),
    "missing array": (lambda path: save(path, edge_index=None), "edge_index"),
    "NaN": (lambda path: save(path, **changed("config_feat", (4, 8), np.nan)), "config_feat.*nan"),
}


def error_of(main: Callable[[list[str]], int], *line: object, capsys: Capture) -> str:
    """Run a command that must fail; returns the one line of its error."""
    assert main([*map(str, line)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (error,) = [line for line in err.splitlines() if not re.match("gbr: (features of|ranking)", line)]
    assert re.match(r"gbr \w+: error: \S", error)
    assert len(error) < 400
    return error


@pytest.mark.parametrize("kind", FILES)
def test_damaged_graph_file(kind: str, tile_run: Path, tmp_path: Path, capsys: Capture) -> None:
    damage, message = FILES[kind]
    data = Path(shutil.copytree(tile_run / "npz", tmp_path / "data" / "npz")).parent
    bad = data / "npz/tile/cpu/train/zz_bad.npz"
    damage(bad)
    paths = ["--subset", "tile:cpu", "--data", data, "--store", tmp_path / "store", "--jobs", 1]
    for error in (
        error_of(features.main, "build", *paths, capsys=capsys),
        error_of(train.main, *paths, "--out", tmp_path / "run", capsys=capsys),
        error_of(predict.main, "--model", tile_run / "run", bad, capsys=capsys),
    ):
        assert "zz_bad.npz" in error
        assert re.search(message, error), error
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("*.part"))
    assert not list((tmp_path / "store").rglob("zz_bad*"))


def damaged_booster(run: Path) -> str:
    (booster,) = run.glob("model-*")
    booster.write_bytes(booster.read_bytes()[:100])
    return re.escape(str(run))


def other_features(run: Path) -> str:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["trained_on"]["schema_hash"] = "0123456789ab"
    (run / "manifest.json").write_text(json.dumps(manifest))
    return r"0123456789ab.*python -m gbr\.train --subset tile:cpu"


@pytest.mark.parametrize("damage", [damaged_booster, other_features])
def test_damaged_model(damage: Callable[[Path], str], tile_run: Path, tmp_path: Path, capsys: Capture) -> None:
    run = Path(shutil.copytree(tile_run / "run", tmp_path / "run"))
    message = damage(run)
    graph = next((tile_run / "npz/tile/cpu/test").iterdir())
    paths = ["--subset", "tile:cpu", "--data", tile_run, "--store", tile_run / "store"]
    for error in (
        error_of(predict.main, "--model", run, graph, capsys=capsys),
        error_of(evaluate.main, "--model", run, *paths, capsys=capsys),
    ):
        assert re.search(message, error), error


def test_damaged_store_is_rebuilt_or_reported(tile_run: Path, tmp_path: Path, capsys: Capture) -> None:
    store = Path(shutil.copytree(tile_run / "store", tmp_path / "store")) / "tile/cpu"
    paths = ["--subset", "tile:cpu", "--data", tile_run, "--store", tmp_path / "store"]
    truncated = next((store / "valid").glob("*.parquet"))
    truncated.write_bytes(truncated.read_bytes()[:-20])
    assert evaluate.main([*map(str, ["--model", tile_run / "run", *paths, "--jobs", 1, "--json"])]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["valid"]["graphs"] == json.loads((tile_run / "run/metrics.json").read_text())["valid"]["graphs"]

    schema_hash = json.loads((store / "manifest.json").read_text())["schema"]["hash"]
    (store / "manifest.json").write_text((store / "manifest.json").read_text().replace(schema_hash, "0123456789ab"))
    assert features.main(["build", *map(str, paths), "--jobs", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["built"], report["kept"], report["schema"]) == (11, 0, schema_hash)

    (store / "manifest.json").write_text("{")
    assert "manifest.json" in error_of(features.main, "info", *paths, capsys=capsys)
