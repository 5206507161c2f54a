"""Searches of the rows of a table: measured by a command, or replayed from their recorded values."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from gbr import cli
from gbr.data.table import Table, read_rows, rows_of
from gbr.data.table_columns import plain, read_frame
from gbr.data.table_roles import listed, nearest
from gbr.errors import DataError, TuneError, UsageError
from gbr.tune.configs import ConfigSpace
from gbr.tune.runner import Child, Measure, Replay, exit_text
from gbr.tune.space import TableSpace

if TYPE_CHECKING:
    from gbr.ranker import Ranker

#: ``{name}``; doubled braces are literal ones.
_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
#: A number that is no part of a word or a version.
_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|(?:nan|inf)\b)", re.IGNORECASE)
_LONGEST: Final = 200


class Command:
    """Measures rows of a table by a command; pass it to :class:`gbr.tune.Child`.

    Parameters
    ----------
    command : str
        With ``{name}`` for the value of a column; it is run without a shell.  The last number that it prints is the
        target; an exit status other than 0, or no number, is a failure.
    rows : sequence of mapping
        Value by column of each configuration.
    higher : bool
        The target is a throughput, whose inverse counts as the runtime.
    """

    def __init__(self, command: str, rows: Sequence[Mapping[str, Any]], *, higher: bool = False) -> None:
        try:
            self._parts = shlex.split(command, posix=os.name == "posix")
        except ValueError as fault:
            raise UsageError(f"--measure: {fault} in {command!r}") from fault
        self.columns = list(dict.fromkeys(name for name in _PLACEHOLDER.findall(command) if name))
        if unknown := [name for name in self.columns if name not in rows[0]]:
            raise UsageError(f"--measure: no column {unknown[0]!r}{nearest(unknown[0], rows[0])}")
        if not self.columns:
            raise UsageError(f"--measure: expected a placeholder such as {{{next(iter(rows[0]))}}}, got {command!r}")
        self.command, self.rows, self._higher = command, rows, higher

    def __call__(self) -> Callable[[int], float | str]:
        """The measurement, as a child process needs it."""
        return self.measure

    def measure(self, config: int) -> float | str:
        """Runtime of a configuration, or the reason why it failed; a TuneError if the command cannot be run."""
        row = self.rows[config]

        def value(found: re.Match[str]) -> str:
            return found[0][0] if found[1] is None else "" if row[found[1]] is None else str(row[found[1]])

        arguments = [_PLACEHOLDER.sub(value, part) for part in self._parts]
        try:
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
            )
        except OSError as fault:
            raise TuneError(f"--measure: {arguments[0]}: cannot be run ({fault.strerror})") from fault
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        said = f": {shorten(lines[-1], _LONGEST)}" if lines else ""
        if done.returncode:
            return exit_text(done.returncode) + said
        if not (numbers := _NUMBER.findall(done.stdout)):
            return f"no number in its output{said}"
        target = float(numbers[-1])
        return 1 / target if self._higher and target else target


class TableReplay(Replay):
    """Recorded values of a table, used instead of measurements, like :class:`gbr.tune.Replay`."""

    def __init__(self, space: TableSpace, table: Table) -> None:
        self.space: Any = space
        self.runtime = self._repeat = table.cost[space.rows]

    def __call__(self, config: int) -> float:
        """The recorded value; a ValueError if it failed."""
        if not np.isfinite(self.runtime[config]):
            raise ValueError("recorded as failed")
        return super().__call__(config)


def list_search(
    path: Path, default: int | None, command: str, timeout: float
) -> tuple[ConfigSpace, AbstractContextManager[Measure]]:
    """The space of the rows of a file without a model, and their measurement by a command, which prints a runtime.

    The parameters are the columns that the command takes.  ``default`` is a row of the file; by default the first.
    """
    frame, notes = read_frame(path)
    for message in notes:
        cli.note(message)
    if not len(frame):
        raise DataError(f"{path}: no rows; expected one row per configuration")
    measuring = Command(command, pl.DataFrame([plain(column, path) for column in frame]).rows(named=True))
    configs = [{name: row[name] for name in measuring.columns} for row in measuring.rows]
    space = ConfigSpace(configs, default=default or 0, name=path.name.partition(".")[0])
    return space, Child(measuring, timeout)


def table_search(
    path: Path, model: Ranker, group: str | None, default: int | None, command: str | None, timeout: float
) -> tuple[TableSpace, AbstractContextManager[Measure]]:
    """The space of one group of a file of candidates, and its measurement: a command, or without one a replay.

    ``default`` is a row of the file; by default the first one of the group.
    """
    roles = model.table.roles
    try:
        table = read_rows(path, roles, measured=command is None)
    except DataError as fault:
        if roles.target not in str(fault) or command is not None:
            raise
        raise DataError(f"expected a command by --measure, or recorded values to replay: {fault}") from fault
    for message in table.notes:
        cli.note(message)
    names = [each.name for each in table.groups]
    if group is None and len(names) > 1:
        raise UsageError(f"{path}: {len(names)} groups ({listed(names)}); choose one by --group NAME")
    if group is not None and group not in names:
        raise UsageError(f"--group: no group {group!r} in {path}{nearest(group, names)}")
    table = rows_of(table, [table.groups[0 if group is None else names.index(group)]])
    at = np.flatnonzero(table.row == default)
    if default is not None and not len(at):
        raise UsageError(f"--default: row {default} is not one of the {len(table.row)} of group {table.groups[0].name}")
    if default is None:
        cli.note(f"the default is row {table.row[0]}, the first of the group; --default names another one")
    space = TableSpace(table, model, default=0 if default is None else int(at[0]))
    if command is not None:
        columns = dict.fromkeys((*roles.config, *roles.described))
        rows = table.frame[space.rows].select(*columns).rows(named=True)
        return space, Child(Command(command, rows, higher=roles.direction == "higher"), timeout)
    unknown = int(np.isnan(table.cost).sum())  # failed, as in a table.toml, unless they are most
    if 2 * unknown > len(table.cost):
        raise UsageError(
            f"{path}: {unknown} of {len(table.cost)} rows have no {roles.target!r}; give a command by --measure, or "
            "the values to replay"
        )
    return space, nullcontext(TableReplay(space, table))
