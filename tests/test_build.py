from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import gbr
from features.graph import Program
from features.hardware import TPU
from features.layout.extractor import LayoutExtractor
from features.tile.extractor import TileExtractor
from gbr.data import build as builds
from gbr.data import graph as graphs
from gbr.data import store as stores
from gbr.data.build import BuildReport, build, extract, n_per_config, schema_of
from gbr.data.collection import Subset, resolve
from gbr.data.graph import graph_from_arrays, read_graph, write_graph
from gbr.data.pool import in_order, in_processes
from gbr.data.store import FeatureStore
from gbr.errors import DataError, GbrError, GbrWarning, StoreError, UsageError
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
    """Naive implementation: compare every row with all earlier rows."""
    return [next(at for at in range(row + 1) if np.array_equal(rows[at], rows[row])) for row in range(len(rows))]


@pytest.mark.parametrize("subset", [TILE, LAYOUT], ids=lambda subset: subset.kind)
def test_the_store_holds_the_extracted_features(tmp_path: Path, subset: Subset) -> None:
    collection(tmp_path, subset.name, train=3, test=1)
    report = build(subset, tmp_path, tmp_path / "store", jobs=1)
    assert (report.built, report.kept, report.removed, report.rows) == (4, 0, 0, 5 + 6 + 7 + 5)
    store = stored(tmp_path, subset)
    store.check(schema_of(subset.kind).hash)
    groups = store.load("train")
    assert groups.names == ("train_0", "train_1", "train_2")
    for number, name in enumerate(groups.names):
        graph = read_graph(subset.folder(tmp_path) / "train" / f"{name}.npz")
        schema, X, duplicate_of = extract(graph, TPU)
        rows = groups.rows(number)
        assert groups.columns == schema.names
        np.testing.assert_array_equal(groups.X[rows], X)
        np.testing.assert_array_equal(groups.duplicate_of[rows], duplicate_of)
        assert groups.runtime is not None
        np.testing.assert_array_equal(groups.runtime[rows], graph.runtime)
    assert (groups.normalizer is not None) == (subset.kind == "tile")


def test_real_files_are_built(shared_data: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("tile:xla", "layout:xla:default", "layout:xla:random", "layout:nlp:random"):
        subset = resolve(name, shared_data)
        report = build(subset, shared_data, tmp_path, jobs=1)
        found |= {f"{name}/{graph}": why for graph, why in report.degenerate.items()}
        for split in ("train", "valid", "test"):
            store = FeatureStore(tmp_path, name)
            for stem in store.stems(split):
                groups = store.load(split, [stem])
                graph = read_graph(subset.folder(shared_data) / split / f"{stem}.npz")
                configs = np.concatenate([block for _, block in graph.config_blocks()])
                _, first, inverse = np.unique(
                    configs.reshape(len(configs), -1), axis=0, return_index=True, return_inverse=True
                )
                np.testing.assert_array_equal(groups.duplicate_of, first[inverse.reshape(-1)])
                assert np.isfinite(groups.X).all()
    identical = "all configurations are identical"
    assert found == {
        "tile:xla/train/retinanet.2x2.fp32_-342c949e14733d96": identical,
        "tile:xla/test/d6f5f54247bd1e58a10b9e7062c636ab": identical,
        "layout:xla:random/train/openai_v0_rnn_optimized": identical,
    }


@pytest.mark.parametrize("kind", ["tile", "layout"])
def test_duplicate_configurations_are_found(kind: str) -> None:
    arrays = tile_arrays(60) if kind == "tile" else layout_arrays(60)
    key = "config_feat" if kind == "tile" else "node_config_feat"
    rng = np.random.default_rng(0)
    arrays[key] = arrays[key][rng.integers(0, 20, 60)]
    _, X, duplicate_of = extract(graph_from_arrays("x", arrays))
    assert duplicate_of.tolist() == first_equal(arrays[key])
    assert duplicate_of.dtype == np.int64
    np.testing.assert_array_equal(X, X[duplicate_of])
    if kind == "tile":  # 0.0 and -0.0 are equal
        arrays = tile_arrays(2) | {"config_feat": np.zeros((2, 24), np.float32)}
        arrays["config_feat"][1, 3] = -0.0
        _, X, duplicate_of = extract(graph_from_arrays("x", arrays))
        assert duplicate_of.tolist() == [0, 0]
        assert X[0].tobytes() == X[1].tobytes()


def test_shared_columns_are_the_last_and_constant_within_a_graph() -> None:
    for make in (tile_arrays, layout_arrays):
        schema, X, _ = extract(graph_from_arrays("x", make(30)))
        is_shared = [not block.per_config for block in schema.blocks for _ in block.columns]
        assert 0 < n_per_config(schema) == is_shared.index(True) < len(schema)  # they are the last
        assert is_shared == sorted(is_shared)
        varying = (X[0] != X).any(axis=0)
        assert varying.any()
        assert not varying[is_shared].any()


def test_degenerate_graphs_are_reported_with_the_reason(tmp_path: Path) -> None:
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
    assert [stem for stem, entry in entries.items() if not entry["measured"][1:]] == ["unknown", "unknown_same"]


def test_only_missing_and_stale_graphs_are_built(tmp_path: Path) -> None:
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
    assert counts() == (3, 2, 0)
    assert counts(progress=progress) == (0, 5, 0)
    assert steps == [2, 1, 1]  # nothing to do, nothing to show
    folder = TILE.folder(tmp_path) / "train"
    write_graph(folder / "train_1.npz", tile_arrays(9, seed=77))
    assert counts() == (1, 4, 0)
    assert int(stored(tmp_path).load("train", ["train_1"]).sizes[0]) == 9
    stored(tmp_path).path("valid", "valid_0").unlink()
    assert counts() == (1, 4, 0)
    (folder / "train_0.npz").unlink()
    assert counts() == (0, 4, 1)
    assert stored(tmp_path).stems("train") == ["train_1", "train_2"]
    assert not stored(tmp_path).path("train", "train_0").exists()


def test_another_schema_rebuilds_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection(tmp_path, train=2, valid=1)
    with monkeypatch.context() as older:
        older.setitem(vars(schema_of("tile")), "hash", "0123456789ab")
        assert built(tmp_path).built == 3
    with pytest.raises(StoreError, match="feature schema 0123456789ab, this gbr writes"):
        stored(tmp_path).check(schema_of("tile").hash)
    assert built(tmp_path, splits=("train",)).built == 2
    stored(tmp_path).check(schema_of("tile").hash)
    assert stored(tmp_path).stems("valid") == []
    assert built(tmp_path).built == 1


def test_a_store_belongs_to_one_data_root(tmp_path: Path) -> None:
    first = collection(tmp_path / "a", TILE.name, train=2, valid=1)
    second = collection(tmp_path / "b", TILE.name, valid=1, train=2)  # other graphs of the same names
    built(first)
    shutil.copytree(first, tmp_path / "moved")
    assert built(tmp_path / "moved").kept == 3
    with pytest.raises(UsageError, match=r"has the features of .*a, not of .*b; name another --store, or delete it"):
        build(TILE, second, first / "store", jobs=1)
    assert stored(first).data_root == first.resolve()
    assert build(TILE, second, jobs=1).folder == str(second / "store/tile/xla")
    assert len(gbr.load(TILE.name, data=second)["graph"].unique()) == 2
    with pytest.raises(UsageError, match=r"has the features of .*a, not of .*b; name its store"):
        gbr.load(TILE.name, data=second, store=first / "store")


def test_loading_features_of_changed_graphs_warns(tmp_path: Path) -> None:
    root = collection(tmp_path, TILE.name, train=3)
    build(TILE, root, jobs=1)
    folder = TILE.folder(root) / "train"
    os.utime(folder / "train_0.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gbr.load(TILE.name, data=root)
    write_graph(folder / "train_1.npz", tile_arrays(6, seed=99))
    (folder / "train_2.npz").unlink()
    with pytest.warns(GbrWarning, match=r"2 graphs of train changed since .* \(train_1 \.\.\.\); run `python -m gbr"):
        gbr.load(TILE.name, data=root)


def test_an_invalid_graph_fails_the_build_and_keeps_finished_graphs(tmp_path: Path) -> None:
    collection(tmp_path, train=4)
    folder = TILE.folder(tmp_path) / "train"
    bad = tile_arrays()
    bad["edge_index"] = np.array([[0, 99]])
    np.savez_compressed(folder / "train_2.npz", **bad)
    with pytest.raises(DataError, match=r"train_2\.npz: edge_index: expected 0 to 2, got 99 at \(0, 1\)"):
        built(tmp_path)
    assert stored(tmp_path).stems("train") == ["train_0", "train_1"]
    assert not leftovers(tmp_path)
    with pytest.raises(StoreError, match="holds 2 of 4 train graphs; run"):
        stored(tmp_path).load("train")
    write_graph(folder / "train_2.npz", tile_arrays())
    report = built(tmp_path)
    assert (report.built, report.kept) == (2, 2)
    assert len(stored(tmp_path).load("train")) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
def test_a_killed_build_of_several_processes_resumes(tmp_path: Path) -> None:
    collection(tmp_path, train=40)
    command = ["-m", "gbr.features", "build", "--subset", "tile:xla", "--jobs", "2"]
    where = ["--data", str(tmp_path), "--store", str(tmp_path / "store")]
    killed = subprocess.Popen([sys.executable, *command, *where], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder = stored(tmp_path).folder / "train"
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.parquet")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert list(folder.glob("*.parquet"))
    built(tmp_path)
    build(TILE, tmp_path, tmp_path / "single", jobs=1)
    found, single = (FeatureStore(tmp_path / name, TILE.name).load("train") for name in ("store", "single"))
    assert len(found) == 40
    np.testing.assert_array_equal(found.X, single.X)


def test_a_graph_in_the_wrong_folder_is_refused(tmp_path: Path) -> None:
    write_graph(TILE.folder(tmp_path) / "train" / "a.npz", layout_arrays())
    with pytest.raises(DataError, match=r"a\.npz: expected a tile graph as its folder says, got a layout graph"):
        built(tmp_path)


def test_a_program_without_features_names_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a loop without end")

    monkeypatch.setattr("features.tile.extractor.TileExtractor", fail)
    with pytest.raises(DataError, match="<memory>: no features can be computed \\(a loop without end\\)"):
        extract(graph_from_arrays("x", tile_arrays()))


def test_a_feature_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    call = TileExtractor.__call__

    def spoiled(self: TileExtractor, configs: np.ndarray) -> np.ndarray:
        X = call(self, configs)
        X[3, 30] = np.nan
        return X

    monkeypatch.setattr(TileExtractor, "__call__", spoiled)
    with pytest.raises(DataError, match=r"<memory>: feature geometry\.\S+: expected a finite number, got nan"):
        extract(graph_from_arrays("x", tile_arrays()))


def test_a_file_instead_of_the_store_is_a_one_line_error(tmp_path: Path) -> None:
    collection(tmp_path, train=1)
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        build(TILE, tmp_path, tmp_path / "taken", jobs=1)


def test_a_streamed_layout_file_equals_one_pass_over_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = layout_arrays(50)
    arrays["node_config_feat"] = arrays["node_config_feat"][np.random.default_rng(0).integers(0, 30, 50)]
    write_graph(LAYOUT.folder(tmp_path) / "train" / "a.npz", arrays)
    monkeypatch.setattr(builds, "_ROWS_PER_GROUP", 8)
    monkeypatch.setattr(builds, "_CODES_AT_ONCE", 5)
    monkeypatch.setattr(graphs, "BLOCK_BYTES", 3 * 72)
    monkeypatch.setattr(builds, "_SPOOL_BYTES", 1000)
    monkeypatch.setattr(stores, "_ROWS_AT_ONCE", 20)
    build(LAYOUT, tmp_path, tmp_path / "store", jobs=1)
    program = Program(arrays["node_opcode"], arrays["node_feat"], arrays["edge_index"])
    expected = LayoutExtractor(program, arrays["node_config_ids"], hardware=TPU).vectors(arrays["node_config_feat"])
    groups = stored(tmp_path, LAYOUT).load("train")
    assert groups.columns == schema_of("layout").names
    np.testing.assert_array_equal(groups.X, expected)
    assert groups.duplicate_of.tolist() == first_equal(arrays["node_config_feat"])
    assert groups.runtime is not None
    np.testing.assert_array_equal(groups.runtime, arrays["config_runtime"])
    path = stored(tmp_path, LAYOUT).path("train", "a")
    pl.read_parquet(path).head(49).write_parquet(path)
    with pytest.raises(StoreError, match="expected 50 rows as in the manifest, got 49"):
        stored(tmp_path, LAYOUT).load("train")


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, 7), (np.int64, -3)])
def test_an_invalid_layout_value_stops_the_build(tmp_path: Path, dtype: Any, value: int) -> None:
    arrays = layout_arrays(40)
    arrays["node_config_feat"] = arrays["node_config_feat"].astype(dtype)
    arrays["node_config_feat"][33, 0, 5] = value
    folder = LAYOUT.folder(tmp_path) / "train"
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "a.npz", **arrays)
    with pytest.raises(
        DataError, match=rf"a\.npz: node_config_feat: expected integers from -1 to 5, got {value}\S* at \(33, 0, 5\)"
    ):
        build(LAYOUT, tmp_path, tmp_path / "store", jobs=1)
    assert not leftovers(tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_threads_give_results_in_order_and_take_few_items_ahead() -> None:
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
        list(in_order(pool, work, items(), 4))
    assert len(made) < 60
    with ThreadPoolExecutor(3) as pool:
        assert list(in_order(pool, work, range(40), 4)) == list(range(40))


def test_a_daemonic_process_starts_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "daemon", True)
    assert list(in_processes(abs, [-1, -2], 2, "numbers")) == [(-1, 1), (-2, 2)]


def test_workers_of_a_script_without_a_guard_do_not_wait_for_it(tmp_path: Path) -> None:
    collection(tmp_path, "tile:xla", train=2)
    script = tmp_path / "script.py"
    script.write_text(f"import gbr\ngbr.build('tile:xla', {str(tmp_path)!r}, jobs=2)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.endswith("guard a script that starts workers by `if __name__ == '__main__':`\n")


def test_a_full_temporary_folder_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builds._Spool, "append", full)
    with pytest.raises(GbrError, match=r"temporary folder .*: No space left on device; set TMPDIR to another folder"):
        extract(graph_from_arrays("x", layout_arrays()))
