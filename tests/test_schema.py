"""The schema and its hash, and the HLO vocabulary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from features import hlo
from features.schema import Block, Column, Schema
from gbr.data.build import schema_of

SHAPE = Block(
    "shape", 1, "Shape.", (Column("rows", "count", "rows"), Column("fill", "share", "used")), per_config=False
)
TILE = Block("tile", 1, "Tile.", (Column("rows", "elements", "rows of a tile"),), per_config=True)
SCHEMA = Schema("tile", (SHAPE, TILE))


@pytest.mark.parametrize(
    "changed",
    [
        Schema("layout", (SHAPE, TILE)),
        Schema("tile", (TILE, SHAPE)),
        Schema("tile", (SHAPE,)),
        Schema("tile", (SHAPE, replace(TILE, name="tiles"))),
        Schema("tile", (SHAPE, replace(TILE, version=2))),
        Schema("tile", (SHAPE, replace(TILE, columns=(replace(TILE.columns[0], name="columns"),)))),
        Schema("tile", (SHAPE, replace(TILE, columns=(replace(TILE.columns[0], unit="log2"),)))),
        Schema("tile", (replace(SHAPE, columns=SHAPE.columns[::-1]), TILE)),
    ],
    ids=["kind", "block order", "block removed", "block name", "version", "column name", "unit", "column order"],
)
def test_hash_depends_on_the_meaning(changed: Schema) -> None:
    assert SCHEMA.hash == "098c08c70f9a"
    assert changed.hash != SCHEMA.hash


def test_names_and_hash_ignore_descriptions() -> None:
    assert SCHEMA.names == tuple(column.name for column in SCHEMA.columns) == ("shape.rows", "shape.fill", "tile.rows")
    assert len(SCHEMA) == 3
    other = replace(TILE, doc="Other.", columns=(replace(TILE.columns[0], doc="other"),))
    assert Schema("tile", (SHAPE, other)).hash == SCHEMA.hash


@pytest.mark.parametrize(("kind", "pinned"), [("tile", "3db9ed255633"), ("layout", "bb93a032440d")])
def test_schema_hashes_of_this_version(kind: str, pinned: str) -> None:
    found = schema_of(kind)
    assert found.hash == pinned, (
        f"the {kind} columns differ from the pinned ones: stores will be rebuilt and older models rejected; "
        "if intended, pin the new hash"
    )
    assert len(set(found.names)) == len(found)
    assert all(column.unit and column.doc.strip() == column.doc != "" for column in found.columns)
    assert all(block.doc.endswith(".") for block in found.blocks)


def test_vocabulary_is_the_official_one(shared_data: Path) -> None:
    official = json.loads((shared_data / "vocabulary.json").read_text())
    assert list(hlo.NODE_FEAT) == official["node_feat"]
    assert list(hlo.TILE_CONFIG) == official["tile_config_feat"]
    assert list(hlo.LAYOUT_CONFIG) == official["layout_node_config_feat"]
    assert {str(number): name for number, name in enumerate(hlo.OPCODES) if number} == official["opcodes"]
