"""What fuzzing tries for hours, tried for seconds: every format damaged at random is read, or refused in one line.

Further on, what fuzzing found: each of these once crashed, hung, was believed, or ended in a traceback.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbr import Ranker
from gbr.data import packed
from gbr.data.collection import Subset
from gbr.data.graph import read_graph, write_graph
from gbr.data.hardware import load
from gbr.data.npz import crc32
from gbr.data.repack import repack
from gbr.errors import DataError, ModelError, TuneError
from gbr.evaluation.protocol import indices_of
from gbr.models import cost_model
from gbr.tune import Journal, ParameterSpace
from tests.made import layout_arrays
from tests.soak.fuzz import TARGETS, damaged

#: Those of files that other modules damage already, or whose readers take long.
FEW = {"npz": 0, "arrays": 0, "store": 10, "model": 40, "manifest": 50}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", [name for name in TARGETS if FEW.get(name, 1)])
def test_damaged_files(name: str, place: Path) -> None:
    target, folder = TARGETS[name], place / name
    folder.mkdir()
    whole = target.seeds()

    @settings(max_examples=FEW.get(name, 60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(whole), st.integers(0, 2**32 - 1))
    def read(data: bytes, seed: int) -> None:
        target.read(damaged(target, data, seed), folder)

    read()


@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_are_read(name: str, tmp_path: Path) -> None:
    for data in TARGETS[name].seeds()[:2]:
        TARGETS[name].read(data, tmp_path)


# Copies.


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    write_graph(tmp_path / "g.npz", layout_arrays(9))
    return repack(tmp_path / "g.npz")


def index_of(copy: Path) -> Any:
    *_, place, length, _ = packed._PREAMBLE.unpack(copy.read_bytes()[: packed._PREAMBLE.size])
    return json.loads(copy.read_bytes()[place : place + length])


def reindex(copy: Path, told: bytes) -> None:
    """Give a copy another index, which it vouches for."""
    data = copy.read_bytes()
    magic, version, _, place, _, _ = packed._PREAMBLE.unpack(data[: packed._PREAMBLE.size])
    head = packed._PREAMBLE.pack(magic, version, crc32(told), place, len(told), place + len(told))
    copy.write_bytes(head + data[packed._PREAMBLE.size : place] + told)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "(1 x"},  # NumPy evaluates it
        {"dtype": "O"},
        {"dtype": "<f4"},
        {"dtype": ">u2"},
        {"dtype": 7},
        {"shape": "ab"},
        {"shape": [9, True]},
        {"shape": [-9, -1]},
        {"shape": [0, 10**18]},
        {"at": 64.5},
        {"at": 10**18},
        {"at": None},
    ],
)
def test_a_copy_whose_index_lies_is_refused(copy: Path, change: dict[str, Any]) -> None:
    index = index_of(copy)
    index["arrays"]["codes"].update(change)
    reindex(copy, json.dumps(index).encode())
    with pytest.raises(DataError, match=r"g\.gbr: its index does not hold together"):
        read_graph(copy.with_suffix(".npz"))


@pytest.mark.parametrize(
    "told", [b"[" * 50_000, b"[]", b'{"source": "x", "arrays": []}', b'{"source": 1, "arrays": {}}']
)
def test_an_index_that_is_none_is_refused(copy: Path, told: bytes) -> None:
    reindex(copy, told)
    with pytest.raises(DataError, match=r"g\.gbr: its index does not hold together"):
        read_graph(copy.with_suffix(".npz"))


def test_an_array_without_a_check_is_refused(copy: Path) -> None:
    index = index_of(copy)
    del index["arrays"]["node_feat"]["crc"]
    reindex(copy, json.dumps(index).encode())
    with pytest.raises(DataError, match="node_feat fails its CRC"):
        read_graph(copy.with_suffix(".npz"))


# Models.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    X = np.random.default_rng(0).random((60, 3))
    ranker = Ranker("costmodel", costs=[0, 2]).fit(X, X[:, 0] + X[:, 2], qid=np.repeat(np.arange(6), 10))
    ranker.save(folder)
    return folder


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("best_iteration",), "x", "best_iteration is missing or invalid"),
        (("best_iteration",), -1, "expected at most 1 rounds, got -1"),
        (("best_score",), [], "best_score is missing or invalid"),
        (("trained_on",), 7, "trained_on is missing or invalid"),
        (("settings",), [], "settings is missing or invalid"),
        (("settings", "backend"), [], "invalid settings"),
        (("features", "names"), "abcd", "features in the model"),
        (("features", "count"), "x", "features in the model"),
    ],
)
def test_manifests_with_invalid_values_are_refused(
    model: Path, tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((model / "manifest.json").read_text())
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=message):
        Ranker.load(tmp_path)


@pytest.mark.parametrize(("price", "n_features"), [(-1.0, 3), (1.0, 0), (1.0, "x")])
def test_invalid_cost_models_are_refused(price: float, n_features: object) -> None:
    content = json.dumps({"costmodel": 1, "features": n_features, "prices": {"0": price}})
    with pytest.raises(ValueError, match="not a cost model"):
        cost_model.load(content.encode(), None)  # type: ignore[arg-type]


# Texts.


@pytest.mark.parametrize(
    "line", ['{"begin": 12}', '{"begin": true}', '{"stopped": -1}', "[" * 9000, '{"begin":1,"begin":2}']
)
def test_a_journal_with_a_line_of_another_space_is_left_alone(tmp_path: Path, line: str) -> None:
    space = ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})
    Journal(tmp_path / "j", space).close()
    held = (tmp_path / "j").read_text() + f"{line}\n{line}\n"
    (tmp_path / "j").write_text(held)
    with pytest.raises(TuneError, match="line 2 is not a journal entry"):
        Journal(tmp_path / "j", space)
    assert (tmp_path / "j").read_text() == held


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("line_bytes = " + "9" * 5000, "not TOML"),
        ("line_bytes = 0x" + "f" * 5000, "line_bytes: got a number beyond all sizes"),
        (f'line_bytes = "{"9" * 5000} KiB"', "line_bytes: got"),
        ("line_bytes = 99999999999999999999", "line_bytes: got a number beyond all sizes"),
        ("line_bytes = " + "[" * 5000, "not TOML"),
        ('"a\\u001B[2J" = 1', r"unknown key a\\x1b\[2J"),
    ],
)
def test_a_profile_beyond_all_sizes_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "hardware.toml"
    whole = '\nname = "x"\nvector_bytes = 16\n[[caches]]\nbytes = "32 KiB"\nways = 8\n'
    path.write_text(text + ("\nline_bytes = 64" if "line_bytes" not in text else "") + whole)
    with pytest.raises(DataError, match=told):
        load(path)


@pytest.mark.parametrize("told", [b'{"unet": [0, 1], "unet": [2]}', b"[" * 50_000, b'{"unet": [1e999]}'])
def test_a_list_of_two_meanings_is_refused(tmp_path: Path, told: bytes) -> None:
    (tmp_path / "xla_default.json").write_bytes(told)
    with pytest.raises(DataError, match=r"xla_default\.json: no JSON"):
        indices_of(Subset("layout:xla:default"), "valid", tmp_path)
