"""The schema of a feature vector: named columns in named blocks, and a hash that changes with their meaning."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Column:
    """One feature.

    Parameters
    ----------
    name : str
        Unique within its block.
    unit : str
        ``count``, ``share``, ``log2``, ``elements``, ``bytes``, ``flag``, ``id`` …
    doc : str
        One-line description.
    cost : bool
        Whether the value is log2(1 + amount) of a quantity that adds to the runtime in proportion to its amount.
    """

    name: str
    unit: str
    doc: str
    cost: bool = False


@dataclass(frozen=True)
class Block:
    """Columns that are computed together.

    Parameters
    ----------
    name : str
        Prefix of the full column names, ``<block>.<column>``.
    version : int
        Incremented when the values of a column change while its name stays.
    doc : str
        One-line description.
    columns : tuple of Column
    per_config : bool
        False if all configurations of a graph share the values.
    """

    name: str
    version: int
    doc: str
    columns: tuple[Column, ...]
    per_config: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Full column names, ``<block>.<column>``."""
        return tuple(f"{self.name}.{column.name}" for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns)


class Schema:
    """The blocks of one kind of collection, in the order of the feature matrix.

    Parameters
    ----------
    kind : str
        ``tile`` or ``layout``.
    blocks : iterable of Block

    Raises
    ------
    ValueError
        If two columns share a name.
    """

    def __init__(self, kind: str, blocks: Iterable[Block]) -> None:
        self.kind = kind
        self.blocks = tuple(blocks)
        self.names: tuple[str, ...] = tuple(name for block in self.blocks for name in block.names)
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise ValueError(f"schema {kind}: duplicate columns: {', '.join(repeated)}")

    @property
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
        """12 hex digits over kind, block names and versions, column names and units (not the descriptions)."""
        blocks = [
            (block.name, block.version, [(column.name, column.unit) for column in block.columns])
            for block in self.blocks
        ]
        return hashlib.sha256(json.dumps([self.kind, blocks]).encode()).hexdigest()[:12]
