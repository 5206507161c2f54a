"""Graph files: read as NumPy reads them, validated, written, and converted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from features.hlo import FEAT_ID, OPCODES
from gbr.data import graph as graphs
from gbr.data import hlo
from gbr.data.graph import Graph, graph_from_arrays, read_graph, write_graph
from gbr.errors import DataError, HloError, MissingLibraryError, UsageError
from tests.made import Arrays, layout_arrays, tile_arrays
from tests.reference_hlo import DATA, data

EMBEDDED = ("tile/cpu/test/add_transposed_1536x331.npz", "layout/cpu/random/valid/senet_nhwc.npz")


def test_real_files_read_as_numpy_reads_them(shared_data: Path) -> None:
    paths = sorted(shared_data.glob("npz/**/*.npz"))
    assert len(paths) >= 8
    for path in paths:
        graph = read_graph(path)
        assert (graph.name, graph.source) == (path.stem, str(path))
        assert graph.kind == path.relative_to(shared_data / "npz").parts[0]
        assert f"{len(graph.node_opcode):,} nodes" in repr(graph)
        with np.load(path) as expected:
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
                np.testing.assert_array_equal(graph.normalizer, expected["config_runtime_normalizers"])
            else:
                np.testing.assert_array_equal(graph.node_config_ids, expected["node_config_ids"])
                np.testing.assert_array_equal(graph.node_splits, expected["node_splits"][0])


def test_integer_types_are_converted_and_unknown_opcodes_are_zero() -> None:
    arrays = tile_arrays()
    for key, dtype in (("node_opcode", "int64"), ("edge_index", "int32"), ("config_runtime", "uint64")):
        arrays[key] = np.asfortranarray(arrays[key].astype(dtype))
    found, plain = graph_from_arrays("x", arrays), graph_from_arrays("x", tile_arrays())
    for key in ("node_opcode", "edge_index", "runtime"):
        assert getattr(found, key).dtype == getattr(plain, key).dtype
        np.testing.assert_array_equal(getattr(found, key), getattr(plain, key))
    assert found != plain  # compared by identity
    arrays |= {"node_opcode": np.array([120, 121, 300]), "config_runtime_repeat": np.arange(1, 8)}
    arrays["config_runtime"] = np.zeros(7, np.int64)
    changed = graph_from_arrays("x", arrays)
    assert changed.node_opcode.tolist() == [120, 0, 0]
    assert changed.runtime is None  # all zero: unknown
    assert changed.repeat is not None
    assert changed.repeat.tolist() == list(range(1, 8))


@pytest.mark.parametrize("make", [tile_arrays, layout_arrays])
def test_some_configurations_can_be_read(tmp_path: Path, make: Callable[[int], Arrays]) -> None:
    arrays = make(20)
    write_graph(tmp_path / "g.npz", arrays)
    graph, config = read_graph(tmp_path / "g.npz"), arrays.get("config_feat", arrays.get("node_config_feat"))
    np.testing.assert_array_equal(graph.configs([3, 3, 19, 0]), config[[3, 3, 19, 0]])
    for blocks in (list(graph.config_blocks(7)), list(graph_from_arrays("g", arrays).config_blocks(7))):
        assert [first for first, _ in blocks] == [0, 7, 14]
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), config)
    assert graph.configs([]).shape == (0, *config.shape[1:])
    for wrong in ([-1], [0, 20]):
        with pytest.raises(UsageError, match=rf"rows: expected indices from 0 to 19, got {wrong[-1]}"):
            graph.configs(wrong)
    for no_list, got in (
        ([True], "bool"),
        ([1.5], "float64"),
        (np.int64(3), "int64"),
        (np.ma.array([1], mask=1), "mask"),
    ):
        with pytest.raises(UsageError, match=f"rows: expected a list of indices, got {got}"):
            graph.configs(no_list)


def test_hlo_modules_are_graphs_without_configurations(tmp_path: Path) -> None:
    path = tmp_path / "matmul.hlo"
    path.write_bytes(data("matmul"))
    graph = read_graph(path)
    assert (graph.kind, graph.n_configs, len(graph.node_opcode)) == ("program", 0, 5)
    assert graph.node_config_ids is not None
    assert graph.node_config_ids.tolist() == [3, 4]
    assert list(graph.config_blocks()) == []
    layout = graph.with_configs(np.full((3, 2, 18), -1))
    assert (layout.kind, layout.n_configs, layout.name) == ("layout", 3, "matmul")
    tile = graph.with_configs(np.ones((4, 24)))
    assert (tile.kind, tile.n_configs) == ("tile", 4)
    with pytest.raises(DataError, match=r"node_config_feat: .* \(\*, 2, 18\), got \(3, 1, 18\); correct the array$"):
        graph.with_configs(np.zeros((3, 1, 18)))
    with pytest.raises(DataError, match="expected node_config_ids among the keys"):
        tile.with_configs(np.zeros((3, 1, 18)))
    path.write_bytes((DATA / "matmul.hlo.txt").read_bytes())
    with pytest.raises(HloError, match=rf"{path}: expected an HLO protobuf, got HLO text"):
        read_graph(path)
    with pytest.raises(DataError, match=r"missing\.pb: cannot be read"):
        read_graph(tmp_path / "missing.pb")
    with pytest.raises(DataError, match=r"matmul\.csv: expected a graph file that ends in \.npz, or an HLO module in "):
        read_graph(path.with_suffix(".csv"))


def test_sizes_by_tensor_have_their_sums_and_products() -> None:
    arrays = tile_arrays()
    graph = graph_from_arrays("x", arrays)
    tiles = arrays["config_feat"][:, 8:10].astype(int)
    assert (arrays["config_feat"][:, 14] == tiles.sum(axis=1)).all()
    given = [{"output_bounds": row} for row in tiles.tolist()]
    np.testing.assert_array_equal(graph.with_configs(given).config_feat, arrays["config_feat"])
    wrong: list[tuple[object, str]] = [
        ([{"BLOCK_M": 64}], r"expected dictionaries with kernel_bounds, .* parameters by name are for Ranker\.rank"),
        ([{"output_bounds": [8, -1]}], "output_bounds: expected up to 6 sizes of 0 or more"),
        ([{"output_bounds": 8}], "output_bounds: expected up to 6 sizes of 0 or more, got 8 at 0"),
        (np.full((2, 24), -1), "config_feat: expected sizes of 0 or more, got a negative one; correct the array$"),
    ]
    for configs, message in wrong:
        with pytest.raises(ValueError, match=message):
            graph.with_configs(configs)


def test_programs_of_jax_are_those_of_their_modules(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")

    def product(a: Any, b: Any) -> Any:
        return a @ b

    sizes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((8, 16), (16, 4))]
    module = jax.jit(product).lower(*sizes).compiler_ir("hlo").as_serialized_hlo_module_proto()
    (tmp_path / "product.pb").write_bytes(module)
    graph, expected = Graph.from_jax(product, *sizes), read_graph(tmp_path / "product.pb")
    assert (graph.name, graph.kind) == ("product", "program")
    np.testing.assert_array_equal(graph.node_feat, expected.node_feat)


@pytest.mark.parametrize("name", ["odds", "conv_grad"])
def test_padding_with_minus_one_is_read_as_padding_with_zero(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = hlo.graph_arrays(data(name))
    monkeypatch.setattr(hlo, "padded", partial(hlo.padded, fill=-1))
    repadded = hlo.graph_arrays(data(name))
    window = plain["node_feat"][:, FEAT_ID["window_size_0"]] > 0
    for arrays in (plain, repadded):  # "odds" has a pad whose edges are -1
        arrays["node_feat"][window, FEAT_ID["window_padding_low_0"]] = -1
        arrays["config_feat"] = tile_arrays()["config_feat"]
    slots = np.arange(24) % 8 < 6  # the other columns are sums and products
    repadded["config_feat"] = np.where((plain["config_feat"] == 0) & slots, -1, plain["config_feat"])
    assert (repadded["node_feat"] != plain["node_feat"]).sum() > 1000
    assert (plain["node_feat"] == -1).any()
    for arrays in (plain, repadded):
        found = graph_from_arrays("x", arrays)
        np.testing.assert_array_equal(found.node_feat, plain["node_feat"])
        np.testing.assert_array_equal(found.config_feat, plain["config_feat"])
    assert (repadded["config_feat"] == -1).any()  # the caller's arrays are not changed


Change = Callable[[np.ndarray], np.ndarray]


def put(index: Any, value: Any) -> Change:
    """Changes one element of a copy."""

    def change(array: np.ndarray) -> np.ndarray:
        copy = np.array(array)
        copy[index] = value
        return copy

    return change


FAULTS: list[tuple[str, str, Change | None, str]] = [
    ("tile", "node_feat", None, "expected node_feat among the keys, got keys "),
    ("tile", "node_feat", lambda a: a[:0], "expected at least one node, got none"),
    ("tile", "node_feat", put((1, 7), np.nan), r"expected finite numbers up to .*, got nan at \(1, 7\)"),
    ("tile", "node_opcode", lambda a: a - 99.0, "expected integers, got float64"),
    ("tile", "edge_index", put((1, 0), 3), r"expected 0 to 2, got 3 at \(1, 0\)"),
    ("tile", "edge_index", put(0, 1), r"expected \(consumer, operand\) .*, got \(1, 1\) in row 0"),
    ("tile", "config_feat", None, r"expected config_feat \(tile\) or node_config_feat \(layout\), got "),
    ("tile", "config_feat", lambda a: a[:0], "expected configurations, got none"),
    ("tile", "config_runtime", put(2, 0), "expected all positive, or all 0 if unknown, got 0 at 2"),
    ("tile", "config_runtime_normalizers", put(6, 0), r"expected 1 to inf, got 0 at \(6,\)"),
    ("layout", "node_config_ids", None, "expected node_config_ids among the keys, got keys"),
    ("layout", "node_config_ids", lambda a: np.repeat(a, 2), "expected distinct nodes, got a duplicate"),
    ("layout", "node_config_feat", lambda a: a[:, :, :17], r"expected shape \(\*, 1, 18\), got \(7, 1, 17\)"),
    ("layout", "config_feat", lambda _: np.zeros((7, 24)), "got both"),
]


@pytest.mark.parametrize(("kind", "key", "change", "message"), FAULTS)
def test_invalid_arrays_are_refused(tmp_path: Path, kind: str, key: str, change: Change | None, message: str) -> None:
    arrays = tile_arrays() if kind == "tile" else layout_arrays()
    if change is None:
        del arrays[key]
    else:
        arrays[key] = change(arrays.get(key, np.zeros(0)))
    path = tmp_path / "broken.npz"
    np.savez_compressed(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        read_graph(path)
    assert str(caught.value).startswith(f"{path}: {key}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=rf"{key}: .*{message}"):
        write_graph(tmp_path / "out.npz", arrays)
    assert os.listdir(tmp_path) == ["broken.npz"]


@pytest.mark.parametrize("value", [6, 0.5, 256 + 3])
def test_layout_values_are_checked_while_they_are_read(tmp_path: Path, value: float) -> None:
    arrays = layout_arrays(50)
    arrays["node_config_feat"][33, 0, 5] = value
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    message = r"node_config_feat: expected integers from -1 to 5, got .* at \(33, 0, 5\)"
    with pytest.raises(DataError, match=message):
        list(read_graph(tmp_path / "a.npz").config_blocks(10))
    with pytest.raises(DataError, match=message):
        write_graph(tmp_path / "b.npz", arrays)
    assert not (tmp_path / "b.npz").exists()


def test_a_file_replaced_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_graph(path, layout_arrays(300, seed=0))
    graph = read_graph(path)
    write_graph(path, layout_arrays(300, seed=1))
    with pytest.raises(DataError, match="node_config_feat: corrupt"):
        list(graph.config_blocks())


@pytest.mark.parametrize("make", [tile_arrays, layout_arrays])
def test_written_graphs_have_the_official_types(tmp_path: Path, make: Callable[[], Arrays]) -> None:
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
    write_graph(path, {key: np.ma.array(array, order="F") for key, array in reversed(arrays.items())})
    assert path.read_bytes() == first
    assert sum(len(block) for _, block in read_graph(path).config_blocks()) == 7
    arrays["node_feat"] = np.where(arrays["node_feat"] == 0, np.float32(-0.0), arrays["node_feat"])
    write_graph(path, arrays)
    assert path.read_bytes() == first
    write_graph(path, arrays | {"node_opcode": np.array([300] * len(arrays["node_opcode"]))})
    assert not read_graph(path).node_opcode.any()  # unknown, not 300 modulo 256


def test_an_invalid_graph_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_graph(path, tile_arrays())
    before = path.read_bytes()
    with pytest.raises(DataError, match="edge_index"):
        write_graph(path, tile_arrays() | {"edge_index": np.array([[0, 1]])})
    with pytest.raises(DataError, match="config_runtime: expected a value everywhere, got masked values"):
        write_graph(path, tile_arrays() | {"config_runtime": np.ma.masked_less(tile_arrays()["config_runtime"], 1500)})
    with pytest.raises(DataError, match="unknown key config_names; the keys of a graph file are node_feat"):
        write_graph(path, tile_arrays() | {"config_names": np.zeros(7)})
    with pytest.raises(DataError, match=r"expected a name that ends in \.npz"):
        write_graph(tmp_path / "a.zip", tile_arrays())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_networkx_graphs_agree_with_the_file(name: str) -> None:
    graph = read_graph(Path(__file__).parents[1] / "data/npz" / name)
    made = graph.to_networkx()
    assert isinstance(made, nx.DiGraph)
    assert set(made.edges) == {(producer, consumer) for consumer, producer in graph.edge_index.tolist()}
    assert list(nx.lexicographical_topological_sort(made)) == list(made) == list(range(len(graph.node_opcode)))
    assert made.graph == {"name": graph.name, "kind": graph.kind}
    for node, about in made.nodes(data=True):
        row = graph.node_feat[node]
        dims = row[FEAT_ID["shape_dimensions_0"] :][:6].astype(int).tolist()
        rank = [*dims, 0].index(0)
        assert about["opcode"] == OPCODES[graph.node_opcode[node]]
        assert about["name"] == f"{about['opcode']}.{node}"
        assert about["shape"] == tuple(dims[:rank])
        assert row[FEAT_ID[f"shape_element_type_is_{about['element_type']}"]] == 1
        assert sorted(about["layout"]) == list(range(rank))
        assert about["configurable"] == (graph.node_config_ids is not None and node in graph.node_config_ids)
        assert about["is_root"] == (row[FEAT_ID["is_root"]] > 0)
        if about["element_type"] == "f32":
            assert about["nbytes"] == 4 * np.prod(dims[:rank], dtype=np.int64)
        assert {type(value) for value in about.values()} <= {str, int, bool, tuple}


def test_a_missing_networkx_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingLibraryError, match=r"networkx is not installed; pip install 'gbr\[graph\]'"):
        graph_from_arrays("x", tile_arrays()).to_networkx()
