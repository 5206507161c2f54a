"""Commands on a disk that is full or read-only: one clear line, nothing lost, the same result once there is room.

python -m tests.soak.disk [build train collect download tune predict ...] [--full 12] [--record]

Linux: a disk is a tmpfs, mounted where nobody else sees it (``unshare``).  Its room is a random share of what the
command needs, or it is read-only from the start, from a random moment on, or after the work was done.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.soak.running import Command, Starter, same, still, tell, unfinished
from tests.soak.works import WORKS, Work

#: Bytes of a disk with room for everything.
AMPLE: Final = 1 << 29
#: Times that a command finds its disk read-only all of a sudden.
TURNS: Final = 4
_WATCH: Final = 0.005
_PAGE: Final = 4096


@dataclass
class Disk:
    """A small file system of its own."""

    place: Path

    def __enter__(self) -> Disk:
        _mount("-t", "tmpfs", "-o", f"size={AMPLE}", "none", str(self.place))
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.place], check=True)

    def resize(self, size: int) -> None:
        """Make it so large, bytes; a page at least, for none would be no limit."""
        _mount("-o", f"remount,rw,size={max(1, size // _PAGE) * _PAGE}", str(self.place))

    def close(self) -> bool:
        """Make it read-only; False while a file is open for writing."""
        return _mount("-o", "remount,ro", str(self.place), check=False) == 0

    @property
    def used(self) -> int:
        """Bytes."""
        told = os.statvfs(self.place)
        return (told.f_blocks - told.f_bfree) * told.f_frsize


def _mount(*arguments: str, check: bool = True) -> int:
    done = subprocess.run(["mount", *arguments], check=check, stderr=None if check else subprocess.DEVNULL)
    return done.returncode


@dataclass
class Trial:
    """One command on one disk after the other."""

    name: str
    work: Work
    starter: Starter
    prepared: Path
    #: Where results go while the disk takes nothing.
    results: Path
    choice: random.Random
    expected: Any = None
    begin: int = 0
    need: int = 0
    seconds: float = 0.0
    told: set[str] = field(default_factory=set)
    figures: dict[str, int] = field(default_factory=lambda: {"full": 0, "read-only": 0, "fitted": 0})

    def undisturbed(self, disk: Disk) -> None:
        """Run with room for everything; notes how much and how long it takes."""
        folder = self._folder(disk)
        self.begin = disk.used
        with self.work.serve(self.prepared) as further:
            begin = time.monotonic()
            command = self._start(folder, further)
            while not command.wait(_WATCH):
                self.need = max(self.need, disk.used - self.begin)
            command.finish()
            self.seconds = time.monotonic() - begin
        self.expected = self.work.result(folder)

    def full(self, disk: Disk) -> None:
        """Run with some of the room, then with all."""
        folder = self._folder(disk)
        room = int(self.need * self.choice.uniform(0, 0.95))
        disk.resize(self.begin + room)
        with self.work.serve(self.prepared) as further:
            failed = self._judge(self._start(folder, further), folder, f"{room} of {self.need} bytes free")
            self.figures["full" if failed else "fitted"] += 1
            self._recover(disk, folder, further)

    def read_only(self, disk: Disk, *, suddenly: bool) -> None:
        """Run while the disk takes nothing, from the start or from a random moment on; then with all of it."""
        folder = self._folder(disk)
        with self.work.serve(self.prepared) as further:
            if not suddenly:
                disk.close()
            command = self._start(folder, further, self.results)
            if suddenly:
                self._close_suddenly(disk, command)
            failed = self._judge(command, folder, "read-only")
            self.figures["read-only" if failed else "fitted"] += 1
            self._recover(disk, folder, further)
            # Everything is there: what writes nothing succeeds, and nothing changes.
            disk.close()
            self._judge(self._start(folder, further, self.results), folder, "read-only and done")
            same(self.name, "looked at again", self.expected, self.work.result(folder))
            disk.resize(AMPLE)

    def _close_suddenly(self, disk: Disk, command: Command) -> None:
        """At a random moment, or the next at which nothing is being written."""
        ended = command.wait(self.seconds * self.choice.uniform(0, 1))
        while not ended and not disk.close():
            ended = command.wait(_WATCH)

    def _folder(self, disk: Disk) -> Path:
        folder = disk.place / "work"
        shutil.copytree(self.prepared, folder)
        (folder / "tmp").mkdir()
        return folder

    def _start(self, folder: Path, further: Sequence[str], stdout: Path | None = None) -> Command:
        return self.starter.start(self.work.arguments, folder, further, stdout, TMPDIR=str(folder / "tmp"))

    def _judge(self, command: Command, folder: Path, when: str) -> bool:
        """Whether it failed; it has to say so in one line, and leave nothing torn or unfinished."""
        command.wait()
        status, told = command.status, command.told
        lines = [line for line in told.splitlines() if "error" in line.lower() or "Traceback" in line]
        wrong = status not in (0, 1, 2) or "Traceback" in told or "Exception ignored" in told
        if wrong or len(lines) != bool(status) or not all(": error: " in line for line in lines):
            raise SystemExit(f"{self.name}, {when}: exit {status}:\n{told}")
        self.told |= {re.sub(r"\(\d+ |\d+", "N", line.replace(str(folder), "")) for line in lines}
        self.work.check(folder)
        kept = [name for name in unfinished(folder) if not name.endswith((".tar.part", ".part.json", ".json.part"))]
        if kept and when != "read-only":
            raise SystemExit(f"{self.name}, {when}: unfinished files lie about: {', '.join(kept)}")
        return status != 0

    def _recover(self, disk: Disk, folder: Path, further: Sequence[str]) -> None:
        disk.resize(AMPLE)
        finished = still(self.name, self.work, folder, {})
        self._start(folder, further).finish()
        same(self.name, "with room again", self.expected, self.work.result(folder))
        still(self.name, self.work, folder, finished)
        if names := unfinished(folder):
            raise SystemExit(f"{self.name}: unfinished files lie about: {', '.join(names)}")


def soak(name: str, full: int, seed: int, *, verbose: bool = False) -> dict[str, Any]:
    """Run a command on ``full`` disks with too little room, and on read-only ones.

    Returns
    -------
    dict
        Runs that failed on a ``full`` and on a ``read-only`` disk, and that ``fitted``.
    """
    with tempfile.TemporaryDirectory(prefix="gbr-disk-") as top, Starter(Path(top)) as starter:
        prepared, place = Path(top) / "prepared", Path(top) / "disk"
        place.mkdir()
        work = WORKS[name]()
        work.prepare(prepared)
        trial = Trial(name, work, starter, prepared, Path(top) / "results", random.Random(seed))
        faults: list[Callable[[Disk], None]] = [trial.undisturbed, trial.undisturbed]
        faults += [trial.full] * full
        faults += [partial(trial.read_only, suddenly=False)] + [partial(trial.read_only, suddenly=True)] * TURNS
        for fault in faults:
            with Disk(place) as disk:
                fault(disk)
        if verbose:
            print("\n".join(sorted(trial.told)), file=sys.stderr)
    return dict(trial.figures)


def main(argv: Sequence[str] | None = None) -> int:
    """Try the commands that are named, or all, and print what was survived."""
    parser = argparse.ArgumentParser(prog="tests.soak.disk", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"some of {', '.join(WORKS)} (default: all)")
    parser.add_argument("--full", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="tell the lines that commands ended with")
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/soak/counts.json")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if unknown := [name for name in args.commands if name not in WORKS]:
        parser.error(f"no command {', '.join(unknown)}; there is {', '.join(WORKS)}")
    if not args.inside:
        given = list(sys.argv[1:] if argv is None else argv)
        space = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
        return subprocess.run(
            [*space, sys.executable, "-m", "tests.soak.disk", *given, "--inside"], check=False
        ).returncode
    tell(
        "disk",
        "command",
        args.commands or WORKS,
        lambda name: soak(name, args.full, args.seed, verbose=args.verbose),
        keep=args.record,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
