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
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from gbr.data.devices import find_device
from gbr.data.table_columns import GZIP, join_frames, numbers, plain, read_frame, recognise, text, unique_names
from gbr.data.table_roles import DIRECTIONS, Roles, check_roles, listed, nearest
from gbr.errors import DataError, MissingLibraryError, UsageError, one_line

FORMATS: Final = ("kernel-tuner", "t4", "triton", "optuna", "csv", "parquet")

#: First bytes of a file that are read to recognise its format.
_HEAD: Final = 4096
_JSON_LINES: Final = (".jsonl", ".ndjson")
#: Kernel Tuner reports this time, or minus this rate, for a failed configuration.
_FAILED: Final = 1e20
#: Names of axes of a problem size.
_AXES: Final = "xyz"

#: Names of new columns: of the device, and of the number in its name.
_MOST_UNPIVOTED: Final = 2

#: Words of a name of a target, by precedence, and of columns that are no target.
_TIMES: Final = ("time", "runtime", "latency", "duration", "elapsed", "ns", "us", "ms", "sec", "seconds")
_RATES: Final = ("throughput", "gflops", "tflops", "flops", "fps", "qps", "bandwidth", "gbps")
_NO_TARGET: Final = frozenset(
    "compile compilation verification framework strategy start end date std stddev var release".split()
)
_UNITS: Final = ("ns", "us", "µs", "ms", "s", "sec", "seconds")
#: Words of names of other roles.
_DEVICES: Final = ("device", "gpu", "accelerator", "hardware", "platform")
_GROUPS: Final = (
    "kernel benchmark model workload problem program operator op layer network task dataset scenario graph app study"
).split()
_CONFIGS: Final = re.compile(r"(config|cfg|params?|tune|tuning)[_. /-]")
#: Names of extents of a problem, and of a column that numbers the rows.
_EXTENTS: Final = re.compile(r"[mnk]|batch(_?size)?|seq(uence)?(_?len(gth)?)?|(problem|input|grid)_?(size)?(_?[xyz])?")
#: A column of fractions with more values than this, and than a quarter of the rows, is a measurement.
_MOST_VALUES: Final = 16
_ROW_NUMBERS: Final = re.compile(r"|index|row|id|column_\d+|unnamed.*|__index_level_\d+__")


@dataclass(frozen=True)
class Source:
    """The content of a file, its roles if the format tells them, and notes on how it was read."""

    path: Path
    frame: pl.DataFrame
    roles: Roles | None = None
    notes: tuple[str, ...] = ()


def import_files(
    paths: Sequence[Path],
    kind: str | None = None,
    given: Mapping[str, Any] | None = None,
    unpivot: Sequence[str] = (),
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
    if unpivot:
        sources = [_unpivoted(source, unpivot, given) for source in sources]
    sources = [_with_device(source, len(sources) > 1, given) for source in sources]
    try:
        frame = join_frames([_plain_columns(source) for source in sources])
    except pl.exceptions.PolarsError as fault:
        raise DataError(f"{_where(paths)}: columns do not fit together ({one_line(fault)})") from fault
    known = [source for source in sources if source.roles is not None]
    if known:
        roles = _union(known, given)
    else:
        roles, guesses = _guess(frame, _where(paths), given)
        notes += guesses
    roles = replace(roles, **given)
    check_roles(roles, frame.columns, _where(paths), UsageError)
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
        higher = _is_rate(given["target"])
        return replace(_joined(all_roles), target=given["target"], unit="", direction=DIRECTIONS[higher], repeats=())
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


# Devices --------------------------------------------------------------------------------------------------------------


def _with_device(source: Source, several: bool, given: Mapping[str, Any]) -> Source:
    """Add a column with the device in the file's name, unless there is one, or one file of a data frame needs none."""
    roles = source.roles
    if "device" in given or (roles is not None and roles.device is not None):
        return source
    if roles is None and (not several or _find(source.frame.columns, _DEVICES)):
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


def split_name(path: Path, ignored: Sequence[str] = ()) -> tuple[str, str | None]:
    """What a file is named after, without the device, and the device in its name or those of the two folders above.

    A file that is named by the device alone is named after its folder.  ``ignored`` are words in lower case.
    """
    file, *folders = [_name_words(name, ignored) for name in (path.name.split(".")[0], *_two_folders(path))]
    for words in (file, *folders):
        for size in range(len(words), 0, -1):
            for start in range(len(words) - size + 1):
                device = " ".join(words[start : start + size])
                if not re.fullmatch(r"v\d", device, re.IGNORECASE) and _is_device(device):  # a version, no TPU v2
                    rest = words[:start] + words[start + size :] if words is file else file
                    return "_".join(rest or folders[0]) or device, device
    return "_".join(file), None


def _two_folders(path: Path) -> list[str]:
    return [folder.name for folder in path.absolute().parents[:2]]


def _name_words(name: str, ignored: Sequence[str]) -> list[str]:
    words = [word for word in re.split(r"[_\s]+|-(?=\D)", name) if word]
    return [word for word in words if word.lower() not in ignored] or words


def _is_device(name: str) -> bool:
    try:
        find_device(name)
    except UsageError:
        return False
    return True


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
        return _optuna(path, sqlite=head.startswith(b"SQLite"))
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
        source = _JSON[kind](path, content)
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


# Tuners ---------------------------------------------------------------------------------------------------------------


def _kernel_tuner(path: Path, content: Any) -> Source:
    """Cache of Kernel Tuner."""
    entries = list(content["cache"].values())
    keys = content.get("tune_params_keys") or list(content["tune_params"])
    objective = content.get("objective", "time")
    size = content.get("problem_size", [])
    if isinstance(size, str):
        context = {"problem": size}
    else:
        sizes = size if isinstance(size, list) else [size]
        context = {f"problem_{_AXES[at] if at < len(_AXES) else at}": value for at, value in enumerate(sizes)}
    name, device = split_name(path)
    skipped = {*keys, objective, "times", "timestamp"}
    return _source(
        path,
        config={key: [entry.get(key) for entry in entries] for key in keys},
        target=(objective, [entry.get(objective) for entry in entries]),
        repeats=[entry.get("times") for entry in entries] if objective == "time" else None,
        group={"kernel": content.get("kernel_name") or name},
        device=content.get("device_name") or device,
        context=context,
        unit="ms" if objective == "time" else "",
        others=_by_key(entries, skipped),
    )


def _t4(path: Path, content: Any) -> Source:
    """Results in the T4 format."""
    results = content["results"] if isinstance(content, dict) else content
    objectives = dict.fromkeys(str(result["objectives"][0]) for result in results)
    if len(objectives) != 1:
        raise ValueError(f"expected one objective, got {listed(list(objectives))}")
    (objective,) = objectives
    measured = [{each["name"]: each for each in result.get("measurements", [])} for result in results]
    invalid = [result.get("invalidity", "correct") for result in results]
    values = [
        each.get(objective, {}).get("value") if fault == "correct" else fault
        for each, fault in zip(measured, invalid, strict=True)
    ]
    times = [result["times"].get("runtimes") if isinstance(result.get("times"), dict) else None for result in results]
    named = content if isinstance(content, dict) else {}
    name, device = split_name(path, ignored=("t4",))
    return _source(
        path,
        config=_by_key([result["configuration"] for result in results]),
        target=(objective, values),
        repeats=times if objective == "time" else None,
        group={"kernel": named.get("kernel_name") or name},
        device=named.get("device_name") or device,
        unit=next((each[objective].get("unit") or "" for each in measured if objective in each), ""),
        others=_by_key([{key: item.get("value") for key, item in each.items()} for each in measured], {objective}),
    )


def _triton(path: Path, content: Any) -> Source:
    """Timings of Triton's autotuner."""
    name, device = split_name(path)
    if isinstance(content, dict):
        content = [
            {"key": content["key"], "config": config, "timings": timings}
            for config, timings in content["configs_timings"]
        ]
    keys, configs, values = [], [], []
    for entry in content:
        key = entry.get("key", entry.get("shape", {}))
        if not isinstance(key, dict):
            key = {f"key_{at}": value for at, value in enumerate(key if isinstance(key, list) else [key])}
        keys.append(key)
        configs.append(entry["config"].get("kwargs", {}) | {
            key: value for key, value in entry["config"].items() if key not in ("kwargs", "pre_hook")
        })  # fmt: skip
        timings = entry.get("timings", entry.get("time"))
        median = timings[0] if isinstance(timings, list) and timings else timings
        values.append(median if entry.get("error") is None else str(entry["error"]))
    devices = [entry.get("device", device) for entry in content]
    return _source(
        path,
        config={key: column for key, column in _by_key(configs).items() if any(value is not None for value in column)},
        target=("time", values),
        group={"kernel": [entry.get("kernel", name) for entry in content]},
        device=None if all(each is None for each in devices) else devices,
        context=_by_key(keys),
        unit="ms",
    )


def _optuna(path: Path, sqlite: bool) -> Source:
    """Studies of Optuna; failed and pruned trials are failed configurations."""
    try:
        from optuna import storages  # optional, and slow to import
        from optuna.storages.journal import JournalFileBackend
        from optuna.study import StudyDirection
    except ImportError as fault:
        raise MissingLibraryError(f"{path}: Optuna is not installed; pip install 'gbr[search]'") from fault
    try:
        if sqlite:
            address = f"sqlite:///file:{path.absolute().as_posix()}?mode=ro&uri=true"
            storage: Any = storages.RDBStorage(address, skip_table_creation=True)
        else:
            storage = storages.JournalStorage(JournalFileBackend(str(path)))
        studies = storage.get_all_studies()
        trials = [(study, trial) for study in studies for trial in storage.get_all_trials(study._study_id)]
    except Exception as fault:  # any, as Optuna does not validate files
        raise DataError(f"{path}: not a storage of Optuna ({type(fault).__name__}: {fault})") from fault
    trials = [(study, trial) for study, trial in trials if trial.state.is_finished()]
    directions = {direction for study, _ in trials for direction in study.directions}
    if len(directions) > 1 or any(len(study.directions) > 1 for study, _ in trials):
        raise DataError(f"{path}: studies with several objectives or directions; expected one objective")
    if not trials:
        raise DataError(f"{path}: no finished trial")
    attributes = _by_key([study.user_attrs for study, _ in trials])
    devices = next((attributes.pop(name) for name in [*attributes] if _find([name], _DEVICES)), None)
    return _source(
        path,
        config=_by_key([trial.params for _, trial in trials]),
        target=("value", [trial.values[0] if trial.values else trial.state.name for _, trial in trials]),
        group={"study": [study.study_name for study, _ in trials]},
        device=devices,
        context=attributes,
        direction=DIRECTIONS[StudyDirection.MAXIMIZE in directions],
    )


_JSON: Final = {"kernel-tuner": _kernel_tuner, "t4": _t4, "triton": _triton}


def _source(
    path: Path,
    *,
    config: Mapping[str, list[Any]],
    target: tuple[str, list[Any]],
    group: Mapping[str, Any],
    device: Any,
    unit: str = "",
    direction: str | None = None,
    repeats: list[Any] | None = None,
    context: Mapping[str, Any] | None = None,
    others: Mapping[str, list[Any]] | None = None,
) -> Source:  # fmt: skip
    """Results as a data frame; values are one a configuration, or the same for all."""
    name, values = target
    if not values or not config:
        raise ValueError("no configuration")
    reasons = [_reason(value) for value in values]
    columns: list[tuple[str, str, Any]] = [("config", *item) for item in config.items()]
    columns.append(("target", name, [None if why else value for value, why in zip(values, reasons, strict=True)]))
    if repeats is not None and any(repeats):
        columns.append(("repeats", "times", repeats))
    columns += [("group", *item) for item in group.items()]
    columns += [("device", "device", device)] if device is not None else []
    columns += [("context", *item) for item in (context or {}).items()]
    if any(reasons):
        columns.append(("", "error", reasons))
    columns += [("", *item) for item in (others or {}).items()]
    names, notes = unique_names([str(column) for _, column, _ in columns])
    by_role: dict[str, list[str]] = {}
    for new, (role, _, _) in zip(names, columns, strict=True):
        by_role.setdefault(role, []).append(new)
    frame = pl.DataFrame(
        [
            _lists(new, column) if role == "repeats"
            else _series(new, column if isinstance(column, list) else [column] * len(values))
            for new, (role, _, column) in zip(names, columns, strict=True)
        ]
    ).with_columns(pl.col(by_role["target"]).cast(pl.Float64))  # fmt: skip
    roles = Roles(
        group=tuple(name for role in ("group", "device", "context") for name in by_role.get(role, [])),
        config=tuple(by_role["config"]),
        target=by_role["target"][0],
        context=tuple(by_role.get("context", [])),
        device=by_role["device"][0] if device is not None else None,
        unit=unit,
        direction=direction or DIRECTIONS[_is_rate(name)],
        repeats=tuple(by_role.get("repeats", [])),
    )
    return Source(path, frame, roles, tuple(notes))


def _reason(value: Any) -> str | None:
    """Why a configuration failed, if it did."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "no measurement" if value is None else value if isinstance(value, str) else json.dumps(value)
    return None if math.isfinite(value) and abs(value) < _FAILED else f"{value:g}"


def _by_key(rows: Sequence[Mapping[str, Any]], skipped: Iterable[str] = ()) -> dict[str, list[Any]]:
    """Values of all rows by key, None where a row lacks it."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys if key not in skipped}


def _series(name: str, values: list[Any]) -> pl.Series:
    """Values of a JSON file as a column; values of several types become strings."""
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


def _lists(name: str, values: list[Any]) -> pl.Series:
    """Lists of numbers as a column; without those that are none, and integers beside them, if there are some."""
    kind = pl.List(pl.Float64)
    try:
        return pl.Series(name, values, kind)
    except (pl.exceptions.PolarsError, TypeError, OverflowError):
        lists = [value if isinstance(value, list) else [] for value in values]
        return pl.Series(name, [[x for x in each if isinstance(x, float)] for each in lists], kind)


# Columns of targets ---------------------------------------------------------------------------------------------------


def _unpivoted(source: Source, names: Sequence[str], given: Mapping[str, Any]) -> Source:
    """One row per column of numbers that has no other role; see :func:`import_files`."""
    path, frame = source.path, source.frame
    target = given.get("target", _TIMES[0])
    device = given.get("device")
    kept = {*given.get("group", ()), *given.get("config", ()), *given.get("context", ()), device} - {None, *names}
    measured = [name for name in frame.columns if frame[name].dtype.is_numeric() and name not in kept]
    index = [name for name in frame.columns if name not in measured]
    if source.roles is not None or not measured or not index or len(names) > _MOST_UNPIVOTED:
        raise UsageError(
            f"{path}: --unpivot: expected one or two names, and a data frame with columns that describe configurations "
            f"and columns of numbers, one per device; there is {listed(frame.columns)}"
        )
    for name in (*names, target):
        if name in index:
            raise UsageError(f"{path}: --unpivot: there is already a column {name!r}; choose another name")
    first, *second = names
    frame = frame.unpivot(measured, index=index, variable_name=first, value_name=target)
    if second:
        split = {name: re.fullmatch(r"(.+)[_-](\d+)", name) for name in measured}
        count = Counter(found[1] for found in split.values() if found)
        pairs = {name: (found[1], int(found[2])) for name, found in split.items() if found and count[found[1]] > 1}
        devices, batches = zip(*(pairs.get(name, (name, None)) for name in frame[first]), strict=True)
        frame = frame.with_columns(pl.Series(first, devices), pl.Series(second[0], batches, pl.Int64))
    roles = Roles(
        group=tuple(names),
        config=tuple(name for name in index if name not in kept),
        target=target,
        device=first if _find([first], _DEVICES) else None,
        direction=DIRECTIONS[_is_rate(target)],
    )
    return replace(source, frame=frame, roles=roles)


# Guesses --------------------------------------------------------------------------------------------------------------


def _guess(frame: pl.DataFrame, where: str, given: Mapping[str, Any]) -> tuple[Roles, list[str]]:
    """Guess roles from names of columns; notes say what was taken."""
    columns = frame.columns
    taken = []
    for name in ("target", "device"):
        if name in given and given[name] not in columns:
            raise UsageError(f"--{name}: {where} has no column {given[name]!r}{nearest(given[name], columns)}")
    target = given.get("target") or _guess_target(frame, where)
    higher = _is_rate(target)
    unit = next((word for word in _words(target) if word in _UNITS), "")
    if "target" not in given:
        direction = given.get("direction", DIRECTIONS[higher])
        taken.append(f"target {target!r} ({direction} is better)")
    others = [name for name in columns if name != target]
    device = given.get("device")
    if device is None:
        device = next(iter(_find([name for name in others if frame[name].dtype == pl.String], _DEVICES)), None)
        taken += [f"device {device!r}"] if device else []
    repeats = tuple(
        name for name in others if frame[name].dtype == pl.List(pl.Float64) and _words(name)[-1:] == ["times"]
    )
    config = given.get("config") or tuple(name for name in others if _CONFIGS.match(name.lower()))
    group, context = given.get("group"), given.get("context", ())
    if group is None:
        extents = () if config else [name for name in others if _EXTENTS.fullmatch(name.lower())]
        found = dict.fromkeys((*_find(others, _GROUPS), *([device] if device else []), *extents))
        group = tuple(name for name in found if name not in config)
    if not config:
        plain_columns = [name for name in others if name not in (*group, *context) and _is_parameter(frame[name])]
        varies = _varies(frame, group, plain_columns)
        config = tuple(name for name in plain_columns if varies[name])
        constant = [
            name for name in (*group, *plain_columns) if not varies.get(name) and frame[name].dtype.is_numeric()
        ]
        context = context or tuple(constant)
    if not config:
        raise UsageError(
            f"{where}: cannot tell which columns are configurations; give --config with some of {listed(others)}"
        )
    if "config" not in given:
        taken.append(f"config {listed(config)}")
    if "group" not in given:
        taken.append(f"group {listed(group)}" if group else "all rows as one group")
    if context and "context" not in given:
        taken.append(f"context {listed(context)}")
    left = [name for name in others if name not in (*group, *config, *context, *repeats, device)]
    if left and "config" not in given:
        taken.append(f"and left out {listed(left)}")
    roles = Roles(group, config, target, context, device, unit=unit, direction=DIRECTIONS[higher], repeats=repeats)
    return roles, [f"took {', '.join(taken)}; change this with --group, --target ..."] if taken else []


def _is_parameter(column: pl.Series) -> bool:
    """Whether a column may have a parameter: neither a measurement nor the number of a row."""
    words = set(_words(column.name))
    if column.dtype.is_nested() or _ROW_NUMBERS.fullmatch(column.name.lower()) or "error" in words:
        return False
    measured = column.dtype.is_float() and column.n_unique() > max(_MOST_VALUES, len(column) // 4)
    return not measured and not words.intersection((*_TIMES, *_RATES, *_NO_TARGET))


def _varies(frame: pl.DataFrame, group: Sequence[str], names: Sequence[str]) -> Mapping[str, bool]:
    """Whether each column has several values in a group."""
    counts = frame.group_by(group or pl.lit(0)).agg(pl.col(name).n_unique() for name in names)
    return {name: bool((counts[name] > 1).any()) for name in names}


def _guess_target(frame: pl.DataFrame, where: str) -> str:
    """The only column that is named like a time or a rate, by precedence."""
    names = [
        name for name in frame.columns
        if (frame[name].dtype.is_numeric() or frame[name].dtype == pl.String)
        and not _NO_TARGET.intersection(_words(name)) and pl.Series(numbers(frame[name])).is_not_nan().any()
    ]  # fmt: skip
    for word in (*_TIMES, *_RATES):
        if len(found := [name for name in names if _words(name) == [word]]) == 1:
            return found[0]
    for words in (_TIMES, _RATES):
        found = [name for name in names if set(_words(name)).intersection(words)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{where}: the target could be {listed(found)}; give --target")
    raise UsageError(f"{where}: no column is named like a runtime; give --target with one of {listed(frame.columns)}")


def _find(columns: Iterable[str], words: Sequence[str]) -> list[str]:
    """Columns that are named by a word, or by a word and ``name``, ``id`` or a short suffix, by precedence."""
    columns = list(columns)
    return [
        name for word in words for name in columns
        if (found := _words(name))[:1] == [word] and (len(found) == 1 or found[1] in ("name", "id", "size", *_AXES))
    ]  # fmt: skip


def _words(name: str) -> list[str]:
    """Words of a name in lower case, also of camelCase."""
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _is_rate(name: str) -> bool:
    """Whether a target is a rate, of which higher is better: GFLOP/s, tokens per second, throughput."""
    return bool(re.search(r"/ ?(s|sec|second|w|j)\b|per_?s|_per_sec", name.lower())) or bool(
        set(_words(name)).intersection(_RATES)
    )
