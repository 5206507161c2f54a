"""Commands as a user starts them, and what is looked at when they have come to their end, one way or another."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.soak.counts import record
from tests.soak.works import ROOT, Work, digests

ENV: Final = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TERM": "dumb"}


class Command:
    """A command that runs, or has run.

    Attributes
    ----------
    status : int or None
        Exit status, negative for a signal; None while it runs.
    """

    def __init__(self, process: int, answers: Any, stderr: Path) -> None:
        self._process = process
        self._answers = answers
        self._stderr = stderr
        self.status: int | None = None

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has come to its end after so many seconds."""
        if self.status is None and (seconds is None or select.select([self._answers], [], [], seconds)[0]):
            self.status = int(self._answers.readline())
        return self.status is not None

    def kill(self) -> bool:
        """End it and all that it started; False where it was at its end before."""
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        self.wait()
        return self.status == -signal.SIGKILL

    def finish(self) -> None:
        """Wait for its end, which has to be a good one."""
        self.wait()
        if self.status:
            raise SystemExit(f"exit {self.status}: {self.told}")

    @property
    def told(self) -> str:
        """What it wrote on stderr."""
        return self._stderr.read_text()


class Starter:
    """Starts commands, one after the other, from a process that has made their imports."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0

    def __enter__(self) -> Self:
        self._zygote = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.soak.zygote"],
            cwd=ROOT,
            env=os.environ | ENV,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zygote.kill()
        self._zygote.communicate()

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        further: Sequence[str] = (),
        stdout: Path | None = None,
        **env: str,
    ) -> Command:
        """Start a command in a folder; its results go to the file ``stdout`` there, or where they are sent."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._count += 1
        stderr = self._scratch / f"stderr-{self._count % 4}"
        task = {
            "arguments": [*arguments, *further],
            "folder": str(folder),
            "stdout": str(stdout or folder / "stdout"),
            "stderr": str(stderr),
            "env": env,
        }
        self._zygote.stdin.write(json.dumps(task) + "\n")
        self._zygote.stdin.flush()
        return Command(int(self._zygote.stdout.readline()), self._zygote.stdout, stderr)

    def undisturbed(self, work: Work, prepared: Path, folder: Path) -> tuple[Mapping[str, Any], float]:
        """What a run leaves that nothing is in the way of, and its seconds; the folder is gone afterwards."""
        shutil.copytree(prepared, folder)
        with work.serve(prepared) as further:
            begin = time.monotonic()
            self.start(work.arguments, folder, further).finish()
            span = time.monotonic() - begin
        result = work.result(folder)
        shutil.rmtree(folder)
        return result, span


def unfinished(folder: Path) -> list[str]:
    """Names of files that were begun and not finished."""
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith((".part", ".part.json"))]


def still(name: str, work: Work, folder: Path, finished: Mapping[str, bytes]) -> dict[str, bytes]:
    """What is finished by now; all that was before has to be as it was, a journal no more than longer."""
    now: dict[str, bytes] = {}
    for path in digests(folder, *work.finished):
        held = (folder / path).read_bytes()
        now[path] = held[: held.rfind(b"\n") + 1] if path.endswith(".jsonl") else held
    for path, before in finished.items():
        if path not in now or not (now[path].startswith(before) if path.endswith(".jsonl") else now[path] == before):
            raise SystemExit(f"{name}: {path} was finished and is lost or was made again")
    return now


def same(name: str, when: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Two runs have to have come to the same."""
    keys = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
    if keys:
        raise SystemExit(f"{name}: {when} {len(keys)} of {len(expected)} results differ, first {keys[0]}")


def tell(kind: str, noun: str, names: Iterable[str], soak: Callable[[str], Mapping[str, Any]], *, keep: bool) -> None:
    """Soak what is named, one after the other; print the figures, and keep them for the page where that is wanted."""
    for name in names:
        figures = soak(name)
        print(json.dumps({noun: name, **figures}), flush=True)
        if keep:
            record(kind, name, **figures)
