from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbr.data import store as stores
from gbr.data.store import Entry, FeatureStore
from gbr.errors import StoreError, UsageError

COLUMNS = ("config.a", "nodes.a", "nodes.b", "geometry.a", "geometry.b", "roles.a")
SHARED = ("nodes.a", "nodes.b", "roles.a")
SCHEMA = {"hash": "abc", "columns": list(COLUMNS), "shared": list(SHARED)}


def features(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, len(COLUMNS))).astype(np.float32)
    for name in SHARED:
        X[:, COLUMNS.index(name)] = X[0, COLUMNS.index(name)]
    return X


def write(store: FeatureStore, stem: str, X: np.ndarray, split: str = "train", **given: Any) -> Entry:
    values = {"runtime": None, "normalizer": None, "repeat": None, "duplicate_of": np.arange(len(X))} | given
    return store.write(split, stem, COLUMNS, X, source={"file": stem}, shared=SHARED, **values)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Three graphs: measured, not measured, measured twice."""
    store = FeatureStore(tmp_path, "tile:xla")
    entries = {
        "b": write(store, "b", features(4, 1), runtime=np.arange(1, 5) * 10**12, normalizer=np.full(4, 7)),
        "a": write(store, "a", features(3, 2), duplicate_of=np.array([0, 0, 2])),
        "c": write(store, "c", features(1, 3), runtime=np.array([5]), repeat=np.array([6])),
    }
    store.record(SCHEMA, {"train": entries}, expected={"train": 3})
    return FeatureStore(tmp_path, "tile:xla")


def test_what_is_written_is_loaded_one_graph_after_the_other(store: FeatureStore) -> None:
    groups = store.load("train")
    assert groups.names == ("a", "b", "c")
    assert groups.columns == COLUMNS
    assert groups.indptr.tolist() == [0, 3, 7, 8]
    assert groups.X.dtype == np.float32
    assert groups.X.flags.c_contiguous
    np.testing.assert_array_equal(groups.X, np.concatenate([features(3, 2), features(4, 1), features(1, 3)]))
    assert groups.runtime is not None
    assert groups.normalizer is not None
    assert groups.repeat is not None
    assert groups.runtime.tolist() == [0, 0, 0, *(np.arange(1, 5) * 10**12), 5]
    assert groups.normalizer.tolist() == [0, 0, 0, 7, 7, 7, 7, 0]
    assert groups.repeat.tolist() == [0] * 7 + [6]
    assert groups.duplicate_of.tolist() == [0, 0, 2, 0, 1, 2, 3, 0]
    assert groups.is_labelled.tolist() == [False, True, True]
    assert {values.dtype.name for values in (groups.runtime, groups.duplicate_of, groups.indptr)} == {"int64"}


def test_graphs_are_loaded_in_the_order_asked(store: FeatureStore) -> None:
    groups = store.load("train", ["b", "a"])
    assert groups.names == ("b", "a")
    np.testing.assert_array_equal(groups.X, np.concatenate([features(4, 1), features(3, 2)]))
    assert store.load("train", ["a"]).runtime is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(st.sampled_from([*COLUMNS, "nodes", "geometry"])))
def test_columns_are_those_of_the_whole_matrix(store: FeatureStore, names: set[str]) -> None:
    whole, some = store.load("train"), store.load("train", columns=sorted(names))
    expected = whole.select(sorted(names))
    assert some.columns == expected.columns
    np.testing.assert_array_equal(some.X, expected.X)
    assert some.X.flags.c_contiguous
    np.testing.assert_array_equal(some.runtime, whole.runtime)


def test_the_file_is_as_documented(store: FeatureStore) -> None:
    frame = pl.read_parquet(store.path("train", "b"))
    assert dict(frame.schema) == {
        "config.a": pl.Float32,
        "geometry.a": pl.Float32,
        "geometry.b": pl.Float32,
        "_graph": pl.List(pl.Float32),
        "_runtime": pl.Int64,
        "_normalizer": pl.Int64,
        "_duplicate_of": pl.Int32,
    }
    X = features(4, 1)
    assert frame["_graph"].to_list() == [[float(X[0, COLUMNS.index(name)]) for name in SHARED], None, None, None]
    assert frame["geometry.b"].to_list() == X[:, COLUMNS.index("geometry.b")].tolist()


def test_the_manifest_says_what_there_is(store: FeatureStore) -> None:
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert manifest["subset"] == "tile:xla"
    assert manifest["kind"] == "tile"
    assert manifest["schema"] == SCHEMA
    assert manifest["graphs"]["train"]["a"] == {
        "rows": 3,
        "distinct": 2,
        "columns": 6,
        "bytes": store.path("train", "a").stat().st_size,
        "labelled": False,
        "measured": [],
        "degenerate": None,
        "source": {"file": "a"},
    }
    assert store.stems("train") == ["a", "b", "c"]
    assert store.stems("valid") == []


def test_the_manifest_does_not_tell_what_was_ready_first(tmp_path: Path) -> None:
    splits = {"train": ("b", "a"), "valid": ("c",), "test": ("d",)}
    found = []
    for order in (list(splits), list(splits)[::-1]):
        store = FeatureStore(tmp_path / order[0], "tile:xla")
        for split in order:
            entries = {stem: write(store, stem, features(3, 1), split) for stem in splits[split]}
            store.record(SCHEMA, {split: entries}, expected={split: len(entries)})
        found.append((store.folder / "manifest.json").read_bytes())
    assert found[0] == found[1]


def test_names_with_glob_characters_are_only_names(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "tile:xla")
    entries = {stem: write(store, stem, features(2, seed)) for seed, stem in enumerate(["a[0-9]", "a0", "a*", "k=v"])}
    store.record(SCHEMA, {"train": entries})
    for seed, stem in enumerate(entries):
        np.testing.assert_array_equal(store.load("train", [stem]).X, features(2, seed))


def test_another_schema_is_refused_with_the_command_that_rebuilds(store: FeatureStore) -> None:
    store.check("abc")
    with pytest.raises(
        StoreError,
        match=r"feature schema abc, this gbr writes def; "
        r"run `python -m gbr\.features build --subset tile:xla --store .*`",
    ):
        store.check("def")


def test_under_another_schema_nothing_old_stays(store: FeatureStore) -> None:
    other = SCHEMA | {"hash": "def"}
    store.record(other, {"valid": {"d": write(store, "d", features(2, 0), "valid")}}, expected={"valid": 1})
    assert store.stems("train") == []
    store.check("def")
    with pytest.raises(StoreError, match=r"holds no graph of train; run `python -m"):
        store.load("train")


def test_a_split_that_is_not_whole_is_refused(store: FeatureStore) -> None:
    store.record(SCHEMA, expected={"train": 5})
    with pytest.raises(StoreError, match=r"holds 3 of 5 train graphs; run `python -m gbr\.features build"):
        store.load("train")
    assert store.load("train", ["a"]).names == ("a",)


def test_what_is_not_there_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no train graph z; run"):
        store.load("train", ["a", "z"])
    with pytest.raises(StoreError, match="holds no graph of test; run"):
        store.load("test")
    with pytest.raises(UsageError, match="columns: 'node' is neither a column nor a block"):
        store.load("train", columns=["node"])
    with pytest.raises(StoreError, match="no feature store of layout:nlp:random; run"):
        _ = FeatureStore(tmp_path, "layout:nlp:random").manifest


def torn_parquet(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def short_parquet(path: Path) -> None:
    pl.read_parquet(path).head(2).write_parquet(path)


def lacking_column(path: Path) -> None:
    pl.read_parquet(path).drop("geometry.a").write_parquet(path)


def lacking_shared(path: Path) -> None:
    pl.read_parquet(path).with_columns(pl.col("_graph").list.head(2)).write_parquet(path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (os.remove, "missing"),
        (torn_parquet, "not a complete Parquet file"),
        (short_parquet, "expected 4 rows as in the manifest, got 2"),
        (lacking_column, "not a complete Parquet file with the manifest's columns"),
        (lacking_shared, "column _graph lacks the 3 values"),
    ],
)
def test_a_torn_file_is_one_line(store: FeatureStore, harm: Any, message: str) -> None:
    harm(store.path("train", "b"))
    with pytest.raises(StoreError, match=rf"b\.parquet: {message}.*; run `python -m gbr\.features build") as error:
        store.load("train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"format": 99, "schema": {}}', "format 99, this gbr reads 1"),
    ],
)
def test_a_torn_manifest_is_one_line(store: FeatureStore, content: str, message: str) -> None:
    (store.folder / "manifest.json").write_text(content)
    again = FeatureStore(store.root, store.subset)
    with pytest.raises(StoreError, match=rf"manifest\.json: not a valid feature store manifest \({message}.*\); run"):
        again.check("abc")


def test_a_failed_write_leaves_the_old_file(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.path("train", "a").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", fail)
    with pytest.raises(StoreError, match=r"a\.parquet: cannot be written \(No space left.*free space"):
        write(store, "a", features(3, 9))
    assert store.path("train", "a").read_bytes() == before
    assert sorted(os.listdir(store.folder / "train")) == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    store = FeatureStore(tmp_path / "store", "tile:xla")
    with pytest.raises(StoreError, match="cannot be written"):
        write(store, "a", features(3, 9))
    with pytest.raises(StoreError, match="cannot be written"):
        store.record(SCHEMA)


def test_columns_that_are_not_shared_are_not_written_once(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "tile:xla")
    X = features(3, 0)
    X[2, COLUMNS.index("nodes.b")] += 1
    with pytest.raises(ValueError, match=r"shared column nodes\.b differs between rows"):
        write(store, "a", X)
    with pytest.raises(ValueError, match=r"expected X of shape \(rows, 6\), got \(3, 5\)"):
        write(store, "a", X[:, :5])
    assert not store.path("train", "a").exists()


@settings(max_examples=60, deadline=None)
@given(indices=st.sets(st.integers(0, 30)))
def test_runs_cover_every_index_once(indices: set[int]) -> None:
    ascending = np.array(sorted(indices), np.int64)
    covered: list[int] = []
    for first, run in stores._runs(ascending):
        assert first == len(covered)
        covered += range(run.start, run.stop)
    assert covered == ascending.tolist()


def test_a_store_rebuilt_for_another_schema_while_it_is_read_is_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "tile:xla")
    store.record(SCHEMA, {"train": {"x": write(store, "x", features(2, 0))}})
    reader = FeatureStore(tmp_path, "tile:xla")
    assert len(reader.load("train")) == 1
    store.record(SCHEMA, {"train": {"y": write(store, "y", features(2, 0))}})
    assert len(reader.load("train")) == 1  # more graphs of the same schema do not matter
    store.record({**SCHEMA, "hash": "another"})
    with pytest.raises(StoreError, match="rebuilt for other features or hardware while it was being read"):
        reader.load("train")
