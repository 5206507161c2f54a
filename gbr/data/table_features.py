"""Features of measured tables: from columns with roles to the arrays of the extractor."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.schema import Schema
from features.table.extractor import MOST_LEVELS, Context, Parameter, TableExtractor
from gbr.data import devices
from gbr.data.groups import FAILED
from gbr.data.table import Group, Table, read_table, rows_of, write_table
from gbr.data.table_columns import recognise, texts
from gbr.data.table_roles import Roles
from gbr.errors import DataError, GbrWarning, UsageError

#: Binary digits of the largest encoded cost, exact in float64, and of its divisor.
_BITS: Final = 50
_MOST_BITS: Final = 61

#: Column of the split in the rows that are saved with a model.
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
        For unknown devices, which have no figures, with the nearest names of the first one.
    """

    def __init__(self, table: Table, of_runtimes: bool = False) -> None:
        if not any(group.split == "train" for group in table.groups):
            raise DataError(f"table {table.name}: no training rows; check its split")
        self.known = known = part(table, "train", "valid")
        self.roles = known.roles
        self._words = {name: words for name in known.roles.config if (words := _varying_words(known.frame[name]))}
        configs = self.configs(known.frame)
        self._levels = {column.name: _levels(column) for column in configs.iter_columns()}
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

    def unseen(self, frame: pl.DataFrame) -> Iterator[str]:
        """What some rows to rank have that no known row has: categories, and missing values."""
        known, configs = self.configs(self.known.frame), self.configs(frame)
        for name, levels in self._levels.items():
            column = texts(configs[name])
            if levels and (new := column.filter(~column.is_in(levels)).drop_nulls()).len():
                yield f"{len(new)} rows have {name!r} {new[0]!r}, which no training row has: it counts as missing"
            if 0 < (missing := column.null_count()) < len(column) and not known[name].null_count():
                yield f"{missing} rows have no {name!r}, which all training rows have"

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

    def configs(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Columns that can be chosen, with one per word of structured strings, such as ``|conv~0|+|skip~0|pool~1|``."""
        columns: list[pl.Series] = []
        for name in self.roles.config:
            words = _words(frame[name])
            columns += [
                recognise(words.list.get(at, null_on_oob=True)).alias(f"{name}[{at}]")
                for at in self._words.get(name, ())
            ] or [frame[name]]
        return pl.DataFrame(columns)

    def _parameters(self, frame: pl.DataFrame) -> list[Parameter]:
        """Parameters, counts of words, and figures of the device if it can be chosen."""
        configs = self.configs(frame)
        found = [_parameter(configs[name], levels) for name, levels in self._levels.items()]
        for name, at in self._words.items():
            words = _words(frame[name])
            levels = Counter(level for position in at for level in self._levels[f"{name}[{position}]"])
            for level in [level for level, count in levels.items() if count > 1]:
                counts = words.list.count_matches(level).cast(pl.Float64)
                found.append(Parameter(f"{name}: {level}", counts.to_numpy()))
        if self.roles.device in self.roles.config:
            figures = _figures(texts(frame[self.roles.device]).to_list())
            found += [
                Parameter(f"{self.roles.device}.{column.name}", values)
                for column, values in zip(devices.FIGURES, figures.T, strict=True)
            ]
        return found

    def _context(self, frame: pl.DataFrame, first: IntArray) -> Context:
        """Context of each group, from its first row."""
        rows = frame[first]
        numbers = [_numbers(rows[name]) for name in self._numbers]
        names: list[str | None] = [None] * len(first)
        device = self.roles.device
        described = device is not None and device not in self.roles.config
        if device is not None and described:
            names = texts(rows[device]).to_list()
        columns = devices.FIGURES if described else ()
        return Context(
            names=self._numbers,
            numbers=np.column_stack(numbers) if numbers else np.empty((len(first), 0)),
            categories=tuple(tuple(texts(rows[name]).fill_null("").to_list()) for name in self._categories),
            figures=_figures(names)[:, : len(columns)],
            figure_columns=columns,
            vendors=tuple(each.vendor if isinstance(each := _device(name), devices.Device) else "" for name in names),
            category_names=self._categories,
        )


def _words(column: pl.Series) -> pl.Series:
    return texts(column).fill_null("").str.extract_all(r"[\w.]+")


def _varying_words(column: pl.Series) -> tuple[int, ...]:
    """Positions of the words that vary and identify a string, if all strings have as many; empty for others."""
    if column.dtype != pl.String or column.n_unique() <= MOST_LEVELS:
        return ()
    words = _words(distinct := column.unique().drop_nulls())
    if (lengths := words.list.len()).n_unique() > 1:
        return ()
    parts = pl.DataFrame({str(at): words.list.get(at) for at in range(lengths[0])})
    varying = tuple(at for at, part in enumerate(parts.iter_columns()) if part.n_unique() > 1)
    return varying if len(varying) > 1 and parts.n_unique() == len(distinct) else ()


def _keys(frame: pl.DataFrame, groups: Sequence[Group], roles: Roles) -> list[tuple[str | None, ...]]:
    """Split and values of the columns that make a group, for each group."""
    first = frame[bounds(groups)[:-1]]
    values = [texts(first[name]).to_list() for name in roles.group]
    return list(zip([group.split for group in groups], *values, strict=True))


@cache
def _device(name: str | None) -> devices.Device | UsageError | None:
    """A device by its name, or the error for an unknown one; None without a name."""
    try:
        return devices.find_device(name) if name else None
    except UsageError as fault:
        return fault


#: Unknown devices that a warning named already.
_WARNED: Final[set[str]] = set()


def _figures(names: Sequence[str | None]) -> FloatArray:
    """Figures of devices by their names, float64 (len(names), len(FIGURES)); NaN for unknown ones, with one warning."""
    found = {name: _device(name) for name in dict.fromkeys(names)}
    unknown = [str(each) for name, each in found.items() if isinstance(each, UsageError) and name not in _WARNED]
    if unknown:
        _WARNED.update(str(name) for name, each in found.items() if isinstance(each, UsageError))
        more = f" (and {len(unknown) - 1} more unknown devices)" if len(unknown) > 1 else ""
        message = f"{unknown[0]}{more}; features of this device are missing; its figures can be columns in `context`"
        warnings.warn(message, GbrWarning, stacklevel=2)
    missing = np.full(len(devices.FIGURES), np.nan)
    by_name = {
        name: devices.figures(each) if isinstance(each, devices.Device) else missing for name, each in found.items()
    }
    return np.array([by_name[name] for name in names]).reshape(len(names), len(missing))


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
    return rows_of(table, [group for group in table.groups if group.split in splits])


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
    roles, cost = known.roles, np.where(np.isfinite(known.cost), known.cost, np.nan)
    target = pl.Series(roles.target, 1 / cost if roles.direction == "higher" else cost)
    # Marks of failures are kept for rows that are measured later; here, a missing target says it.
    status = [] if roles.status in (None, *roles.described) else [pl.lit(None, pl.String).alias(str(roles.status))]
    frame = known.frame.with_columns(target, pl.Series(SPLIT, splits), *status)
    valid = {SPLIT: ("valid",)} if "valid" in splits else {}
    roles = replace(roles, repeats=(), test={}, valid=valid)
    write_table(folder, frame, roles)
