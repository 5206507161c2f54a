"""Results of tuners as data frames with roles; :mod:`gbr.data.table_formats` describes the formats."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from gbr.data.table_columns import mixed, unique_names
from gbr.data.table_names import device_columns, direction_of, split_name
from gbr.data.table_roles import DIRECTIONS, Roles, listed
from gbr.errors import DataError, MissingLibraryError

#: Kernel Tuner reports this time, or minus this rate, for a failed configuration.
_FAILED: Final = 1e20
#: Names of axes of a problem size.
_AXES: Final = "xyz"


@dataclass(frozen=True)
class Source:
    """The content of a file, its roles if the format tells them, and notes on how it was read."""

    path: Path
    frame: pl.DataFrame
    roles: Roles | None = None
    notes: tuple[str, ...] = ()


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


def read_optuna(path: Path, sqlite: bool) -> Source:
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
    devices = next((attributes.pop(name) for name in [*attributes] if device_columns([name])), None)
    return _source(
        path,
        config=_by_key([trial.params for _, trial in trials]),
        target=("value", [trial.values[0] if trial.values else trial.state.name for _, trial in trials]),
        group={"study": [study.study_name for study, _ in trials]},
        device=devices,
        context=attributes,
        direction=DIRECTIONS[StudyDirection.MAXIMIZE in directions],
    )


#: Readers of the content of a JSON file, by format.
JSON: Final = {"kernel-tuner": _kernel_tuner, "t4": _t4, "triton": _triton}


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
            else mixed(new, column if isinstance(column, list) else [column] * len(values))
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
        direction=direction or direction_of(name),
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


def _lists(name: str, values: list[Any]) -> pl.Series:
    """Lists of numbers as a column; without those that are none, and integers beside them, if there are some."""
    kind = pl.List(pl.Float64)
    try:
        return pl.Series(name, values, kind)
    except (pl.exceptions.PolarsError, TypeError, OverflowError):
        lists = [value if isinstance(value, list) else [] for value in values]
        return pl.Series(name, [[x for x in each if isinstance(x, float)] for each in lists], kind)
