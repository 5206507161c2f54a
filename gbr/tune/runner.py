"""The search loop, measurements in a child process, the journal to resume from, and replays of recorded runtimes."""

from __future__ import annotations

import faulthandler
import json
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, cast

import numpy as np

from gbr import cli
from gbr.data.files import lock, parse_json
from gbr.data.graph import Graph
from gbr.data.pool import follow_parent
from gbr.errors import DataError, GbrError, TuneError, UsageError, one_line
from gbr.tune.space import FloatArray, GraphSpace, Space
from gbr.tune.tuner import Best, Tuner, integer, outcome_of

#: Maps the index of a configuration to its runtime, or to the reason of its failure.
Measure = Callable[[int], "float | str | None"]

#: Seconds that a child may take to start: it imports, compiles and computes the reference result.
_START: Final = 300.0
#: Seconds after the timeout at which a child terminates itself, in case its parent is gone.
_GRACE: Final = 5.0
#: Seconds between checks whether a child lives.
_POLL: Final = 0.25
#: Maximum timeout in seconds.
_LONGEST: Final = 1e9
_FORMAT: Final = 1
_TIMED_OUT: Final = re.compile(r"timed out after (\S+) s")
#: Number of crashes of the process after which a configuration is not measured again.
_MAX_CRASHES: Final = 2
#: Configurations that are measured again, because the minimum of single measurements is biased by noise.
_FINALISTS: Final = 3
_RESAMPLES: Final = 2000
#: Minimum speedup, minus 1; a second measurement may not reproduce smaller ones.
_LEAST_GAIN: Final = 0.01


# --- child process ---------------------------------------------------------------------------------------------------


class Child(AbstractContextManager["Child"]):
    """Measures configurations in a child process, one at a time, and replaces the child after a crash or timeout.

    Parameters
    ----------
    make : callable
        Called in the child without arguments; returns ``measure(config) -> runtime``, which raises if a configuration
        fails or computes a wrong result.  Must be picklable: a function, or an instance of a class, of a module.
    timeout : float or None
        Seconds that one measurement may take, including compilation; None or infinite for no limit.

    Notes
    -----
    The child may start processes of its own, which are killed with it, except on Windows.
    """

    def __init__(self, make: Callable[[], Callable[[int], Any]], timeout: float | None) -> None:
        if timeout in (None, math.inf):
            timeout = None
        elif not isinstance(timeout, int | float | np.number) or not 0 < timeout <= _LONGEST:
            raise UsageError(f"timeout: expected seconds from above 0 to {_LONGEST:g}, or None, got {timeout!r}")
        self._make, self._timeout = make, None if timeout is None else float(timeout)
        self.command: str | None = getattr(make, "command", None)
        self._running: tuple[BaseProcess, Connection] | None = None
        self._end: Callable[[], object] | None = None
        self._one_at_a_time = threading.Lock()

    def __call__(self, config: int) -> float | str:
        """Runtime of a configuration, or the reason why it failed; a child that cannot start raises a TuneError."""
        with self._one_at_a_time:
            process, pipe = self._running or self._start()
            try:
                pipe.send(config)
                if _answers(process, pipe, self._timeout):
                    outcome = pipe.recv()
                    if isinstance(outcome, TuneError):
                        raise outcome
                    return cast("float | str", outcome)
                reason = f"timed out after {self._timeout:g} s"
            except (EOFError, OSError):
                reason = f"crashed: {_exit_reason(process)}"
            except BaseException:  # an interrupt: the next call must not receive the outcome of this one
                self.close()
                raise
            self.close()
            return reason

    def close(self) -> None:
        """Terminate the child and the processes that it started."""
        if self._end is not None:
            self._end()
            self._running = self._end = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_obsolete(self, outcome: float | str) -> bool:
        """Whether an outcome is a timeout that was shorter than this one."""
        found = _TIMED_OUT.fullmatch(outcome) if isinstance(outcome, str) else None
        return found is not None and (self._timeout is None or float(found[1]) < self._timeout)

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        pipe, child_pipe = context.Pipe()
        # A daemonic process could not start processes.
        process = context.Process(target=_serve, args=(child_pipe, self._make, self._timeout), daemon=False)
        try:
            process.start()
        except AssertionError as fault:  # this process is daemonic
            raise TuneError(f"the measuring process cannot start: {fault}") from fault
        child_pipe.close()
        self._running = process, pipe
        # Also when this object is deleted, and at exit, before multiprocessing waits for its processes.
        self._end = Finalize(self, _kill, self._running, exitpriority=0)
        try:
            problem = pipe.recv() if _answers(process, pipe, _START) else f"not ready after {_START:g} s"
        except (EOFError, OSError):
            problem = f"{_exit_reason(process)}; guard a script that starts a search by `if __name__ == '__main__':`"
        if problem is not None:
            self.close()
            raise TuneError(f"the measuring process cannot start: {problem}")
        return self._running


def _answers(process: BaseProcess, pipe: Connection, seconds: float | None) -> bool:
    """Wait for a message; an EOFError if the process died, even if processes that it started keep the pipe open."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    while not pipe.poll(max(0.0, min(_POLL, end - time.monotonic()))):
        if process.exitcode is not None and not pipe.poll():
            raise EOFError
        if time.monotonic() >= end:
            return False
    return True


def _kill(process: BaseProcess, pipe: Connection) -> None:
    """Kill a child and the processes that it started, its group."""
    if hasattr(os, "killpg") and process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):  # the latter on macOS, if only zombies are left
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    pipe.close()


def _exit_reason(process: BaseProcess) -> str:
    process.join(_GRACE)
    return exit_text(process.exitcode)


def exit_text(code: int | None) -> str:
    """The exit status of a process, or the signal that ended it."""
    with suppress(ValueError):
        return f"signal {signal.Signals(-(code or 0)).name}"
    return f"exit status {code}"


def _serve(pipe: Connection, make: Callable[[], Callable[[int], Any]], timeout: float | None) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # a group with the processes that the measurement starts
    follow_parent(lambda: os.killpg(os.getpid(), signal.SIGKILL) if hasattr(os, "killpg") else None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which terminates this process
    os.dup2(2, 1)  # stdout is reserved for results of the command
    devnull = open(os.devnull, "w")  # noqa: SIM115  (open as long as the process lives)
    try:
        measure = make()
    except Exception as fault:  # any exception of user code
        pipe.send(_one_line(fault))
        return
    pipe.send(None)
    while True:
        try:
            config = pipe.recv()
        except (EOFError, OSError):
            return
        # If the parent is gone and the run hangs: exit from a thread that does not need the GIL.
        if timeout is not None:
            faulthandler.dump_traceback_later(timeout + _GRACE, exit=True, file=devnull)
        outcome: float | str | TuneError
        try:
            outcome = _measured(measure, config)
        except TuneError as fault:
            outcome = fault
        faulthandler.cancel_dump_traceback_later()
        with suppress(OSError):
            pipe.send(outcome)


def _measured(measure: Callable[[int], Any], config: int) -> float | str:
    """Positive runtime, or one line with the reason of the failure; a TuneError if the measurement returns neither."""
    try:
        given = measure(config)
    except TuneError:
        raise
    except Exception as fault:  # any exception of user code
        return _one_line(fault)
    try:
        return outcome_of(given) or "runtime 0.0"
    except UsageError as fault:
        raise TuneError(f"measurement of configuration {config}: {fault}") from fault


def _one_line(fault: BaseException) -> str:
    text = one_line(fault)
    return text if isinstance(fault, GbrError) else f"{type(fault).__name__}: {text}"


# --- journal ---------------------------------------------------------------------------------------------------------


class Journal(AbstractContextManager["Journal"]):
    """The measurements of one search in a file of JSON lines, opened by one process at a time.

    The first line describes the space, and the command that measures if there is one.  A ``begin`` entry precedes each
    measurement, and its outcome is written to disk before the next measurement starts; the result of the comparison
    follows the last one.  An incomplete last line is removed; blank lines are skipped.  A file that cannot be written,
    is open in another process, belongs to another search or is not a journal raises a TuneError and stays unchanged.

    Attributes
    ----------
    outcomes : list of (int, float or str)
        Entries of the file when it was opened, in order: a configuration and its runtime, or the reason of its failure.
    verdict : Verdict or None
        The comparison that ended the search, unless measurements follow it.
    """

    def __init__(self, path: Path | str | None, space: Space, command: str | None = None) -> None:
        self.path = Path(path or "temporary journal")
        self.verdict: Verdict | None = None
        with ExitStack() as opened:
            try:
                if path:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                file: IO[bytes] = self.path.open("a+b") if path else TemporaryFile()  # noqa: SIM115
                self._file = opened.enter_context(file)
                if path and not opened.enter_context(lock(self.path.with_name(f".{self.path.name}.lock"))):
                    raise TuneError(f"{self.path}: in use by another process; wait for it, or choose another folder")
                self.outcomes = self._read(space, command)
            except OSError as fault:
                raise self._not_writable(fault) from fault
            self._opened = opened.pop_all()

    @contextmanager
    def measuring(self, config: int) -> Iterator[None]:
        """Record that a measurement starts, and that it is interrupted, which is not a failure."""
        # Without fsync, the entry survives a crash of the process; only outcomes must survive a crash of the machine.
        self._append({"begin": int(config)}, durable=False)
        try:
            yield
        except BaseException:
            self._append({"stopped": int(config)}, durable=False)
            raise

    def write(self, config: int, outcome: float | str) -> None:
        """Record an outcome: a positive runtime, or the reason of a failure; a UsageError for anything else."""
        try:
            valid = outcome_of(outcome) or "runtime 0.0"
        except UsageError:
            self._append({"stopped": int(config)}, durable=False)  # the measurement did not kill the process
            raise
        self._append({"config": int(config), "failed" if isinstance(valid, str) else "runtime": valid})

    def conclude(self, verdict: Verdict) -> None:
        """Record the comparison of the best with the default."""
        self._append({"verdict": asdict(verdict)})

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _read(self, space: Space, command: str | None) -> list[tuple[int, float | str]]:
        self._file.seek(0)
        content = self._file.read()
        complete = content[: content.rfind(b"\n") + 1]
        header = {
            "gbr.tune": _FORMAT, "space": space.name, "configs": len(space), "fingerprint": space.fingerprint,
            **({} if command is None else {"command": command}),
        }  # fmt: skip
        if not complete and _json_line(header).startswith(content):
            self._file.truncate(0)
            self._append(header)
            return []
        begun: Counter[int] = Counter()
        outcomes: list[tuple[int, float | str]] = []
        for number, line in enumerate((complete or content).splitlines(), 1):
            if number > 1 and not line.strip():
                continue
            try:
                entry = parse_json(line)
            except ValueError:
                entry = None
            match entry:
                case {"gbr.tune": _} if number == 1:
                    if entry != header:
                        raise TuneError(
                            f"{self.path}: {_difference(entry, header)}; choose another folder, or delete it"
                        )
                case {"begin": config} | {"stopped": config} if number > 1 and _is_index(config, space):
                    begun[config] += 1 if "begin" in entry else -1
                case {"config": config, "runtime": float() | int() as outcome} | {
                    "config": config,
                    "failed": str(outcome),
                } if number > 1 and _is_index(config, space) and (isinstance(outcome, str) or outcome > 0):
                    begun[config] = 0
                    outcomes.append((config, outcome))
                    self.verdict = None
                case {
                    "verdict": {
                        "config": config,
                        "speedup": float(),
                        "low": float(),
                        "high": float(),
                        "rounds": int(),
                    } as verdict
                } if number > 1 and len(verdict) == len(fields(Verdict)) and _is_index(config, space):
                    self.verdict = Verdict(**verdict)
                case _:
                    raise TuneError(
                        f"{self.path}: line {number} is not a journal entry; fix or delete it, or choose another folder"
                    )
        self._file.truncate(len(complete))  # after validation, so that a file that is not a journal stays unchanged
        for config, times in begun.items():
            if times >= _MAX_CRASHES:
                outcomes.append((config, f"killed the process {times} times"))
                self.write(*outcomes[-1])
        return outcomes

    def _append(self, line: dict[str, Any], *, durable: bool = True) -> None:
        try:
            self._file.write(_json_line(line))
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as fault:
            raise self._not_writable(fault) from fault

    def _not_writable(self, fault: OSError) -> TuneError:
        return TuneError(
            f"{self.path}: cannot be written ({fault.strerror or fault}); choose a writable folder with free space"
        )


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """What the first line of a journal says of another search."""
    for key, text in (
        ("gbr.tune", "format {!r}, this version writes {!r}"),
        ("space", "a search of {!r}, not of {!r}"),
        ("command", "its command is {!r}, not {!r}"),
    ):
        if found.get(key) != expected.get(key):
            return text.format(found.get(key), expected.get(key))
    return f"the program, the configurations or the default of {expected['space']!r} have changed since"


def _is_index(config: Any, space: Space) -> bool:
    return type(config) is int and 0 <= config < len(space)


def _json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"


# --- search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """The best configuration compared with the default, measured again in alternation.

    The speedup is the runtime of the default over that of the best finalist: median over rounds, and a 95 % bootstrap
    interval.  The finalist is selected in the first half of the rounds and compared in the second half.
    """

    config: int  # the fastest configuration; the default if no other is faster by more than noise
    speedup: float
    low: float
    high: float
    rounds: int  # both halves together

    @property
    def faster(self) -> bool:
        """Whether a configuration beats the default by more than noise."""
        return self.low > 1 + _LEAST_GAIN

    def __str__(self) -> str:
        """One line with the interval of the speedup; one that includes both faster and slower is undecided."""
        times = f"{self.low:.2f} to {self.high:.2f}"
        if self.faster:
            return f"{self.speedup:.2f} times as fast as the default ({times})"
        if self.high <= 1 + _LEAST_GAIN:
            return f"the default is best: the best other configuration is {times} times as fast"
        return f"undecided, so the default is kept: the best other configuration is {times} times as fast"


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    best: Best  # the fastest configuration by single measurements
    default: float | None  # runtime of the default in the search; None if there is no default or it failed
    verdict: Verdict | None  # None without a default, or if all other configurations failed
    measured: int
    resumed: int  # read from the journal
    failed: int
    seconds: float
    #: Configuration and runtime, or reason of a failure, in order.
    history: tuple[tuple[int, float | str], ...] = field(default=(), repr=False)

    @property
    def config(self) -> int:
        """The configuration to use."""
        return self.best.config if self.verdict is None else self.verdict.config

    def __str__(self) -> str:
        """One line with the speedup."""
        return f"{self.verdict or 'no configuration could be compared with the default'} ({self.measured} measured)"


def shown_search(tuner: Tuner, measure: Measure, label: str | None, *, budget: int, **options: Any) -> Found:
    """:func:`search` with its progress on stderr, unless the label is None."""
    if label is None:
        return search(tuner, measure, budget=budget, **options)
    with ExitStack() as shown:
        advance = shown.enter_context(cli.progress(min(integer(budget, 1, "budget"), len(tuner.space)), label))

        def on_round(number: int, rounds: int) -> None:
            nonlocal advance
            if number == 0:
                shown.close()
                advance = shown.enter_context(cli.progress(rounds, "comparing the fastest with the default"))
            else:
                advance(1)

        return search(
            tuner, measure, budget=budget, on_outcome=lambda *_: advance(1), on_resumed=advance, on_round=on_round,
            **options,
        )  # fmt: skip


def search(
    tuner: Tuner,
    measure: Measure,
    *,
    budget: int,
    seconds: float | None = None,
    journal: Path | str | None = None,
    rounds: int = 20,
    on_outcome: Callable[[int, float | str], None] = lambda _config, _outcome: None,
    on_resumed: Callable[[int], None] = lambda _count: None,
    on_round: Callable[[int, int], None] = lambda _number, _rounds: None,
) -> Found:
    """Measure the proposals of a tuner until a budget is used up, and compare the best with the default.

    Parameters
    ----------
    tuner : Tuner
    measure : callable
        Maps the index of a configuration (see ``tuner.space.describe``) to its runtime in a fixed unit, lower is
        faster.  An exception or a returned string is recorded as the reason of a failure; any other value, such as a
        list, ends the search with a TuneError.  :class:`gbr.tune.Child` isolates crashes and hangs.
    budget : int
        Number of configurations to measure, including failures, the default and those in the journal.
    seconds : float, optional
        Start no measurement after this time, except the first.
    journal : path, optional
        File in which every measurement is recorded, and from which a search of the same space resumes.  It does not
        detect a change of what is measured: use another file, unless only the budget changes.
    rounds : int
        Repetitions of the default and of each finalist for the comparison; 0 for none.
    on_outcome : callable
        Called with every configuration and outcome.
    on_resumed : callable
        Called with the number of configurations of the journal before the first measurement.
    on_round : callable
        Called with the number of finished rounds of the comparison, from 0 on, and that of all rounds.
    """
    start = time.monotonic()
    budget = integer(budget, 1, "budget")
    default = tuner.space.default
    verdict = None
    with Journal(journal, tuner.space, getattr(measure, "command", None)) as log:
        is_obsolete = getattr(measure, "is_obsolete", lambda _outcome: False)
        history = [(config, known) for config, known in log.outcomes if not is_obsolete(known)]
        tuner.tell([config for config, _ in history], [outcome for _, outcome in history])
        resumed = len(tuner)
        on_resumed(resumed)
        while len(tuner) < budget and (seconds is None or not len(tuner) or time.monotonic() - start < seconds):
            proposed = [default] if default is not None and not len(tuner) else tuner.ask(1)
            if not proposed:
                break
            with log.measuring(proposed[0]):
                outcome = _measured(measure, proposed[0])
            log.write(proposed[0], outcome)
            history.append((proposed[0], outcome))
            tuner.tell(proposed, [outcome])
            on_outcome(proposed[0], outcome)
        if log.verdict is not None and len(tuner) == resumed and rounds <= log.verdict.rounds:
            verdict = log.verdict
        elif default is not None and rounds > 0:
            verdict = _compare(tuner, getattr(measure, "again", measure), default, rounds, log, on_round)
            if verdict is not None:
                log.conclude(verdict)
    best = tuner.best
    if best is None:
        problem = f"all {len(tuner)} configurations failed, the first with: {next(iter(tuner.failures.values()))}"
        raise TuneError(f"{tuner.space.name}: {problem}; fix the measurement, or increase the budget or the time")
    return Found(
        best, None if default is None else tuner.runtimes.get(default), verdict,
        len(tuner), resumed, len(tuner.failures), time.monotonic() - start, tuple(history),
    )  # fmt: skip


def _compare(
    tuner: Tuner, measure: Measure, default: int, rounds: int, log: Journal, on_round: Callable[[int, int], None]
) -> Verdict | None:
    """Measure the default and the finalists again, in alternation; None if the default or all finalists fail.

    The first half of the rounds selects a finalist, the second half compares it with the default, so that the selection
    does not bias the comparison.
    """
    if default not in tuner.runtimes:
        return None
    rivals = [best.config for best in tuner.leaders(_FINALISTS + 1) if best.config != default][:_FINALISTS]
    runtimes: dict[int, list[float]] = {config: [] for config in (default, *rivals)}
    rng = np.random.default_rng(0)
    half = math.ceil(rounds / 2)
    for number in range(2 * half):
        on_round(number, 2 * half)
        if number == half and len(runtimes) > 2:
            fastest = min(list(runtimes)[1:], key=lambda config: float(np.median(runtimes[config])))
            runtimes = {config: runtimes[config] for config in (default, fastest)}
        for config in rng.permutation(list(runtimes)).tolist():
            outcome = _measured(measure, config)
            if isinstance(outcome, str):
                tuner.tell([config], [outcome])
                log.write(config, outcome)
                del runtimes[config]
            else:
                runtimes[config].append(outcome)
        if default not in runtimes or len(runtimes) < 2:
            return None
    on_round(2 * half, 2 * half)
    (rival,) = set(runtimes) - {default}
    ratios = np.array(runtimes[default][half:]) / np.array(runtimes[rival][half:])
    resampled = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(resampled, axis=1), (0.025, 0.975)).tolist()
    winner = rival if low > 1 + _LEAST_GAIN else default
    return Verdict(winner, float(np.median(ratios)), low, high, 2 * half)


# --- replay ----------------------------------------------------------------------------------------------------------


class Replay:
    """Recorded runtimes of a graph file, used instead of measurements.

    Parameters
    ----------
    graph : Graph or path-like
        A graph with runtimes.  Its default is the first configuration that leaves all layouts to the compiler, or the
        first tile configuration whose runtime equals its normalizer; without such a configuration, it has no default.

    Attributes
    ----------
    space : GraphSpace
    runtime : float64 (c,)
        Runtime by configuration, in nanoseconds or relative to the normalizer.
    """

    def __init__(self, graph: Graph | str | os.PathLike[str]) -> None:
        self.space = GraphSpace(graph, default=None)
        some = self.space.graph
        if some.runtime is None:
            raise DataError(f"{some.source}: expected runtimes to replay, got none (TpuGraphs' test files have none)")
        if some.kind == "layout":
            unset = (some.configs(np.arange(some.n_configs)) < 0).all(axis=(1, 2))
        else:
            unset = np.asarray(some.runtime == some.normalizer)
        self.space.default = int(self.space.duplicate_of[unset.argmax()]) if unset.any() else None
        unit = 1 if some.normalizer is None else some.normalizer
        self.runtime: FloatArray = some.runtime / unit
        self._repeat = self.runtime if some.repeat is None else some.repeat / unit

    def __call__(self, config: int) -> float:
        """The first measurement."""
        return float(self.runtime[config])

    def again(self, config: int) -> float:
        """The second, independent measurement if the file has one, else the first."""
        return float(self._repeat[config])
