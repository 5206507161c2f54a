"""The features command; what it computes is tested with the extractors."""

from __future__ import annotations

import json
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
    """A tile collection: two train graphs, one of which cannot be ranked, and a test graph without runtimes."""
    folder = collection(tmp_path, train=1, test=1) / "npz" / "tile" / "xla"
    arrays = tile_arrays(4)
    write_graph(folder / "train" / "same.npz", arrays | {"config_feat": arrays["config_feat"][[0, 0, 0, 0]]})
    write_graph(folder / "test" / "test_0.npz", tile_arrays(6) | {"config_runtime": np.zeros(6, np.int64)})
    return tmp_path


def run(root: Path, command: str, *options: str, subset: str = "tile:xla") -> int:
    return main([command, "--subset", subset, "--data", str(root), "--store", str(root / "store"), *options])


def test_build_and_info(root: Path, capsys: Capture) -> None:
    assert run(root, "build", "--json", "--jobs", "1", subset="tile") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err.startswith("gbr: tile means tile:xla")
    assert report.pop("seconds") > 0
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
    assert "train/same   all configurations are identical" in out
    assert err == ""

    assert run(root, "info", "--json") == 0
    info = json.loads(capsys.readouterr().out)
    folder = FeatureStore(root / "store", "tile:xla").folder
    size = {split: sum(path.stat().st_size for path in (folder / split).glob("*")) for split in ("train", "test")}
    assert info["schema"] == schema_of("tile").hash
    assert info["columns"] == len(schema_of("tile"))
    counts = ("graphs", "expected", "labelled", "rows", "duplicates", "bytes")
    same = {"same": "all configurations are identical"}
    assert info["splits"] == {
        "train": dict(zip(counts, (2, 2, 2, 9, 3, size["train"]), strict=True)) | {"degenerate": same},
        "test": dict(zip(counts, (1, 1, 0, 6, 0, size["test"]), strict=True)) | {"degenerate": {}},
    }
    assert run(root, "info") == 0
    rows = [line.split()[:7] for line in capsys.readouterr().out.splitlines()]
    assert ["train", "2", "2", "2", "9", "3", "1"] in rows
    assert ["test", "1", "1", "0", "6", "0", "0"] in rows


@pytest.mark.parametrize("subset", ["tile:not:here", "layout"])
def test_columns(capsys: Capture, subset: str) -> None:
    schema = schema_of(subset.split(":")[0])
    assert main(["columns", "--subset", subset, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema"] == schema.hash
    columns: list[Any] = [column for block in listed["blocks"] for column in block["columns"]]
    assert [(c["name"], c["unit"], c["doc"]) for c in columns] == [(c.name, c.unit, c.doc) for c in schema.columns]
    assert main(["columns", "--subset", subset]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = "".join("".join(lines).split())
    assert all(f"{block.name}:{''.join(block.doc.split())}" in text for block in schema.blocks)
    assert lines[-1] == f"{len(schema)} columns, schema {schema.hash}"


def test_errors_are_one_line(root: Path, capsys: Capture) -> None:
    def failing(*line: str) -> str:
        assert main([*line]) in (1, 2)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err.removeprefix("gbr features: error: ")

    paths = ("--data", str(root), "--store", str(root / "store"))
    assert failing("build", "--subset", "tile:gpu", *paths).startswith("--subset tile:gpu: no such collection")
    assert failing("columns", "--subset", "graph").startswith("--subset graph: expected tile, layout")
    assert "python -m gbr.features build --subset tile:xla" in failing("info", "--subset", "tile:xla", *paths)
    assert failing().startswith("Missing command")
    assert failing("build", "--subset", "tile:xla", *paths, "--repack").startswith("--repack: tile:xla has tile graphs")
