"""Two processes at one folder: both finish and the result is whole, or one says clearly that the other is at work.

python -m tests.soak.together [build train download ...] [--rounds 10] [--record]

The second is started at a random moment of the first.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.soak.running import Command, Starter, tell, unfinished
from tests.soak.works import WORKS, Work

#: What a process says that leaves a folder to another one.
AT_WORK: Final = ("is using this folder", "another process writes it", "another gbr.download is writing it")


def _but(name: str, *further: str) -> Callable[[], Work]:
    def made() -> Work:
        work = WORKS[name]()
        return replace(work, arguments=[*work.arguments, *further])

    return made


#: The first and the second; as a rule they are the same.
PAIRS: Final[Mapping[str, tuple[Callable[[], Work], Callable[[], Work]]]] = {
    **{name: (work, work) for name, work in WORKS.items()},
    "build for two machines": (WORKS["build"], _but("build", "--hardware", "tpu")),
    "build with other jobs": (WORKS["build layout"], _but("build layout", "--jobs", "1")),
    "repack and build": (WORKS["repack"], WORKS["build layout"]),
}


def soak(name: str, rounds: int, seed: int) -> dict[str, Any]:
    """Start two commands ``rounds`` times.

    Returns
    -------
    dict
        ``rounds``, ``both`` that came to a good end, and those of which ``one`` gave way.
    """
    first, second = (make() for make in PAIRS[name])
    choice = random.Random(seed)
    figures = {"rounds": rounds, "both": 0, "one": 0}
    with tempfile.TemporaryDirectory(prefix="gbr-two-") as top:
        scratch = [Path(top) / each for each in ("first", "second")]
        for folder in scratch:
            folder.mkdir()
        prepared = Path(top) / "prepared"
        first.prepare(prepared)
        with Starter(scratch[0]) as one, Starter(scratch[1]) as other:
            expected = [one.undisturbed(work, prepared, Path(top) / "alone")[0] for work in (first, second)]
            span = one.undisturbed(first, prepared, Path(top) / "alone")[1]  # with kernels that are compiled
            for number in range(rounds):
                folder = Path(top) / f"both-{number}"
                shutil.copytree(prepared, folder)
                with first.serve(prepared) as further:
                    commands = [one.start(first.arguments, folder, further)]
                    time.sleep(span * choice.uniform(0, 0.5))
                    commands.append(other.start(second.arguments, folder, further, scratch[1] / "stdout"))
                    good = _judged(name, commands)
                figures["both" if good == len(commands) else "one"] += 1
                if first.result(folder) not in expected:
                    raise SystemExit(f"{name}: two at once came to another result")
                if names := unfinished(folder):
                    raise SystemExit(f"{name}: unfinished files lie about: {', '.join(names)}")
                shutil.rmtree(folder)
    return figures


def _judged(name: str, commands: Sequence[Command]) -> int:
    """How many came to a good end; the others gave way in a line."""
    for command in commands:
        command.wait()
    for command in commands:
        lines = [line for line in command.told.splitlines() if ": error: " in line]
        gave_way = command.status == 1 and len(lines) == 1 and any(told in lines[0] for told in AT_WORK)
        if (command.status and not gave_way) or "Traceback" in command.told:
            raise SystemExit(f"{name}: exit {command.status}: {command.told}")
    good = sum(command.status == 0 for command in commands)
    if not good:
        raise SystemExit(f"{name}: both gave way")
    return good


def main(argv: Sequence[str] | None = None) -> int:
    """Start the pairs that are named, or all, and print what came of them."""
    parser = argparse.ArgumentParser(prog="tests.soak.together", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"some of {', '.join(PAIRS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="keep the figures in tests/soak/counts.json")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.pairs if name not in PAIRS]:
        parser.error(f"no pair {', '.join(unknown)}; there is {', '.join(PAIRS)}")
    tell("together", "pair", args.pairs or PAIRS, lambda name: soak(name, args.rounds, args.seed), keep=args.record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
