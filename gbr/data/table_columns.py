"""Columns of data files: read, with recognised types, and compared as text."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gbr.data.table_roles import Value
from gbr.errors import DataError, one_line

#: Ends of the names of data files.
SUFFIXES: Final = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
#: First bytes of a gzip file.
GZIP: Final = b"\x1f\x8b"
#: Cells of a CSV file that are missing in a column of numbers or booleans; in a column of strings only empty ones are.
MISSING: Final = ("na", "n/a", "nan", "null", "none")
#: Encodings with a byte-order mark; the marks of UTF-16 begin no UTF-8 file.
_MARKS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


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
        cells, separator = _read_csv(path)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault})") from fault
    except (pl.exceptions.PolarsError, pa.ArrowException, UnicodeError, EOFError, zlib.error) as fault:
        raise DataError(f"{path}: not a valid {kind} file ({one_line(fault)}); write it again") from fault
    names, notes = unique_names(["" if name is None else name for name in cells.row(0)])
    cells = cells.slice(1)
    cells.columns = names
    if separator == ";":
        commas = [name for name in names if _has_decimal_commas(cells[name])]
        cells = cells.with_columns(pl.col(commas).str.replace(",", "."))
        notes += [f"column {name!r} has decimal commas" for name in commas]
    return cells.select(recognise(column) for column in cells.iter_columns()), notes


def _has_decimal_commas(column: pl.Series) -> bool:
    """Whether strings have decimal commas: no other commas, no points, and no pairs such as ``1,1`` and ``1,10``."""
    values = column.str.strip_chars().drop_nulls().unique()
    comma = values.str.contains(r"^[+-]?\d*,\d+(?:[eE][+-]?\d+)?$")
    if not comma.any() or values.filter(~comma).str.contains(r"[.,]").any():
        return False
    converted = values.filter(comma).str.replace(",", ".").cast(pl.Float64)
    return converted.n_unique() == len(converted)


def _read_csv(path: Path) -> tuple[pl.DataFrame, str]:
    """Cells of a CSV file, all of them strings, with the header in the first row; and the separator."""
    data = path.read_bytes()
    if data.startswith(GZIP):
        data = gzip.decompress(data)
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            data = data.decode(encoding).encode()
    header = data.split(b"\n", 1)[0].decode(errors="replace")
    separator = "\t" if ".tsv" in path.suffixes else max(",;\t", key=header.count)
    return pl.read_csv(io.BytesIO(data), has_header=False, infer_schema=False, separator=separator), separator


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
    values = stripped.set(lower.is_in([*MISSING, ""]).fill_null(False), None)
    if values.null_count() < len(values):
        for kind in (pl.Int64, pl.Float64):
            if (typed := values.cast(kind, strict=False)).null_count() == values.null_count():
                return typed
        if lower.filter(values.is_not_null()).is_in(["true", "false"]).all():
            return (lower == "true").set(values.is_null(), None).alias(column.name)
    return stripped.set(stripped == "", None)


def mixed(name: str, values: list[Any]) -> pl.Series:
    """Values of a JSON file or a data frame as a column; values of several types become strings."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pl.Series(name, values, pl.Float64)
    try:
        if kinds in ({bool}, {int}):
            return pl.Series(name, values, pl.Boolean if kinds == {bool} else pl.Int64)
        if kinds <= {int, float}:
            return pl.Series(name, [None if value is None else float(value) for value in values], pl.Float64)
    except (OverflowError, TypeError):  # integers of more than 64 bits
        pass
    strings = [
        value if value is None or isinstance(value, str)
        else text(value) if isinstance(value, bool | float) else json.dumps(value)
        for value in values
    ]  # fmt: skip
    return recognise(pl.Series(name, strings, pl.String))


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


def partly_missing(names: Iterable[str], files: Sequence[tuple[Path, Sequence[str]]]) -> list[str]:
    """Notes on columns that some files have and others, given by their columns, lack."""
    notes = []
    for name in names:
        having, lacking = ([file for file in files if (name in file[1]) == present] for present in (True, False))
        if having and lacking:
            path, columns = lacking[0]
            near = get_close_matches(name, [column for column in columns if column not in having[0][1]], 1)
            others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            hint = f"; {near[0]!r} is not in {having[0][0]}" if near else ""
            notes.append(f"{path}{others}: no column {name!r}, its values are missing{hint}")
    return notes


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


def among(column: pl.Series, values: Iterable[Value]) -> NDArray[np.bool_]:
    """Rows with one of the values."""
    return texts(column).is_in([text(value) for value in values]).fill_null(False).to_numpy()


def numbers(column: pl.Series) -> NDArray[np.float64]:
    """Numbers of a column, NaN for anything else."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    return column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
