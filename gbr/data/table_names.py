"""What names tell: roles of columns, whether a target is a rate, and devices in the names of files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from gbr.data.devices import find_device
from gbr.data.table_columns import numbers
from gbr.data.table_roles import DIRECTIONS, Roles, listed, nearest
from gbr.errors import UsageError

#: Words of a name of a target, by precedence, and of columns that are no target.
TIMES: Final = ("time", "runtime", "latency", "duration", "elapsed", "ns", "us", "ms", "sec", "seconds")
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
#: Words that may follow one of these.
_SUFFIXES: Final = ("name", "id", "size", "x", "y", "z")
_CONFIGS: Final = re.compile(r"(config|cfg|params?|tune|tuning)[_. /-]")
#: Names of extents of a problem, and of a column that numbers the rows.
_EXTENTS: Final = re.compile(r"[mnk]|batch(_?size)?|seq(uence)?(_?len(gth)?)?|(problem|input|grid)_?(size)?(_?[xyz])?")
_ROW_NUMBERS: Final = re.compile(r"|index|row|id|column_\d+|unnamed.*|__index_level_\d+__")
#: A word of a target at the end or the start of a name, as in ``a100_ms``, ``A100 (ms)`` and ``latency_a100``.
_AFFIX: Final = "|".join({*TIMES, *_RATES, *_UNITS})
_AFFIXED: Final = re.compile(rf"(.*[^\W_])[\W_]+({_AFFIX})\)?|({_AFFIX})[\W_]+(.+)", re.IGNORECASE)
#: A column of fractions with more values than this, and than a quarter of the rows, is a measurement.
_MOST_VALUES: Final = 16


# Files ----------------------------------------------------------------------------------------------------------------


def split_name(path: Path, ignored: Sequence[str] = ()) -> tuple[str, str | None]:
    """What a file is named after, without the device, and the device in its name or those of the two folders above.

    A file that is named by the device alone is named after its folder.  ``ignored`` are words in lower case.
    """
    above = [folder.name for folder in path.absolute().parents[:2]]
    file, *folders = [_name_words(name, ignored) for name in (path.name.split(".")[0], *above)]
    for words in (file, *folders):
        for size in range(len(words), 0, -1):
            for start in range(len(words) - size + 1):
                device = " ".join(words[start : start + size])
                if not re.fullmatch(r"v\d", device, re.IGNORECASE) and _is_device(device):  # a version, no TPU v2
                    rest = words[:start] + words[start + size :] if words is file else file
                    return "_".join(rest or folders[0]) or device, device
    return "_".join(file), None


def _name_words(name: str, ignored: Sequence[str]) -> list[str]:
    words = [word for word in re.split(r"[_\s]+|-(?=\D)", name) if word]
    return [word for word in words if word.lower() not in ignored] or words


def _is_device(name: str) -> bool:
    try:
        find_device(name)
    except UsageError:
        return False
    return True


# Columns --------------------------------------------------------------------------------------------------------------


def guess_roles(
    frame: pl.DataFrame, where: str, given: Mapping[str, Any], unpivoted: Sequence[str] = ()
) -> tuple[Roles, list[str]]:
    """Guess roles from names of columns, of which those ``unpivoted`` are of groups; notes say what was taken."""
    columns = frame.columns
    taken = []
    for option in ("target", "device", "repeats"):
        names = given.get(option, ())
        for name in [names] if isinstance(names, str) else names:
            if name not in columns:
                raise UsageError(f"--{option}: {where} has no column {name!r}{nearest(name, columns)}")
    target = given.get("target") or _guess_target(frame.drop(given.get("repeats", ())), where)
    direction = direction_of(target)
    unit = unit_of(_words(target))
    if "target" not in given:
        taken.append(f"target {target!r} ({given.get('direction', direction)} is better)")
    others = [name for name in columns if name != target]
    device = given.get("device")
    if device is None:
        device = next(iter(device_columns(name for name in others if frame[name].dtype == pl.String)), None)
        taken += [f"device {device!r}"] if device else []
    repeats = given.get("repeats") or tuple(
        name for name in others if frame[name].dtype == pl.List(pl.Float64) and _words(name)[-1:] == ["times"]
    )
    config = given.get("config") or tuple(name for name in others if _CONFIGS.match(name.lower()))
    group, context = given.get("group"), given.get("context", ())
    if group is None:
        extents = [name for name in others if _EXTENTS.fullmatch(name.lower())]
        found = dict.fromkeys((*_find(others, _GROUPS), *([device] if device else []), *extents, *unpivoted))
        group = tuple(name for name in found if name not in config)
    if not config:
        with_role = (*group, *context, *repeats)
        plain_columns = [name for name in others if name not in with_role and _is_parameter(frame[name])]
        varies = _varies(frame, group, plain_columns)
        config = tuple(name for name in plain_columns if varies[name])
        constant = [
            name for name in (*group, *plain_columns) if not varies.get(name) and frame[name].dtype.is_numeric()
        ]
        context = context or tuple(constant)
    if not config and unpivoted and "group" not in given:  # networks, for example
        config, group = tuple(name for name in group if name not in (*unpivoted, device)), tuple(unpivoted)
        context = tuple(name for name in context if name not in config)
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
    if left and not {"config", "group"} <= {*given}:
        taken.append(f"and left out {listed(left)}")
    roles = Roles(group, config, target, context, device, unit=unit, direction=direction, repeats=repeats)
    return roles, [f"took {', '.join(taken)}; change this with --group, --target ..."] if taken else []


def target_columns(frame: pl.DataFrame, names: Sequence[str], where: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Which of the numbers in a wide table are targets -> the rest of their names, and the words of a target in them.

    These are the ones named like a target.  If none is, all are, unless some look like parameters: a UsageError.
    """
    affixed = {name: found for name in names if (found := split_target(name))[1]}
    affixed = {name: found for name, found in affixed.items() if not _NO_TARGET.intersection(_words(found[0]))}
    if affixed:
        one_each = {words: name for name, (_, words) in affixed.items()}
        if len(one_each) > 1:
            raise UsageError(
                f"{where}: --unpivot: {listed([*one_each.values()])} differ in unit; name those of one with --targets"
            )
        return affixed
    if any(frame[name].dtype.is_float() for name in names):
        counts = {name: frame[name].n_unique() for name in names}
        many = max(counts.values()) > 4 * _MOST_VALUES
        odd = [
            name for name in names
            if not _is_device(name) and (frame[name].dtype.is_integer() or (many and counts[name] <= _MOST_VALUES))
        ]  # fmt: skip
        if odd:
            raise UsageError(
                f"{where}: --unpivot: {listed(odd)} could be parameters; name the columns of targets with --targets"
            )
    return {name: (name, ()) for name in names}


def split_target(name: str) -> tuple[str, tuple[str, ...]]:
    """A name without words of a target at its ends, and these in lower case: ``a100_time_ms`` is a100, time and ms."""
    words: list[str] = []
    while found := _AFFIXED.fullmatch(name):
        name, word = (found[1], found[2]) if found[1] else (found[4], found[3])
        words.insert(0, word.lower())
    return name, tuple(words)


def unit_of(words: Iterable[str]) -> str:
    """The first word that is a unit, or an empty string."""
    return next((word for word in words if word in _UNITS), "")


def is_time(unit: str) -> bool:
    """Whether a unit is one of time, by its symbol or name."""
    return bool(re.fullmatch(r"[nuµm]?s(ecs?)?|(nano|micro|milli)?sec(ond)?s?|min(ute)?s?|h(ours?)?", unit.lower()))


def _guess_target(frame: pl.DataFrame, where: str) -> str:
    """The only column that is named like a time or a rate, by precedence."""
    could_be = [
        name for name in frame.columns
        if (frame[name].dtype.is_numeric() or frame[name].dtype == pl.String)
        and not _NO_TARGET.intersection(_words(name))
    ]  # fmt: skip
    names = [name for name in could_be if pl.Series(numbers(frame[name])).is_not_nan().any()]
    for word in (*TIMES, *_RATES):
        if len(found := [name for name in names if _words(name) == [word]]) == 1:
            return found[0]
    for words in (TIMES, _RATES):
        found = [name for name in names if set(_words(name)).intersection(words)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{where}: the target could be {listed(found)}; give --target")
    for name in could_be:
        if {*TIMES, *_RATES}.intersection(_words(name)) and len(values := frame[name].drop_nulls()):
            raise UsageError(f"{where}: {name!r} holds no number, but {values[0]!r}; write numbers, or give --target")
    raise UsageError(f"{where}: no column is named like a runtime; give --target with one of {listed(frame.columns)}")


def _is_parameter(column: pl.Series) -> bool:
    """Whether a column may have a parameter: neither a measurement nor the number of a row."""
    words = set(_words(column.name))
    if column.dtype.is_nested() or _ROW_NUMBERS.fullmatch(column.name.lower()) or "error" in words:
        return False
    measured = column.dtype.is_float() and column.n_unique() > max(_MOST_VALUES, len(column) // 4)
    return not measured and not words.intersection((*TIMES, *_RATES, *_NO_TARGET))


def _varies(frame: pl.DataFrame, group: Sequence[str], names: Sequence[str]) -> Mapping[str, bool]:
    """Whether each column has several values in a group."""
    counts = frame.group_by(group or pl.lit(0)).agg(pl.col(name).n_unique() for name in names)
    return {name: bool((counts[name] > 1).any()) for name in names}


def device_columns(columns: Iterable[str]) -> list[str]:
    """Columns that are named like a device, the most likely one first."""
    return _find(columns, _DEVICES)


def direction_of(target: str) -> str:
    """Higher for a rate, such as GFLOP/s, tokens per second or throughput; else lower."""
    is_rate = re.search(r"/ ?(s|sec|second|w|j)\b|per_?s|_per_sec", target.lower()) or {*_words(target)} & {*_RATES}
    return DIRECTIONS[bool(is_rate)]


def _find(columns: Iterable[str], words: Sequence[str]) -> list[str]:
    """Columns that are named by a word, or by a word and one of :data:`_SUFFIXES`, by precedence."""
    columns = list(columns)
    return [
        name for word in words for name in columns
        if (found := _words(name))[:1] == [word] and (len(found) == 1 or found[1] in _SUFFIXES)
    ]  # fmt: skip


def _words(name: str) -> list[str]:
    """Words of a name in lower case, also of camelCase."""
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
