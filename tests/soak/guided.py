"""One run of a fuzzer, in a process of its own: atheris follows what is imported after it, and never returns.

python -m tests.soak.guided TARGET SECONDS CORPUS: what ``tests.soak.fuzz`` starts.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Final

import atheris

#: Kernels are compiled from the very code that atheris would change; those of `features` are left alone anyway.
_COMPILED: Final = "gbr.models.losses"
#: Megabytes that one input may make the process hold, and seconds that it may take.
_RSS_MB: Final = 3000
_TIMEOUT: Final = 20


def main(name: str, seconds: str, corpus: Path) -> None:
    """Fuzz one reader until something is found or the time is over."""
    with atheris.instrument_imports(include=["gbr"], exclude=[_COMPILED]):
        from tests.soak.fuzz import TARGETS, damaged
        from tests.soak.targets import scratch

        target = TARGETS[name]
        corpus.mkdir(parents=True, exist_ok=True)
        folder = scratch()
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
            target.read(seed, folder)  # imports and compiles what the clock shall not count
        warnings.simplefilter("error", RuntimeWarning)

        def one(data: bytes) -> None:
            target.read(data, folder)

        def mutate(data: bytes, limit: int, seed: int) -> bytes:
            return damaged(target, data, seed)[:limit]

        options = [f"-max_total_time={seconds}", f"-rss_limit_mb={_RSS_MB}", f"-timeout={_TIMEOUT}", "-max_len=131072"]
        options += [f"-artifact_prefix={corpus}/found-", "-print_final_stats=1", "-verbosity=1"]
        atheris.Setup(["fuzz", str(corpus), *options], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
