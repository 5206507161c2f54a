"""The page of promises: what it names is there, and its figures are those that were recorded."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="drivers run where there are signals and file locks")

from tests.soak.counts import PAGE, TABLES, Counts, filled, read, table

ROOT = Path(__file__).parents[1]
TEXT = PAGE.read_text(encoding="utf-8")
COUNTS: Counts = {
    "disk": {"build": {"full": 12, "read-only": 5, "date": "2026-01-01"}},
    "fuzz": {"npz": {"inputs": 1_000_000, "seconds": 600, "date": "2026-01-01"}},
    "kills": {"build": {"kills": 50, "unfinished": 3}, "train": {"kills": 51, "unfinished": 0}},
    "together": {"train": {"both": 7, "one": 0}},
}


def test_figures_are_those_that_were_recorded() -> None:
    assert filled(TEXT, read()) == TEXT, "run `python -m tests.soak.counts` and commit docs/trust.md"


def test_a_table_adds_up_what_is_known() -> None:
    assert table("lost", COUNTS).splitlines()[2:] == [
        "| build | 50 | 3 | 12 | 5 | – | – |",
        "| train | 51 | 0 | – | – | 7 | 0 |",
        "| **in all** | 101 | 3 | 12 | 5 | 7 | 0 |",
    ]
    assert table("let in", COUNTS).splitlines()[2:] == [
        "| npz | 1,000,000 | 600 | – |",
        "| **in all** | 1,000,000 | 600 | – |",
    ]
    assert len(table("lost", {}).splitlines()) == 2


def test_figures_that_change_reach_the_page() -> None:
    changed = filled(TEXT, COUNTS)
    assert all(table(name, COUNTS) in changed for name in TABLES)
    assert filled(changed, read()) == TEXT
    with pytest.raises(SystemExit, match=r"trust\.md: want one place for the counts 'lost', found 0"):
        filled(TEXT.replace("counts lost: begin", ""), COUNTS)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT)) - {"https://github.com/google/atheris"})
)
def test_files_that_it_names_are_there(name: str) -> None:
    assert (PAGE.parent / name).is_file()


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`((?:python -m|make) [^`]+)`", TEXT))))
def test_commands_that_it_names_are_there(line: str) -> None:
    program, *words = line.split()
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert find_spec(words[1])


def test_only_readers_that_are_fuzzed_are_counted() -> None:
    from tests.soak.fuzz import TARGETS

    assert set(read()["fuzz"]) <= set(TARGETS)
