"""The feature store: files, manifest, damaged input, and data frames of :func:`gbr.load`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gbr
from gbr import read_graph
from gbr.data.build import build, extract
from gbr.data.collection import resolve
from gbr.data.store import KEYS, Entry, FeatureStore
from gbr.errors import StoreError, UsageError
from tests.made import rewrite, write_collection

COLUMNS = ("config.a", "geometry.a", "geometry.b", "nodes.a", "nodes.b", "roles.a")
SCHEMA = {"hash": "abc", "columns": list(COLUMNS), "per_config": 3, "hardware": None}


def features(rows: int, seed: int) -> np.ndarray:
    X = np.random.default_rng(seed).normal(size=(rows, len(COLUMNS))).astype(np.float32)
    X[:, 3:] = X[0, 3:]
    return X


def write(
    store: FeatureStore, stem: str, X: np.ndarray, split: str = "train", duplicate_of: Any = None, **measured: Any
) -> Entry:
    duplicate_of = np.arange(len(X)) if duplicate_of is None else np.array(duplicate_of)
    values = {f"_{name}": np.array(value) for name, value in measured.items()}
    about = {"degenerate": None, "source": {"file": stem}}
    return store.write(split, stem, COLUMNS[:3], [X[:1, :3].T, X[1:, :3].T], X[0, 3:], duplicate_of, values, **about)


def record(store: FeatureStore, entries: Any, expected: Any = None, schema: Any = SCHEMA) -> None:
    counts = {split: len(stems) for split, stems in entries.items()} | (expected or {})
    with store.building(schema, counts, store.root.parent):
        store.record(entries)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Three graphs: measured, not measured, measured twice."""
    store = FeatureStore(tmp_path, "tile:xla")
    entries = {
        "b": write(store, "b", features(4, 1), runtime=np.arange(1, 5) * 10**12, normalizer=[7] * 4),
        "a": write(store, "a", features(3, 2), duplicate_of=[0, 0, 2]),
        "c": write(store, "c", features(2, 3), runtime=[5, 5], repeat=[6, 6]),
    }
    record(store, {"train": entries})
    return FeatureStore(tmp_path, "tile:xla")


def test_loaded_groups_equal_the_written_graphs(store: FeatureStore) -> None:
    groups = store.load("train")
    assert groups.names == ("a", "b", "c")
    assert groups.columns == COLUMNS
    assert groups.indptr.tolist() == [0, 3, 7, 9]
    assert groups.X.dtype == np.float32
    assert groups.X.flags.c_contiguous
    np.testing.assert_array_equal(groups.X, np.concatenate([features(3, 2), features(4, 1), features(2, 3)]))
    expected: dict[str, list[int]] = {
        "runtime": [0, 0, 0, *(np.arange(1, 5) * 10**12), 5, 5],
        "normalizer": [0, 0, 0, 7, 7, 7, 7, 0, 0],
        "repeat": [0] * 7 + [6, 6],
        "duplicate_of": [0, 0, 2, 0, 1, 2, 3, 0, 1],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(groups, name), np.array(values, np.int64), strict=True)
    reordered = store.load("train", ["b", "a"])
    assert reordered.names == ("b", "a")
    np.testing.assert_array_equal(reordered.X, np.concatenate([features(4, 1), features(3, 2)]))
    assert store.load("train", ["a"]).runtime is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(selected=st.sets(st.sampled_from([*COLUMNS, "nodes", "geometry"])))
def test_selected_columns_equal_those_of_the_full_matrix(store: FeatureStore, selected: set[str]) -> None:
    full, some = store.load("train"), store.load("train", columns=sorted(selected))
    expected = full.select(sorted(selected))
    assert some.columns == expected.columns
    np.testing.assert_array_equal(some.X, expected.X)
    assert some.X.flags.c_contiguous
    np.testing.assert_array_equal(some.runtime, full.runtime)


def test_parquet_files_have_the_documented_columns(store: FeatureStore) -> None:
    frame = pl.read_parquet(store.path("train", "b"))
    integers = {"_runtime": pl.Int64, "_normalizer": pl.Int64, "_duplicate_of": pl.Int32}
    assert dict(frame.schema) == dict.fromkeys(COLUMNS[:3], pl.Float32) | integers | {"_graph": pl.List(pl.Float32)}
    X = features(4, 1)
    assert frame["_graph"].to_list() == [X[0, 3:].tolist(), None, None, None]
    assert frame["geometry.b"].to_list() == X[:, COLUMNS.index("geometry.b")].tolist()


def test_manifest_describes_the_graphs_in_any_order(store: FeatureStore, tmp_path: Path) -> None:
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert (manifest["subset"], manifest["schema"], manifest["expected"]) == ("tile:xla", SCHEMA, {"train": 3})
    assert manifest["graphs"]["train"]["a"] == {
        "rows": 3,
        "distinct": 2,
        "bytes": store.path("train", "a").stat().st_size,
        "measured": [],
        "degenerate": None,
        "source": {"file": "a"},
    }
    assert (store.stems("train"), store.stems("valid")) == (["a", "b", "c"], [])
    again = FeatureStore(tmp_path / "again", "tile:xla")
    for stem in ("c", "a", "b"):
        record(again, {"train": {stem: store.entries("train")[stem]}}, {"train": 3})
    assert (again.folder / "manifest.json").read_text() == (store.folder / "manifest.json").read_text()


def test_graph_names_may_contain_glob_characters(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "tile:xla")
    entries = {stem: write(store, stem, features(2, seed)) for seed, stem in enumerate(["a[0-9]", "a0", "a*", "k=v"])}
    record(store, {"train": entries})
    for seed, stem in enumerate(entries):
        np.testing.assert_array_equal(store.load("train", [stem]).X, features(2, seed))


def test_a_new_schema_removes_previous_graphs(store: FeatureStore) -> None:
    store.check("abc")
    rebuild = r"run `python -m gbr\.features build --subset tile:xla .*--store .*`"
    with pytest.raises(StoreError, match=rf"feature schema abc, this gbr writes def; {rebuild}"):
        store.check("def")
    record(store, {"valid": {"d": write(store, "d", features(2, 0), "valid")}}, schema=SCHEMA | {"hash": "def"})
    store.check("def")
    with pytest.raises(StoreError, match=rf"holds no graph of train; {rebuild}"):
        store.load("train")


def test_missing_graphs_splits_columns_and_stores_are_errors(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no train graph z; run"):
        store.load("train", ["a", "z"])
    with pytest.raises(StoreError, match="holds no graph of test; run"):
        store.load("test")
    with pytest.raises(UsageError, match="columns: 'node' is neither a column nor a block"):
        store.load("train", columns=["node"])
    with pytest.raises(StoreError, match="no feature store of layout:nlp:random; run"):
        _ = FeatureStore(tmp_path, "layout:nlp:random").manifest
    record(store, {}, {"train": 5})
    with pytest.raises(StoreError, match=r"holds 3 of 5 train graphs; run `python -m gbr\.features build"):
        store.load("train")
    assert store.load("train", ["a"]).names == ("a",)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def replace(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    return lambda path: change(pl.read_parquet(path)).write_parquet(path)


def column(name: str, *values: object) -> Callable[[Path], None]:
    return replace(lambda frame: frame.with_columns(pl.Series(name, values)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (os.remove, "missing"),
        (truncate, "not a complete Parquet file"),
        (replace(lambda frame: frame.drop("geometry.a")), "not a complete Parquet file with the manifest's columns"),
        (replace(lambda frame: frame.head(2)), "expected 4 rows as in the manifest, got 2"),
        (replace(lambda frame: pl.concat([frame] * 100)), "expected 4 rows as in the manifest, got more than 4"),
        (replace(lambda frame: frame.with_columns(pl.col("_graph").list.head(2))), "column _graph lacks values"),
        (column("config.a", *"abcd"), "a column has another type"),
        (column("_runtime", 1, None, 2, 3), "a column has .* missing values"),
        (column("_runtime", 1, 2, -3, 4), "invalid value -3 in column _runtime"),
        (
            replace(lambda frame: frame.with_columns(pl.col("_duplicate_of") + 1)),
            "invalid value 1 in column _duplicate_of",
        ),
    ],
)
def test_a_damaged_file_is_a_one_line_error(store: FeatureStore, damage: Any, message: str) -> None:
    damage(store.path("train", "b"))
    with pytest.raises(StoreError, match=rf"b\.parquet: {message}.*; run `python -m gbr\.features build") as caught:
        store.load("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (r".*", "{", "JSONDecodeError"),
        (r".*", "[]", "TypeError"),
        (r'"format": 2', '"format": 99', "format 99, this gbr reads 2"),
        (r'"a": ', '"../../a": ', "damaged"),
        (r'"sha256"', '"sha"', "KeyError"),
    ],
)
def test_a_damaged_manifest_is_a_one_line_error(store: FeatureStore, before: str, after: str, message: str) -> None:
    path = store.folder / "manifest.json"
    path.write_text(re.sub(before, after, path.read_text(), count=1, flags=re.DOTALL))
    with pytest.raises(StoreError, match=rf"manifest\.json: not a valid feature store manifest \({message}.*\); run"):
        FeatureStore(store.root, store.subset).check("abc")


def test_graph_names_never_leave_the_folder(store: FeatureStore) -> None:
    record(store, {"train": {"../../a": store.entries("train")["a"]}})
    with pytest.raises(StoreError, match=r"not a valid feature store manifest \(graph names with folders\)"):
        FeatureStore(store.root, store.subset).load("train")


def test_a_failed_write_leaves_the_old_file(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.path("train", "a").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", fail)
    with pytest.raises(StoreError, match=r"a\.parquet: cannot be written \(No space left.*free space"):
        write(store, "a", features(3, 9))
    assert store.path("train", "a").read_bytes() == before
    assert sorted(os.listdir(store.folder / "train")) == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_store_rebuilt_for_another_schema_while_it_is_read_is_refused(store: FeatureStore) -> None:
    reader = FeatureStore(store.root, store.subset)
    assert len(reader.load("train")) == 3
    record(store, {"train": {"y": write(store, "y", features(2, 0))}})
    assert len(reader.load("train")) == 3  # more graphs of the same schema do not matter
    record(store, {}, schema={**SCHEMA, "hash": "another"})
    with pytest.raises(StoreError, match="rebuilt for other features or hardware while it was being read"):
        reader.load("train")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_collection(tmp_path_factory.mktemp("frames"), {"train": 4, "valid": 2})
    rewrite(sorted((root / "npz/tile/cpu/train").glob("*.npz"))[1], drop=("config_runtime_repeat",))
    build(resolve("tile:cpu", root), root, root / "store", jobs=1)
    return root


def loaded(root: Path, **arguments: object) -> pl.DataFrame:
    found = gbr.load("tile:cpu", store=root / "store", **arguments)  # type: ignore[arg-type]
    assert isinstance(found, pl.DataFrame)
    return found


def test_rows_are_the_configurations_of_the_files(root: Path) -> None:
    frame = loaded(root)
    paths = sorted((root / "npz/tile/cpu/train").glob("*.npz"))
    assert frame["graph"].unique(maintain_order=True).to_list() == [path.stem for path in paths]
    for path in paths:
        graph, own = read_graph(path), frame.filter(graph=path.stem)
        schema, X, duplicate_of = extract(graph)
        assert own.columns == [*KEYS, *schema.names]
        np.testing.assert_array_equal(own.select(cs.contains(".")).to_numpy(), X)
        assert own["row"].to_list() == list(range(graph.n_configs))
        assert own["duplicate_of"].to_list() == duplicate_of.tolist()
        for name, values in (("runtime", graph.runtime), ("normalizer", graph.normalizer), ("repeat", graph.repeat)):
            assert own[name].to_list() == ([None] * graph.n_configs if values is None else values.tolist())
    assert frame["repeat"].null_count() == 30
    assert set(frame.select(cs.contains(".")).dtypes) == {pl.Float32}
    assert frame.schema["runtime"] == pl.Int64


def test_lazy_is_the_same_and_reads_only_required_columns(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = loaded(root)
    lazy = gbr.load("tile:cpu", store=root / "store", lazy=True)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect().equals(full)
    assert lazy.collect_schema() == full.schema
    reads: list[tuple[str, list[str]]] = []
    load = FeatureStore.load

    def spy(self: FeatureStore, split: str, stems: list[str], columns: list[str]) -> object:
        reads.append((stems[0], columns))
        return load(self, split, stems, columns)

    monkeypatch.setattr(FeatureStore, "load", spy)
    condition = (pl.col("geometry.tiles") > 3) & (pl.col("row") < 20)
    found = lazy.filter(condition).select("graph", "geometry.waste").collect()
    assert found.equals(full.filter(condition).select("graph", "geometry.waste"))
    assert 0 < len(found) < 80
    assert {name for _, columns in reads for name in columns} == {"geometry.tiles", "geometry.waste"}
    reads.clear()
    assert lazy.head(35).collect().equals(full.head(35))
    assert len(reads) == 2
    mean = lazy.group_by("graph", maintain_order=True).agg(pl.col("runtime").min()).collect()
    assert mean.equals(full.group_by("graph", maintain_order=True).agg(pl.col("runtime").min()))


def test_columns_blocks_and_short_names_can_be_given(root: Path) -> None:
    few = loaded(root, split="valid", columns=["config", "geometry.tiles"])
    full = loaded(root, split="valid")
    assert few.equals(full.select(*KEYS, cs.starts_with("config."), "geometry.tiles"))
    lazy = gbr.load("tile", "valid", data=root, store=root / "store", columns="roles", lazy=True)
    assert lazy.collect().equals(full.select(*KEYS, cs.starts_with("roles.")))


def test_missing_features_are_errors_with_the_command_that_builds_them(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"run `python -m gbr.features build --subset tile:cpu --store .*none`"):
        gbr.load("tile:cpu", data=root, store=tmp_path / "none")
    with pytest.raises(StoreError, match=r"holds no graph of test; run `python -m gbr.features build"):
        loaded(root, split="test")
    with pytest.raises(UsageError, match=r"--subset tile:gpu: no such collection"):
        gbr.load("tile:gpu", data=root, store=root / "store")
    with pytest.raises(UsageError, match=r"split 'dev': expected one of train, valid, test"):
        loaded(root, split="dev")
    with pytest.raises(UsageError, match=r"columns: 'colour' is neither"):
        loaded(root, columns=["colour"])
