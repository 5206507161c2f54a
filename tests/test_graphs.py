from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.hlo import LAYOUT_CONFIG, N_FEAT, N_OPCODES, TILE_CONFIG
from gbr.data import graph as graphs
from gbr.data import sources
from gbr.data.graph import graph_from_arrays, read_graph, write_graph
from gbr.errors import DataError
from tests.made import Arrays, layout_arrays, tile_arrays


def test_widths_are_those_of_the_vocabulary() -> None:
    assert (N_FEAT, len(TILE_CONFIG), len(LAYOUT_CONFIG)) == (graphs.N_FEAT, graphs.N_TILE, graphs.N_LAYOUT)
    assert N_OPCODES == graphs.MAX_OPCODE + 1


def test_every_real_file_reads_as_numpy_reads_it(shared_data: Path) -> None:
    paths = sorted(shared_data.glob("npz/**/*.npz"))
    assert len(paths) >= 8
    for path in paths:
        graph = read_graph(path)
        with np.load(path) as expected:
            assert graph.name == path.stem
            assert graph.source == str(path)
            assert graph.kind == path.relative_to(shared_data / "npz").parts[0]
            for key in ("node_feat", "node_opcode", "edge_index"):
                found = getattr(graph, key)
                assert found.dtype == graphs.DTYPES[key]
                assert found.flags.c_contiguous
                np.testing.assert_array_equal(found, expected[key])
            runtime = expected["config_runtime"]
            assert (graph.runtime is None) == ("test" in path.parts) == (not runtime.any())
            if graph.runtime is not None:
                np.testing.assert_array_equal(graph.runtime, runtime)
            config = expected["config_feat" if graph.kind == "tile" else "node_config_feat"]
            assert graph.n_configs == len(config)
            blocks = list(graph.config_blocks(100))
            assert {block.dtype.name for _, block in blocks} == {"float32" if graph.kind == "tile" else "int8"}
            assert [first for first, _ in blocks] == list(range(0, len(config), 100))
            np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), config)
            if graph.kind == "tile":
                assert graph.normalizer is not None
                np.testing.assert_array_equal(graph.normalizer, expected["config_runtime_normalizers"])
            else:
                assert graph.node_config_ids is not None
                assert graph.node_splits is not None
                np.testing.assert_array_equal(graph.node_config_ids, expected["node_config_ids"])
                np.testing.assert_array_equal(graph.node_splits, expected["node_splits"][0])


@settings(max_examples=30, deadline=None)
@given(
    n_configs=st.integers(1, 70),
    rows=st.none() | st.integers(1, 80),
    piece=st.integers(1, 400),
    dtype=st.sampled_from(["float32", "int8", "int64"]),
)
def test_layout_blocks_are_the_configurations_whatever_the_cut(
    n_configs: int, rows: int | None, piece: int, dtype: str
) -> None:
    arrays = layout_arrays(n_configs)
    arrays["node_config_feat"] = arrays["node_config_feat"].astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        for module in (graphs, sources):
            patch.setattr(module, "BLOCK_BYTES", piece)
        blocks = list(graph_from_arrays("x", arrays).config_blocks(rows))
    if rows:
        assert [len(block) for _, block in blocks[:-1]] == [rows] * (len(blocks) - 1)
    assert [first for first, _ in blocks] == np.cumsum([0, *(len(block) for _, block in blocks[:-1])]).tolist()
    found = np.concatenate([block for _, block in blocks])
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, arrays["node_config_feat"])


def test_integer_types_do_not_matter() -> None:
    arrays = tile_arrays()
    for key, dtype in (("node_opcode", "int64"), ("edge_index", "int32"), ("config_runtime", "uint64")):
        arrays[key] = np.asfortranarray(arrays[key].astype(dtype))
    found, plain = graph_from_arrays("x", arrays), graph_from_arrays("x", tile_arrays())
    for key in ("node_opcode", "edge_index", "runtime"):
        assert getattr(found, key).dtype == getattr(plain, key).dtype
        np.testing.assert_array_equal(getattr(found, key), getattr(plain, key))


def test_opcodes_nobody_knows_become_unknown() -> None:
    arrays = tile_arrays()
    arrays["node_opcode"] = np.array([120, 121, 300])
    assert graph_from_arrays("x", arrays).node_opcode.tolist() == [120, 0, 0]


def test_runtimes_that_are_all_zero_are_none() -> None:
    arrays = tile_arrays()
    assert graph_from_arrays("x", arrays).repeat is None
    arrays["config_runtime"] = np.zeros(7, np.int64)
    arrays["config_runtime_repeat"] = np.arange(1, 8)
    graph = graph_from_arrays("x", arrays)
    assert graph.runtime is None
    assert graph.repeat is not None
    assert graph.repeat.tolist() == list(range(1, 8))
    del arrays["config_runtime"], arrays["config_runtime_normalizers"]
    graph = graph_from_arrays("x", arrays)
    assert graph.runtime is graph.normalizer is None


def test_graphs_compare_by_identity() -> None:
    one, two = graph_from_arrays("x", tile_arrays()), graph_from_arrays("x", tile_arrays())
    assert one != two
    assert len({one, two}) == 2


Change = Callable[[np.ndarray], np.ndarray]


def put(place: Any, value: Any) -> Change:
    """A copy of an array with one place changed."""

    def change(array: np.ndarray) -> np.ndarray:
        copy = np.array(array)
        copy[place] = value
        return copy

    return change


def new(*values: Any) -> Change:
    """Another array altogether."""
    return lambda _: np.array(values)


FAULTS: list[tuple[str, str, Change | None, str]] = [
    ("tile", "node_feat", None, "got keys .*, want node_feat among them"),
    ("tile", "node_feat", lambda a: a[:, :139], r"got shape \(3, 139\), want \(\*, 140\)"),
    ("tile", "node_feat", lambda a: a[:0], "got no nodes, want at least one"),
    ("tile", "node_feat", put((1, 7), np.nan), r"got nan at \(1, 7\), want finite numbers"),
    ("tile", "node_feat", lambda a: a + np.float64(1e39), r"got inf at \(0, 0\), want finite numbers"),
    ("tile", "node_feat", lambda a: a.astype("U9"), "got <U9"),
    ("tile", "node_feat", lambda a: a > 0, "got bool, want numbers"),
    ("tile", "node_opcode", lambda a: a[:2], r"got shape \(2,\), want \(3,\)"),
    ("tile", "node_opcode", new(0, -1, 0), r"got -1 at \(1,\), want 0 or more"),
    ("tile", "node_opcode", lambda a: a / 2, "got float64, want whole numbers"),
    ("tile", "edge_index", lambda a: a.reshape(-1), r"got shape \(4,\), want \(\*, 2\)"),
    ("tile", "edge_index", new((1, 0), (3, 0)), r"got \(3, 0\) in row 1, want nodes 0 to 2"),
    ("tile", "edge_index", new((1, -1)), r"got \(1, -1\) in row 0, want nodes 0 to 2"),
    ("tile", "edge_index", new((0, 2)), r"got \(0, 2\) in row 0, want \(consumer, operand\)"),
    ("tile", "edge_index", new((1, 1)), r"got \(1, 1\) in row 0, want \(consumer, operand\)"),
    ("tile", "config_feat", None, r"got keys .*, want config_feat \(tile\) or node_config_feat \(layout\)"),
    ("tile", "config_feat", put((4, 2), np.inf), r"got inf at \(4, 2\)"),
    ("tile", "config_feat", lambda a: a[:, :23], r"got shape \(7, 23\), want \(\*, 24\)"),
    ("tile", "config_feat", lambda a: a[:0], "got no configurations"),
    ("tile", "config_runtime", lambda a: a[:3], r"got shape \(3,\), want \(7,\)"),
    ("tile", "config_runtime", lambda a: a * 1.0, "got float64, want whole numbers"),
    ("tile", "config_runtime", put(2, -5), r"got -5 at \(2,\), want 0 or more"),
    ("tile", "config_runtime", put(2, 0), "got 0 at 2 among others, want all positive, or all 0"),
    ("tile", "config_runtime", lambda a: np.full(7, 2**63, np.uint64), "got -9223372036854775808"),
    ("tile", "config_runtime_repeat", lambda _: np.arange(7), "got 0 at 0 among others"),
    ("tile", "config_runtime_normalizers", put(6, 0), r"got 0 at \(6,\), want 1 or more"),
    ("layout", "node_config_ids", None, "got keys .*, want node_config_ids among them"),
    ("layout", "node_config_ids", new(9), r"got 9 at \(0,\), want 0 to 8"),
    ("layout", "node_config_ids", new(3, 3), "got a node twice, want distinct nodes"),
    ("layout", "node_config_ids", lambda a: a[:0], "got no node, want distinct nodes"),
    ("layout", "node_config_feat", lambda a: a[:, :, :17], r"got shape \(7, 1, 17\), want \(\*, 1, 18\)"),
    ("layout", "node_config_feat", lambda a: a[:0], "got no configurations"),
    ("layout", "config_feat", lambda _: np.zeros((7, 24)), "got both config_feat and node_config_feat"),
    ("layout", "node_splits", lambda a: a[0], r"got shape \(2,\), want \(1, \*\)"),
    ("layout", "node_splits", new((0, 10)), r"got 10 at \(0, 1\), want 0 to 9"),
]


@pytest.mark.parametrize(("kind", "key", "change", "message"), FAULTS)
def test_what_breaks_the_format_is_refused(
    tmp_path: Path, kind: str, key: str, change: Change | None, message: str
) -> None:
    arrays = tile_arrays() if kind == "tile" else layout_arrays()
    if change is None:
        del arrays[key]
    else:
        arrays[key] = change(arrays.get(key, np.zeros(0)))
    path = tmp_path / "broken.npz"
    np.savez_compressed(path, **arrays)
    with pytest.raises(DataError, match=message) as told:
        read_graph(path)
    assert str(told.value).startswith(f"{path}: {key}: ")
    assert "\n" not in str(told.value)
    with pytest.raises(DataError, match=rf"{key}: .*{message}"):
        write_graph(tmp_path / "out.npz", arrays)
    assert os.listdir(tmp_path) == ["broken.npz"]


@pytest.mark.parametrize("value", [6, -2, 0.5, np.nan, np.inf, 256 + 3, 1e30])
def test_layout_values_are_checked_while_they_stream(tmp_path: Path, value: float) -> None:
    arrays = layout_arrays(50)
    arrays["node_config_feat"][33, 0, 5] = value
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    graph = read_graph(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"node_config_feat: got .* at \(33, 0, 5\), want whole numbers -1 to 5"):
        list(graph.config_blocks(10))
    with pytest.raises(DataError, match="want whole numbers -1 to 5"):
        write_graph(tmp_path / "b.npz", arrays)
    assert not (tmp_path / "b.npz").exists()


def test_a_file_replaced_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_graph(path, layout_arrays(300, seed=0))
    graph = read_graph(path)
    write_graph(path, layout_arrays(300, seed=1))
    with pytest.raises(DataError, match="node_config_feat: torn"):
        list(graph.config_blocks())


@pytest.mark.parametrize("make", [tile_arrays, layout_arrays])
def test_what_is_written_reads_back_in_the_official_types(tmp_path: Path, make: Callable[[], Arrays]) -> None:
    arrays = make()
    arrays["config_runtime_repeat"] = np.arange(1, 8, dtype=np.int32)
    path = tmp_path / "new" / "a.b.npz"
    write_graph(path, arrays)
    with np.load(path) as found:
        assert set(found.files) == set(arrays)
        for key, array in arrays.items():
            assert found[key].dtype == graphs.DTYPES[key]
            np.testing.assert_array_equal(found[key], array)
    assert read_graph(path).name == "a.b"
    first = path.read_bytes()
    write_graph(path, dict(reversed(arrays.items())))
    assert path.read_bytes() == first


def test_a_graph_that_is_not_valid_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_graph(path, tile_arrays())
    before = path.read_bytes()
    with pytest.raises(DataError, match="edge_index"):
        write_graph(path, tile_arrays() | {"edge_index": np.array([[0, 1]])})
    with pytest.raises(DataError, match="config_names: no key of a graph file; keys are node_feat"):
        write_graph(path, tile_arrays() | {"config_names": np.zeros(7)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_graph(tmp_path / "taken" / "a.npz", tile_arrays())
    with pytest.raises(DataError, match=r"want a name that ends in \.npz"):
        write_graph(tmp_path / "a.zip", tile_arrays())
