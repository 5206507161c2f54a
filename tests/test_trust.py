"""The files and commands that docs/trust.md names exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/trust.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\((\.\./[^)#]+)\)", TEXT))))
def test_files_exist(name: str) -> None:
    assert (ROOT / "docs" / name).is_file()


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`((?:python -m|make) [^`]+)`", TEXT))))
def test_commands_exist(line: str) -> None:
    program, *words = line.split()
    if program == "make":
        assert re.search(rf"^{words[0]}\b.*:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert find_spec(words[1])
