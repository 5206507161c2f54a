from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr.data.build import schema_of
from gbr.data.graph import write_graph
from gbr.data.store import FeatureStore
from gbr.features import main
from tests.made import collection, tile_arrays

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tile collection: two train graphs, of which one cannot be ranked, and a test graph without runtimes."""
    folder = collection(tmp_path, train=1, test=1) / "npz" / "tile" / "xla"
    arrays = tile_arrays(4)
    write_graph(folder / "train" / "same.npz", arrays | {"config_feat": arrays["config_feat"][[0, 0, 0, 0]]})
    write_graph(folder / "test" / "test_0.npz", tile_arrays(6) | {"config_runtime": np.zeros(6, np.int64)})
    return tmp_path


def run(root: Path, name: str, *more: str, subset: str = "tile:xla") -> int:
    return main([name, "--subset", subset, "--data", str(root), "--store", str(root / "store"), *more])


def as_json(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def test_build_reports_what_it_did(root: Path, capsys: Capture) -> None:
    assert run(root, "build", "--json", "--jobs", "1") == 0
    report = as_json(capsys)
    assert report["seconds"] > 0
    del report["seconds"]
    assert report == {
        "subset": "tile:xla",
        "folder": str(root / "store" / "tile" / "xla"),
        "built": 3,
        "kept": 0,
        "removed": 0,
        "rows": 15,
        "distinct": 12,
        "columns": len(schema_of("tile")),
        "schema": schema_of("tile").hash,
        "hardware": "tpu",
        "jobs": 1,
        "degenerate": {"train/same": "all configurations are identical"},
    }
    assert run(root, "build", "--split", "train") == 0
    out, err = capsys.readouterr()
    assert "graphs built" in out
    assert "train/same   all configurations are identical" in out
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80


def test_a_short_name_is_told_on_stderr(root: Path, capsys: Capture) -> None:
    assert run(root, "build", "--json", subset="tile") == 0
    out, err = capsys.readouterr()
    assert err == "gbr: tile means tile:xla here\n"
    assert json.loads(out)["built"] == 3


def test_info_shows_the_store(root: Path, capsys: Capture) -> None:
    run(root, "build")
    capsys.readouterr()
    assert run(root, "info", "--json") == 0
    told = as_json(capsys)
    store = FeatureStore(root / "store", "tile:xla")
    size = {
        split: sum(path.stat().st_size for path in (store.folder / split).glob("*.parquet"))
        for split in ("train", "test")
    }
    assert told["schema"] == schema_of("tile").hash
    assert told["columns"] == len(schema_of("tile"))
    assert told["splits"] == {
        "train": {
            "graphs": 2,
            "expected": 2,
            "labelled": 2,
            "rows": 9,
            "duplicates": 3,
            "bytes": size["train"],
            "degenerate": {"same": "all configurations are identical"},
        },
        "test": {
            "graphs": 1,
            "expected": 1,
            "labelled": 0,
            "rows": 6,
            "duplicates": 0,
            "bytes": size["test"],
            "degenerate": {},
        },
    }
    assert run(root, "info") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["train", "2", "2", "2", "9", "3", "1"] in [row[:7] for row in rows]
    assert ["test", "1", "1", "0", "6", "0", "0"] in [row[:7] for row in rows]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("subset", ["tile", "tile:not:here", "layout:cpu:random"])
def test_columns_lists_every_column_with_its_meaning(capsys: Capture, subset: str) -> None:
    schema = schema_of(subset.split(":")[0])
    assert main(["columns", "--subset", subset, "--json"]) == 0
    told = as_json(capsys)
    assert told["schema"] == schema.hash
    found = [(column["name"], column["unit"], column["doc"]) for block in told["blocks"] for column in block["columns"]]
    assert found == [(column.name, column.unit, column.doc) for column in schema.columns]
    assert main(["columns", "--subset", subset]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = "".join("".join(lines).split())
    assert all(f"{block.name}:{''.join(block.doc.split())}" in text for block in schema.blocks)
    assert lines[-1] == f"{len(schema)} columns, schema {schema.hash}"


def broken(root: Path, **changes: Any) -> str:
    path = root / "npz" / "tile" / "xla" / "train" / "same.npz"
    arrays = tile_arrays(4) | changes
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    return "same.npz"


def truncated(root: Path) -> str:
    path = root / "npz" / "tile" / "xla" / "train" / "same.npz"
    path.write_bytes(path.read_bytes()[:-100])
    return "same.npz: no whole .npz archive"


def emptied(root: Path) -> str:
    for path in (root / "npz" / "tile" / "xla" / "train").iterdir():
        path.unlink()
    return "tile/xla/train: holds no .npz file; tile:xla needs its train graphs there"


def taken(root: Path) -> str:
    (root / "store").write_text("")
    return "cannot be written"


@pytest.mark.parametrize(
    "harm",
    [
        lambda root: broken(root, config_feat=None) + ": config_feat: got keys",
        lambda root: broken(root, node_feat=np.zeros((3, 141), np.float32)) + ": node_feat: got shape (3, 141)",
        lambda root: broken(root, node_opcode=np.array([{}, {}, {}], object)) + ": node_opcode: holds Python objects",
        lambda root: broken(root, edge_index=np.array([[2, 7]])) + ": edge_index: got (2, 7) in row 0",
        lambda root: broken(root, node_feat=np.full((3, 140), np.nan, np.float32)) + ": node_feat: got nan at (0, 0)",
        truncated,
        emptied,
        taken,
    ],
    ids=["missing key", "shape", "object array", "edge", "nan", "truncated", "empty folder", "store is a file"],
)
def test_bad_input_is_one_line_and_leaves_nothing_half_written(root: Path, harm: Any, capsys: Capture) -> None:
    message = harm(root)
    assert run(root, "build", "--split", "train,test", "--jobs", "1") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gbr features: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(root.rglob("*.part"))


def test_unknown_names_are_usage_errors(root: Path, capsys: Capture) -> None:
    assert run(root, "build", subset="tile:gpu") == 2
    assert capsys.readouterr().err.startswith("gbr features: error: --subset tile:gpu: no such collection")
    assert main(["columns", "--subset", "graph"]) == 2
    assert "--subset graph: expected tile or layout" in capsys.readouterr().err
    assert run(root, "build", "--split", "dev") == 2
    assert "expected some of train,valid,test" in capsys.readouterr().err
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_that_is_not_there_names_the_command_that_builds_it(root: Path, capsys: Capture) -> None:
    assert run(root, "info") == 1
    err = capsys.readouterr().err
    assert "no feature store of tile:xla; run `python -m gbr.features build --subset tile:xla --store " in err


def test_the_command_as_a_process(root: Path) -> None:
    command = ["-m", "gbr.features", "build", "--subset", "tile", "--data", str(root), "--store", str(root / "s")]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"}
    )
    assert done.returncode == 0
    first, *progress = done.stderr.splitlines()
    assert first == "gbr: tile means tile:xla here"
    assert all(line.startswith("gbr: features of tile:xla: ") for line in progress)  # where it takes over two seconds
    assert "graphs built" in done.stdout
    assert "\x1b" not in done.stdout
