"""A store as a polars frame, against the store itself and the graph files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import polars.selectors as cs
import pytest

import gbr
from gbr import Ranker, read_graph
from gbr.data.build import build, extract
from gbr.data.collection import resolve
from gbr.data.store import KEYS, FeatureStore
from gbr.errors import StoreError, UsageError
from tests.collection import rewrite, write_collection


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


def test_lazy_is_the_same_and_reads_what_is_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loaded(root)
    lazy = gbr.load("tile:cpu", store=root / "store", lazy=True)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect().equals(whole)
    assert lazy.collect_schema() == whole.schema
    reads: list[tuple[str, list[str]]] = []
    load = FeatureStore.load

    def spy(self: FeatureStore, split: str, stems: list[str], columns: list[str]) -> object:
        reads.append((stems[0], columns))
        return load(self, split, stems, columns)

    monkeypatch.setattr(FeatureStore, "load", spy)
    predicate = (pl.col("geometry.tiles") > 3) & (pl.col("row") < 20)
    found = lazy.filter(predicate).select("graph", "geometry.waste").collect()
    assert found.equals(whole.filter(predicate).select("graph", "geometry.waste"))
    assert 0 < len(found) < 80
    assert {name for _, columns in reads for name in columns} == {"geometry.tiles", "geometry.waste"}
    reads.clear()
    assert lazy.head(35).collect().equals(whole.head(35))
    assert len(reads) == 2
    mean = lazy.group_by("graph", maintain_order=True).agg(pl.col("runtime").min()).collect()
    assert mean.equals(whole.group_by("graph", maintain_order=True).agg(pl.col("runtime").min()))


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


def test_what_is_not_there_is_told_with_the_command_that_builds_it(root: Path, tmp_path: Path) -> None:
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
    # Rows are scored in their order, regardless of an index; columns are selected by name, regardless of their order.
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
