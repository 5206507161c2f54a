"""Features of measured tables: from columns with roles to the arrays of the extractor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.schema import Schema
from features.table.extractor import Context, Parameter, TableExtractor
from gbr.data import devices
from gbr.data.table import Group, Roles, Table, texts
from gbr.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class TableFeatures:
    """Features of the rows of a table, fitted on its training groups."""

    def __init__(self, train: Table) -> None:
        self.roles = train.roles
        self._levels = {name: _levels(train.frame[name]) for name in train.roles.config}
        self._numbers, self._categories = _context_columns(train)
        self._n_train = len(train.cost)
        indptr = bounds(train.groups)
        self._extractor = TableExtractor(
            self._parameters(train.frame), self._context(train.frame, indptr[:-1]), train.cost, indptr
        )

    @property
    def schema(self) -> Schema:
        """Columns of the features."""
        return self._extractor.schema

    def __call__(self, frame: pl.DataFrame, groups: Sequence[Group], training: bool = False) -> NDArray[np.float32]:
        """Features of rows that have the columns :attr:`Roles.described`; ``training`` for the training rows."""
        indptr = bounds(groups)
        return self._extractor(self._parameters(frame), self._context(frame, indptr[:-1]), indptr, training)

    def _parameters(self, frame: pl.DataFrame) -> list[Parameter]:
        return [_parameter(frame[name], self._levels[name]) for name in self.roles.config]

    def _context(self, frame: pl.DataFrame, first: IntArray) -> Context:
        """Context of each group, from its first row."""
        rows = frame[first]
        numbers = [_numbers(rows[name]) for name in self._numbers]
        found = [None] * len(first)
        if self.roles.device is not None:
            found = [devices.find_device(name) if name else None for name in texts(rows[self.roles.device]).to_list()]
        unknown = np.full(len(devices.FIGURES), np.nan)
        figures = [unknown if device is None else devices.figures(device) for device in found]
        columns = devices.FIGURES if self.roles.device is not None else ()
        return Context(
            names=self._numbers,
            numbers=np.column_stack(numbers) if numbers else np.empty((len(first), 0)),
            categories=tuple(tuple(texts(rows[name]).fill_null("").to_list()) for name in self._categories),
            figures=np.array(figures)[:, : len(columns)],
            figure_columns=columns,
            vendors=tuple("" if device is None else device.vendor for device in found),
        )


def bounds(groups: Sequence[Group]) -> IntArray:
    """Bounds of adjacent groups, int64 (groups + 1,), from 0 on."""
    return np.cumsum([0, *(group.stop - group.start for group in groups)], dtype=np.int64)


def part(table: Table, split: str) -> Table:
    """The rows of one split."""
    groups = [group for group in table.groups if group.split == split]
    if not groups:
        raise DataError(f"table {table.name}: no {split} rows; check its split")
    rows = slice(groups[0].start, groups[-1].stop)
    start = rows.start
    return replace(
        table,
        frame=table.frame[rows],
        cost=table.cost[rows],
        repeat=None if table.repeat is None else table.repeat[rows],
        groups=tuple(replace(group, start=group.start - start, stop=group.stop - start) for group in groups),
    )


def _context_columns(train: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Numbers and categories among the columns that are the same in all rows of each group, without the device."""
    numbers, categories = [], []
    for name in dict.fromkeys((*train.roles.group, *train.roles.context)):
        if name != train.roles.device:
            (categories if train.frame[name].dtype == pl.String else numbers).append(name)
    return tuple(numbers), tuple(categories)


def _levels(column: pl.Series) -> tuple[str, ...]:
    """Levels of a category, sorted; empty for numbers and booleans."""
    return tuple(sorted(column.drop_nulls().unique().to_list())) if column.dtype == pl.String else ()


def _parameter(column: pl.Series, levels: tuple[str, ...]) -> Parameter:
    if not levels:
        return Parameter(column.name, _numbers(column))
    codes = texts(column).replace_strict({level: float(at) for at, level in enumerate(levels)}, default=None, return_dtype=pl.Float64)
    return Parameter(column.name, codes.fill_null(float("nan")).to_numpy(), levels)


def _numbers(column: pl.Series) -> FloatArray:
    if column.dtype == pl.String:
        column = column.cast(pl.Float64, strict=False)
    return np.asarray(column.cast(pl.Float64).fill_null(float("nan")).to_numpy(), np.float64)
