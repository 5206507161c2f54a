"""The journal of a search: torn, foreign, held twice; and a search that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr.errors import TuneError
from gbr.tune import Journal, ParameterSpace, Tuner, search

ROOT = Path(__file__).parents[1]
SPACE = ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})

#: A search whose measurements take a while and are counted in a file of their own.
SLOW = """
import sys, time
from pathlib import Path
from gbr.tune import ParameterSpace, Tuner, search

def measure(config):
    with Path(sys.argv[2]).open("a") as taken:
        taken.write(f"{config}\\n")
    time.sleep(0.2)
    return 1.0 + config

space = ParameterSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})
found = search(Tuner(space), measure, budget=5, journal=sys.argv[1], rounds=0)
print(found.measured, found.resumed)
"""


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcomes(path: Path) -> list[tuple[int, float | str]]:
    with Journal(path, SPACE) as journal:
        return journal.outcomes


def test_what_is_written_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    told: list[tuple[int, float | str]] = [(3, 1.5), (0, "crashed: signal SIGSEGV"), (11, 2e-7)]
    with Journal(path, SPACE) as journal:
        assert journal.outcomes == []
        for config, outcome in told:
            journal.begin(config)
            journal.write(config, outcome)
            assert lines(path)[-1]["config"] == config  # in the file at once
    assert outcomes(path) == told


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_keeps_all_whole_lines(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    with Journal(path, SPACE) as journal:
        for config in (4, 7, 1):
            journal.write(config, 1.0 + config)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = max(0, whole[:cut].count(b"\n") - 1)
    assert outcomes(path) == [(4, 5.0), (7, 8.0), (1, 2.0)][:kept]
    with Journal(path, SPACE) as journal:
        journal.write(9, 3.0)
    assert outcomes(path)[-1] == (9, 3.0)
    assert len(outcomes(path)) == kept + 1


def test_another_space_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, SPACE) as journal:
        journal.write(0, 1.0)
    other = ParameterSpace({"a": [1, 2, 3, 5], "b": [1, 2, 3]})
    with pytest.raises(TuneError, match=r"journal.jsonl: of another space .* fingerprint .*; name another folder"):
        Journal(path, other)
    assert outcomes(path) == [(0, 1.0)]


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("nonsense", 2),
        ("[1]", 2),
        ('{"config": 12, "runtime": 1.0}', 2),
        ('{"config": 1, "runtime": NaN}', 2),
        ('{"config": 1, "runtime": -1.0}', 2),
        ('{"config": 1}', 2),
        ('{"config": 1, "failed": 3}', 2),
    ],
)
def test_a_foreign_line_is_named(tmp_path: Path, line: str, number: int) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, SPACE):
        pass
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TuneError, match=f"line {number} is not one that a search writes"):
        Journal(path, SPACE)


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for text in ("buy milk\n", "buy milk", "buy milk\nand bread"):
        path.write_text(text)
        with pytest.raises(TuneError, match="line 1 is not one that a search writes"):
            Journal(path, SPACE)
        assert path.read_text() == text
    with pytest.raises(TuneError, match="cannot be written"):
        Journal(tmp_path, SPACE)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, SPACE), pytest.raises(TuneError, match="another process writes it"):
        Journal(path, SPACE)
    assert outcomes(path) == []


def test_what_ended_the_process_twice_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for _ in range(2):
        assert outcomes(path) == []
        with Journal(path, SPACE) as journal:
            journal.begin(5)
    assert outcomes(path) == [(5, "ended the process 2 times")]
    assert outcomes(path) == [(5, "ended the process 2 times")]


def test_an_interrupt_is_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"

    def interrupted(_: int) -> float:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(Tuner(SPACE), interrupted, budget=3, journal=path)
    assert outcomes(path) == []


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    taken: list[int] = []

    def measure(config: int) -> float | str:
        taken.append(config)
        return "wrong result" if config == taken[0] else 1.0 + config

    first = search(Tuner(SPACE), measure, budget=3, journal=path)
    again = search(Tuner(SPACE), measure, budget=5, journal=path)
    assert (first.measured, first.resumed, again.measured, again.resumed) == (3, 0, 5, 3)
    assert again.failed == 1
    assert len(taken) == len(set(taken)) == 5
    assert again.best.config == min(taken[1:])
    done = search(Tuner(SPACE), measure, budget=5, journal=path)
    assert (done.measured, done.resumed, len(taken)) == (5, 5, 5)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_search_loses_what_was_under_way_and_repeats_nothing(tmp_path: Path) -> None:
    journal, taken = tmp_path / "journal.jsonl", tmp_path / "taken"
    command = [sys.executable, "-c", SLOW, str(journal), str(taken)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_text().count('"runtime"') < 2:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    before = [line for line in lines(journal) if "runtime" in line]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["5", str(len(before))], done.stderr
    after = [line for line in lines(journal) if "runtime" in line]
    assert after[: len(before)] == before
    assert len({line["config"] for line in after}) == len(after) == 5
    counts = Counter(taken.read_text().split())
    assert sum(counts.values()) <= 6  # one at most was under way
    assert all(counts[str(line["config"])] == 1 for line in before)
