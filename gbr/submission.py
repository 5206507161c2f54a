"""The file that the Kaggle competition on TpuGraphs takes: how it is written, and everything that can be wrong with it.

A header, then one row per test graph: its ID and row numbers of its configurations, best first, joined by ``;``; the
best five of a tile kernel, all of a layout graph, counted as in the graph's file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.collection import OFFICIAL_TEST, Subset, graph_files, splits_present
from gbr.data.npz import NpzFile
from gbr.errors import DataError

HEADER: Final = "ID,TopConfigs"
#: Configurations in the row of a tile kernel.
TOP: Final = 5
ROWS: Final = sum(OFFICIAL_TEST.values())

_CONFIGS: Final = {"tile": "config_feat", "layout": "node_config_feat"}
#: No row comes near it: 100,040 numbers of up to six digits make the longest.  Checking takes 100 bytes for one of it.
_LONGEST: Final = 1 << 21
_NUMBERS: Final = re.compile(r"-?[0-9]{1,18}(?:;-?[0-9]{1,18})*")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")

#: Collection -> test graph -> number of its configurations.
TestSets = Mapping[str, Mapping[str, int]]


@dataclass
class Report:
    """What was found in a submission.

    Parameters
    ----------
    rows : int
        Rows below the header.
    faults : list of str
        The first of them, with their lines.
    n_faults : int
        All of them.
    unchecked : dict
        Collection -> rows whose graph is not there, so that only their form was checked.
    complete : bool
        Whether all test graphs of the competition are there, and so every row was checked against its graph.
    """

    rows: int = 0
    faults: list[str] = field(default_factory=list)
    n_faults: int = 0
    unchecked: dict[str, int] = field(default_factory=dict)
    complete: bool = False


def n_configs(path: Path) -> int:
    """Configurations of a graph file, from the header of its array alone.

    Raises
    ------
    DataError
        When the file is torn or no graph.
    """
    file = NpzFile(path)
    for key in _CONFIGS.values():
        if key in file.keys:
            return file.member(key).shape[0]
    raise DataError(f"{path}: has neither {' nor '.join(_CONFIGS.values())}; fetch the graph again")


def graphs_there(data: Path) -> dict[str, dict[str, int]]:
    """The official test graphs that are there, and how many configurations each has.

    Raises
    ------
    DataError
        As :func:`n_configs`.
    """
    found = {}
    for name in OFFICIAL_TEST:
        subset = Subset(name)
        if "test" in splits_present(subset, data):
            found[name] = {path.stem: n_configs(path) for path in graph_files(subset, data, "test")}
    return found


def row(subset: Subset, stem: str, order: NDArray[np.int64]) -> str:
    """One row, with its end of line."""
    kept = order[:TOP] if subset.kind == "tile" else order
    return f"{subset.id(stem)},{';'.join(map(str, kept.tolist()))}\n"


def check(path: Path, sets: TestSets, most: int = 20) -> Report:
    """Look for everything that is wrong with a submission, in one pass over its rows.

    Parameters
    ----------
    path : Path
    sets : mapping
        Of :func:`graphs_there`.  A row of a graph that is not among them is checked for its form alone, unless its
        collection is there whole.
    most : int
        Faults to tell; the others are counted.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    whole = {name for name, graphs in sets.items() if len(graphs) == OFFICIAL_TEST[name]}
    report = Report(complete=len(whole) == len(OFFICIAL_TEST))
    found = _Check(sets, whole, report)
    try:
        with path.open("rb") as file:
            faults = found.faults(file)
            report.faults = list(islice(faults, most))
            report.n_faults = len(report.faults) + sum(1 for _ in faults)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault}); name a submission") from fault
    return report


class _Check:
    """One pass over a submission."""

    def __init__(self, sets: TestSets, whole: set[str], report: Report) -> None:
        self._sets = sets
        self._whole = whole
        self._report = report
        self._line_of: dict[str, int] = {}

    def faults(self, file: BinaryIO) -> Iterator[str]:
        first = True
        for line, cells in _records(file):
            if isinstance(cells, str):
                yield f"line {line}: {cells}"
            elif first and cells == HEADER.split(","):
                pass
            else:
                if first:
                    yield f"line 1: the header is {_short(','.join(cells))}, want {HEADER}"
                if not first or (len(cells) == 2 and ":" in cells[0]):
                    for fault in self._row(line, cells):
                        yield f"line {line}: {fault}"
            first = False
        if first:
            yield f"line 1: the file is empty, want the header {HEADER}"
        yield from self._missing()

    def _row(self, line: int, cells: list[str]) -> Iterator[str]:
        if not cells:
            yield "is empty; take the line out"
            return
        self._report.rows += 1
        if len(cells) != 2:
            yield f"has {len(cells)} columns, want 2: {HEADER}"
            return
        name, text = cells
        subset, _, stem = name.rpartition(":")
        if subset not in OFFICIAL_TEST or not stem:
            yield f"unknown ID {_short(name)}; want <collection>:<graph>, of {', '.join(OFFICIAL_TEST)}"
            return
        if name in self._line_of:
            yield f"{_short(name)} stands in line {self._line_of[name]} already"
        self._line_of.setdefault(name, line)
        count = self._sets.get(subset, {}).get(stem)
        if count is None:
            if subset in self._whole:
                yield f"unknown ID {_short(name)}; {subset} has no such test graph"
                return
            self._report.unchecked[subset] = self._report.unchecked.get(subset, 0) + 1
        for fault in _order_faults(text, subset.split(":", 1)[0], count):
            yield f"{_short(name)}: {fault}"

    def _missing(self) -> Iterator[str]:
        for subset, graphs in self._sets.items():
            missing = [stem for stem in graphs if f"{subset}:{stem}" not in self._line_of]
            if missing:
                yield f"{subset}: {len(missing)} of {len(graphs)} IDs are missing (first: {subset}:{missing[0]})"


def _order_faults(text: str, kind: str, count: int | None) -> Iterator[str]:
    """What is wrong with the row numbers of a graph of ``count`` configurations, None where that is not known."""
    if not text.strip():
        yield "names no configurations"
        return
    if not _NUMBERS.fullmatch(text):
        tokens = text.split(";")
        wrong = [place for place, token in enumerate(tokens) if not _NUMBER.fullmatch(token)]
        yield (
            f"{_short(tokens[wrong[0]])} at place {wrong[0] + 1} is no row number ({len(wrong)} such); "
            "want whole numbers joined by ;"
        )
        return
    order = np.array(text.split(";"), np.int64)
    # A whole order of n rows holds 0 to n - 1, whatever n is.
    bound = len(order) if count is None and kind == "layout" else count
    outside = order[(order < 0) | (order >= (np.iinfo(np.int64).max if bound is None else bound))]
    if len(outside):
        told = "want 0 and above" if bound is None else f"want 0 to {bound - 1}"
        yield f"row number {outside[0]} is out of range ({len(outside)} such), {told}"
    values, counts = np.unique(order, return_counts=True)
    if len(values) < len(order):
        yield f"row number {values[counts > 1][0]} stands there twice ({len(order) - len(values)} too many)"
    if kind == "tile":
        wanted = TOP if count is None else min(TOP, count)
        if len(order) > wanted or (count is not None and len(order) < wanted):
            of = "" if count is None else f" of its {count} configurations"
            yield f"has {len(order)} row numbers, want the best {wanted}{of}"
    elif bound is not None:
        there = np.zeros(bound, bool)
        there[order[(order >= 0) & (order < bound)]] = True
        if not there.all():
            yield f"{bound - there.sum()} of {bound} row numbers are missing (first: {there.argmin()})"


def _records(file: BinaryIO) -> Iterator[tuple[int, list[str] | str]]:
    """Line and cells of every record; what is wrong, where one cannot be read."""
    reader = csv.reader(_lines(file), strict=True)
    with _long_cells():
        while True:
            line = reader.line_num + 1
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as fault:
                yield line, f"cannot be read as CSV ({fault})"


def _lines(file: BinaryIO) -> Iterator[str]:
    # Cut where it is longer than any row: csv refuses the cell, and no line can fill the memory.
    while line := file.readline(2 * _LONGEST):
        yield line.decode("utf-8", "backslashreplace")


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let csv read rows of 100,040 numbers: its own limit is 128 KiB."""
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
