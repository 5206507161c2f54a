"""Run the README and the quickstart with an installed gbr, outside of the repository: `make wheel`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gbr

ROOT = Path(__file__).parents[1]
COLLECTION = "data/npz/tile/cpu"
#: Difference between a figure of the page and one of another machine.
TOLERANCE = 0.05


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of the blocks of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def words(text: str) -> str:
    """Text with ``#`` for every number, and single spaces."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "#", text).split())


def check(shown: str, printed: str) -> None:
    """Fail unless the lines that a page shows are in the output, with figures that are close."""
    lines = shown.splitlines()
    starts = [at for at, line in enumerate(printed.splitlines()) if words(line) == words(lines[0])]
    assert starts, f"expected {lines[0]!r} in\n{printed}"
    found = printed.splitlines()[starts[-1] :][: len(lines)]
    assert words("\n".join(found)) == words(shown), f"expected\n{shown}\ngot\n{printed}"
    figures = [list(map(float, re.findall(r"\b\d\.\d{3}\b", "\n".join(text)))) for text in (lines, found)]
    assert all(abs(a - b) < TOLERANCE for a, b in zip(*figures, strict=True)), f"expected\n{shown}\ngot\n{printed}"


def main() -> None:
    assert Path(gbr.__file__).is_relative_to(sys.prefix), f"expected an installed gbr, got {gbr.__file__}"
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / COLLECTION, folder / COLLECTION)

        def run(*command: str) -> str:
            return subprocess.run(command, check=True, cwd=folder, env=environment, stdout=-1, text=True).stdout

        run("python", "-c", next(code for language, code in blocks("README.md") if language == "python"))
        assert run("gbr", "--version").strip() == f"gbr {gbr.__version__}"
        printed = ""
        for language, code in blocks("docs/quickstart.md"):
            if language == "text":
                check(code, printed)
            else:
                printed = run(*(("sh", "-c") if language == "bash" else ("python", "-c")), code)
        run("gbr", "evaluate", "--model", "runs/tile", "--subset", "tile:cpu", "--split", "test")
        assert {path.name for path in (folder / "runs/tile").iterdir()} >= {"manifest.json", "metrics.json", "MODEL.md"}
        assert "<svg" in (folder / "runs/tile.html").read_text()


if __name__ == "__main__":
    main()
