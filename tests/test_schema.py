"""The schema and its hash, and the HLO vocabulary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features import hlo
from features.schema import Block, Column, Schema
from gbr.data.build import schema_of

SHAPE = Block(
    "shape", 1, "Shape.", (Column("rows", "count", "rows"), Column("fill", "share", "used")), per_config=False
)
TILE = Block("tile", 1, "Tile.", (Column("rows", "elements", "rows of a tile"),), per_config=True)
SCHEMA = Schema("tile", [SHAPE, TILE])


def test_names_are_block_and_column_in_order() -> None:
    assert SCHEMA.names == tuple(column.name for column in SCHEMA.columns) == ("shape.rows", "shape.fill", "tile.rows")
    assert len(SCHEMA) == 3
    assert SHAPE.names == ("shape.rows", "shape.fill")


@pytest.mark.parametrize(
    "changed",
    [
        Schema("layout", [SHAPE, TILE]),
        Schema("tile", [TILE, SHAPE]),
        Schema("tile", [SHAPE]),
        Schema("tile", [SHAPE, replace(TILE, name="tiles")]),
        Schema("tile", [SHAPE, replace(TILE, version=2)]),
        Schema("tile", [SHAPE, replace(TILE, columns=(replace(TILE.columns[0], name="columns"),))]),
        Schema("tile", [SHAPE, replace(TILE, columns=(replace(TILE.columns[0], unit="log2"),))]),
        Schema("tile", [replace(SHAPE, columns=SHAPE.columns[::-1]), TILE]),
    ],
    ids=["kind", "block order", "block removed", "block name", "version", "column name", "unit", "column order"],
)
def test_hash_depends_on_the_meaning(changed: Schema) -> None:
    assert SCHEMA.hash == "098c08c70f9a"
    assert changed.hash != SCHEMA.hash


def test_hash_ignores_descriptions() -> None:
    other = replace(TILE, doc="Other.", columns=(replace(TILE.columns[0], doc="other"),))
    assert Schema("tile", [SHAPE, other]).hash == SCHEMA.hash


def test_duplicate_columns_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"schema tile: duplicate columns: tile\.rows$"):
        Schema("tile", [TILE, SHAPE, TILE])


@pytest.mark.parametrize(("kind", "pinned"), [("tile", "3db9ed255633"), ("layout", "bb93a032440d")])
def test_schema_hashes_of_this_version(kind: str, pinned: str) -> None:
    found = schema_of(kind)
    assert found.hash == pinned, (
        f"the {kind} columns differ from the pinned ones: stores will be rebuilt and older models rejected; "
        "if intended, pin the new hash"
    )
    assert all(column.unit and column.doc.strip() == column.doc != "" for column in found.columns)
    assert all(block.doc.endswith(".") for block in found.blocks)


def test_vocabulary_is_the_official_one(shared_data: Path) -> None:
    official = json.loads((shared_data / "vocabulary.json").read_text())
    assert list(hlo.NODE_FEAT) == official["node_feat"]
    assert list(hlo.TILE_CONFIG) == official["tile_config_feat"]
    assert list(hlo.LAYOUT_CONFIG) == official["layout_node_config_feat"]
    assert {str(number): name for number, name in enumerate(hlo.OPCODES) if number} == official["opcodes"]


def test_vocabulary_ids() -> None:
    assert (hlo.N_OPCODES, hlo.N_FEAT, len(hlo.TILE_CONFIG), len(hlo.LAYOUT_CONFIG)) == (121, 140, 24, 18)
    assert [hlo.OPCODE_ID[name] for name in ("unknown", "abs", "add", "parameter")] == [0, 1, 2, 63]
    assert (hlo.FEAT_ID["is_root"], hlo.FEAT_ID["layout_minor_to_major_5"]) == (0, 139)
    assert hlo.TILE_CONFIG[8] == "output_bounds_0"


def test_columns_of_a_real_file_agree_with_the_names(shared_data: Path) -> None:
    """Properties that a file reveals: one-hot types, sums and a single root."""
    path = next((shared_data / "npz" / "tile" / "xla" / "valid").glob("*.npz"))
    with np.load(path) as arrays:
        feat, opcode = arrays["node_feat"], arrays["node_opcode"]
    first = hlo.FEAT_ID["shape_element_type_is_invalid_type"]
    assert (feat[:, first : first + len(hlo.ELEMENT_TYPES)].sum(axis=1) == 1).all()
    dims = feat[:, [hlo.FEAT_ID[f"shape_dimensions_{slot}"] for slot in range(hlo.MAX_RANK)]]
    assert np.array_equal(dims.sum(axis=1), feat[:, hlo.FEAT_ID["shape_dimensions_sum"]])
    assert feat[:, hlo.FEAT_ID["is_root"]].sum() == 1
    assert not feat[opcode != hlo.OPCODE_ID["parameter"], hlo.FEAT_ID["parameter_number"]].any()
