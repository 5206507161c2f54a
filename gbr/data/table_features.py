"""Features of measured tables: from columns with roles to the arrays of the extractor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.schema import Schema
from features.table.extractor import Context, Parameter, TableExtractor
from gbr.data import devices
from gbr.data.groups import FAILED
from gbr.data.table import Group, Roles, Table, read_table, recognise, texts, write_table
from gbr.errors import DataError, GbrWarning, UsageError

#: Binary digits of the largest encoded cost, exact in float64, and of its divisor.
_BITS: Final = 50
_MOST_BITS: Final = 61

#: Columns of the cost and the split in the rows that are saved with a model.
COST: Final = "cost of the row"
SPLIT: Final = "split of the row"

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class TableFeatures:
    """Features of the rows of a table, fitted on its training and validation groups.

    With ``of_runtimes`` there are also columns that tell runtimes of different groups apart.

    Attributes
    ----------
    known : Table
        The training and validation rows.
    roles : Roles
    schema : Schema
        Columns of the features.

    Raises
    ------
    DataError
        If the table has no training rows.

    Warns
    -----
    GbrWarning
        For an unknown device, which has no figures, with the nearest names.
    """

    def __init__(self, table: Table, of_runtimes: bool = False) -> None:
        if not any(group.split == "train" for group in table.groups):
            raise DataError(f"table {table.name}: no training rows; check its split")
        self.known = known = part(table, "train", "valid")
        self.roles = known.roles
        self._levels = {name: _levels(known.frame[name]) for name in known.roles.config}
        self._numbers, self._categories = _context_columns(known)
        self._number = {key: number for number, key in enumerate(_keys(known.frame, known.groups, known.roles))}
        indptr = bounds(known.groups)
        self._extractor = TableExtractor(
            self._parameters(known.frame),
            self._context(known.frame, indptr[:-1]),
            known.cost,
            indptr,
            n_train := sum(group.split == "train" for group in known.groups),
            of_runtimes,
        )
        self._n_train = n_train
        self.schema: Schema = self._extractor.schema

    def __call__(self, frame: pl.DataFrame, groups: Sequence[Group]) -> NDArray[np.float32]:
        """Features of the rows of ``groups``, float32 (rows, len(schema)).

        ``frame`` has the columns :attr:`Roles.described`; its rows are those of ``groups``, one after the other.
        Groups of the splits ``train`` and ``valid`` that have the values of one of the fit are this one.  They see the
        history of the other training groups; all others see that of training and validation groups.
        """
        own = [self._number.get(key) for key in _keys(frame, groups, self.roles)]
        every = len(self._number)
        return self._features(frame, groups, own, [every if at is None else self._n_train for at in own])

    def refit(self) -> tuple[NDArray[np.float32], FloatArray, IntArray]:
        """Features, costs and bounds of the training and validation groups, of which each sees all others."""
        known, every = self.known, len(self._number)
        X = self._features(known.frame, known.groups, [*range(every)], [every] * every)
        return X, known.cost, bounds(known.groups)

    def _features(
        self, frame: pl.DataFrame, groups: Sequence[Group], own: Sequence[int | None], seen: Sequence[int]
    ) -> NDArray[np.float32]:
        indptr = bounds(groups)
        return self._extractor(self._parameters(frame), self._context(frame, indptr[:-1]), indptr, own, seen)

    def by_group(self, frame: pl.DataFrame) -> FloatArray:
        """Ranks and log2 slowdowns of the rows of a new group in known ones, float64 (2, known groups, rows).

        These are the most similar ones, in this order.
        """
        return self._extractor.by_group(self._parameters(frame), self._context(frame, np.zeros(1, np.int64)))

    def _parameters(self, frame: pl.DataFrame) -> list[Parameter]:
        return [_parameter(frame[name], self._levels[name]) for name in self.roles.config]

    def _context(self, frame: pl.DataFrame, first: IntArray) -> Context:
        """Context of each group, from its first row."""
        rows = frame[first]
        numbers = [_numbers(rows[name]) for name in self._numbers]
        found: list[devices.Device | None] = [None] * len(first)
        if self.roles.device is not None:
            found = [_device(name) for name in texts(rows[self.roles.device]).to_list()]
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
            category_names=self._categories,
        )


def _keys(frame: pl.DataFrame, groups: Sequence[Group], roles: Roles) -> list[tuple[str | None, ...]]:
    """Split and values of the columns that make a group, for each group."""
    first = frame[bounds(groups)[:-1]]
    values = [texts(first[name]).to_list() for name in roles.group]
    return list(zip([group.split for group in groups], *values, strict=True))


@cache
def _device(name: str | None) -> devices.Device | None:
    """A device by its name; None for an unknown one, with a warning at the first time."""
    try:
        return devices.find_device(name) if name else None
    except UsageError as fault:
        warnings.warn(f"{fault}; features of this device are missing", GbrWarning, stacklevel=2)
        return None


def known_features(folder: Path, of_runtimes: bool = False) -> TableFeatures:
    """Features of the table in a folder."""
    return TableFeatures(read_table(folder), of_runtimes)


def families_of(table: Table) -> dict[str, str]:
    """The device of each group, or its name if there is one device at most; by name of the group."""
    first = [group.start for group in table.groups]
    names = [group.name for group in table.groups]
    if table.roles.device is not None:
        found = texts(table.frame[table.roles.device][first]).fill_null("").to_list()
        if len(set(found)) > 1:
            return dict(zip(names, found, strict=True))
    return dict(zip(names, names, strict=True))


def bounds(groups: Sequence[Group]) -> IntArray:
    """Bounds of adjacent groups, int64 (groups + 1,), from 0 on."""
    return np.cumsum([0, *(group.stop - group.start for group in groups)], dtype=np.int64)


def duplicates(table: Table) -> IntArray:
    """Row index within its group of the first identical configuration, int64 (rows,)."""
    start = np.repeat([group.start for group in table.groups], np.diff(bounds(table.groups)))
    keys = (
        table.frame.select(table.roles.config).with_columns(pl.Series("group of the row", start)).with_row_index("row")
    )
    first = keys.select(pl.col("row").first().over(keys.columns[1:])).to_series().to_numpy().astype(np.int64)
    return np.asarray(first - start)


def part(table: Table, *splits: str) -> Table:
    """The rows of one split, or of adjacent ones."""
    groups = [group for group in table.groups if group.split in splits]
    rows = slice(groups[0].start, groups[-1].stop)
    start = rows.start
    return replace(
        table,
        frame=table.frame[rows],
        cost=table.cost[rows],
        repeat=None if table.repeat is None else table.repeat[rows],
        row=table.row[rows],
        fold=None if table.fold is None else table.fold[rows],
        groups=tuple(replace(group, start=group.start - start, stop=group.stop - start) for group in groups),
    )


def _context_columns(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Numbers and categories among the columns that are the same in all rows of each group, without the device."""
    numbers: list[str] = []
    categories: list[str] = []
    for name in dict.fromkeys((*table.roles.group, *table.roles.context)):
        if name != table.roles.device:
            (categories if table.frame[name].dtype == pl.String else numbers).append(name)
    return tuple(numbers), tuple(categories)


def _levels(column: pl.Series) -> tuple[str, ...]:
    """Levels of a category, sorted; empty for numbers and booleans."""
    return tuple(sorted(column.drop_nulls().unique().to_list())) if column.dtype == pl.String else ()


def _parameter(column: pl.Series, levels: tuple[str, ...]) -> Parameter:
    if not levels:
        return Parameter(column.name, _numbers(column))
    codes = texts(column).replace_strict(
        {level: float(at) for at, level in enumerate(levels)}, default=None, return_dtype=pl.Float64
    )
    return Parameter(column.name, codes.fill_null(float("nan")).to_numpy(), levels)


def _numbers(column: pl.Series) -> FloatArray:
    """Numbers or booleans as numbers; NaN where they are missing or infinite."""
    if (
        column.dtype == pl.String
        and (column := recognise(column)).dtype == pl.String
        and column.null_count() < len(column)
    ):
        raise DataError(
            f"column {column.name!r} holds {column.drop_nulls()[0]!r}; expected numbers or booleans, as in the training"
            " rows"
        )
    numbers = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(numbers), numbers, np.nan)


def encoded(table: Table) -> dict[str, IntArray]:
    """Costs as a store has them: ``_runtime``, ``_repeat`` and their divisor ``_normalizer``, int64 (rows,) each."""
    worked = np.isfinite(table.cost)
    bits = int(np.clip(_BITS - np.ceil(np.log2(table.cost[worked].max(initial=1e-300))), 0, _MOST_BITS))

    def whole(cost: FloatArray) -> IntArray:
        known = np.isfinite(cost)
        scaled = np.maximum(1, np.rint(np.where(known, cost, 0.0) * 2.0**bits))
        return np.where(known, scaled, FAILED).astype(np.int64)

    found = {"_runtime": whole(table.cost), "_normalizer": np.full(len(worked), 1 << bits, np.int64)}
    return found if table.repeat is None else {**found, "_repeat": whole(np.where(worked, table.repeat, np.inf))}


def save_known_rows(folder: Path, known: Table) -> None:
    """Write :attr:`TableFeatures.known` as a table, whose :func:`known_features` are the same."""
    splits = np.repeat([group.split for group in known.groups], np.diff(bounds(known.groups)))
    cost = np.where(np.isfinite(known.cost), known.cost, np.nan)
    frame = known.frame.with_columns(pl.Series(COST, cost), pl.Series(SPLIT, splits))
    valid = {SPLIT: ("valid",)} if "valid" in splits else {}
    roles = replace(
        known.roles, target=COST, direction="lower", repeats=(), failed=(), status=None, test={}, valid=valid
    )  # fmt: skip
    write_table(folder, frame, roles)
