"""The meaning of the columns of a measured table.

``table.toml`` tells it::

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
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from gbr.data.files import read_toml, toml_text
from gbr.errors import DataError, GbrError

FILE: Final = "table.toml"
DIRECTIONS: Final = ("lower", "higher")

#: A value of a table.toml that is compared with values of a column.
Value = str | int | float | bool

_KEYS: Final = ("group", "config", "target", "context", "device", "repeats", "failed", "split")
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


def read_roles(path: Path) -> Roles:
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


def as_toml(roles: Roles) -> str:
    """The text of a ``table.toml``."""
    status = {} if roles.status is None else {"column": roles.status}
    columns = {
        "group": roles.group,
        "config": roles.config,
        "context": roles.context or None,
        "device": roles.device,
        "repeats": roles.repeats or None,
        "failed": {**status, "values": roles.failed} if roles.failed else None,
    }
    target = {"column": roles.target, "unit": roles.unit or None, "direction": roles.direction}
    split = {"test": roles.test or None, "valid": roles.valid or None}
    text = toml_text(("", columns), ("target", target), ("split", split))
    return f"# What the columns of this table mean.\n{text}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Hint at the name that was probably meant, or at all names."""
    lower = {each.casefold(): each for each in names}
    near = get_close_matches(name.casefold(), lower, 1)
    return f"; did you mean {lower[near[0]]!r}?" if near else f"; there is {listed([*lower.values()])}"


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first of many."""
    more = len(names) - _MAX_NAMES
    return ", ".join(map(repr, names[:_MAX_NAMES])) + (f" and {more} more" if more > 0 else "")
