"""Measuring in a process of its own: what crashes or hangs takes that process along and nothing else."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Final, Self

from gbr.errors import GbrError, TuneError

Measure = Callable[[int], float]

#: Seconds that a child may take to start: it imports, compiles and works out the result to compare with.
_START: Final = 300.0
#: Seconds after its time-out at which a child ends itself, in case nobody is left to end it.
_GRACE: Final = 5.0


class Child:
    """Measures configurations in a child process, one at a time; a new child is started after each that was lost.

    Parameters
    ----------
    make : callable
        Without arguments, run in the child: returns ``measure(config) -> runtime``, which raises where a configuration
        fails or computes something else.  It must be picklable: a function or an instance of a class of some module.
    timeout : float
        Seconds that one measurement may take, with all that is compiled for it.
    """

    def __init__(self, make: Callable[[], Measure], timeout: float) -> None:
        self._make = make
        self._timeout = timeout
        self._context = multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(self, config: int) -> float | str:
        """Runtime of a configuration, or why it has none.

        Raises
        ------
        TuneError
            When the child cannot be started.
        """
        pipe = self._pipe or self._started()
        try:
            pipe.send(config)
            if not pipe.poll(self._timeout):
                self.close()
                return f"timed out after {self._timeout:g} s"
            outcome = pipe.recv()
        except (EOFError, OSError):
            return f"crashed: {self._ended()}"
        return outcome if isinstance(outcome, str) else float(outcome)

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> Connection:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._make, self._timeout), daemon=True)
        self._process.start()
        theirs.close()
        try:
            told = self._pipe.recv() if self._pipe.poll(_START) else f"not ready after {_START:g} s"
        except (EOFError, OSError):
            told = f"{self._ended()}; a script that starts a search needs `if __name__ == '__main__':` around it"
        if told is not None:
            self.close()
            raise TuneError(f"the process that measures cannot start: {told}")
        return self._pipe

    def _ended(self) -> str:
        """How the child ended."""
        process = self._process
        assert process is not None
        process.join(_GRACE)
        code = process.exitcode
        self.close()
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"signal {signal.Signals(-code).name}"
        return f"exit status {code}"


def _serve(pipe: Connection, make: Callable[[], Measure], timeout: float) -> None:
    # An interrupt from the keyboard is for the parent, which ends this process; what is printed is no result.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    nowhere = open(os.devnull, "w")  # noqa: SIM115  (open as long as the process lives)
    try:
        measure = make()
    except Exception as fault:  # whatever a user's code raises
        pipe.send(told_of(fault))
        return
    pipe.send(None)
    while True:
        try:
            config = pipe.recv()
        except (EOFError, OSError):
            return
        # Ends the process from a thread that needs no interpreter lock, should the parent be gone or the run hang.
        faulthandler.dump_traceback_later(timeout + _GRACE, exit=True, file=nowhere)
        try:
            outcome: float | str = float(measure(config))
        except Exception as fault:
            outcome = told_of(fault)
        faulthandler.cancel_dump_traceback_later()
        with suppress(OSError):
            pipe.send(outcome)


def told_of(fault: BaseException) -> str:
    """One line on what was raised; errors of gbr speak for themselves."""
    text = " ".join(str(fault).split())
    return text if isinstance(fault, GbrError) else f"{type(fault).__name__}: {text}"
