"""The feature store: files, manifest, damaged input, and data frames of :func:`gbr.load`."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gbr
from gbr import Ranker, read_graph
from gbr.data import store as stores
from gbr.data.build import build, extract
from gbr.data.collection import resolve
from gbr.data.store import KEYS, Entry, FeatureStore
from gbr.errors import StoreError, UsageError
from tests.collection import rewrite, write_collection

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


def test_loaded_groups_equal_the_written_graphs(store: FeatureStore) -> None:
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


def test_manifest_describes_the_graphs(store: FeatureStore) -> None:
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


def test_manifest_does_not_depend_on_the_order_of_graphs(tmp_path: Path) -> None:
    splits = {"train": ("b", "a"), "valid": ("c",), "test": ("d",)}
    found = []
    for order in (list(splits), list(splits)[::-1]):
        store = FeatureStore(tmp_path / order[0], "tile:xla")
        for split in order:
            entries = {stem: write(store, stem, features(3, 1), split) for stem in splits[split]}
            store.record(SCHEMA, {split: entries}, expected={split: len(entries)})
        found.append((store.folder / "manifest.json").read_bytes())
    assert found[0] == found[1]


def test_graph_names_may_contain_glob_characters(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "tile:xla")
    entries = {stem: write(store, stem, features(2, seed)) for seed, stem in enumerate(["a[0-9]", "a0", "a*", "k=v"])}
    store.record(SCHEMA, {"train": entries})
    for seed, stem in enumerate(entries):
        np.testing.assert_array_equal(store.load("train", [stem]).X, features(2, seed))


def test_another_schema_is_an_error_with_the_command_that_rebuilds(store: FeatureStore) -> None:
    store.check("abc")
    with pytest.raises(
        StoreError,
        match=r"feature schema abc, this gbr writes def; "
        r"run `python -m gbr\.features build --subset tile:xla --store .*`",
    ):
        store.check("def")


def test_a_new_schema_removes_previous_graphs(store: FeatureStore) -> None:
    other = SCHEMA | {"hash": "def"}
    store.record(other, {"valid": {"d": write(store, "d", features(2, 0), "valid")}}, expected={"valid": 1})
    assert store.stems("train") == []
    store.check("def")
    with pytest.raises(StoreError, match=r"holds no graph of train; run `python -m"):
        store.load("train")


def test_an_incomplete_split_is_an_error(store: FeatureStore) -> None:
    store.record(SCHEMA, expected={"train": 5})
    with pytest.raises(StoreError, match=r"holds 3 of 5 train graphs; run `python -m gbr\.features build"):
        store.load("train")
    assert store.load("train", ["a"]).names == ("a",)


def test_missing_graphs_splits_columns_and_stores_are_errors(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no train graph z; run"):
        store.load("train", ["a", "z"])
    with pytest.raises(StoreError, match="holds no graph of test; run"):
        store.load("test")
    with pytest.raises(UsageError, match="columns: 'node' is neither a column nor a block"):
        store.load("train", columns=["node"])
    with pytest.raises(StoreError, match="no feature store of layout:nlp:random; run"):
        _ = FeatureStore(tmp_path, "layout:nlp:random").manifest


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
        (replace(lambda frame: frame.with_columns(pl.col("_graph").list.head(2))), "column _graph lacks the 3 values"),
        (column("config.a", *"abcd"), r"column config\.a: expected Float32, got String"),
        (column("_runtime", 1, None, 2, 3), "column _runtime has missing values"),
        (column("_runtime", 1, 2, -3, 4), "invalid value -3 in column _runtime"),
        (column("_duplicate_of", 0, 1, 3, 3), "invalid value 3 in column _duplicate_of"),
    ],
)
def test_a_damaged_file_is_a_one_line_error(store: FeatureStore, damage: Any, message: str) -> None:
    damage(store.path("train", "b"))
    with pytest.raises(StoreError, match=rf"b\.parquet: {message}.*; run `python -m gbr\.features build") as caught:
        store.load("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError"),
        ('{"format": 99, "schema": {}}', "format 99, this gbr reads 1"),
    ],
)
def test_a_damaged_manifest_is_a_one_line_error(store: FeatureStore, content: str, message: str) -> None:
    (store.folder / "manifest.json").write_text(content)
    again = FeatureStore(store.root, store.subset)
    with pytest.raises(StoreError, match=rf"manifest\.json: not a valid feature store manifest \({message}.*\); run"):
        again.check("abc")


def put(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Replace an item of a manifest."""

    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


def rename(stem: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["graphs"]["train"][stem] = manifest["graphs"]["train"].pop("a")

    return change


ENTRY = ("graphs", "train", "a")
CHANGES = {
    "schema": put("schema", value=[]),
    "columns": put("schema", "columns", value={}),
    "duplicate column": put("schema", "columns", value=[*COLUMNS, "nodes.a"]),
    "shared": put("schema", "shared", value=["unknown"]),
    "hardware": put("schema", "hardware", value=[1]),
    "expected": put("expected", value=[2]),
    "rows": put(*ENTRY, "rows", value=-3),
    "measured": put(*ENTRY, "measured", value=["_runtime", "../x"]),
    "source": put(*ENTRY, "source", value=None),
    "degenerate": put(*ENTRY, "degenerate", value=0),
    "stem outside the folder": rename("../../x"),
    "stem with a line break": rename("a\n"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_manifests_with_invalid_values_are_errors(name: str, store: FeatureStore) -> None:
    manifest = copy.deepcopy(store.manifest)
    CHANGES[name](manifest)
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"not a valid feature store manifest \(.*; run `python -m gbr.features build"):
        FeatureStore(store.root, store.subset).load("train")


def test_too_many_rows_for_the_memory_are_an_error(store: FeatureStore) -> None:
    put(*ENTRY, "rows", value=2**48)(store.manifest)
    (store.folder / "manifest.json").write_text(json.dumps(store.manifest))
    with pytest.raises(StoreError, match="not enough memory for 281474976710"):
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


def test_a_file_instead_of_a_folder_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    store = FeatureStore(tmp_path / "store", "tile:xla")
    with pytest.raises(StoreError, match="cannot be written"):
        write(store, "a", features(3, 9))
    with pytest.raises(StoreError, match="cannot be written"):
        store.record(SCHEMA)


def test_shared_columns_must_have_the_same_value_in_all_rows(tmp_path: Path) -> None:
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


def test_columns_and_blocks_can_be_chosen(root: Path) -> None:
    few = loaded(root, split="valid", columns=["config", "geometry.tiles"])
    assert len(few) == 60
    assert few.columns[: len(KEYS)] == list(KEYS)
    assert {name.split(".")[0] for name in few.columns[len(KEYS) :]} == {"config", "geometry"}
    assert few.columns[-1] == "geometry.tiles"
    assert (
        gbr.load("tile:cpu", store=root / "store", columns="roles", lazy=True)
        .collect()
        .equals(loaded(root, columns="roles"))
    )


def test_short_names_are_looked_up_in_the_data(root: Path) -> None:
    assert gbr.load("tile", data=root, store=root / "store").equals(loaded(root))


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


def test_polars_pandas_and_numpy_score_alike_and_wrong_columns_are_named(root: Path) -> None:
    train, valid = loaded(root), loaded(root, split="valid")
    features = cs.contains(".")
    target = train["runtime"] / train["normalizer"]
    ranker = Ranker("lightgbm", n_estimators=10, n_jobs=1).fit(train.select(features), target, qid=train["graph"])
    polars = valid.select(features)
    pandas = pd.DataFrame(polars.to_numpy(), columns=polars.columns, index=np.arange(len(valid))[::-1] + 7)
    expected = ranker.predict(polars)
    assert len(np.unique(expected)) > 10
    # Scores are in the order of the rows, not of the index; columns are matched by name.
    for same in (pandas, pandas[pandas.columns[::-1]], polars.to_numpy(), polars.select(polars.columns[::-1])):
        np.testing.assert_array_equal(ranker.predict(same), expected)
    shuffled = np.random.default_rng(0).permutation(len(valid))
    np.testing.assert_array_equal(ranker.predict(pandas.iloc[shuffled]), expected[shuffled])
    first = polars.columns[0]
    for wrong in (polars.drop(first), pandas.drop(columns=first)):
        with pytest.raises(ValueError, match=r"now missing:\n- " + first):
            ranker.predict(wrong)
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- mine.extra"):
        ranker.predict(polars.with_columns(pl.lit(1.0).alias("mine.extra")))
    graphs = valid["graph"]
    assert ranker.score(polars, valid["runtime"], qid=graphs) == ranker.score(
        pandas, valid["runtime"].to_numpy(), qid=graphs.to_pandas()
    )
