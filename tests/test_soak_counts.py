"""The file of what was tried: figures stay that are not measured again."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="drivers run where there are signals and file locks")

from tests.soak.counts import read, record


def test_the_last_run_of_a_name_stands_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    assert read(path) == {}
    record("kills", "build", path=path, kills=3)
    record("kills", "build", path=path, kills=50, runs=9)
    record("fuzz", "npz", path=path, inputs=279051)
    counts = read(path)
    assert list(counts) == ["fuzz", "kills"]
    assert counts["kills"]["build"].pop("date") == counts["fuzz"]["npz"].pop("date")
    assert counts == {"fuzz": {"npz": {"inputs": 279051}}, "kills": {"build": {"kills": 50, "runs": 9}}}


def test_drivers_that_end_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: record("disk", f"command-{number}", path=path, faults=number), range(40)))
    assert {name: found["faults"] for name, found in read(path)["disk"].items()} == {
        f"command-{number}": number for number in range(40)
    }


def test_what_is_committed_can_be_cited() -> None:
    assert set(read()) <= {"disk", "fuzz", "kills", "together"}
    for kind, names in read().items():
        for name, figures in names.items():
            assert re.fullmatch(r"[a-z][a-z -]*", name), (kind, name)
            assert date.fromisoformat(figures["date"]).year >= 2026
            for value in figures.values():
                assert isinstance(value, int | float) or "/" not in value, (kind, name, value)
