"""What fuzzing puts to the test: whole inputs of every format, what damages them, and what reads them.

A reader succeeds, or raises an error of gbr's own of one line; anything else leaves it as it was raised.  Also used by
the suite (tests/test_damage_files.py), on few inputs.
"""

from __future__ import annotations

import atexit
import io
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from gbr.errors import GbrError

#: In every error message of a command.
_SAYS = ": error: "
_LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Parameters
    ----------
    seeds : callable
        Gives whole inputs.
    mutate : callable
        Damages one.  What it cannot take apart any more it may raise over.
    read : callable
        Given an input and a folder of its own.
    """

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[bytes, Path], None]


def scratch() -> Path:
    """A folder that goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="gbr-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def refused(read: Callable[[], object], error: type[GbrError] = GbrError) -> str | None:
    """Why gbr refuses an input: one line; None where it takes it."""
    try:
        read()
    except error as fault:
        told = str(fault)
        if not told or "\n" in told or len(told) > _LONGEST_MESSAGE:
            raise AssertionError(f"no one line: {told!r}") from fault
        return told
    return None


def commanded(main: Callable[[Sequence[str]], int], *arguments: str | Path) -> tuple[int, str]:
    """Run a command in this process; its exit status, and what it tells on stdout.

    Raises
    ------
    AssertionError
        When the status is none of gbr's, or an error is not told in one line that a terminal shows as it is.
    """
    out, told = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(told):
        status = main([str(argument) for argument in arguments])
    lines = told.getvalue().split("\n")[:-1]
    if status not in (0, 1, 2) or (status and (not lines or _SAYS not in lines[-1])):
        raise AssertionError(f"exit status {status}: {lines}")
    if not all(line.isprintable() for line in lines):
        raise AssertionError(f"a terminal would obey: {lines}")
    return status, out.getvalue()
