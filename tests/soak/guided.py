"""One run of a fuzzer in a separate process: atheris instruments later imports and never returns.

python -m tests.soak.guided TARGET SECONDS CORPUS, as started by ``tests.soak.fuzz``.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

#: Limits on one input: memory of the process, and seconds.
_LIMITS = ["-rss_limit_mb=3000", "-timeout=20", "-max_len=131072"]


def main(name: str, seconds: str, corpus: Path) -> None:
    """Fuzz one reader until an input fails or the time is over."""
    # Compiled kernels must not be instrumented.
    with atheris.instrument_imports(include=["gbr"], exclude=["gbr.models.losses"]):
        from tests.soak.fuzz import TARGETS, damaged

        target = TARGETS[name]
        corpus.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="gbr-fuzz-"))
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
            target.read(seed, folder)  # imports and compiles before the clock starts
        warnings.simplefilter("error", RuntimeWarning)

        def mutate(data: bytes, limit: int, seed: int) -> bytes:
            return damaged(target, data, seed)[:limit]

        options = [f"-max_total_time={seconds}", f"-artifact_prefix={corpus}/found-", "-print_final_stats=1"]
        atheris.Setup(
            ["fuzz", str(corpus), *options, *_LIMITS], lambda data: target.read(data, folder), custom_mutator=mutate
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
