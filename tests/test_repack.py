"""The repacked copy against the file it was made of, as NumPy reads it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.layout.rows import RowTable, renumber
from gbr import read_graph, write_graph
from gbr.data import packed
from gbr.data.build import build, extract
from gbr.data.collection import resolve
from gbr.data.graph import DTYPES, Graph, graph_from_arrays
from gbr.data.npz import NpzFile
from gbr.data.repack import repack, repack_all
from gbr.data.store import FeatureStore
from gbr.errors import DataError, UsageError
from gbr.features import main
from tests.made import collection, layout_arrays, tile_arrays
from tests.test_layout_features import IDS, NODES, PROGRAM

SUBSET = "layout:made:random"


def many_rows(n_configs: int, n_distinct: int) -> dict[str, Any]:
    """A convolution whose one node takes ``n_distinct`` rows."""
    arrays = layout_arrays(n_configs)
    table = np.full((n_distinct, 18), -1, np.float32)
    table[:, :12] = np.arange(n_distinct)[:, None] // 6 ** np.arange(12) % 6
    rng = np.random.default_rng(0)
    picked = np.concatenate([rng.permutation(n_distinct), rng.integers(0, n_distinct, n_configs - n_distinct)])
    arrays["node_config_feat"] = table[picked][:, None]
    return arrays


def network(n_configs: int, seed: int = 0) -> dict[str, Any]:
    """Five configurable nodes that take few rows each."""
    rng = np.random.default_rng(seed)
    configs = np.full((n_configs, len(IDS), 18), -1, np.float32)
    for place, ranks in enumerate(NODES.rank.tolist()):
        table = np.full((int(rng.integers(2, 10)), 18), -1, np.float32)
        for row in table[1:]:
            for role, rank in enumerate(ranks):
                row[6 * role : 6 * role + max(rank, 0)] = rng.permutation(max(rank, 0))
        configs[:, place] = table[rng.integers(0, len(table), n_configs)]
    return {
        "node_feat": PROGRAM.feat,
        "node_opcode": PROGRAM.opcode,
        "edge_index": PROGRAM.edges,
        "node_config_ids": IDS,
        "node_config_feat": configs,
        "node_splits": np.array([[0, len(PROGRAM)]]),
        "config_runtime": rng.integers(1, 10**6, n_configs),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_graph(tmp_path / "g.npz", network(300))
    return tmp_path / "g.npz"


def whole(graph: Graph) -> np.ndarray[Any, Any]:
    return np.concatenate([block for _, block in graph.config_blocks()])


def check(path: Path) -> None:
    """The copy of a file gives all arrays of it, and any rows."""
    raw = read_graph(path, use_copy=False)
    assert raw.packed is None
    copy = repack(path)
    assert copy == path.with_suffix(".gbr")
    graph = read_graph(path)
    assert graph.packed is not None
    with np.load(path) as stored:
        configs = stored["node_config_feat"]
        for key in set(stored.files) & set(DTYPES) - {"node_config_feat"}:
            found = graph.packed.read(key)
            assert found.dtype == stored[key].dtype
            np.testing.assert_array_equal(found, stored[key])
    for name in ("node_feat", "node_opcode", "edge_index", "node_config_ids", "node_splits", "runtime"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(raw, name))
    assert whole(graph).dtype == np.int8
    np.testing.assert_array_equal(whole(graph), configs)
    np.testing.assert_array_equal(np.concatenate([block for _, block in graph.stored_blocks()]), configs)
    rows = np.random.default_rng(0).integers(0, len(configs), 60)
    for one in (raw, graph):
        np.testing.assert_array_equal(one.configs(rows), configs[rows])
        assert one.configs(rows[:0]).shape == (0, *configs.shape[1:])
    # Bit for bit: the copy keeps the order in which rows appear, and so the order of the sums over them.
    for found, wanted in zip(extract(graph)[1:], extract(raw)[1:], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_copy_is_the_file(path: Path) -> None:
    check(path)


def test_real_copies_are_the_files(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted(shared_data.glob("npz/layout/**/*.npz"))
    assert len(paths) >= 3
    for path in paths:
        check(Path(shutil.copy(path, tmp_path)))


@pytest.mark.parametrize(("n_distinct", "width"), [(256, "uint8"), (257, "uint16"), (65_537, "uint32")])
def test_codes_are_as_wide_as_the_most_rows_of_a_node(tmp_path: Path, n_distinct: int, width: str) -> None:
    arrays = many_rows(n_distinct + 30, n_distinct)
    write_graph(tmp_path / "g.npz", arrays)
    repack(tmp_path / "g.npz")
    graph = read_graph(tmp_path / "g.npz")
    assert graph.packed is not None
    assert graph.packed.codes(slice(0, 5)).dtype == width
    np.testing.assert_array_equal(whole(graph), arrays["node_config_feat"])


def test_blocks_come_as_asked_for(path: Path) -> None:
    repack(path)
    blocks = list(read_graph(path).config_blocks(70))
    assert [(first, len(block)) for first, block in blocks] == [(0, 70), (70, 70), (140, 70), (210, 70), (280, 20)]


@pytest.mark.parametrize("rows", [[-1], [0, 300]])
def test_rows_that_are_no_configuration_are_refused(path: Path, rows: list[int]) -> None:
    with pytest.raises(UsageError, match=rf"rows: got {rows[-1]}, want 0 to 299"):
        read_graph(path).configs(rows)


def test_rows_of_tile_graphs() -> None:
    arrays = tile_arrays(20)
    graph = graph_from_arrays("x", arrays)
    assert graph.packed is None
    np.testing.assert_array_equal(graph.configs([3, 3, 19]), arrays["config_feat"][[3, 3, 19]])


def test_a_row_is_read_without_the_configurations_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repack(path)
    monkeypatch.setattr(NpzFile, "blocks", lambda *_: pytest.fail("inflates"))
    monkeypatch.setattr(NpzFile, "read", lambda *_: pytest.fail("inflates"))
    np.testing.assert_array_equal(read_graph(path).configs([7])[0], network(300)["node_config_feat"][7])


def test_a_stale_copy_is_ignored_until_it_is_made_again(path: Path) -> None:
    repack(path)
    write_graph(path, network(200, seed=1))
    graph = read_graph(path)
    assert graph.packed is None
    np.testing.assert_array_equal(whole(graph), network(200, seed=1)["node_config_feat"])
    check(path)


def test_a_file_of_later_date_and_the_same_contents_keeps_its_copy(path: Path) -> None:
    repack(path)
    os.utime(path, (0, 0))
    assert read_graph(path).packed is not None


def edit(path: Path, place: int, change: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[place : place + len(change)] = change
    path.write_bytes(data)


@pytest.mark.parametrize("kept", [0, 10, 63, 64, 4096, 5000, -1])
def test_a_torn_copy_is_one_error(path: Path, kept: int) -> None:
    copy = repack(path)
    copy.write_bytes(copy.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"g\.gbr: .*; delete it, or write it again with .*--repack"):
        read_graph(path)
    check(path)


@pytest.mark.parametrize(
    ("place", "change", "match"),
    [
        (0, b"PK", "it is no repacked copy"),
        (8, b"\x07", "format version 7, this gbr reads 1"),
        (12, b"\0\0\0\0", "its index fails its CRC"),
        (16, b"\xff" * 8, "its index fails its CRC"),
        (24, b"\xff" * 8, "its index fails its CRC"),
        (32, b"\xff" * 8, "bytes, 18446744073709551615 were written"),
        (-3, b"?", "its index fails its CRC"),
    ],
)
def test_an_edited_head_is_one_error(path: Path, place: int, change: bytes, match: str) -> None:
    copy = repack(path)
    edit(copy, place % copy.stat().st_size, change)
    with pytest.raises(DataError, match=match):
        read_graph(path)


@pytest.mark.parametrize("key", ["checks", "rows", "numbers", "first", "node_feat", "config_runtime"])
def test_an_edited_array_is_one_error(path: Path, key: str) -> None:
    copy = repack(path)
    place = packed.Packed(copy)._index[key]["at"]
    edit(copy, place, b"\x55")
    with pytest.raises(DataError, match=rf"g\.gbr: {key} fails its CRC"):
        read_graph(path)


def test_an_edited_configuration_is_told_when_it_is_read(path: Path) -> None:
    copy = repack(path)
    edit(copy, 4096 + 37 * len(IDS), b"\xee")
    graph = read_graph(path)
    assert graph.configs([36, 38]).shape == (2, len(IDS), 18)
    for rows in ([5, 37], np.arange(300)):
        with pytest.raises(DataError, match="configuration 37 fails its CRC"):
            graph.configs(rows)
    with pytest.raises(DataError, match="configuration 37 fails its CRC"):
        extract(graph)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"numbers": np.zeros(3, np.int32)}, "its rows are not numbered one by one"),
        ({"first": np.array([0, 0, 3])}, "its rows are not those of its nodes"),
        ({"first": np.array([0, 2, 5])}, "its rows are not those of its nodes"),
        ({"numbers": np.arange(4, dtype=np.int32)}, "does not hold together"),
        ({"rows": np.full((3, 18), 6, np.int8)}, "a row has a value that is not in -1 to 5"),
        ({"codes": np.array([[1, 1]])}, "a code names a row that its node does not have"),
    ],
)
def test_a_forged_copy_with_right_sums_is_one_error(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    parts = {
        "rows": np.zeros((3, 18), np.int8),
        "numbers": np.arange(3, dtype=np.int32),
        "first": np.array([0, 1, 3]),
        "codes": np.array([[0, 1]]),
    } | change
    with (tmp_path / "g.gbr").open("wb") as stream:
        writer = packed.PackedWriter(stream, np.dtype(np.uint8))
        writer.add(parts.pop("codes"))
        writer.finish("0" * 16, arrays={}, **parts)
    with pytest.raises(DataError, match=match):
        packed.Packed(tmp_path / "g.gbr").configs(slice(0, 1))


def test_a_copy_that_lacks_an_array_is_one_error(path: Path) -> None:
    with path.with_suffix(".gbr").open("wb") as stream:
        writer = packed.PackedWriter(stream, np.dtype(np.uint8))
        writer.add(np.array([[0]]))
        rows, numbers = np.zeros((1, 18), np.int8), np.zeros(1, np.int32)
        writer.finish(NpzFile(path).fingerprint, rows, numbers, np.array([0, 1]), {})
    with pytest.raises(DataError, match=r"g\.gbr: it holds no node_feat; delete it"):
        read_graph(path)


def test_what_cannot_be_repacked_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    write_graph(tmp_path / "t.npz", tile_arrays())
    with pytest.raises(DataError, match=r"t\.npz: got a tile graph, want layout"):
        repack(tmp_path / "t.npz")
    arrays = network(20)
    arrays["node_config_feat"][11, 2, 3] = 6
    np.savez_compressed(tmp_path / "l.npz", **arrays)
    with pytest.raises(DataError, match=r"l\.npz: node_config_feat: got 6.0 at \(11, 2, 3\)"):
        repack(tmp_path / "l.npz")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["l.npz", "t.npz"]


def test_killed_before_the_rename_it_leaves_the_file_as_it_was(path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from gbr.data.repack import repack\n"
        "repack(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = path.parent.glob(".g.gbr.*.part")
    assert left.stat().st_size > 4096
    assert read_graph(path).packed is None
    repack(path)
    assert not left.exists()
    check(path)


def test_the_command_repacks_what_has_no_fresh_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path, SUBSET, train=2, valid=1)
    line = ["build", "--subset", SUBSET, "--data", str(tmp_path), "--jobs", "1", "--json"]
    assert main([*line, "--store", str(tmp_path / "raw")]) == 0
    assert main([*line, "--store", str(tmp_path / "copied"), "--repack"]) == 0
    assert "repacked 3 of the graphs of layout:made:random" in capsys.readouterr().err
    copies = sorted(tmp_path.glob("npz/**/*.gbr"))
    assert [each.name for each in copies] == ["train_0.gbr", "train_1.gbr", "valid_0.gbr"]
    found, wanted = (FeatureStore(tmp_path / name, SUBSET).load("train") for name in ("copied", "raw"))
    np.testing.assert_array_equal(found.X, wanted.X)
    copies[0].write_bytes(b"torn")
    copies[1].unlink()
    assert main([*line, "--store", str(tmp_path / "copied"), "--repack"]) == 0
    told = capsys.readouterr()
    assert "repacked 2 of" in told.err
    assert '"built": 0' in told.out


def test_copies_are_made_in_processes(tmp_path: Path) -> None:
    collection(tmp_path, SUBSET, train=2)
    subset = resolve(SUBSET, tmp_path)
    assert repack_all(subset, tmp_path, ["train"], jobs=2) == 2
    assert repack_all(subset, tmp_path, ["train"], jobs=2) == 0
    assert build(subset, tmp_path, tmp_path / "store", jobs=1).built == 2


def test_tile_collections_are_not_repacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path, "tile:made", train=1)
    line = ["build", "--subset", "tile:made", "--data", str(tmp_path), "--store", str(tmp_path / "store"), "--repack"]
    assert main(line) == 2
    assert "--repack: tile:made holds tile graphs" in capsys.readouterr().err


def test_places_within_nodes_become_numbers_of_rows() -> None:
    table = RowTable(len(IDS))
    codes, _ = table.encode(network(40)["node_config_feat"])
    numbers = np.argsort(table.owner, kind="stable")
    first = np.searchsorted(table.owner[numbers], np.arange(len(IDS) + 1))
    place = np.empty(len(numbers), np.int64)
    place[numbers] = np.arange(len(numbers)) - first[table.owner[numbers]]
    for width in (np.uint8, np.uint16):
        np.testing.assert_array_equal(renumber(place[codes].astype(width), first, numbers.astype(np.int32)), codes)


def test_a_table_that_adopts_rows_goes_on_as_the_one_they_are_of() -> None:
    configs = network(40)["node_config_feat"]
    table, twin = RowTable(len(IDS)), RowTable(len(IDS))
    codes, _ = twin.encode(configs[:30])
    table.adopt(twin.rows, twin.owner)
    digests = table.tally(codes)
    np.testing.assert_array_equal(table.counts, twin.counts)
    assert len(np.unique(digests, axis=0)) == len(np.unique(configs[:30], axis=0))
    for found, wanted in zip(table.encode(configs[20:]), twin.encode(configs[20:]), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(table.rows, twin.rows)
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in table.discovered()]), twin.rows)
