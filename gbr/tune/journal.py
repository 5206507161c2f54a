"""What was measured, written down at once: a search that is killed goes on where it was.

A journal is a text file of JSON lines.  The first names the space; one ``begin`` goes before every measurement and its
outcome follows it, on the disk before the next one starts.  A line that a kill has torn is cut off.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from gbr.data.files import parse_json
from gbr.errors import TuneError
from gbr.tune.space import Space

FORMAT: Final = 1
#: A configuration whose measurement ended the process so often is not tried again.
_PATIENCE: Final = 2


class Journal:
    """The measurements of one search, in a file that one process at a time may hold.

    Parameters
    ----------
    path : Path
        Made where it is not there.
    space : Space

    Attributes
    ----------
    outcomes : list of (int, float or str)
        What the file held when it was opened, in order: a configuration and its runtime, or why it failed.

    Raises
    ------
    TuneError
        When it cannot be written, is held by another process, is of another space, or has a line that is none of ours.
    """

    def __init__(self, path: Path, space: Space) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("a+b")
        except OSError as fault:
            raise self._unwritable(fault) from fault
        try:
            self._lock()
            self.outcomes = self._read(space)
        except BaseException:
            self._file.close()
            raise

    def begin(self, config: int) -> None:
        """Tell that a configuration is about to be measured."""
        # What is handed to the system outlives this process; only an outcome has to outlive the machine.
        self._append({"begin": config}, durable=False)

    def stopped(self, config: int) -> None:
        """Tell that its measurement was given up for no fault of its own."""
        self._append({"stopped": config}, durable=False)

    def write(self, config: int, outcome: float | str) -> None:
        """Tell what came of it: a runtime, or why it failed."""
        kind = "failed" if isinstance(outcome, str) else "runtime"
        self._append({"config": config, kind: outcome})

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        with suppress(ImportError):  # systems without fcntl do without the lock
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as fault:
                raise TuneError(
                    f"{self.path}: another process writes it; wait for it, or name another folder with --out"
                ) from fault

    def _read(self, space: Space) -> list[tuple[int, float | str]]:
        self._file.seek(0)
        held = self._file.read()
        whole = held[: held.rfind(b"\n") + 1]
        header = {"gbr.tune": FORMAT, "space": space.name, "configs": len(space), "fingerprint": space.fingerprint}
        if not whole:
            if not _line(header).startswith(held):
                raise self._foreign(1)
            self._file.truncate(0)
            self._append(header)
            return []
        lines = [self._parsed(number, line) for number, line in enumerate(whole.splitlines(), 1)]
        if "gbr.tune" not in lines[0]:
            raise self._foreign(1)
        if lines[0] != header:
            told = ", ".join(f"{key} {lines[0].get(key)!r}" for key in header)
            raise TuneError(
                f"{self.path}: of another space ({told}; this one has {space.name!r} of {len(space)} configurations, "
                f"fingerprint {space.fingerprint}); name another folder with --out, or delete it"
            )
        begun: Counter[int] = Counter()
        found: list[tuple[int, float | str]] = []
        for number, line in enumerate(lines[1:], 2):
            match line:
                case {"begin": config} if _is_of(config, space):
                    begun[config] += 1
                case {"stopped": config} if _is_of(config, space):
                    begun[config] -= 1
                case {"config": config, "runtime": runtime} if _is_of(config, space) and _is_runtime(runtime):
                    begun[config] = 0
                    found.append((config, float(runtime)))
                case {"config": config, "failed": str(reason)} if _is_of(config, space):
                    begun[config] = 0
                    found.append((config, reason))
                case _:
                    raise self._foreign(number)
        # Only a file that is ours throughout is touched.
        self._file.truncate(len(whole))
        for config, times in begun.items():
            if times >= _PATIENCE:
                reason = f"ended the process {times} times"
                self.write(config, reason)
                found.append((config, reason))
        return found

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            found = parse_json(line)
        except ValueError as fault:
            raise self._foreign(number) from fault
        if not isinstance(found, dict):
            raise self._foreign(number)
        return found

    def _foreign(self, number: int) -> TuneError:
        return TuneError(
            f"{self.path}: line {number} is not one that a search writes; mend or delete it, or name another folder"
        )

    def _append(self, line: dict[str, Any], *, durable: bool = True) -> None:
        try:
            self._file.write(_line(line))
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as fault:
            raise self._unwritable(fault) from fault

    def _unwritable(self, fault: OSError) -> TuneError:
        return TuneError(
            f"{self.path}: cannot be written ({fault.strerror or fault}); name a folder you may write to, "
            "with free space"
        )


def _is_of(config: Any, space: Space) -> bool:
    return type(config) is int and 0 <= config < len(space)


def _is_runtime(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told, allow_nan=False).encode() + b"\n"
