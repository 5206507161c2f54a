"""The schema of a feature vector: named columns in named blocks, and a hash that changes with their meaning."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Column:
    """One feature."""

    name: str  # unique within its block
    unit: str  # count, share, log2, elements, bytes, flag, id …
    doc: str  # one line
    cost: bool = False  # whether it is log2(1 + amount) of a quantity that costs time in proportion to its amount


@dataclass(frozen=True)
class Block:
    """Columns that are computed together."""

    name: str  # prefix of the full column names, <block>.<column>
    version: int  # incremented when the values of a column change while its name stays
    doc: str  # one line
    columns: tuple[Column, ...]
    per_config: bool  # False if all configurations of a graph share the values

    @property
    def names(self) -> tuple[str, ...]:
        """Full column names, ``<block>.<column>``."""
        return tuple(f"{self.name}.{column.name}" for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True, eq=False)
class Schema:
    """The blocks of a kind of collection (``tile``, ``layout``), or of a table, in the order of the feature matrix."""

    kind: str
    blocks: tuple[Block, ...]
    data: str = ""  # digest of the data that values depend on, of a table: its training rows

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Full column names, in order."""
        return tuple(name for block in self.blocks for name in block.names)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in order, under their full names."""
        columns = (column for block in self.blocks for column in block.columns)
        return tuple(replace(column, name=name) for name, column in zip(self.names, columns, strict=True))

    @property
    def costs(self) -> tuple[str, ...]:
        """Full names of the cost columns."""
        return tuple(column.name for column in self.columns if column.cost)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def hash(self) -> str:
        """12 hex digits over kind, block names and versions, column names, units and data (not the descriptions)."""
        blocks = [
            (block.name, block.version, [(column.name, column.unit) for column in block.columns])
            for block in self.blocks
        ]
        content = [self.kind, blocks, self.data] if self.data else [self.kind, blocks]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
