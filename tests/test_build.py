from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.hardware import TPU
from gbr.data import build as room
from gbr.data import layout_build
from gbr.data.build import BuildReport, build, extract, schema_of, shared_columns
from gbr.data.collection import Subset, resolve
from gbr.data.graph import graph_from_arrays, read_graph, write_graph
from gbr.data.store import FeatureStore
from gbr.errors import DataError, GbrError, StoreError, UsageError
from tests.made import collection, layout_arrays, tile_arrays

TILE = Subset("tile:xla")
LAYOUT = Subset("layout:xla:random")


def built(root: Path, **given: Any) -> BuildReport:
    return build(TILE, root, root / "store", jobs=given.pop("jobs", 1), **given)


def stored(root: Path, subset: Subset = TILE) -> FeatureStore:
    return FeatureStore(root / "store", subset.name)


def leftovers(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*.part")]


def first_equal(rows: np.ndarray) -> list[int]:
    """The obvious twin: every row against every earlier one."""
    return [next(at for at in range(row + 1) if np.array_equal(rows[at], rows[row])) for row in range(len(rows))]


@pytest.mark.parametrize("subset", [TILE, LAYOUT], ids=lambda subset: subset.kind)
def test_the_store_holds_what_extract_gives(tmp_path: Path, subset: Subset) -> None:
    collection(tmp_path, subset.name, train=3, test=1)
    report = build(subset, tmp_path, tmp_path / "store", jobs=1)
    assert (report.built, report.kept, report.removed, report.rows) == (4, 0, 0, 5 + 6 + 7 + 5)
    store = stored(tmp_path, subset)
    store.check(schema_of(subset.kind).hash)
    slates = store.load("train")
    assert slates.names == ("train_0", "train_1", "train_2")
    for number, name in enumerate(slates.names):
        graph = read_graph(subset.folder(tmp_path) / "train" / f"{name}.npz")
        schema, X, duplicate_of = extract(graph, TPU)
        rows = slates.rows(number)
        assert slates.columns == schema.names
        np.testing.assert_array_equal(slates.X[rows], X)
        np.testing.assert_array_equal(slates.duplicate_of[rows], duplicate_of)
        assert slates.runtime is not None
        np.testing.assert_array_equal(slates.runtime[rows], graph.runtime)
    assert (slates.normalizer is not None) == (subset.kind == "tile")


def test_every_real_file_is_described(shared_data: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("tile:xla", "layout:xla:default", "layout:xla:random", "layout:nlp:random"):
        subset = resolve(name, shared_data)
        report = build(subset, shared_data, tmp_path, jobs=1)
        found |= {f"{name}/{graph}": why for graph, why in report.degenerate.items()}
        for split in ("train", "valid", "test"):
            store = FeatureStore(tmp_path, name)
            for stem in store.stems(split):
                slates = store.load(split, [stem])
                graph = read_graph(subset.folder(shared_data) / split / f"{stem}.npz")
                configs = np.concatenate([block for _, block in graph.config_blocks()])
                _, first, inverse = np.unique(
                    configs.reshape(len(configs), -1), axis=0, return_index=True, return_inverse=True
                )
                np.testing.assert_array_equal(slates.duplicate_of, first[inverse.reshape(-1)])
                assert np.isfinite(slates.X).all()
    identical = "all configurations are identical"
    assert found == {
        "tile:xla/train/retinanet.2x2.fp32_-342c949e14733d96": identical,
        "tile:xla/test/d6f5f54247bd1e58a10b9e7062c636ab": identical,
        "layout:xla:random/train/openai_v0_rnn_optimized": identical,
    }


@pytest.mark.parametrize("kind", ["tile", "layout"])
def test_identical_configurations_are_found(kind: str) -> None:
    arrays = tile_arrays(60) if kind == "tile" else layout_arrays(60)
    key = "config_feat" if kind == "tile" else "node_config_feat"
    rng = np.random.default_rng(0)
    arrays[key] = arrays[key][rng.integers(0, 20, 60)]
    _, X, duplicate_of = extract(graph_from_arrays("x", arrays))
    assert duplicate_of.tolist() == first_equal(arrays[key])
    assert duplicate_of.dtype == np.int64
    np.testing.assert_array_equal(X, X[duplicate_of])


def test_zero_equals_minus_zero() -> None:
    arrays = tile_arrays(2)
    arrays["config_feat"] = np.zeros((2, 24), np.float32)
    arrays["config_feat"][1, 3] = -0.0
    _, X, duplicate_of = extract(graph_from_arrays("x", arrays))
    assert duplicate_of.tolist() == [0, 0]
    assert X[0].tobytes() == X[1].tobytes()


def test_layouts_in_blocks_are_layouts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_from_arrays("x", layout_arrays(50))
    _, whole, duplicates = extract(graph)
    monkeypatch.setattr(layout_build, "ROWS_PER_GROUP", 7)
    monkeypatch.setattr(layout_build, "_CODES_AT_ONCE", 5)
    monkeypatch.setattr(layout_build, "_SPOOL_BYTES", 100)
    monkeypatch.setattr("gbr.data.sources.BLOCK_BYTES", 3 * 72)
    _, parts, again = extract(graph)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(again, duplicates)


def test_columns_that_are_shared_are_those_of_the_graph() -> None:
    for kind, make in (("tile", tile_arrays), ("layout", layout_arrays)):
        schema, X, _ = extract(graph_from_arrays("x", make(30)))
        shared = set(shared_columns(schema_of(kind)))
        assert 0 < len(shared) < len(schema)
        varying = {name for name, column in zip(schema.names, X.T, strict=True) if (column != column[0]).any()}
        assert varying
        assert not varying & shared


def test_reasons_why_a_graph_cannot_be_ranked(tmp_path: Path) -> None:
    folder = TILE.folder(tmp_path) / "train"
    write_graph(folder / "good.npz", tile_arrays(4))
    write_graph(folder / "single.npz", tile_arrays(1))
    write_graph(folder / "level.npz", tile_arrays(4) | {"config_runtime": np.full(4, 9)})
    same = tile_arrays(4)["config_feat"][[0, 0, 0, 0]]
    write_graph(folder / "same.npz", tile_arrays(4) | {"config_feat": same})
    unknown = {"config_runtime": np.zeros(4, np.int64)}
    write_graph(folder / "unknown.npz", tile_arrays(4) | unknown)
    write_graph(folder / "unknown_same.npz", tile_arrays(4) | unknown | {"config_feat": same})
    assert built(tmp_path).degenerate == {
        "train/level": "all runtimes are equal",
        "train/same": "all configurations are identical",
        "train/single": "fewer than 2 configurations",
        "train/unknown_same": "all configurations are identical",
    }
    entries = stored(tmp_path).entries("train")
    assert [stem for stem, entry in entries.items() if not entry["labelled"]] == ["unknown", "unknown_same"]


def test_only_what_is_missing_or_stale_is_built(tmp_path: Path) -> None:
    collection(tmp_path, train=3, valid=2)
    steps: list[int] = []

    @contextmanager
    def progress(total: int) -> Iterator[Any]:
        steps.append(total)
        yield steps.append

    def counts(**given: Any) -> tuple[int, int, int]:
        report = built(tmp_path, **given)
        return report.built, report.kept, report.removed

    assert counts(splits=("valid",), progress=progress) == (2, 0, 0)
    assert steps == [2, 1, 1]
    assert counts(splits=("train", "valid")) == (3, 2, 0)
    assert counts(progress=progress) == (0, 5, 0)
    assert steps == [2, 1, 1]  # nothing to do, nothing to show
    folder = TILE.folder(tmp_path) / "train"
    write_graph(folder / "train_1.npz", tile_arrays(9, seed=77))
    assert counts() == (1, 4, 0)
    assert int(stored(tmp_path).load("train", ["train_1"]).sizes[0]) == 9
    stored(tmp_path).path("valid", "valid_0").unlink()
    assert counts() == (1, 4, 0)
    with stored(tmp_path).path("valid", "valid_1").open("ab") as torn:
        torn.write(b"?")
    assert counts() == (1, 4, 0)
    (folder / "train_0.npz").unlink()
    assert counts() == (0, 4, 1)
    assert stored(tmp_path).stems("train") == ["train_1", "train_2"]
    assert not stored(tmp_path).path("train", "train_0").exists()
    write_graph(folder / "train_3.npz", tile_arrays(4))
    assert counts(splits=("train",)) == (1, 2, 0)


def test_another_schema_builds_everything_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=2, valid=1)
    built(tmp_path)
    store = stored(tmp_path)
    text = (store.folder / "manifest.json").read_text().replace(schema_of("tile").hash, "0123456789ab")
    (store.folder / "manifest.json").write_text(text)
    with pytest.raises(
        StoreError, match=r"feature schema 0123456789ab, this gbr writes .*features build --subset tile:xla"
    ):
        stored(tmp_path).check(schema_of("tile").hash)
    assert built(tmp_path, splits=("train",)).built == 2
    stored(tmp_path).check(schema_of("tile").hash)
    assert stored(tmp_path).stems("valid") == []
    assert built(tmp_path).built == 1


@pytest.mark.parametrize("content", ["", "{}", '{"format": 0}', "\x00"])
def test_a_torn_manifest_is_built_again(tmp_path: Path, content: str) -> None:
    collection(tmp_path, train=1)
    built(tmp_path)
    (stored(tmp_path).folder / "manifest.json").write_text(content)
    assert built(tmp_path).built == 1
    assert stored(tmp_path).load("train").names == ("train_0",)


def test_a_bad_graph_fails_the_build_and_keeps_what_was_done(tmp_path: Path) -> None:
    collection(tmp_path, train=4)
    folder = TILE.folder(tmp_path) / "train"
    bad = tile_arrays()
    bad["edge_index"] = np.array([[0, 99]])
    np.savez_compressed(folder / "train_2.npz", **bad)
    with pytest.raises(DataError, match=r"train_2\.npz: edge_index: got \(0, 99\) in row 0, want nodes 0 to 2"):
        built(tmp_path)
    assert stored(tmp_path).stems("train") == ["train_0", "train_1"]
    assert not leftovers(tmp_path)
    with pytest.raises(StoreError, match="holds 2 of 4 train graphs; run"):
        stored(tmp_path).load("train")
    write_graph(folder / "train_2.npz", tile_arrays())
    report = built(tmp_path)
    assert (report.built, report.kept) == (2, 2)
    assert len(stored(tmp_path).load("train")) == 4


def test_a_torn_archive_is_found_before_anything_is_built(tmp_path: Path) -> None:
    collection(tmp_path, train=2)
    path = TILE.folder(tmp_path) / "train" / "train_1.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"train_1\.npz: no whole \.npz archive"):
        built(tmp_path)
    assert stored(tmp_path).stems("train") == []


def test_an_interrupt_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=3)
    work = room._work

    def interrupted(task: Any) -> Any:
        if task.stem == "train_1":
            raise KeyboardInterrupt("at train_1")
        return work(task)

    monkeypatch.setattr(room, "_work", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^at train_1$"):
        built(tmp_path)
    assert stored(tmp_path).stems("train") == ["train_0"]
    monkeypatch.undo()
    assert built(tmp_path).built == 2


def test_processes_give_the_same_store(tmp_path: Path) -> None:
    collection(tmp_path, train=5)
    report = built(tmp_path, jobs=2)
    assert (report.built, report.jobs) == (5, 2)
    several = stored(tmp_path).load("train")
    build(TILE, tmp_path, tmp_path / "alone", jobs=1)
    alone = FeatureStore(tmp_path / "alone", TILE.name).load("train")
    np.testing.assert_array_equal(several.X, alone.X)
    bad = tile_arrays() | {"config_runtime": np.arange(7)}
    np.savez_compressed(TILE.folder(tmp_path) / "train" / "train_3.npz", **bad)
    np.savez_compressed(TILE.folder(tmp_path) / "train" / "train_4.npz", **bad)
    with pytest.raises(DataError, match=r"train_[34]\.npz: config_runtime: got 0 at 0 among others"):
        built(tmp_path, jobs=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
def test_a_killed_build_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    collection(tmp_path, train=60)
    command = ["-m", "gbr.features", "build", "--subset", "tile:xla", "--jobs", "2"]
    where = ["--data", str(tmp_path), "--store", str(tmp_path / "store")]
    killed = subprocess.Popen([sys.executable, *command, *where], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder = stored(tmp_path).folder / "train"
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.parquet")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    before = len(list(folder.glob("*.parquet")))
    assert before
    built(tmp_path)
    build(TILE, tmp_path, tmp_path / "alone", jobs=1)
    found, alone = stored(tmp_path).load("train"), FeatureStore(tmp_path / "alone", TILE.name).load("train")
    assert found.names == alone.names
    np.testing.assert_array_equal(found.X, alone.X)


def test_what_a_killed_build_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    collection(tmp_path, train=1)
    built(tmp_path)
    folder = stored(tmp_path).folder / "train"
    for name, age in ((".a.parquet.x.part", 2 * 24 * 3600), (".b.parquet.y.part", 60)):
        (folder / name).write_text("half")
        os.utime(folder / name, (time.time() - age,) * 2)
    built(tmp_path)
    assert sorted(os.listdir(folder)) == [".b.parquet.y.part", "train_0.parquet"]


def test_a_graph_in_the_wrong_folder_is_refused(tmp_path: Path) -> None:
    write_graph(TILE.folder(tmp_path) / "train" / "a.npz", layout_arrays())
    with pytest.raises(DataError, match=r"a\.npz: got a layout graph, want tile as its folder says"):
        built(tmp_path)


def test_a_program_without_features_names_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a loop without end")

    monkeypatch.setattr("features.tile.extractor.TileExtractor", fail)
    with pytest.raises(DataError, match="<memory>: has no features \\(a loop without end\\)"):
        extract(graph_from_arrays("x", tile_arrays()))


def test_a_feature_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from features.tile.extractor import TileExtractor

    call = TileExtractor.__call__

    def spoiled(self: TileExtractor, configs: np.ndarray) -> np.ndarray:
        X = call(self, configs)
        X[3, 30] = np.nan
        return X

    monkeypatch.setattr(TileExtractor, "__call__", spoiled)
    with pytest.raises(
        DataError, match=r"<memory>: feature geometry\.\S+ of configuration 3 is nan, want a finite number"
    ):
        extract(graph_from_arrays("x", tile_arrays()))


def test_requests_that_cannot_be_right(tmp_path: Path) -> None:
    collection(tmp_path, train=1)
    with pytest.raises(UsageError, match="jobs: got 0, want at least 1"):
        built(tmp_path, jobs=0)
    with pytest.raises(UsageError, match="split 'dev': want one of train, valid, test"):
        built(tmp_path, splits=("dev",))
    with pytest.raises(DataError, match=r"tile/xla/valid: no such folder; tile:xla needs its valid graphs there"):
        built(tmp_path, splits=("train", "valid"))
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        build(TILE, tmp_path, tmp_path / "taken", jobs=1)


def test_a_large_layout_file_is_that_of_one_pass_over_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from features.layout.extractor import LayoutExtractor
    from gbr.data import parquet

    arrays = layout_arrays(50)
    arrays["node_config_feat"] = arrays["node_config_feat"][np.random.default_rng(0).integers(0, 30, 50)]
    write_graph(LAYOUT.folder(tmp_path) / "train" / "a.npz", arrays)
    monkeypatch.setattr(layout_build, "ROWS_PER_GROUP", 8)
    monkeypatch.setattr(layout_build, "_SPOOL_BYTES", 1000)
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", 20)
    build(LAYOUT, tmp_path, tmp_path / "store", jobs=1)
    program = room._program(graph_from_arrays("x", arrays))
    wanted = LayoutExtractor(program, arrays["node_config_ids"], hardware=TPU).vectors(arrays["node_config_feat"])
    slates = stored(tmp_path, LAYOUT).load("train")
    assert slates.columns == schema_of("layout").names
    np.testing.assert_array_equal(slates.X, wanted)
    assert slates.duplicate_of.tolist() == first_equal(arrays["node_config_feat"])
    assert slates.runtime is not None
    np.testing.assert_array_equal(slates.runtime, arrays["config_runtime"])
    some = stored(tmp_path, LAYOUT).load("train", columns=["copies", "nodes"])
    np.testing.assert_array_equal(some.X, slates.select(["copies", "nodes"]).X)
    path = stored(tmp_path, LAYOUT).path("train", "a")
    pl.read_parquet(path).head(49).write_parquet(path)
    with pytest.raises(StoreError, match="got 49 rows, the manifest says 50"):
        stored(tmp_path, LAYOUT).load("train")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("value", [7, -3])
def test_a_layout_that_is_none_stops_the_build(tmp_path: Path, dtype: Any, value: int) -> None:
    arrays = layout_arrays(40)
    arrays["node_config_feat"] = arrays["node_config_feat"].astype(dtype)
    arrays["node_config_feat"][33, 0, 5] = value
    folder = LAYOUT.folder(tmp_path) / "train"
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "a.npz", **arrays)
    with pytest.raises(
        DataError, match=rf"a\.npz: node_config_feat: got {value}\S* at \(33, 0, 5\), want whole numbers"
    ):
        build(LAYOUT, tmp_path, tmp_path / "store", jobs=1)
    assert not leftovers(tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_values_a_float32_would_round_are_refused(tmp_path: Path) -> None:
    arrays = layout_arrays(3)
    arrays["node_config_feat"] = arrays["node_config_feat"].astype(np.float64)
    arrays["node_config_feat"][1, 0, 0] = 1 + 1e-12
    with pytest.raises(DataError, match=r"at \(1, 0, 0\), want whole numbers -1 to 5"):
        extract(graph_from_arrays("x", arrays))


def test_results_of_several_threads_come_in_order_and_few_items_are_taken_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        if number == 40:
            raise ValueError("forty")
        return number

    with ThreadPoolExecutor(3) as pool, pytest.raises(ValueError, match="forty"):
        list(layout_build._in_order(pool, work, items(), 4))
    assert len(made) < 60
    with ThreadPoolExecutor(3) as pool:
        assert list(layout_build._in_order(pool, work, range(40), 4)) == list(range(40))


def test_no_room_for_what_waits_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout_build.LayoutColumns, "_spool", full)
    with pytest.raises(GbrError, match=r"temporary folder .*: No space left on device; name another one with TMPDIR"):
        extract(graph_from_arrays("x", layout_arrays()))
