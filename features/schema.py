"""What a feature vector means: named columns in named blocks, and a hash that changes when the meaning does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Column:
    """One feature.

    Parameters
    ----------
    name : str
        Generated from the parameters that make it; unique within its block.
    unit : str
        ``count``, ``share``, ``log2``, ``elements``, ``bytes``, ``flag``, ``id`` …
    doc : str
        One line for a person.
    cost : bool
        Whether the value is log2(1 + amount) of something whose amounts add up to time, each at its price.
    """

    name: str
    unit: str
    doc: str
    cost: bool = False


@dataclass(frozen=True)
class Block:
    """Columns that are computed together and switched on and off together.

    Parameters
    ----------
    name : str
        Prefix of its columns in a table: ``<block>.<column>``.
    version : int
        Raised whenever a column's values change their meaning while its name stays.
    doc : str
        One line for a person.
    columns : tuple of Column
    per_config : bool
        False where every configuration of a graph shares the values.
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
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"schema {kind}: columns named twice: {', '.join(twice)}")

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in order, under their full names."""
        return tuple(
            Column(name, column.unit, column.doc, column.cost)
            for block in self.blocks
            for name, column in zip(block.names, block.columns, strict=True)
        )

    @property
    def costs(self) -> tuple[str, ...]:
        """Full names of the columns that are amounts of cost."""
        return tuple(column.name for column in self.columns if column.cost)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def hash(self) -> str:
        """12 hex digits over kind, block names, block versions, column names and units (not the prose)."""
        meaning = [
            self.kind,
            [
                (block.name, block.version, [(column.name, column.unit) for column in block.columns])
                for block in self.blocks
            ],
        ]
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:12]


class Extractor(Protocol):
    """Turns configurations of one graph into feature vectors: made once per graph, called per block of them."""

    @property
    def schema(self) -> Schema:
        """Columns of the result, in order."""
        ...

    def __call__(self, configs: NDArray[np.generic], /) -> Float32Array:
        """Feature vectors, float32 (c, len(schema)), of ``c`` configurations."""
        ...
