"""Repacked copies: the same configurations and features, up to date, and refused when damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import read_graph, write_graph
from gbr.data.build import extract
from gbr.data.graph import Graph
from gbr.data.npz import NpzFile
from gbr.data.repack import repack
from gbr.data.store import FeatureStore
from gbr.errors import DataError
from gbr.features import main
from tests.made import collection, layout_arrays, tile_arrays
from tests.test_layout_features import IDS, NODES, PROGRAM

SUBSET = "layout:made:random"


def many_rows(n_configs: int, n_distinct: int) -> dict[str, Any]:
    """A convolution whose one node has ``n_distinct`` rows."""
    arrays = layout_arrays(n_configs)
    table = np.full((n_distinct, 18), -1, np.float32)
    table[:, :12] = np.arange(n_distinct)[:, None] // 6 ** np.arange(12) % 6
    rng = np.random.default_rng(0)
    picked = np.concatenate([rng.permutation(n_distinct), rng.integers(0, n_distinct, n_configs - n_distinct)])
    arrays["node_config_feat"] = table[picked][:, None]
    return arrays


def network(n_configs: int, seed: int = 0) -> dict[str, Any]:
    """Five configurable nodes with few distinct rows each."""
    rng = np.random.default_rng(seed)
    configs = np.full((n_configs, len(IDS), 18), -1, np.float32)
    for node, ranks in enumerate(NODES.rank.tolist()):
        table = np.full((int(rng.integers(2, 10)), 18), -1, np.float32)
        for row in table[1:]:
            for role, rank in enumerate(ranks):
                row[6 * role : 6 * role + max(rank, 0)] = rng.permutation(max(rank, 0))
        configs[:, node] = table[rng.integers(0, len(table), n_configs)]
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


def all_configs(graph: Graph) -> np.ndarray[Any, Any]:
    return np.concatenate([block for _, block in graph.config_blocks()])


def check(path: Path) -> None:
    """The copy gives the same configurations and features as the file."""
    raw = read_graph(path, use_copy=False)
    assert raw.repacked is None
    assert repack(path) == path.with_suffix(".gbr")
    graph = read_graph(path)
    assert graph.repacked is not None
    with np.load(path) as stored:
        configs = stored["node_config_feat"]
    np.testing.assert_array_equal(all_configs(graph), configs)
    rows = np.random.default_rng(0).integers(0, len(configs), 60)
    np.testing.assert_array_equal(graph.configs(rows), configs[rows])
    assert graph.configs(rows[:0]).shape == (0, *configs.shape[1:])
    # Bit for bit: the copy keeps the order in which rows appear, and so the order of the sums over them.
    for found, expected in zip(extract(graph)[1:], extract(raw)[1:], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_copy_holds_the_configurations_of_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(path)
    monkeypatch.setattr(NpzFile, "blocks", lambda *_: pytest.fail("inflates the file"))
    blocks = list(read_graph(path).config_blocks(70))
    assert [(first, len(block)) for first, block in blocks] == [(0, 70), (70, 70), (140, 70), (210, 70), (280, 20)]


def test_copies_of_real_files(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted(shared_data.glob("npz/layout/**/*.npz"))
    assert len(paths) >= 3
    for path in paths:
        check(Path(shutil.copy(path, tmp_path)))


def test_numpy_can_read_and_map_a_copy(path: Path) -> None:
    with np.load(repack(path)) as copy:
        assert {key: copy[key].dtype.name for key in copy.files} == {
            "codes": "uint8", "rows": "int8", "owner": "int32", "source": "uint64",
        }  # fmt: skip
        rows_of_node = [copy["rows"][copy["owner"] == node] for node in range(len(IDS))]
        found = np.stack([rows[codes] for rows, codes in zip(rows_of_node, copy["codes"].T, strict=True)], axis=1)
    np.testing.assert_array_equal(found, network(300)["node_config_feat"])
    assert isinstance(NpzFile(path.with_suffix(".gbr")).map("codes"), np.memmap)


@pytest.mark.parametrize(("n_distinct", "width"), [(256, "uint8"), (257, "uint16"), (65_537, "uint32")])
def test_codes_are_as_wide_as_the_most_rows_of_a_node(tmp_path: Path, n_distinct: int, width: str) -> None:
    arrays = many_rows(n_distinct + 30, n_distinct)
    write_graph(tmp_path / "g.npz", arrays)
    repack(tmp_path / "g.npz")
    graph = read_graph(tmp_path / "g.npz")
    assert graph.repacked is not None
    assert graph.repacked.codes(slice(0, 5)).dtype == width
    np.testing.assert_array_equal(all_configs(graph), arrays["node_config_feat"])


def test_a_stale_copy_is_ignored_until_it_is_written_again(path: Path) -> None:
    repack(path)
    os.utime(path, (0, 0))
    assert read_graph(path).repacked is not None  # the contents count, not the date
    write_graph(path, network(200, seed=1))
    graph = read_graph(path)
    assert graph.repacked is None
    np.testing.assert_array_equal(all_configs(graph), network(200, seed=1)["node_config_feat"])
    check(path)


def test_a_truncated_copy_is_one_error(path: Path) -> None:
    copy = repack(path)
    copy.write_bytes(copy.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"g\.gbr: not a complete .*; delete it, or write it again with .*--repack"):
        read_graph(path)
    check(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.zeros((3, 18), np.float32)}, "not a complete repacked copy"),
        ({"rows": np.full((3, 18), 6, np.int8)}, "not a complete repacked copy"),
        ({"owner": np.array([0, 2, 1])}, "not a complete repacked copy"),
        ({"codes": np.array([[1, 1]], np.uint8)}, "a code out of range"),
        ({"codes": np.array([0, 1], np.uint8)}, "not a complete repacked copy"),
    ],
)
def test_an_invalid_copy_is_one_error(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = network(1)
    arrays |= {"node_config_ids": IDS[:2], "node_config_feat": arrays["node_config_feat"][:, :2]}
    write_graph(tmp_path / "g.npz", arrays)
    parts = {
        "codes": np.array([[0, 1]], np.uint8),
        "rows": np.zeros((3, 18), np.int8),
        "owner": np.array([0, 1, 1], np.int32),
        "source": np.array(int(NpzFile(tmp_path / "g.npz").fingerprint, 16), np.uint64),
    }
    with (tmp_path / "g.gbr").open("wb") as stream:
        np.savez(stream, **(parts | change))
    with pytest.raises(DataError, match=message):
        read_graph(tmp_path / "g.npz").configs([0])


def test_a_graph_that_cannot_be_repacked_leaves_nothing(tmp_path: Path) -> None:
    write_graph(tmp_path / "t.npz", tile_arrays())
    with pytest.raises(DataError, match=r"t\.npz: expected a layout graph, got a tile graph"):
        repack(tmp_path / "t.npz")
    arrays = network(20)
    arrays["node_config_feat"][11, 2, 3] = 6
    np.savez_compressed(tmp_path / "l.npz", **arrays)
    with pytest.raises(DataError, match=r"l\.npz: node_config_feat: expected .*, got 6.0 at \(11, 2, 3\)"):
        repack(tmp_path / "l.npz")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["l.npz", "t.npz"]


def test_the_command_repacks_graphs_without_an_up_to_date_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection(tmp_path, SUBSET, train=2, valid=1)
    line = ["build", "--subset", SUBSET, "--data", str(tmp_path), "--jobs", "1", "--json"]
    assert main([*line, "--store", str(tmp_path / "raw")]) == 0
    assert main([*line, "--store", str(tmp_path / "copied"), "--repack"]) == 0
    capsys.readouterr()
    copies = sorted(tmp_path.glob("npz/**/*.gbr"))
    assert [each.name for each in copies] == ["train_0.gbr", "train_1.gbr", "valid_0.gbr"]
    found, expected = (FeatureStore(tmp_path / name, SUBSET).load("train") for name in ("copied", "raw"))
    np.testing.assert_array_equal(found.X, expected.X)
    copies[0].write_bytes(b"damaged")
    copies[1].unlink()
    assert main([*line, "--store", str(tmp_path / "copied"), "--repack"]) == 0
    out, err = capsys.readouterr()
    assert "repacked 2" in err
    assert '"built": 0' in out
