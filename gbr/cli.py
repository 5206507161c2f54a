"""Shared code of all commands: options, errors and exit status, progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import shell_complete

from gbr import check_features
from gbr.data.collection import SPLITS, Subset, resolve
from gbr.data.files import Report, size_text
from gbr.errors import GbrError, show_warning

if TYPE_CHECKING:
    from gbr.models.base import Round

#: Bytes in a GiB, the unit of ``--memory``.
GIB: Final = 1 << 30

#: Seconds until the first progress line if stderr is not a terminal; the time between lines doubles up to the maximum.
_FIRST_LINE: Final = 2.0
_LONGEST_PAUSE: Final = 120.0
_NOT_WRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
#: Longer words of a text column are folded where the terminal is narrow.
_MOST_WORD: Final = 16
#: Cells of a numeric column.
_NUMERIC: Final = re.compile(r"[-+–\d.,e% ]*")

Advance = Callable[[int], None]
Function = TypeVar("Function", bound=Callable[..., Any])


# Commands -------------------------------------------------------------------------------------------------------------


class _Program:
    """Mixin that makes a click command callable as ``main(argv) -> exit status``; errors are one line on stderr."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        return _run(self, sys.argv[1:] if argv is None else argv)  # type: ignore[arg-type]


class Command(_Program, click.Command):
    """A click command whose options with ``multiple=True`` take several values: ``--m a b`` is ``--m a --m b``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the name of such an option before each of its values."""
        names = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        expanded: list[str] = []
        current = None
        for arg in args:
            if arg.startswith("-"):
                current = arg if arg in names else None
            elif current and expanded[-1] != current:
                expanded.append(current)
            expanded.append(arg)
        return super().parse_args(ctx, expanded)


class Group(_Program, click.Group):
    """A command with subcommands."""

    command_class = Command


def command(module: str, **attributes: Any) -> Callable[[Callable[..., None]], Command]:
    """Decorate the function of the command ``python -m <module>``; its docstring is the description."""
    return click.command(module, cls=Command, context_settings=_SETTINGS, **attributes)


def group(module: str, **attributes: Any) -> Callable[[Callable[..., None]], Group]:
    """Decorate the function of a command with subcommands, which are added by ``@main.command(name)``."""
    attributes = {"no_args_is_help": False} | attributes
    return click.group(module, cls=Group, context_settings=_SETTINGS, **attributes)


_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "show_default": True}


def _run(program: click.Command, argv: Sequence[str]) -> int:
    """Run a command; returns the exit status.

    0 for success; ``GbrError.exit_code`` (1, usage 2) for an expected failure; 130 for an interrupt; 141 for a closed
    pipe.  Any other exception is a bug in gbr and keeps its traceback.
    """
    name = str(program.name)
    prog = f"python -m {name}" if "." in name else name
    words = name.split(".") if "." in name else [name, *(arg for arg in argv[:1] if not arg.startswith("-"))]
    label = " ".join(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # escape characters that the terminal cannot encode
    if name == "gbr" and (instruction := os.environ.get("_GBR_COMPLETE")):  # set by the shell's completion script
        return shell_complete(program, {}, name, "_GBR_COMPLETE", instruction)
    try:
        check_features()
        warnings.showwarning = show_warning
        with program.make_context(prog, list(argv)) as ctx:
            program.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as fault:
        path = fault.ctx.command_path if isinstance(fault, click.UsageError) and fault.ctx else prog
        message = " ".join(fault.format_message().split()).rstrip(".")
        _log(f"{label}: error: {message}; see `{path} --help`")
        return fault.exit_code
    except GbrError as fault:
        _log(f"{label}: error: {fault}")
        return fault.exit_code
    except MemoryError as fault:
        _log(f"{label}: error: out of memory ({fault or 'no detail'}); free memory, or use fewer graphs or --jobs")
        return GbrError.exit_code
    except (KeyboardInterrupt, click.Abort):
        _log(f"{label}: interrupted; completed files are kept, run the same command again to resume")
        return 130
    except BrokenPipeError:
        _discard_stdout()
        return 141
    except OSError as fault:
        if fault.errno not in _NOT_WRITABLE:
            raise
        where = fault.filename or "standard output"
        _log(f"{label}: error: {where}: cannot be written ({fault.strerror}); free space or choose another folder")
        _discard_stdout()
        return GbrError.exit_code
    return 0


def _discard_stdout() -> None:
    """Redirect stdout to the null device, as flushing it again at exit would fail again."""
    with suppress(OSError, ValueError):  # ValueError: no file descriptor, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Options --------------------------------------------------------------------------------------------------------------


class CommaList(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas, converted to a tuple without duplicates; only ``choices`` are valid if given."""

    name = "list"

    def __init__(self, choices: Sequence[str] = ()) -> None:
        self.choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Convert a command-line value."""
        names = tuple(dict.fromkeys(filter(None, map(str.strip, value.split(",")))))
        if not names or (self.choices and not set(names) <= set(self.choices)):
            expected = f"some of {','.join(self.choices)}" if self.choices else "names"
            self.fail(f"expected {expected}, got {value!r}", param, ctx)
        return names


#: Types of options.
PATH: Final = click.Path(path_type=Path)
POSITIVE: Final = click.IntRange(min=1)
POSITIVE_FLOAT: Final = click.FloatRange(0, 1e9, min_open=True)


subset_option = click.option(
    "--subset",
    required=True,
    metavar="NAME",
    help="Collection, named by its folder: tile:xla, tile:cpu, layout:nlp:random, table:NAME ...; `tile` is tile:xla "
    "where that is present, else tile:cpu.",
)
data_option = click.option(
    "--data",
    is_eager=True,  # before --store, whose default lies below it
    type=PATH,
    default=Path("data"),
    metavar="ROOT",
    help="Folder with npz/<collection>/{train,valid,test}/*.npz and table/<name>/.",
)
store_option = click.option(
    "--store",
    type=PATH,
    metavar="DIR",
    callback=lambda ctx, _param, path: path or ctx.params["data"] / "store",
    help="Feature store.  [default: ROOT/store]",
)
model_option = click.option(
    "--model",
    type=PATH,
    required=True,
    metavar="DIR",
    help="Run directory written by gbr train; or physics, an estimate without training for the machine of the "
    "collection, or physics:HARDWARE.",
)
hardware_option = click.option(
    "--hardware",
    metavar="NAME",
    help="Machine on which the runtimes were measured: cpu, tpu, machine (this one), a device (a100, RTX 4090 ...) or "
    "FILE.toml.  [default: the collection's hardware.toml, else tpu for xla and nlp, else cpu]",
)
splits_option = click.option(
    "--split",
    "splits",
    type=CommaList(SPLITS),
    metavar="LIST",
    help=f"Some of {','.join(SPLITS)}.  [default: all that are present]",
)
skip_option = click.option(
    "--skip",
    "skip_known_bad",
    type=click.Choice(["known-bad"]),
    callback=lambda _ctx, _param, value: value is not None,
    help="known-bad: skip the graphs of TpuGraphs whose runtimes are known to be corrupted.",
)
jobs_option = click.option(
    "--jobs", type=POSITIVE, metavar="N", help="Number of parallel processes.  [default: one per core]"
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Random seed.")
memory_option = click.option(
    "--memory",
    type=POSITIVE_FLOAT,
    metavar="GIB",
    callback=lambda _ctx, _param, value: None if value is None else int(value * GIB),
    help="Memory limit of the training features in GiB; larger features are read in batches, and rows of each graph "
    "are sampled if the bins exceed twice the limit.  [default: a quarter of the machine's memory]",
)
cluster_option = click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Use the workers of the Dask scheduler at tcp://HOST:PORT, which must see the same folders under the same "
    "paths (needs gbr[cluster]).",
)
report_option = click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE.html",
    callback=lambda _ctx, _param, path: path and _in_writable_folder(path),
    help="Also write a self-contained HTML report.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def _in_writable_folder(path: Path) -> Path:
    """Create the folder of a page that is written after hours of work, and check that it is writable."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(f"expected a name that ends in .html, got {str(path)!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise click.BadParameter(f"cannot create {path.parent} ({fault.strerror})") from fault
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"{path.parent} is not writable; choose another folder")
    return path


def find_collection(subset: str | Subset, data: str | Path) -> Subset:
    """Find a collection by its name; a note on stderr reports how a short name was resolved."""
    if isinstance(subset, Subset):
        return subset
    found = resolve(subset, Path(data))
    if found.note:
        note(found.note)
    return found


# Progress -------------------------------------------------------------------------------------------------------------


def progress(total: int, label: str) -> AbstractContextManager[Advance]:
    """Show the progress of a loop on stderr; yields ``advance(steps)``.

    A terminal shows a bar.  Otherwise, log lines follow at increasing intervals after two seconds.
    """
    return _shown(_Task(label, total), lambda task: task.advance)


def transfer(label: str) -> AbstractContextManager[Report]:
    """Show the progress of a transfer as :func:`progress` does; yields ``report(done, total)``, both in bytes.

    ``total`` is None if it is unknown.  The time left ignores bytes that are present at the first report.
    """
    return _shown(_Task(label, None, size_text), lambda task: task.report)


def busy(label: str) -> AbstractContextManager[None]:
    """Show a spinner for a task of unknown duration, or log lines as :func:`progress` does."""
    return _shown(_Task(label, None), lambda _task: None)


@contextmanager
def rounds(label: str, time_limit: float | None = None) -> Iterator[Callable[[Round], bool]]:
    """Show the rounds of a fit, the best tau so far and the longest time left; yields ``on_round``.

    Ctrl-C ends the fit, which keeps its best round so far; a second Ctrl-C interrupts the command.
    """
    task = _Task(label, 1)
    begun = time.monotonic()
    best: dict[str, float] = {}
    interrupted = False

    def on_round(ended: Round) -> bool:
        if ended.number == 1:
            task.start = time.monotonic()
        task.label, task.done, task.total = ended.model, ended.number, ended.most
        if ended.tau is not None:
            best[ended.model] = max(ended.tau, best.get(ended.model, -1.0))
            task.detail = f"tau {best[ended.model]:.3f}"
        if time_limit is not None:
            task.most_left = begun + time_limit - time.monotonic()
        return interrupted

    def interrupt(_signal: int, _frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note("the fit ends with this round; press Ctrl-C again to interrupt")

    handled = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, interrupt) if handled else None
    try:
        with _shown(task, lambda _task: on_round):
            yield on_round
    finally:
        if handled:
            signal.signal(signal.SIGINT, previous)
    ended = "interrupted" if interrupted else "ended by the time limit" if task.most_left <= 0 else ""
    if ended:
        note(
            f"{ended} in round {task.done} of {task.label}: the best model so far is kept, without what was not fitted"
        )


class _Task:
    """State of a task: label, steps or bytes done, and when it began with how many."""

    def __init__(self, label: str, total: int | None, text: Callable[[float], str] | None = None) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self.text = text
        self.detail = ""
        self.most_left = float("inf")
        self.start, self.first = time.monotonic(), 0 if text is None else None

    def advance(self, steps: int = 1) -> None:
        self.done += steps

    def report(self, done: int, total: int | None) -> None:
        if self.first is None or done < self.done:  # the first report, or a restart
            self.start, self.first = time.monotonic(), done
        self.done, self.total = done, total

    def line(self, *, ended: bool = False) -> str:
        """Log line with the amount done and, while the task runs, the time left."""
        seconds, text = time.monotonic() - self.start, self.text or str
        parts = []
        if self.total or self.text:
            parts.append(f"{text(self.done)} of {text(self.total)}" if self.total else text(self.done))
        gained = self.done - (self.first or 0)
        left = (self.total - self.done) * seconds / gained if self.total and gained and not ended else None
        if self.detail:
            parts.append(self.detail)
        if ended:
            parts.append(f"done in {duration(seconds)}")
        elif left is None or not self.detail:
            parts.append(f"{duration(seconds)} so far")
        if left is not None:
            parts.append(f"about {duration(max(0.0, min(left, self.most_left)))} left")
        return f"{self.label}: {', '.join(parts)}"


@contextmanager
def _shown(task: _Task, handle: Callable[[_Task], Any]) -> Iterator[Any]:
    """Draw or log the state of a task periodically from a separate thread."""
    draw, display = _bar(task) if sys.stderr.isatty() else (None, nullcontext())
    over = threading.Event()

    def follow() -> None:
        pause = _FIRST_LINE
        while not over.wait(0.1 if draw else pause):
            if draw:
                draw()
            else:
                note(task.line())
                pause = min(2 * pause, _LONGEST_PAUSE)

    thread = threading.Thread(target=follow, daemon=True)
    begun = time.monotonic()
    with display:
        thread.start()
        try:
            yield handle(task)
        finally:
            over.set()
            thread.join()
    if not draw and time.monotonic() - begun >= _FIRST_LINE:
        note(task.line(ended=True))


def _bar(task: _Task) -> tuple[Callable[[], None], AbstractContextManager[Any]]:
    """Function that updates a progress bar on the terminal, and the bar as a context manager."""
    from rich import progress as bars
    from rich.console import Console

    columns = bars.SpinnerColumn(), bars.BarColumn(20), bars.TextColumn("{task.description}", markup=False)
    display = bars.Progress(*columns, console=Console(stderr=True), transient=True)
    bar = display.add_task(task.label, total=task.total)
    return lambda: display.update(bar, description=task.line(), completed=task.done, total=task.total), display


def duration(seconds: float) -> str:
    """Format a duration: ``12 s``, ``34 min``, ``5.6 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# Output ---------------------------------------------------------------------------------------------------------------


def note(message: str) -> None:
    """Print an informational message on stderr."""
    _log(f"gbr: {message}")


def _log(message: str) -> None:
    with suppress(OSError):  # a log on a full disk must not abort the command
        print(message, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """Print ``value`` as JSON on stdout; undefined figures must be None, not NaN."""
    print(json.dumps(value, indent=1, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout, as wide as the terminal; long text is wrapped, numbers never are.

    ``rows`` are values in the order of ``columns``: numbers, or texts of numbers, are right-aligned (floats with four
    decimals), None is a dash.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = 0
    cells = [[_cell(value) for value in row] for row in rows]
    sheet = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        numeric = all(_NUMERIC.fullmatch(row[index]) for row in cells)
        texts = [name, *(row[index] for row in cells)]
        words = texts if numeric else [word for text in texts for word in text.split()]
        width += 3 + min(max(map(len, words)), sys.maxsize if numeric else _MOST_WORD)
        sheet.add_column(Text(name), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in cells:
        sheet.add_row(*map(Text, row))
    # Wider than a terminal that is too narrow for the numbers.
    width = max(width, shutil.get_terminal_size((80, 24)).columns)
    # https://no-color.org: neither colours nor bold text.
    console = Console(width=width, highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    # Written by print() and not by rich, which would exit on a closed pipe.
    with console.capture() as text:
        console.print(Text(title, overflow="fold", style="bold"))
        console.print(sheet)
    print(text.get())


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
