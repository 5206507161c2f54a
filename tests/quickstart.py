"""Run the quickstart of the README with an installed gbr, outside of the repository: `make wheel`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gbr

ROOT = Path(__file__).parents[1]
COLLECTION = "npz/tile/cpu"
#: Graphs of each split: few, to be quick.
GRAPHS = {"train": 12, "valid": 4, "test": 2}


def main() -> None:
    assert ROOT not in Path(gbr.__file__).resolve().parents or ".venv" in gbr.__file__, gbr.__file__
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count in GRAPHS.items():
            (folder / "data" / COLLECTION / split).mkdir(parents=True)
            paths = sorted((ROOT / "data" / COLLECTION / split).glob("*.npz"))
            for path in paths[:: len(paths) // count][:count]:
                shutil.copy(path, folder / "data" / COLLECTION / split)
        block = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
        command = Path(sys.executable).with_name("gbr")
        for line in (
            [sys.executable, "-c", block],
            [command, "--version"],
            [command, "train", "--subset", "tile:cpu", "--out", "runs/tile", "--report", "tile.html"],
            [command, "evaluate", "--model", "runs/tile", "--subset", "tile:cpu", "--split", "test"],
            [command, "predict", "--model", "runs/tile", f"data/{COLLECTION}/test", "--top", "5"],
            [command, "tune", "--help"],
        ):
            subprocess.run(line, check=True, cwd=folder)
        assert {path.name for path in (folder / "runs/tile").iterdir()} >= {"manifest.json", "metrics.json", "MODEL.md"}
        assert "<svg" in (folder / "tile.html").read_text()


if __name__ == "__main__":
    main()
