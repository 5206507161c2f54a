"""The manifest of a foreign store is validated before it is used."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gbr.data.store import FeatureStore
from gbr.errors import StoreError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    held = FeatureStore(tmp_path_factory.mktemp("entries"), "tile:xla")
    columns, X = ["opcode.n", "tile.m", "tile.n"], np.ones((4, 3), np.float32)
    known = np.arange(1, 5)
    written = {
        f"train_{number}": held.write(
            "train", f"train_{number}", columns, X, runtime=known, normalizer=known, repeat=None,
            duplicate_of=np.arange(4), source={"fingerprint": "0" * 16}, shared=["opcode.n"],
        )
        for number in range(2)
    }  # fmt: skip
    schema = {"hash": "0" * 16, "columns": columns, "shared": ["opcode.n"], "hardware": {"name": "cpu"}}
    held.record(schema, {"train": written}, expected={"train": 2})
    return held


def at(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


def renamed(stem: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["graphs"]["train"][stem] = manifest["graphs"]["train"].pop("train_0")

    return change


ENTRY = ("graphs", "train", "train_0")
CHANGES = {
    "schema": at("schema", value=[]),
    "columns": at("schema", "columns", value={}),
    "a column twice": at("schema", "columns", 1, value="opcode.n"),
    "shared": at("schema", "shared", value=["none of them"]),
    "hardware": at("schema", "hardware", value=[1]),
    "expected": at("expected", value=[2]),
    "rows": at(*ENTRY, "rows", value=-3),
    "rows that no memory holds": at(*ENTRY, "rows", value=2**60),
    "measured": at(*ENTRY, "measured", value=["_runtime", "../x"]),
    "source": at(*ENTRY, "source", value=None),
    "degenerate": at(*ENTRY, "degenerate", value=0),
    "labelled": at(*ENTRY, "labelled", value="yes"),
    **{f"stem {stem!r}": renamed(stem) for stem in ("../../x", "", "..", "a\\b", "a\n")},
}


@pytest.mark.parametrize("name", CHANGES)
def test_invalid_manifests_are_refused(name: str, store: FeatureStore, tmp_path: Path) -> None:
    manifest = copy.deepcopy(store.manifest)
    if name == "a column twice":
        manifest["schema"]["columns"][0] = "opcode.n"
    CHANGES[name](manifest)
    (tmp_path / "tile/xla").mkdir(parents=True)
    (tmp_path / "tile/xla/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"not a valid feature store manifest \(.*; run `python -m gbr.features build"):
        FeatureStore(tmp_path, "tile:xla").load("train")


def test_more_rows_than_memory_holds_are_a_one_line_error(store: FeatureStore, tmp_path: Path) -> None:
    manifest = copy.deepcopy(store.manifest)
    manifest["graphs"]["train"]["train_0"]["rows"] = 2**48
    (tmp_path / "tile/xla").mkdir(parents=True)
    (tmp_path / "tile/xla/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="not enough memory for 281474976710"):
        FeatureStore(tmp_path, "tile:xla").load("train")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("tile.m", pl.Series(["a"] * 4), r"column tile\.m: expected Float32, got String"),
        ("tile.m", pl.Series([[1.0]] * 4), r"column tile\.m: expected Float32, got List\(Float64\)"),
        ("_graph", pl.Series([1.0] * 4), r"column _graph: expected List\(Float32\), got Float64"),
        ("_runtime", pl.Series([0.5] * 4), "column _runtime: expected .*, got Float64"),
        ("_runtime", pl.Series([1, None, 2, 3]), "column _runtime has missing values"),
        ("_runtime", pl.Series([1, 2, -3, 4]), r"train_0\.parquet: invalid value -3 in column _runtime"),
        ("_duplicate_of", pl.Series([0, 1, 3, 3]), r"train_0\.parquet: invalid value 3 in column _duplicate_of"),
        ("_duplicate_of", pl.Series([0, 1, -1, 3]), "invalid value -1 in column _duplicate_of"),
    ],
)
def test_tables_of_other_types_are_refused(
    store: FeatureStore, tmp_path: Path, column: str, values: pl.Series, message: str
) -> None:
    shutil.copytree(store.root, tmp_path, dirs_exist_ok=True)
    path = FeatureStore(tmp_path, "tile:xla").path("train", "train_0")
    pl.read_parquet(path).with_columns(values.alias(column)).write_parquet(path)
    with pytest.raises(StoreError, match=f"{message}.*; run `python -m gbr.features build"):
        FeatureStore(tmp_path, "tile:xla").load("train")


def test_no_more_rows_are_read_than_the_manifest_declares(store: FeatureStore, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path, dirs_exist_ok=True)
    path = FeatureStore(tmp_path, "tile:xla").path("train", "train_0")
    pl.concat([pl.read_parquet(path)] * 1000).write_parquet(path)
    with pytest.raises(StoreError, match="expected 4 rows as in the manifest, got more than 4"):
        FeatureStore(tmp_path, "tile:xla").load("train")
