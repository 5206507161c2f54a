"""A process that has imported what commands import, and forks one for each line it is sent.

Importing takes longer than most of what is killed; a command that begins with its work is hit where it writes.  It is
sent ``{"arguments": [...], "folder": ..., "stdout": ..., "stderr": ..., "env": {...}}`` and answers with the process
number, and then with the exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import tempfile
from typing import Any, Final

from tests.soak.works import ROOT

#: Imported, never used here: a thread that is started before a fork is not there after it.
_MODULES: Final = (
    "gbr.data.build",
    "gbr.ranker",
    "gbr.data.repack",
    "gbr.report.tables",
    "gbr.tune.tuner",
    "gbr.models.lightgbm",
    "gbr.models.xgboost",
    "gbr.report.report",
    "gbr.collect.tiles",
    "gbr.cluster",
    "gbr.download",
    "gbr.submit",
    "features.layout.extractor",
    "features.tile.extractor",
    "jax",
    "jinja2",
    "polars",
    "pyarrow.parquet",
    "rich.table",
    "scipy.stats",
    "sklearn.utils.validation",
)


def main() -> None:
    """Serve until the end of the input."""
    for name in _MODULES:
        importlib.import_module(name)
    _load_kernels()
    for line in sys.stdin:
        task = json.loads(line)
        process = os.fork()
        if process == 0:
            _become(task)
        os.setpgid(process, process)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _load_kernels() -> None:
    """Load machine code, which takes as long as the imports; features of a tile graph are made by one thread."""
    from gbr.data.build import extract
    from gbr.data.graph import read_graph

    extract(read_graph(sorted((ROOT / "data/npz/tile/cpu/test").glob("*.npz"))[0]))


def _become(task: dict[str, Any]) -> None:
    """Run a command as ``python -m`` does, in this process, and end."""
    os.setpgid(0, 0)
    os.chdir(task["folder"])
    for place, name in enumerate((os.devnull, task["stdout"], task["stderr"])):
        os.dup2(os.open(name, os.O_RDONLY if place == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), place)
    os.environ.update(task["env"])
    tempfile.tempdir = None
    module, *sys.argv[1:] = task["arguments"]
    # A package is started by its __main__.
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
