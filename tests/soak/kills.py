"""Commands killed at random moments and started again: the end is that of a run nobody disturbed.

python -m tests.soak.kills [build train collect download tune predict ...] [--kills 50] [--record]

SIGKILL reaches the whole process group.  After every kill each file that a reader would open is opened; what was
finished by then is the same at the end; at the end the result is that of an undisturbed run, and nothing unfinished
lies about.  Of three kills one waits, after its moment has come, for an unfinished file to appear.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.soak.running import Command, Starter, same, still, tell, unfinished
from tests.soak.works import WORKS

#: Whoever has to start again more often than this does not get on.
PATIENCE: Final = 40
#: Seconds between looks at a process that is to be killed.
_WATCH: Final = 0.002


@dataclass(frozen=True)
class Moment:
    """When to kill: seconds after the start, and whether to wait for an unfinished file from then on."""

    seconds: float
    unfinished: bool = False


def _killed(command: Command, folder: Path, moment: Moment) -> bool:
    """Kill a command; False where it came to its end before."""
    ended = command.wait(moment.seconds)
    while not ended and moment.unfinished and not unfinished(folder):
        ended = command.wait(_WATCH)
    if not ended and command.kill():
        return True
    command.finish()
    return False


def soak(name: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill a command ``kills`` times, letting it come to its end in between, and compare what it leaves.

    Returns
    -------
    dict
        ``kills``, those of them that left an ``unfinished`` file behind, ``runs`` that came to their end, ``seconds``
        of an undisturbed run.
    """
    work = WORKS[name]()
    choice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="gbr-soak-") as top, Starter(Path(top)) as starter:
        prepared = Path(top) / "prepared"
        work.prepare(prepared)
        expected = starter.undisturbed(work, prepared, Path(top) / "alone")[0]  # compiles kernels, too
        found, span = starter.undisturbed(work, prepared, Path(top) / "timed")
        same(name, "undisturbed", expected, found)
        done = rounds = left = 0
        while done < kills:
            folder = Path(top) / f"killed-{rounds}"
            shutil.copytree(prepared, folder)
            finished: dict[str, bytes] = {}
            with work.serve(prepared) as further:
                for _ in range(PATIENCE):
                    moment = Moment(span * choice.uniform(0, 1.05), choice.random() < 1 / 3)
                    if done >= kills or not _killed(starter.start(work.arguments, folder, further), folder, moment):
                        break
                    done += 1
                    left += bool(unfinished(folder))
                    work.check(folder)
                    finished |= still(name, work, folder, finished)
                starter.start(work.arguments, folder, further).finish()
            same(name, f"after {done} kills", expected, work.result(folder))
            still(name, work, folder, finished)
            if names := unfinished(folder):
                raise SystemExit(f"{name}: unfinished files lie about: {', '.join(names)}")
            shutil.rmtree(folder)
            rounds += 1
    return {"kills": done, "unfinished": left, "runs": rounds, "seconds": round(span, 1)}


def main(argv: Sequence[str] | None = None) -> int:
    """Kill the commands that are named, or all, and print what was survived."""
    parser = argparse.ArgumentParser(prog="tests.soak.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"some of {', '.join(WORKS)} (default: all)")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/soak/counts.json")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.commands if name not in WORKS]:
        parser.error(f"no command {', '.join(unknown)}; there is {', '.join(WORKS)}")
    tell("kills", "command", args.commands or WORKS, lambda name: soak(name, args.kills, args.seed), keep=args.record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
