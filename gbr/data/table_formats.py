"""Import of tuning results as tables: Kernel Tuner, T4, Triton, Optuna, and data frames.

=============  ========================================================================================================
format         files
=============  ========================================================================================================
kernel-tuner   cache of Kernel Tuner (``.json``, ``.json.gz``), also of a run that was stopped
t4             results in the T4 format of the auto-tuning community, as ``store_output_file`` of Kernel Tuner writes
triton         ``*.autotune.json`` of Triton's cache (written with ``TRITON_CACHE_AUTOTUNING=1``), or a list::

                   [{"kernel": "matmul", "device": "A100", "key": {"M": 512, "N": 512},
                     "config": {"kwargs": {"BLOCK_M": 64}, "num_warps": 4, "num_stages": 3},
                     "timings": 0.31},      # ms; or [median, 20 % quantile, 80 % quantile], as do_bench returns them
                    {..., "error": "OutOfResources"}]

optuna         SQLite database or journal file of Optuna studies (needs Optuna)
csv            CSV or TSV file, also compressed by gzip
parquet        Parquet file
=============  ========================================================================================================

Arrow IPC (Feather), JSON Lines, and DuckDB databases with one table (needs DuckDB) are recognised, too.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from gbr.data.table_columns import GZIP, join_frames, partly_missing, plain, read_frame, unique_names
from gbr.data.table_names import (
    TIMES,
    device_columns,
    direction_of,
    guess_roles,
    split_name,
    split_target,
    target_columns,
    unit_of,
)
from gbr.data.table_roles import Roles, check_roles, listed, nearest
from gbr.data.table_tuners import JSON, Source, read_optuna
from gbr.errors import DataError, MissingLibraryError, UsageError, one_line

FORMATS: Final = ("kernel-tuner", "t4", "triton", "optuna", "csv", "parquet")

#: First bytes of a file that are read to recognise its format.
_HEAD: Final = 4096
_JSON_LINES: Final = (".jsonl", ".ndjson")
#: Names of new columns: of the device, and of the number in its name.
_MOST_UNPIVOTED: Final = 2


def import_files(
    paths: Sequence[Path],
    kind: str | None = None,
    given: Mapping[str, Any] | None = None,
    unpivot: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> tuple[pl.DataFrame, Roles, list[str]]:
    """Read files as one table.

    Parameters
    ----------
    paths : sequence of path
        The files.
    kind : str, optional
        One of FORMATS; by default, name and content of each file tell.
    given : mapping, optional
        Fields of the roles that replace those of the formats.
    unpivot : sequence of str
        For data frames with a column of targets per device: the name of a new column with the names of these columns,
        and, optionally, of one with the numbers at their ends, if they differ in these as ``v100_1`` and ``v100_32``.
    targets : sequence of str
        These columns, with ``unpivot``; by default those named like a target, or all numbers without a role.

    Returns
    -------
    frame, roles : polars.DataFrame, Roles
        For :func:`gbr.data.table.write_table`.
    notes : list of str
        What was guessed or changed.

    Raises
    ------
    UsageError
        If roles cannot be guessed, or given ones do not fit the columns.
    DataError
        If a file is missing, damaged or of another format.
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    sources = [read_source(path, kind) for path in paths]
    notes = [f"{source.path}: {note}" for source in sources for note in source.notes]
    if targets and not unpivot:
        raise UsageError("--targets: names the columns of --unpivot; give the name of their new column, such as device")
    if unpivot:
        sources = [_unpivoted(source, unpivot, targets, given) for source in sources]
        notes += [f"{source.path}: {note}" for source in sources for note in source.notes]
    sources = [_with_device(source, len(sources) > 1, given) for source in sources]
    try:
        frame = join_frames([_plain_columns(source) for source in sources])
    except pl.exceptions.PolarsError as fault:
        raise DataError(f"{_where(paths)}: columns do not fit together ({one_line(fault)})") from fault
    known = [source for source in sources if source.roles is not None]
    if known:
        roles = _union(known, given)
    else:
        roles, guesses = guess_roles(frame, _where(paths), given, unpivot)
        notes += guesses
    roles = replace(roles, **given)
    check_roles(roles, frame.columns, _where(paths), UsageError)
    notes += partly_missing(roles.described, [(source.path, source.frame.columns) for source in sources])
    return frame, roles, notes


def _where(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _plain_columns(source: Source) -> pl.DataFrame:
    columns = []
    for column in source.frame.iter_columns():
        if column.dtype.base_type() in (pl.Array, pl.List) and column.dtype.inner.is_numeric():  # type: ignore[attr-defined]
            column = column.cast(pl.List(pl.Float64))
        elif not column.dtype.is_nested() and column.dtype not in (pl.Binary, pl.Object, pl.Duration):
            column = plain(column, source.path)
        columns.append(column)
    return pl.DataFrame(columns)


def _union(sources: Sequence[Source], given: Mapping[str, Any]) -> Roles:
    """Roles of several files; targets must agree."""
    first, *others = all_roles = [source.roles for source in sources if source.roles is not None]
    if "target" in given and given["target"] != first.target:
        return replace(
            _joined(all_roles), target=given["target"], unit="", direction=direction_of(given["target"]), repeats=()
        )
    for source, roles in zip(sources[1:], others, strict=True):
        for name in ("target", "unit", "direction"):
            if name not in given and (other := getattr(roles, name)) != getattr(first, name):
                raise UsageError(
                    f"{source.path}: {name} {other!r}, but {getattr(first, name)!r} in {sources[0].path}; "
                    f"give --{name}, or import these files as two tables"
                )
    return _joined(all_roles)


def _joined(all_roles: Sequence[Roles]) -> Roles:
    def union(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for roles in all_roles for column in getattr(roles, name)))

    device = next((roles.device for roles in all_roles if roles.device is not None), None)
    config = union("config")
    context = tuple(name for name in union("context") if name not in config)
    return replace(
        all_roles[0], group=union("group"), config=config, context=context, repeats=union("repeats"), device=device
    )  # fmt: skip


def _with_device(source: Source, several: bool, given: Mapping[str, Any]) -> Source:
    """Add a column with the device in the file's name, unless there is one, or one file of a data frame needs none."""
    roles = source.roles
    if "device" in given or (roles is not None and roles.device is not None):
        return source
    if roles is None and (not several or device_columns(source.frame.columns)):
        return source
    name, device = split_name(source.path)
    named = roles is not None and name in source.frame[roles.group[0]].cast(pl.String)
    if device is None and (named or not several):  # the name is that of the kernel
        return source
    device = device or name
    column = unique_names([*source.frame.columns, "device"])[0][-1]
    if roles is not None:
        roles = replace(roles, group=(*roles.group, column), device=column)
    return replace(source, frame=source.frame.with_columns(pl.lit(device).alias(column)), roles=roles)


def _unpivoted(source: Source, names: Sequence[str], targets: Sequence[str], given: dict[str, Any]) -> Source:
    """One row per column of targets; see :func:`import_files`.  Adds what their names tell to the given roles."""
    path, frame = source.path, source.frame
    roles = [*given.get("group", ()), *given.get("config", ()), *given.get("context", ()), given.get("device")]
    numeric = [name for name in frame.columns if frame[name].dtype.is_numeric() and name not in roles]
    if source.roles is not None or not (targets or numeric) or len(names) > _MOST_UNPIVOTED:
        raise UsageError(
            f"{path}: --unpivot: expected one or two names, and a data frame with columns that describe configurations "
            f"and columns of numbers, one per device; there is {listed(frame.columns)}"
        )
    for name in targets:
        if name not in frame.columns:
            raise UsageError(f"{path}: --targets: no column {name!r}{nearest(name, frame.columns)}")
    found = dict(zip(targets, map(split_target, targets), strict=True)) or target_columns(frame, numeric, str(path))
    words = next(iter(found.values()))[1]
    same = all(each[1] == words for each in found.values())
    short = [each[0] if same else name for name, each in found.items()]
    if same and (unit := unit_of(words)):
        given.setdefault("unit", unit)
    new = [word for word in words if same and direction_of(word) == "higher"]
    target = given.setdefault("target", (new or TIMES)[0])
    index = [name for name in frame.columns if name not in found]
    for name in (*names, target):
        if name in index:
            raise UsageError(f"{path}: --unpivot: there is already a column {name!r}; choose another name")
    first, *second = names
    frame = frame.rename(dict(zip(found, short, strict=True))).unpivot(
        short, index=index, variable_name=first, value_name=target
    )
    if second:
        split = {name: re.fullmatch(r"(.+)[_-](\d+)", name) for name in short}
        count = Counter(match[1] for match in split.values() if match)
        pairs = {name: (match[1], int(match[2])) for name, match in split.items() if match and count[match[1]] > 1}
        devices, batches = zip(*(pairs.get(name, (name, None)) for name in frame[first]), strict=True)
        frame = frame.with_columns(pl.Series(first, devices), pl.Series(second[0], batches, pl.Int64))
    if "group" in given:
        given["group"] = tuple(dict.fromkeys((*given["group"], *names)))
    n_cells = len(frame)
    frame = frame.filter(
        pl.col(target).cast(pl.Float64, strict=False).is_not_nan().fill_null(frame[target].is_not_null())
    )
    note = f"took {listed([*found])} as {target!r} by {first!r}" + (f", in {given['unit']}" if "unit" in given else "")
    empty = n_cells - len(frame)
    return Source(
        path, frame, notes=(note, *([f"{empty:,} empty cells are left out, as not measured"] if empty else []))
    )


# Files ----------------------------------------------------------------------------------------------------------------


def read_source(path: Path, kind: str | None = None) -> Source:
    """Read a file of one of the formats; a :class:`DataError` if it is damaged or of another one."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault})") from fault
    kind = kind or _recognise_format(path, head)
    if kind in ("csv", "parquet"):
        frame, notes = read_frame(path, kind)
        return Source(path, frame, notes=tuple(notes))
    if kind == "optuna":
        return read_optuna(path, sqlite=head.startswith(b"SQLite"))
    if kind in _FRAMES:
        try:
            return Source(path, _FRAMES[kind](path))
        except (pl.exceptions.PolarsError, OSError) as fault:
            raise DataError(f"{path}: not a valid {kind} file ({one_line(fault)})") from fault
    content, notes = _load_json(path)
    kind = _recognise_json(content) if kind == "json" else kind
    if kind is None:
        raise DataError(f"{path}: JSON of an unknown kind; expected results of Kernel Tuner, T4 or Triton")
    try:
        source = JSON[kind](path, content)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, pl.exceptions.PolarsError) as fault:
        raise DataError(
            f"{path}: not a {kind} file ({type(fault).__name__}: {one_line(fault)}); give the right --format"
        ) from fault
    return replace(source, notes=(*notes, *source.notes))


def _recognise_format(path: Path, head: bytes) -> str:
    """One of FORMATS, or json, arrow, json-lines or duckdb."""
    for kind, begins in (("parquet", b"PAR1"), ("arrow", b"ARROW1"), ("optuna", b"SQLite format 3")):
        if head.startswith(begins):
            return kind
    if head[8:12] == b"DUCK":
        return "duckdb"
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(31).decompress(head, _HEAD)
        except zlib.error:
            return "csv"  # which reports the error
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b'"op_code"' in start.split(b"\n", 1)[0]:
        return "optuna"
    if start.startswith((b"{", b"[")):
        return "json-lines" if path.suffix.lower() in _JSON_LINES else "json"
    return "csv"


def _recognise_json(content: Any) -> str | None:
    """The format of the content of a JSON file."""
    if isinstance(content, dict):
        keys = (("cache", "kernel-tuner"), ("results", "t4"), ("configs_timings", "triton"))
        return next((kind for key, kind in keys if key in content), None)
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return next((kind for key, kind in (("configuration", "t4"), ("config", "triton")) if key in content[0]), None)
    return None


def _load_json(path: Path) -> tuple[Any, list[str]]:
    """Parse a JSON file; the cache of a run of Kernel Tuner that was stopped is completed."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(GZIP) else data
        body = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeError) as fault:
        raise DataError(f"{path}: cannot be read ({one_line(fault)})") from fault
    try:
        return json.loads(body), []
    except RecursionError as fault:
        raise DataError(f"{path}: not valid JSON (nested too deeply)") from fault
    except ValueError as fault:
        reason = f"{path}: not valid JSON ({fault})"
        if '"cache"' not in body:
            raise DataError(reason) from fault
    # Kernel Tuner appends one entry a time, and the closing braces at the end of the run.
    body = body.rstrip()
    for end, note in (
        (len(body.rstrip(",")), "completed the cache of a run that was stopped"),
        (body.rfind("},") + 1, "completed the cache of a run that was stopped, without its last entry"),
    ):
        try:
            return json.loads(body[:end] + "}}"), [note]
        except (ValueError, RecursionError):
            continue
    raise DataError(reason)


def _duckdb(path: Path) -> pl.DataFrame:
    try:
        import duckdb  # optional
    except ImportError as fault:
        raise MissingLibraryError(f"{path}: DuckDB is not installed; pip install duckdb") from fault
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            tables = [row[0] for row in connection.execute("SHOW TABLES").fetchall()]
            if len(tables) != 1:
                raise DataError(f"{path}: holds {len(tables)} tables, expected one; export one as Parquet")
            name = tables[0].replace('"', '""')
            return pl.DataFrame(connection.sql(f'SELECT * FROM "{name}"'))
    except duckdb.Error as fault:
        raise DataError(f"{path}: cannot be read ({one_line(fault)})") from fault


_FRAMES: Final[Mapping[str, Callable[[Path], pl.DataFrame]]] = {
    "arrow": pl.read_ipc,
    "json-lines": partial(pl.read_ndjson, infer_schema_length=None),
    "duckdb": _duckdb,
}
