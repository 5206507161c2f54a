"""Graphs whose numbers were damaged: refused in one line, or given features that are all finite."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.hlo import FEAT_ID, OPCODE_ID
from gbr.data.build import extract
from gbr.data.graph import graph_from_arrays
from gbr.data.npz import NpzFile
from gbr.errors import DataError
from tests.damage import damaged_arrays

DATA = Path(__file__).parents[1] / "data" / "npz"


def arrays_of(path: Path) -> dict[str, Any]:
    stored = NpzFile(path)
    return {key: stored.read(key) for key in stored.keys}


def some(folder: str, count: int) -> list[dict[str, Any]]:
    """Graphs of a committed collection, spread over its families."""
    paths = sorted((DATA / folder).glob("*/*.npz"))
    return [arrays_of(path) for path in paths[:: max(1, len(paths) // count)]]


TILES = some("tile/cpu", 24)
LAYOUTS = [arrays for arrays in some("layout/cpu/random", 12) if len(arrays["node_feat"]) < 200]


def checked(arrays: dict[str, Any]) -> None:
    told = ""
    try:
        _, X, duplicate_of = extract(graph_from_arrays("damaged", arrays, "damaged.npz"))
    except DataError as fault:
        told = str(fault)
    if told:
        assert told.startswith("damaged.npz: ")
        assert "\n" not in told
        return
    assert np.isfinite(X).all()
    assert len(X) == len(duplicate_of)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(TILES), st.randoms(use_true_random=False))
def test_damaged_kernels(whole: dict[str, Any], choice: random.Random) -> None:
    checked(damaged_arrays(whole, choice))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LAYOUTS), st.randoms(use_true_random=False))
def test_damaged_layouts(whole: dict[str, Any], choice: random.Random) -> None:
    checked(damaged_arrays(whole, choice))


def test_a_transpose_of_two_operands_is_refused() -> None:
    stored = arrays_of(DATA / "tile/cpu/test/matmul_nt_64x960x144.npz")
    (node,) = np.flatnonzero(stored["node_opcode"] == OPCODE_ID["transpose"])
    stored["edge_index"] = np.vstack([stored["edge_index"], [[node, 0]]])
    with pytest.raises(DataError, match=rf"node {node}: expected 1 operands of transpose, got 2"):
        extract(graph_from_arrays("damaged", stored, "damaged.npz"))


def test_a_tensor_beyond_counting_is_refused() -> None:
    arrays = {key: np.array(value) for key, value in TILES[0].items()}
    arrays["node_feat"][0, FEAT_ID["shape_dimensions_0"] : FEAT_ID["shape_dimensions_0"] + 3] = 2.0**40
    with pytest.raises(DataError, match=r"damaged\.npz: has no features \(node 0: expected .* got 1\.33e\+36\)"):
        extract(graph_from_arrays("damaged", arrays, "damaged.npz"))
