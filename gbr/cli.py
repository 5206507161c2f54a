"""What every command shares: its arguments, its exit status, progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import argparse
import errno
import functools
import io
import json
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from gbr import check_features
from gbr.data.collection import SPLITS
from gbr.data.files import Report, size_text
from gbr.errors import GbrError, UsageError

#: Seconds before a command that is not on a terminal says how far it is.
_PATIENCE: Final = 2.0
#: Seconds within which it says so again.
_RARELY: Final = 120.0
_MAX_WIDTH: Final = 80
_INTERRUPTED: Final = 130
_CLOSED_PIPE: Final = 141
#: No room, or a place that takes nothing.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Main = Callable[[Sequence[str] | None], None]
Advance = Callable[[int], None]


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other error here."""

    def error(self, message: str) -> NoReturn:
        """Raise what :func:`command` turns into one line and exit status 2."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


class _Folded(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description apart, and folds those that are too long; never a command to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + folded for line in text.splitlines() for folded in _folded(line, width))


def _folded(line: str, width: int) -> list[str]:
    if "python -m" in line or len(line) <= width:
        return [line]
    begin = re.match(r" *(?:\S+ {2,})?", line)  # a name in a list, behind which its text goes on
    hang = " " * (begin.end() if begin else 0)
    return textwrap.wrap(
        line, width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def parser(module: str, description: str, epilog: str | None = None) -> Parser:
    """Make the parser of the command ``python -m <module>``."""
    return Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=epilog,
        formatter_class=_Folded,
        allow_abbrev=False,
    )


def command(main: Main) -> Callable[[Sequence[str] | None], int]:
    """Turn what a command raises into one line on stderr and an exit status.

    0 done; ``GbrError.exit_code`` (1, usage 2) for an expected failure; 130 for an interrupt; 141 for a closed pipe.
    Anything else is a defect of gbr and keeps its traceback.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file name or a dash that the terminal cannot show is no reason to fail.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            check_features()
            main(argv)
            sys.stdout.flush()
        except GbrError as fault:
            _say(f"error: {_one_line(fault)}")
            return fault.exit_code
        except MemoryError as fault:
            _say(f"error: out of memory ({_one_line(fault) or 'no detail'}); free some, or take fewer graphs or --jobs")
            return GbrError.exit_code
        except KeyboardInterrupt:
            _say("interrupted; every file written so far is whole, the same command goes on from there")
            return _INTERRUPTED
        except BrokenPipeError:
            _drop_stdout()
            return _CLOSED_PIPE
        except OSError as fault:
            if fault.errno not in _FULL:
                raise
            where = fault.filename or "the output"
            _say(f"error: {where}: cannot be written ({fault.strerror}); make room, or write to another place")
            _drop_stdout()
            return GbrError.exit_code
        except SystemExit as leave:
            return leave.code if isinstance(leave.code, int) else 0
        return 0

    return run


def _drop_stdout() -> None:
    """Python flushes stdout once more at exit; it must find something that can be written."""
    with suppress(OSError, ValueError):  # ValueError: no file below, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(message: str) -> None:
    """Tell something on stderr that is no result and no error."""
    _say(message)


def add_subset(arguments: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--subset``."""
    arguments.add_argument(
        "--subset",
        required=required,
        metavar="NAME",
        help="collection, by its folder: tile:xla, tile:cpu, layout:nlp:random …; `tile` alone takes what there is",
    )


def add_data(arguments: argparse.ArgumentParser) -> None:
    """Add ``--data``."""
    arguments.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="ROOT",
        help="folder that holds npz/<collection>/{train,valid,test}/*.npz (default: data)",
    )


def add_store(arguments: argparse.ArgumentParser) -> None:
    """Add ``--store``."""
    arguments.add_argument(
        "--store", type=Path, default=Path("data/store"), metavar="DIR", help="feature store (default: data/store)"
    )


def add_hardware(arguments: argparse.ArgumentParser) -> None:
    """Add ``--hardware``; ``args.hardware`` is None where it is not given."""
    arguments.add_argument(
        "--hardware",
        default=None,
        metavar="NAME",
        help="machine that the runtimes are of: cpu, tpu, machine (this one) or FILE.toml (default: the collection's "
        "hardware.toml, else tpu for xla and nlp, else cpu)",
    )


def add_splits(arguments: argparse.ArgumentParser) -> None:
    """Add ``--split``, a list by commas; ``args.split`` is a tuple, or None where it is not given."""
    arguments.add_argument(
        "--split",
        type=_splits,
        default=None,
        metavar="LIST",
        help="some of train,valid,test (default: those there are)",
    )


def add_skip(arguments: argparse.ArgumentParser) -> None:
    """Add ``--skip``; ``args.skip_known_bad`` says whether it names the known bad graphs."""
    arguments.add_argument(
        "--skip",
        dest="skip_known_bad",
        type=_known_bad,
        default=False,
        metavar="known-bad",
        help="known-bad: leave out the graphs of TpuGraphs whose runtimes are known to be corrupted",
    )


def add_jobs(arguments: argparse.ArgumentParser) -> None:
    """Add ``--jobs``; ``args.jobs`` is None where it is not given."""
    arguments.add_argument(
        "--jobs", type=positive, default=None, metavar="N", help="processes side by side (default: one per core)"
    )


def add_cluster(arguments: argparse.ArgumentParser) -> None:
    """Add ``--cluster``; ``args.cluster`` is None where it is not given."""
    arguments.add_argument(
        "--cluster",
        default=None,
        metavar="ADDRESS",
        help="work on the workers of the Dask scheduler at tcp://HOST:PORT, which see the same folders under the same "
        "paths (needs gbr[cluster])",
    )


def add_report(arguments: argparse.ArgumentParser) -> None:
    """Add ``--report``; ``args.report`` is None where it is not given."""
    arguments.add_argument(
        "--report",
        type=Path,
        default=None,
        metavar="FILE.html",
        help="also write what to look at: one file for any browser, which needs no network",
    )


def add_json(arguments: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    arguments.add_argument("--json", action="store_true", help="print JSON instead of text")


@contextmanager
def progress(total: int, label: str) -> Iterator[Advance]:
    """Show how far a loop is, on stderr; yields ``advance(steps)``.

    A bar on a terminal.  Elsewhere nothing within the first two seconds, then plain lines, ever more rarely.
    """
    if not sys.stderr.isatty():
        with _plain_progress(total, label) as advance:
            yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps=1: bar.advance(task, steps)  # type: ignore[misc]


@contextmanager
def busy(label: str) -> Iterator[None]:
    """Show on stderr that work goes on whose end cannot be foretold, and for how long it has.

    A spinner on a terminal.  Elsewhere nothing within the first two seconds, then plain lines, ever more rarely.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            bar.add_task(label, total=None)
            yield
        return
    start, over = time.monotonic(), threading.Event()

    def tell() -> None:
        passed = _PATIENCE
        while not over.wait(start + passed - time.monotonic()):
            _say(f"{label}: {passed:.0f} s so far")
            passed *= 2

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
    passed = time.monotonic() - start
    if passed >= _PATIENCE:
        _say(f"{label}: done in {passed:.0f} s")


@contextmanager
def _plain_progress(total: int, label: str) -> Iterator[Advance]:
    start = time.monotonic()
    done = 0
    next_line = _PATIENCE

    def advance(steps: int = 1) -> None:
        nonlocal done, next_line
        done += steps
        passed = time.monotonic() - start
        if passed >= next_line and done < total:
            _say(f"{label}: {done} of {total} after {passed:.0f} s")
            next_line = 2 * passed

    yield advance
    passed = time.monotonic() - start
    if passed >= _PATIENCE:
        _say(f"{label}: {done} of {total} in {passed:.0f} s")


@contextmanager
def transfer(label: str) -> Iterator[Report]:
    """Show how far bytes are on their way, how fast and for how much longer, on stderr.

    Yields ``report(done, total)``: bytes that are there, and of how many (None where that is unknown).  What is there
    at the first report was there before and counts for no rate.  Drawn as :func:`progress` is.
    """
    if not sys.stderr.isatty():
        with _plain_transfer(label) as report:
            yield report
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: list[TaskID] = []

        def draw(done: int, total: int | None) -> None:
            if not tasks:
                tasks.append(bar.add_task(label, total=total, completed=done))
            bar.update(tasks[0], total=total, completed=done)

        yield draw


@contextmanager
def _plain_transfer(label: str) -> Iterator[Report]:
    begun = time.monotonic()
    first = last = 0
    next_line = _PATIENCE
    reports = 0

    def report(done: int, total: int | None) -> None:
        nonlocal begun, first, last, next_line, reports
        if not reports or done < last:
            begun, first, next_line = time.monotonic(), done, _PATIENCE
        reports += 1
        last = done
        passed = time.monotonic() - begun
        if passed < next_line or done == total:
            return
        rate = (done - first) / passed
        told = f"{size_text(done)}{f' of {size_text(total)}' if total else ''}, {size_text(rate)}/s"
        if total and rate:
            told += f", about {duration((total - done) / rate)} left"
        _say(f"{label}: {told}")
        next_line = min(2 * passed, passed + _RARELY)

    yield report
    passed = time.monotonic() - begun
    if passed >= _PATIENCE:
        _say(f"{label}: {size_text(last)} in {duration(passed)}, {size_text((last - first) / passed)}/s")


def duration(seconds: float) -> str:
    """Time as people read it: ``12 s``, ``34 min``, ``5.6 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout, at most 80 columns wide; long cells are folded, never cut.

    Parameters
    ----------
    title : str
    columns : sequence of str
    rows : sequence of sequences
        Numbers stand to the right (floats with four decimals); None is a dash.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sheet = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        numeric = all(row[place] is None or isinstance(row[place], int | float) for row in rows)
        sheet.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        sheet.add_row(*(Text(_cell(value)) for value in row))
    width = min(_MAX_WIDTH, shutil.get_terminal_size((_MAX_WIDTH, 24)).columns)
    # https://no-color.org asks for no colours; where they are not wanted, bold letters are not either.
    console = Console(width=width, highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    # Printed by print(): rich would turn a closed pipe into an exit of its own.
    with console.capture() as text:
        console.print(Text(title, overflow="fold", style="bold"))
        console.print(sheet)
    print(text.get())


def listing(entries: Sequence[tuple[str, str]]) -> None:
    """Print names and what they stand for on stdout, as wide as the terminal, at most 80 columns."""
    width = min(_MAX_WIDTH, shutil.get_terminal_size((_MAX_WIDTH, 24)).columns)
    indent = max((len(name) for name, _ in entries), default=0) + 2
    for name, text in entries:
        lines = textwrap.wrap(text, max(20, width - indent)) or [""]
        print(f"{name:{indent}}{lines[0]}")
        for line in lines[1:]:
            print(" " * indent + line)


def emit_json(value: Any) -> None:
    """Print ``value`` as JSON on stdout.  NaN is refused: a figure that does not exist is None."""
    print(json.dumps(value, indent=1, allow_nan=False))


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _say(message: str) -> None:
    with suppress(OSError):  # a log on a full disk is no reason to give up hours of work
        print(f"gbr: {message}", file=sys.stderr, flush=True)


def _one_line(fault: BaseException) -> str:
    return " ".join(str(fault).split())


def _known_bad(text: str) -> bool:
    if text != "known-bad":
        raise argparse.ArgumentTypeError(f"got {text!r}, want known-bad")
    return True


def _splits(text: str) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [part for part in wanted if part not in SPLITS]
    if unknown or not wanted:
        raise argparse.ArgumentTypeError(f"got {text!r}, want some of {','.join(SPLITS)}")
    return wanted


def positive(text: str) -> int:
    """Type of an argument: a whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number from 1 on")
    return number
