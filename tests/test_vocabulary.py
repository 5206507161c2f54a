from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import hlo


@pytest.fixture(scope="module")
def official(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "vocabulary.json").read_text())


def test_columns_are_the_official_ones(official: dict[str, Any]) -> None:
    assert list(hlo.NODE_FEAT) == official["node_feat"]
    assert list(hlo.TILE_CONFIG) == official["tile_config_feat"]
    assert list(hlo.LAYOUT_CONFIG) == official["layout_node_config_feat"]


def test_opcodes_are_the_official_ones(official: dict[str, Any]) -> None:
    assert {str(number): name for number, name in enumerate(hlo.OPCODES) if number} == official["opcodes"]


def test_lookups_invert_the_lists() -> None:
    assert [hlo.OPCODES[hlo.OPCODE_ID[name]] for name in hlo.OPCODES] == list(hlo.OPCODES)
    assert [hlo.FEAT_ID[name] for name in hlo.NODE_FEAT] == list(range(140))
    assert (hlo.N_OPCODES, hlo.N_FEAT, len(hlo.TILE_CONFIG), len(hlo.LAYOUT_CONFIG)) == (121, 140, 24, 18)
    assert len(set(hlo.OPCODES)) == hlo.N_OPCODES <= 256  # ids are stored as uint8


def test_known_ids() -> None:
    # From the published table of TpuGraphs.
    assert [hlo.OPCODE_ID[name] for name in ("unknown", "abs", "add")] == [0, 1, 2]
    assert hlo.FEAT_ID["is_root"] == 0
    assert hlo.FEAT_ID["layout_minor_to_major_5"] == 139


def test_a_real_file_agrees_with_the_names(shared_data: Path) -> None:
    """Columns that a file lets one check: one-hot types, sums, products and the single root."""
    path = next((shared_data / "npz" / "tile" / "xla" / "valid").glob("*.npz"))
    with np.load(path) as arrays:
        feat, opcode = arrays["node_feat"], arrays["node_opcode"]
    first = hlo.FEAT_ID["shape_element_type_is_invalid_type"]
    assert (feat[:, first : first + len(hlo.ELEMENT_TYPES)].sum(axis=1) == 1).all()
    dims = feat[:, [hlo.FEAT_ID[f"shape_dimensions_{slot}"] for slot in range(hlo.MAX_RANK)]]
    assert np.array_equal(dims.sum(axis=1), feat[:, hlo.FEAT_ID["shape_dimensions_sum"]])
    assert feat[:, hlo.FEAT_ID["is_root"]].sum() == 1
    parameters = opcode == hlo.OPCODE_ID["parameter"]
    assert parameters.any()
    assert not feat[~parameters, hlo.FEAT_ID["parameter_number"]].any()
