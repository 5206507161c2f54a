"""Measured tables: rows of configurations with a runtime or a throughput, and the meaning of their columns.

``<root>/table/<name>/`` holds data files (Parquet, CSV or TSV) and ``table.toml``::

    # What the columns of this table mean.
    group   = ["kernel", "device", "problem"]   # rows with equal values compete with one another
    config  = ["block_size_x", "use_shmem"]     # what can be chosen: numbers, categories, booleans
    context = ["m", "n"]                        # optional: what describes program and device
    device  = "device"                          # optional: column with names of devices
    repeats = "times"                           # optional: list column, or several columns, of single measurements
    failed  = ["CompilationFailedConfig", -1]   # optional: values of the target that mark a failed configuration, or
                                                # {column = "status", values = ["FAIL"]}

    [target]
    column = "time"
    unit = "ms"                                 # optional
    direction = "lower"                         # or "higher" is better

    [split]                                     # optional: rows whose columns all have one of the values
    test = {device = ["W7800"]}                 # the value, or words of it: also "AMD Radeon PRO W7800"
    valid = {device = ["A4000"]}                # all other rows are in train

Folders ``train``, ``valid`` and ``test`` with data files replace ``[split]``.  A target that is missing, NaN, infinite
or a string that is no number always means that the configuration failed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import reprlib
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gbr.data.collection import SPLITS
from gbr.data.files import atomic_write, read_toml, write_text
from gbr.errors import DataError, GbrError, UsageError

FILE: Final = "table.toml"
DATA: Final = "data.parquet"
DIRECTIONS: Final = ("lower", "higher")
#: First bytes of a gzip file.
GZIP: Final = b"\x1f\x8b"

#: A value of a table.toml that is compared with values of a column.
Value = str | int | float | bool
FloatArray = NDArray[np.float64]

_SUFFIXES: Final = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
#: Encodings with a byte-order mark; the marks of UTF-16 begin no UTF-8 file.
_MARKS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
#: Cells of a CSV file that are missing in a column of numbers or booleans; in a column of strings only empty ones are.
_MISSING: Final = ("na", "n/a", "nan", "null", "none")
_KEYS: Final = ("group", "config", "target", "context", "device", "repeats", "failed", "split")
#: Bytes of the name of a group; a longer one is cut, and made unique by a hash.
_MAX_STEM: Final = 120
#: Share of the configurations that must have repeats for a second figure.
_LEAST_TWICE: Final = 0.5
#: Names that a message lists.
_MAX_NAMES: Final = 12


@dataclass(frozen=True)
class Roles:
    """The meaning of the columns of a table: the content of its ``table.toml``.

    Parameters
    ----------
    group, config : tuple of str
        Columns whose equal values make a group, and columns that can be chosen.
    target : str
        Column of the runtime or throughput.
    context : tuple of str
        Columns that describe the program and the device.
    device : str, optional
        Column with names of devices.
    unit : str
        Unit of the target.
    direction : {"lower", "higher"}
        Whether lower or higher targets are better.
    repeats : tuple of str
        A column of lists, or columns, of single measurements in the unit of the target.
    failed : tuple
        Values of the column ``status``, by default the target, that mark a failed configuration.
    status : str, optional
        Column with the values of ``failed``.
    test, valid : mapping
        Columns and the values that their rows have in this split, all of them.
    """

    group: tuple[str, ...]
    config: tuple[str, ...]
    target: str
    context: tuple[str, ...] = ()
    device: str | None = None
    unit: str = ""
    direction: str = DIRECTIONS[0]
    repeats: tuple[str, ...] = ()
    failed: tuple[Value, ...] = ()
    status: str | None = None
    test: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    valid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def described(self) -> tuple[str, ...]:
        """Columns of the frame of a table: groups, configurations, context and device."""
        device = () if self.device is None else (self.device,)
        return tuple(dict.fromkeys((*self.group, *self.config, *self.context, *device)))


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
    roles, files = _read_roles(about), _data_files(folder)
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
    frame, cost, second = join_frames(frames), np.concatenate(costs), np.concatenate(seconds)
    if not len(cost):
        raise DataError(f"{about.parent}: the files have no rows; expected one row per measured configuration")

    if parts[0][0] is None:
        number = _split_rows(frame, roles, about)
    else:
        number = np.repeat([SPLITS.index(split or "") for split, _, _ in parts], [len(each) for each in costs])
    groups, order = _group_rows(frame.select(roles.group), number, name)
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
        if path.is_file() and not path.name.lower().endswith(_SUFFIXES):
            raise DataError(f"{path}: the model ranks tables; expected a file that ends in {', '.join(_SUFFIXES[:3])}")
        frame, notes = read_frame(path)
    else:
        where, notes = "rows", []
        try:
            frame = source.collect() if isinstance(source, pl.LazyFrame) else pl.DataFrame(source)
            frame = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
            if not frame.columns:
                raise ValueError("no columns")
        except (TypeError, ValueError, pl.exceptions.PolarsError) as fault:
            reason = " ".join(str(fault).split())
            raise UsageError(
                f"rows: expected a path or a data frame, got {type(source).__name__} ({reason})"
            ) from fault
    frame = frame.with_columns(pl.lit(value).alias(name) for name, value in (fixed or {}).items())
    require_columns(frame, roles, where)
    if not len(frame):
        raise DataError(f"{where}: no rows; expected one row per configuration")
    cost = _known_cost(frame, roles, where) if measured else np.full(len(frame), np.nan)
    used = {*roles.described, *((roles.target, roles.status) if measured else ())}
    if unused := [name for name in frame.columns if name not in used]:
        notes.append(f"{where}: columns that the model does not use: {listed(unused)}")
    frame = pl.DataFrame([plain(frame[name], where) for name in roles.described])
    groups, order = _group_rows(frame.select(roles.group), np.full(len(frame), len(SPLITS)), Path(where).stem)
    return Table(where, roles, frame[order], cost[order], None, groups, order, {}, tuple(notes))


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


def data_files(folder: Path) -> list[Path]:
    """Data files of a folder, by name."""
    # Names that begin with a dot are temporary files of an atomic write.
    return sorted(path for path in folder.glob("[!.]*") if path.name.lower().endswith(_SUFFIXES) and path.is_file())


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
    write_text(folder / FILE, _as_toml(roles), DataError)


def _known_cost(frame: pl.DataFrame, roles: Roles, where: str) -> FloatArray:
    """The target as a cost, infinite for failed configurations and NaN where it is empty or NaN."""
    if roles.target not in frame.columns:
        known = nearest(roles.target, frame.columns)
        raise DataError(f"{where}: no column {roles.target!r} with measured values{known}")
    cost = _cost(frame, roles, where)
    empty = texts(frame[roles.target]).str.to_lowercase().is_in(["", *_MISSING]).fill_null(True).to_numpy()
    status = roles.status if roles.status in frame.columns else roles.target
    return np.where(empty & ~_among(frame[status], roles.failed), np.nan, cost)


def _cost(frame: pl.DataFrame, roles: Roles, path: Path | str) -> FloatArray:
    """The target as a cost, infinite for failed configurations."""
    target = frame[roles.target]
    if not (target.dtype.is_numeric() or target.dtype in (pl.String, pl.Null)):
        raise DataError(f"{path}: the target {roles.target!r} holds {target.dtype}, expected numbers")
    status = frame[roles.status] if roles.status in frame.columns else target
    values = numbers(target)
    codes = [value for value in roles.failed if isinstance(value, int | float)]
    failed = ~np.isfinite(values) | np.isin(numbers(status), codes) | _among(status, roles.failed)
    if failed.all() and target.dtype == pl.String and len(target):
        raise DataError(f"{path}: the target {roles.target!r} holds no number, but {_some(target)}")
    least = 0.0 if roles.direction == "higher" else np.nextafter(0.0, 1.0)
    if (wrong := ~failed & (values < least)).any():
        raise DataError(
            f"{path}: {int(wrong.sum())} rows have {roles.target!r} {values[wrong].min():g}, expected positive values; "
            "list values that mark failed configurations under `failed`"
        )
    return _as_cost(np.where(failed, np.nan, values), roles)


def _as_cost(values: FloatArray, roles: Roles) -> FloatArray:
    """Costs of targets; NaN becomes infinite."""
    with np.errstate(divide="ignore"):
        cost = 1 / values if roles.direction == "higher" else values
    return np.where(np.isnan(cost), np.inf, cost)


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
            found &= _among(frame[name], chosen)
        if not found.any():
            raise DataError(f"{about}: {SPLITS[number]}: no row has all of {', '.join(wanted)}; check the values")
        split[found] = number
    return split


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


# Columns --------------------------------------------------------------------------------------------------------------


def read_frame(path: Path, kind: str | None = None) -> tuple[pl.DataFrame, list[str]]:
    """Read a Parquet or CSV file (``kind`` parquet or csv; by default, its suffix tells); returns notes on columns.

    Columns get unique names without spaces around them.  In CSV files, columns of numbers and booleans are recognised.
    """
    kind = kind or ("parquet" if path.suffix.lower() == ".parquet" else "csv")
    try:
        if kind == "parquet":
            table = pq.ParquetFile(path).read()  # read_table() fails for duplicate names
            names, notes = unique_names(table.column_names)
            frame = pl.DataFrame(table.rename_columns([str(number) for number in range(len(names))]))
            frame.columns = names
            return frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String)), notes
        cells = _read_csv(path)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault})") from fault
    except (pl.exceptions.PolarsError, pa.ArrowException, UnicodeError, EOFError, zlib.error) as fault:
        raise DataError(f"{path}: not a valid {kind} file ({' '.join(str(fault).split())}); write it again") from fault
    names, notes = unique_names(["" if name is None else name for name in cells.row(0)])
    cells = cells.slice(1)
    cells.columns = names
    return cells.select(recognise(column) for column in cells.iter_columns()), notes


def _read_csv(path: Path) -> pl.DataFrame:
    """Cells of a CSV file, all of them strings, with the header in the first row."""
    data = path.read_bytes()
    if data.startswith(GZIP):
        data = gzip.decompress(data)
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            data = data.decode(encoding).encode()
    header = data.split(b"\n", 1)[0].decode(errors="replace")
    separator = "\t" if ".tsv" in path.suffixes else max(",;\t", key=header.count)
    return pl.read_csv(io.BytesIO(data), has_header=False, infer_schema=False, separator=separator)


def unique_names(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Distinct names of columns, and a note for each that was renamed."""
    names = [name.strip() for name in names]
    found: dict[str, None] = {}
    notes = []
    for number, name in enumerate(names, 1):
        new, copy = name or f"column_{number}", 1
        while new in found or (copy > 1 and new in names):
            copy += 1
            new = f"{name or f'column_{number}'}_{copy}"
        if new != name:
            notes.append(f"column {number}, {name!r}, is read as {new!r}: the name is {'taken' if name else 'empty'}")
        found[new] = None
    return list(found), notes


def recognise(column: pl.Series) -> pl.Series:
    """Convert strings to integers, numbers or booleans if all of them are; others lose spaces around them."""
    stripped = column.str.strip_chars()
    lower = stripped.str.to_lowercase()
    values = stripped.set(lower.is_in([*_MISSING, ""]).fill_null(False), None)
    if values.null_count() < len(values):
        for kind in (pl.Int64, pl.Float64):
            if (typed := values.cast(kind, strict=False)).null_count() == values.null_count():
                return typed
        if lower.filter(values.is_not_null()).is_in(["true", "false"]).all():
            return (lower == "true").set(values.is_null(), None).alias(column.name)
    return stripped.set(stripped == "", None)


def plain(column: pl.Series, path: Path | str) -> pl.Series:
    """A column as Int64, Float64, Boolean or String, with null for missing values."""
    kind = column.dtype
    if kind == pl.Boolean:
        return column
    if kind.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == column.null_count() else column.cast(pl.Float64)
    if kind.is_numeric() or kind == pl.Null:
        return column.cast(pl.Float64).fill_nan(None)
    if kind == pl.String or kind.is_temporal():
        stripped = column.cast(pl.String).str.strip_chars()
        return stripped.set(stripped == "", None)
    raise DataError(f"{path}: column {column.name!r} holds {kind}, expected numbers, booleans or strings")


def join_frames(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Rows of all frames, with null where a frame lacks a column; columns of different types become numbers or strings.

    The columns must have the types of :attr:`Table.frame`.
    """
    kinds: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for name, kind in frame.schema.items():
            kinds.setdefault(name, set()).add(kind)
    strings = {name for name, found in kinds.items() if len(found) > 1 and pl.String() in found}
    return pl.concat(
        [
            frame.with_columns(texts(frame[name]) for name in strings.intersection(frame.columns))
            for frame in frames
        ],
        how="diagonal_relaxed",
    )  # fmt: skip


def texts(column: pl.Series) -> pl.Series:
    """Values as strings, which are equal if the values are: 1 and 1.0 are ``1``."""
    if column.dtype.is_float() or column.dtype.is_decimal():
        column = column.cast(pl.Float64)
        whole = column.cast(pl.Int64, strict=False)
        same = (whole.cast(pl.Float64) == column).fill_null(False)
        return whole.cast(pl.String).zip_with(same, column.cast(pl.String)).alias(column.name)
    if column.dtype == pl.String:
        return column.str.strip_chars()
    return column.cast(pl.String)


@lru_cache(typed=True)
def text(value: Value) -> str:
    """A value as a string, as :func:`texts` has it."""
    return str(texts(pl.Series([value.strip() if isinstance(value, str) else value]))[0])


def _among(column: pl.Series, values: Iterable[Value]) -> NDArray[np.bool_]:
    """Rows with one of the values."""
    return texts(column).is_in([text(value) for value in values]).fill_null(False).to_numpy()


def numbers(column: pl.Series) -> FloatArray:
    """Numbers of a column, NaN for anything else."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    return column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def _some(values: pl.Series) -> str:
    return ", ".join(repr(value) for value in values.unique(maintain_order=True).head(3).to_list())


def nearest(name: str, names: Iterable[str]) -> str:
    """Hint at the name that was probably meant, or at all names."""
    lower = {each.casefold(): each for each in names}
    near = get_close_matches(name.casefold(), lower, 1)
    return f"; did you mean {lower[near[0]]!r}?" if near else f"; there is {listed([*lower.values()])}"


# Roles ----------------------------------------------------------------------------------------------------------------


def check_roles(roles: Roles, columns: Iterable[str], where: str, error: type[GbrError] = DataError) -> None:
    """Raise ``error`` if a role names a missing column, or a column has roles that exclude each other."""
    columns = list(columns)
    device, status = ((name,) if name is not None else () for name in (roles.device, roles.status))
    for role, names in {
        "group": roles.group, "config": roles.config, "context": roles.context, "device": device,
        "target": (roles.target,), "repeats": roles.repeats, "failed": status, "test": roles.test, "valid": roles.valid,
    }.items():  # fmt: skip
        for name in names:
            if name not in columns:
                raise error(f"{where}: {role}: no column {name!r}{nearest(name, columns)}")
    if not roles.config:
        raise error(f"{where}: config: expected at least one column that can be chosen; there is {listed(columns)}")
    for first, names in (("config", roles.config), ("target", (roles.target,)), ("repeats", roles.repeats)):
        for second in ("group", "context") if first == "config" else ("group", "config", "context"):
            if both := [name for name in names if name in getattr(roles, second)]:
                raise error(f"{where}: {both[0]!r} is both {first} and {second}; expected one of them")


def _read_roles(path: Path) -> Roles:
    """Read a ``table.toml``."""
    values = read_toml(path, "the roles of columns", "write it, or import data files with `python -m gbr.table import`")
    try:
        return _parse_roles(values)
    except ValueError as fault:
        raise DataError(f"{path}: {fault}") from fault


def _parse_roles(values: Mapping[str, Any]) -> Roles:
    """Roles of the values of a TOML file; a ValueError for wrong ones."""
    _check_keys(values, _KEYS, ("group", "config", "target"), "")
    target = values["target"] if isinstance(values["target"], dict) else {"column": values["target"]}
    _check_keys(target, ("column", "unit", "direction"), ("column",), "target.")
    failed = values.get("failed", [])
    failed = failed if isinstance(failed, dict) else {"values": failed}
    _check_keys(failed, ("column", "values"), ("values",), "failed.")
    split = values.get("split", {})
    if not isinstance(split, dict):
        raise ValueError(f"split: expected tables test and valid, got {reprlib.repr(split)}")
    _check_keys(split, ("test", "valid"), (), "split.")
    for name, wanted in split.items():
        if not isinstance(wanted, dict) or not wanted:
            raise ValueError(f"split.{name}: expected {{column = [values]}}, got {reprlib.repr(wanted)}")
    direction = target.get("direction", DIRECTIONS[0])
    if direction not in DIRECTIONS:
        raise ValueError(f"target.direction: expected {' or '.join(DIRECTIONS)}, got {reprlib.repr(direction)}")
    unit = target.get("unit", "")
    if not isinstance(unit, str):
        raise ValueError(f"target.unit: expected a string, got {reprlib.repr(unit)}")
    return Roles(
        group=_names(values["group"], "group"),
        config=_names(values["config"], "config"),
        target=_name(target["column"], "target.column"),
        context=_names(values.get("context", []), "context"),
        device=_name(values["device"], "device") if "device" in values else None,
        unit=unit,
        direction=direction,
        repeats=_names(values.get("repeats", []), "repeats"),
        failed=_values(failed["values"], "failed"),
        status=_name(failed["column"], "failed.column") if "column" in failed else None,
        **{
            name: {column: _values(each, f"split.{name}.{column}") for column, each in wanted.items()}
            for name, wanted in split.items()
        },
    )


def _check_keys(values: Mapping[str, Any], keys: Sequence[str], required: Sequence[str], where: str) -> None:
    for key in values:
        if key not in keys:
            raise ValueError(f"unknown key {where}{key}{nearest(key, keys)}")
    for key in required:
        if key not in values:
            raise ValueError(f"{where}{key} is missing; expected {', '.join(required)}")


def _name(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected the name of a column, got {reprlib.repr(value)}")
    return value.strip()


def _names(value: Any, key: str) -> tuple[str, ...]:
    names = tuple(_name(each, key) for each in (value if isinstance(value, list) else [value]))
    if len(set(names)) < len(names):
        raise ValueError(f"{key}: {Counter(names).most_common(1)[0][0]!r} is listed twice")
    return names


def _values(value: Any, key: str) -> tuple[Value, ...]:
    values = tuple(value if isinstance(value, list) else [value])
    if not all(isinstance(each, Value) for each in values):
        raise ValueError(f"{key}: expected a list of strings, numbers or booleans, got {reprlib.repr(value)}")
    return values


def _as_toml(roles: Roles) -> str:
    """The text of a ``table.toml``."""
    lines = [
        "# What the columns of this table mean.",
        f"group = {_toml(roles.group)}",
        f"config = {_toml(roles.config)}",
    ]
    lines += [f"context = {_toml(roles.context)}"] if roles.context else []
    lines += [f"device = {_toml(roles.device)}"] if roles.device is not None else []
    lines += [f"repeats = {_toml(roles.repeats)}"] if roles.repeats else []
    if roles.failed:
        column = "" if roles.status is None else f"column = {_toml(roles.status)}, "
        lines += [f"failed = {{{column}values = {_toml(roles.failed)}}}"]
    lines += ["", "[target]", f"column = {_toml(roles.target)}"]
    lines += [f"unit = {_toml(roles.unit)}"] if roles.unit else []
    lines += [f"direction = {_toml(roles.direction)}"]
    if roles.test or roles.valid:
        lines += ["", "[split]"]
        for name, wanted in (("test", roles.test), ("valid", roles.valid)):
            pairs = ", ".join(f"{_toml(column)} = {_toml(values)}" for column, values in wanted.items())
            lines += [f"{name} = {{{pairs}}}"] if wanted else []
    return "\n".join(lines) + "\n"


def _toml(value: Value | Sequence[Value] | None) -> str:
    """A string, number, boolean or list of them as TOML."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value).lower()


# Files ----------------------------------------------------------------------------------------------------------------


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
        raise DataError(f"{folder}: {state}; expected files that end in {', '.join(_SUFFIXES[:3])}")
    return [*top, *ready]


def fingerprints(folder: Path) -> dict[str, str]:
    """Hash of each file of a table, by its path in the folder."""
    files = (folder / FILE, *(path for _, path in _data_files(folder)))
    return {path.relative_to(folder).as_posix(): _digest(path.read_bytes()) for path in files}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first of many."""
    more = len(names) - _MAX_NAMES
    return ", ".join(map(repr, names[:_MAX_NAMES])) + (f" and {more} more" if more > 0 else "")
