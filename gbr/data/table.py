"""Measured tables: groups of configurations with a runtime or a throughput.

``<root>/table/<name>/`` holds data files (Parquet, CSV or TSV) and ``table.toml``, see :mod:`gbr.data.table_roles`.
Folders ``train``, ``valid`` and ``test`` with data files replace its ``[split]``.  A target that is missing, NaN,
infinite or a string that is no number always means that the configuration failed.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gbr.data.collection import SPLITS
from gbr.data.files import atomic_write, write_text
from gbr.data.table_columns import (
    MISSING,
    SUFFIXES,
    among,
    join_frames,
    mixed,
    numbers,
    partly_missing,
    plain,
    read_frame,
    text,
    texts,
)
from gbr.data.table_roles import FILE, Roles, Value, as_toml, check_roles, listed, nearest, read_roles
from gbr.errors import DataError, UsageError, one_line

DATA: Final = "data.parquet"

FloatArray = NDArray[np.float64]

#: Bytes of the name of a group; a longer one is cut, and made unique by a hash.
_MAX_STEM: Final = 120
#: Share of the configurations that must have repeats for a second figure.
_LEAST_TWICE: Final = 0.5


@dataclass(frozen=True)
class Group:
    """Rows ``start:stop`` of a table, which compete with one another.

    The name is a file stem, and unique; the split is empty for rows to rank.
    """

    name: str
    split: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Table:
    """A measured table.

    Parameters
    ----------
    name : str
        Name of its folder.
    roles : Roles
        The meaning of its columns.
    frame : polars.DataFrame
        The columns :attr:`Roles.described` as Int64, Float64, Boolean or String; missing values are null.  Rows are
        ordered by split (train, valid, test), group, and position in the files.
    cost : float64 (rows,)
        The target, or 1 / target if higher is better: lower is better.  Positive; infinite for a failed configuration.
    repeat : float64 (rows,) or None
        Median of the second half of the single measurements, as a cost; ``cost`` where there are fewer than two.
        None if most configurations have fewer than two.
    groups : tuple of Group
        In the order of the rows.
    row : intp (rows,)
        Index of each row in the files, one after the other.
    source : dict of str
        Hash of each file, by its path in the folder.
    notes : tuple of str
        What was changed to read the files, such as names of columns.
    """

    name: str
    roles: Roles
    frame: pl.DataFrame
    cost: FloatArray
    repeat: FloatArray | None
    groups: tuple[Group, ...]
    row: NDArray[np.intp]
    source: Mapping[str, str]
    notes: tuple[str, ...] = ()
    #: Values of the columns that split the rows, such as a device or a family, object (rows,); None without them.
    fold: NDArray[np.object_] | None = None


# Tables ---------------------------------------------------------------------------------------------------------------


def read_table(folder: str | Path) -> Table:
    """Read a table.

    Raises
    ------
    DataError
        If a file is missing or invalid, or ``table.toml`` does not fit the columns; the message names the nearest one.
    """
    folder = Path(folder).resolve()
    about = folder / FILE
    roles, files = read_roles(about), _data_files(folder)
    parts, notes = [], []
    for split, path in files:
        frame, found = read_frame(path)
        parts.append((split, path, frame))
        notes += [f"{path}: {each}" for each in found]
    if files[0][0] is not None and (roles.test or roles.valid):
        raise DataError(f"{about}: split: {files[0][1].parent} is a folder of a split; expected one or the other")
    source = fingerprints(folder)
    return make_table(folder.name, roles, parts, about, source, notes)


def make_table(
    name: str,
    roles: Roles,
    parts: Sequence[tuple[str | None, Path, pl.DataFrame]],
    about: Path,
    source: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Create a table of data frames.

    Parameters
    ----------
    name : str
        Name of the table.
    roles : Roles
        The meaning of the columns.
    parts : sequence of (split or None, path, frame)
        The content of each file; without a split, the roles give it.  The paths are for messages.
    about : path
        The ``table.toml``, for messages.
    source, notes
        As in the table.

    Raises
    ------
    DataError
        If the roles do not fit the columns.
    """
    check_roles(roles, dict.fromkeys(column for _, _, frame in parts for column in frame.columns), str(about))
    described = dict.fromkeys((*roles.described, *roles.test, *roles.valid))
    frames, costs, seconds = [], [], []
    for _, path, frame in parts:
        some = () if set(roles.config).intersection(frame.columns) else roles.config[:1]
        for column in (*roles.group, roles.target, *some):
            if column not in frame.columns:
                raise DataError(f"{path}: no column {column!r}{nearest(column, frame.columns)}")
        frames.append(pl.DataFrame([plain(frame[column], path) for column in described if column in frame.columns]))
        costs.append(_cost(frame, roles, path))
        seconds.append(_second_cost(frame, roles, path))
    notes = [*notes, *partly_missing(described, [(path, frame.columns) for _, path, frame in parts])]
    frame, cost, second = join_frames(frames), np.concatenate(costs), np.concatenate(seconds)
    if not len(cost):
        raise DataError(f"{about.parent}: the files have no rows; expected one row per measured configuration")

    if parts[0][0] is None:
        number = _split_rows(frame, roles, about)
    else:
        number = np.repeat([SPLITS.index(split or "") for split, _, _ in parts], [len(each) for each in costs])
    groups, order = _group_rows(frame.select(roles.group), number, name)
    notes += _remarks(frame, roles, cost, number, about)
    known = np.isfinite(cost)
    measured_twice = np.isfinite(second) & known
    repeat = None
    if measured_twice.sum() > _LEAST_TWICE * known.sum():
        repeat = np.where(measured_twice, second, cost)[order]
    by = list(dict.fromkeys((*roles.test, *roles.valid)))
    fold = np.array(["/".join(map(str, row)) for row in frame.select(by)[order].iter_rows()], object) if by else None
    frame = frame.select(roles.described)[order]
    return Table(name, roles, frame, cost[order], repeat, groups, order, source or {}, tuple(notes), fold)


def read_rows(source: Any, roles: Roles, fixed: Mapping[str, Value] | None = None, *, measured: bool = False) -> Table:
    """Read configurations to rank: groups, parameters and context, without their target.

    Parameters
    ----------
    source : path-like, or polars, pandas or Arrow table
        A Parquet, CSV or TSV file, or a table in memory; columns without a role are ignored.
    roles : Roles
        Of the table that the model was trained on.
    fixed : mapping, optional
        Values of columns that are equal in all rows.
    measured : bool
        Read the target as well; cells that are empty or NaN are unknown, not failed.

    Returns
    -------
    Table
        Its groups are of no split, unknown costs are NaN.

    Raises
    ------
    DataError
        If a column is missing, with the nearest name, or the source cannot be read or has no rows.
    UsageError
        For something else than a path or a table.
    """
    if isinstance(source, str | PathLike):
        where, path = str(source), Path(source)
        if path.is_file() and not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"{path}: the model ranks tables; expected a file that ends in {', '.join(SUFFIXES[:3])}")
        frame, notes = read_frame(path)
    else:
        where, notes = "rows", []
        try:
            frame = source.collect() if isinstance(source, pl.LazyFrame) else _frame(source)
            frame = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
            if not frame.columns:
                raise ValueError("no columns")
        except (TypeError, ValueError, pl.exceptions.PolarsError) as fault:
            kind = type(source).__name__
            raise UsageError(f"rows: expected a path or a data frame, got {kind} ({one_line(fault)})") from fault
    frame = frame.with_columns(pl.lit(value).alias(name) for name, value in (fixed or {}).items())
    require_columns(frame, roles, where)
    if not len(frame):
        raise DataError(f"{where}: no rows; expected one row per configuration")
    cost = _known_cost(frame, roles, where) if measured else np.full(len(frame), np.nan)
    used = {*roles.described, *((roles.target, roles.status) if measured else ())}
    if unused := [name for name in frame.columns if name not in (*used, roles.target)]:
        notes.append(f"{where}: columns that the model does not use: {listed(unused)}")
    if not measured and roles.target in frame.columns and frame[roles.target].null_count() < len(frame):
        notes.append(f"{where}: values of {roles.target!r} are ignored (gbr predict --adapt learns from them)")
    frame = pl.DataFrame([plain(frame[name], where) for name in roles.described])
    groups, order = _group_rows(frame.select(roles.group), np.full(len(frame), len(SPLITS)), Path(where).stem)
    return Table(where, roles, frame[order], cost[order], None, groups, order, {}, tuple(notes))


def _frame(source: Any) -> pl.DataFrame:
    """A data frame of polars; columns of several types, such as runtimes and marks of failures, become strings."""
    try:
        return pl.DataFrame(source)
    except (TypeError, ValueError, pl.exceptions.PolarsError):
        if not (isinstance(source, Mapping) or type(source).__module__.startswith("pandas")):
            raise
        return pl.DataFrame([mixed(str(name), list(values)) for name, values in source.items()])


def require_columns(frame: pl.DataFrame, roles: Roles, where: str) -> None:
    """A DataError if a column that a model of these roles needs is missing, with the nearest name."""
    for name in roles.described:
        if name not in frame.columns:
            raise DataError(f"{where}: no column {name!r}, which the model needs{nearest(name, frame.columns)}")


def rows_of(table: Table, groups: Sequence[Group]) -> Table:
    """The rows of adjacent groups."""
    start = groups[0].start
    rows = slice(start, groups[-1].stop)
    return replace(
        table,
        frame=table.frame[rows],
        cost=table.cost[rows],
        repeat=None if table.repeat is None else table.repeat[rows],
        row=table.row[rows],
        fold=None if table.fold is None else table.fold[rows],
        groups=tuple(replace(group, start=group.start - start, stop=group.stop - start) for group in groups),
    )


def write_table(folder: str | Path, frame: pl.DataFrame, roles: Roles) -> None:
    """Write ``data.parquet`` and ``table.toml``, each atomically; existing ones are replaced.

    Raises
    ------
    DataError
        If the folder holds other data files, the roles do not fit the columns, or a file cannot be written.
    """
    folder = Path(folder)
    check_roles(roles, frame.columns, str(folder / FILE))
    for _, path in _data_files(folder, required=False):
        if path != folder / DATA:
            raise DataError(f"{folder}: already holds {path.relative_to(folder)}; choose another folder")
    with atomic_write(folder / DATA, DataError) as part:
        frame.write_parquet(part, compression="zstd")
    write_text(folder / FILE, as_toml(roles), DataError)


# Files ----------------------------------------------------------------------------------------------------------------


def fingerprints(folder: Path) -> dict[str, str]:
    """Hash of each file of a table, by its path in the folder."""
    files = (folder / FILE, *(path for _, path in _data_files(folder)))
    return {path.relative_to(folder).as_posix(): _digest(path.read_bytes()) for path in files}


def data_files(folder: Path) -> list[Path]:
    """Data files of a folder, by name."""
    # Names that begin with a dot are temporary files of an atomic write.
    return sorted(path for path in folder.glob("[!.]*") if path.name.lower().endswith(SUFFIXES) and path.is_file())


def _data_files(folder: Path, *, required: bool = True) -> list[tuple[str | None, Path]]:
    """Data files of a table by name, with their split if they are in folders of splits."""
    top = [(None, path) for path in data_files(folder)]
    ready = [(split, path) for split in SPLITS for path in data_files(folder / split)]
    if not required:
        return [*top, *ready]
    if top and ready:
        raise DataError(
            f"{folder}: {top[0][1].name} is beside folders of splits; move it to one of {', '.join(SPLITS)}"
        )
    if not top and not ready:
        state = "no data file" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {state}; expected files that end in {', '.join(SUFFIXES[:3])}")
    return [*top, *ready]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


# Costs ----------------------------------------------------------------------------------------------------------------


def _cost(frame: pl.DataFrame, roles: Roles, path: Path | str) -> FloatArray:
    """The target as a cost, infinite for failed configurations."""
    target = frame[roles.target]
    if not (target.dtype.is_numeric() or target.dtype in (pl.String, pl.Null)):
        raise DataError(f"{path}: the target {roles.target!r} holds {target.dtype}, expected numbers")
    status = frame[roles.status] if roles.status in frame.columns else target
    values = numbers(target)
    codes = [value for value in roles.failed if isinstance(value, int | float)]
    failed = ~np.isfinite(values) | np.isin(numbers(status), codes) | among(status, roles.failed)
    if failed.all() and target.dtype == pl.String and len(target):
        raise DataError(f"{path}: the target {roles.target!r} holds no number, but {_some(target)}")
    least = 0.0 if roles.direction == "higher" else np.nextafter(0.0, 1.0)
    if (wrong := ~failed & (values < least)).any():
        raise DataError(
            f"{path}: {int(wrong.sum())} rows have {roles.target!r} {values[wrong].min():g}, expected positive values; "
            "list values that mark failed configurations under `failed`"
        )
    return _as_cost(np.where(failed, np.nan, values), roles)


def _known_cost(frame: pl.DataFrame, roles: Roles, where: str) -> FloatArray:
    """The target as a cost, infinite for failed configurations and NaN where it is empty or NaN."""
    if roles.target not in frame.columns:
        known = nearest(roles.target, frame.columns)
        raise DataError(f"{where}: no column {roles.target!r} with measured values{known}")
    cost = _cost(frame, roles, where)
    empty = texts(frame[roles.target]).str.to_lowercase().is_in(["", *MISSING]).fill_null(True).to_numpy()
    status = roles.status if roles.status in frame.columns else roles.target
    return np.where(empty & ~among(frame[status], roles.failed), np.nan, cost)


def _second_cost(frame: pl.DataFrame, roles: Roles, path: Path) -> FloatArray:
    """Median of the second half of the single measurements as a cost; infinite if there are too few."""
    names = [name for name in roles.repeats if name in frame.columns]
    if not names:
        return np.full(len(frame), np.inf)
    columns = [frame[name] for name in names]
    if len(columns) == 1 and columns[0].dtype.base_type() in (pl.List, pl.Array):
        lists, rounded_up = columns[0].cast(pl.List(pl.Float64), strict=False), 0  # a single one is the target
    else:
        for column in columns:
            if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)):
                raise DataError(
                    f"{path}: the repeats {column.name!r} hold {column.dtype}, expected numbers or one column of lists"
                )
        single = pl.DataFrame([pl.Series(column.name, numbers(column)) for column in columns])
        lists, rounded_up = single.select(pl.concat_list(pl.all())).to_series(), 1
    all_of = pl.col("lists").list
    second = pl.DataFrame({"lists": lists}).select(all_of.tail((all_of.len() + rounded_up) // 2).list.median())
    values = numbers(second.to_series())
    return _as_cost(np.where(values > 0, values, np.nan), roles)


def _as_cost(values: FloatArray, roles: Roles) -> FloatArray:
    """Costs of targets; NaN becomes infinite."""
    with np.errstate(divide="ignore"):
        cost = 1 / values if roles.direction == "higher" else values
    return np.where(np.isnan(cost), np.inf, cost)


def _some(values: pl.Series) -> str:
    return ", ".join(repr(value) for value in values.unique(maintain_order=True).head(3).to_list())


# Splits and groups ----------------------------------------------------------------------------------------------------


def _split_rows(frame: pl.DataFrame, roles: Roles, about: Path) -> NDArray[np.int64]:
    """Position of the split of each row in SPLITS."""
    split = np.zeros(len(frame), np.int64)
    for number, wanted in ((1, roles.valid), (2, roles.test)):  # test prevails
        if not wanted:
            continue
        found = np.ones(len(frame), bool)
        for name, values in wanted.items():
            present = texts(frame[name]).drop_nulls().unique(maintain_order=True).to_list()
            chosen: list[str] = []
            for value in map(text, values):
                matches = [each for each in present if each == value] or [
                    each for each in present if _words(value) and f" {_words(value)} " in f" {_words(each)} "
                ]
                if not matches:
                    raise DataError(
                        f"{about}: {SPLITS[number]}: no row has {name} = {value!r}{nearest(value, present)}"
                    )
                chosen += matches
            found &= among(frame[name], chosen)
        if not found.any():
            raise DataError(f"{about}: {SPLITS[number]}: no row has all of {', '.join(wanted)}; check the values")
        split[found] = number
    if roles.valid and not (split == SPLITS.index("valid")).any():
        raise DataError(
            f"{about}: valid: all its rows are in test, too; expected other values of {', '.join(roles.valid)}"
        )
    return split


def _remarks(
    frame: pl.DataFrame, roles: Roles, cost: FloatArray, split: NDArray[np.int64], about: Path
) -> Iterator[str]:
    """What may be wrong with the rows, given with their costs and splits."""
    columns = (*roles.group, *roles.config)
    rows = pl.DataFrame([pl.Series("split", split), pl.Series("cost", cost)]).with_columns(
        texts(frame[name]).alias(f"of {at}") for at, name in enumerate(columns)
    )
    keys = [f"of {at}" for at in range(len(columns))]
    splits = rows.group_by(keys[: len(roles.group)] or pl.lit(0)).agg(pl.col("split").n_unique())["split"]
    if several := int((splits > 1).sum()):
        yield (
            f"{about}: {several} of {len(splits)} groups have rows in several splits, so that figures of held-out rows "
            "say nothing of other groups"
        )
    same = rows.group_by(keys).agg(pl.len(), pl.col("cost").n_unique())
    if differ := int(same.filter(pl.col("cost") > 1)["len"].sum()):
        yield (
            f"{about}: {differ} of {len(rows)} rows repeat a configuration of their group with another "
            f"{roles.target!r}; training takes the best, and figures are of all"
        )
    if roles.device is not None and (empty := frame[roles.device].null_count()):
        yield f"{about}: {empty} of {len(rows)} rows have no {roles.device!r}, whose figures are missing"


def _words(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def _group_rows(
    values: pl.DataFrame, split: NDArray[np.int64], table: str
) -> tuple[tuple[Group, ...], NDArray[np.intp]]:
    """Groups by split and name, and the order that sorts rows by group."""
    keys = pl.DataFrame([pl.Series("split", split), *(texts(column) for column in values.iter_columns())])
    keys.columns = [str(number) for number in range(keys.width)]
    distinct = keys.unique(maintain_order=True)
    rows = distinct.rows()
    stems = [_stem("-".join(map(str, row[1:])) or table) for row in rows]
    count = Counter(stem.casefold() for stem in stems)
    names = [
        stem if count[stem.casefold()] == 1 and len(stem) < _MAX_STEM else f"{stem}-{_digest(json.dumps(row).encode())}"
        for stem, row in zip(stems, rows, strict=True)
    ]
    # not by the name, whose suffix depends on other groups
    ranked = sorted(range(len(rows)), key=lambda at: (rows[at][0], stems[at], json.dumps(rows[at])))
    rank = np.empty(len(rows), np.int64)
    rank[ranked] = np.arange(len(rows))
    of_row = keys.join(
        distinct.with_columns(rank=rank), on=keys.columns, how="left", nulls_equal=True, maintain_order="left"
    )["rank"].to_numpy()
    stops = np.cumsum(np.bincount(of_row, minlength=len(rows))).tolist()
    groups = tuple(
        Group(names[at], (*SPLITS, "")[rows[at][0]], start, stop)
        for at, start, stop in zip(ranked, [0, *stops], stops, strict=False)
    )
    return groups, np.argsort(of_row, kind="stable")


def _stem(name: str) -> str:
    """A file name for any text: letters, digits and ``-+=_.``."""
    stem = re.sub(r"[^\w.+=-]+", "_", unicodedata.normalize("NFC", name))[:_MAX_STEM]
    return stem.encode()[:_MAX_STEM].decode(errors="ignore").strip("._") or "group"
