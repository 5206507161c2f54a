"""The table of the speed benches: what it reads from their results, and what it says where there are none."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import _results
from benchmarks.__main__ import BENCHES, FIGURES, Bench, Figure, rows_of


def written(folder: Path, name: str, found: dict[str, Any], **on: str) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"machine": on, **found}))


@pytest.mark.parametrize("name", sorted({figure.bench for figure in FIGURES} | {bench.name for bench in BENCHES}))
def test_benches_exist_and_their_pages_hold_the_figures(name: str) -> None:
    assert find_spec(f"benchmarks.bench_{name}") is not None
    path = Path(_results.__file__).parent / "results" / f"{name}.json"
    if path.exists():
        found = json.loads(path.read_text())
        for figure in FIGURES:
            if figure.bench == name:
                assert isinstance(figure.of(found), float | int), figure.what


def test_a_figure_is_held_against_what_is_wanted() -> None:
    most, least = Figure("a", "x", len, at_most=1.15), Figure("b", "x", len, at_least=2)
    assert [most.wanted, least.wanted, Figure("c", "x", len).wanted] == ["≤ 1.15", "≥ 2", "–"]
    assert [most.reached(value) for value in (1.15, 1.2)] == ["yes", "no"]
    assert [least.reached(value) for value in (2.0, 1.9)] == ["yes", "no"]
    assert Figure("c", "x", len).reached(1.0) == "–"


def test_the_table_tells_what_was_and_was_not_measured(tmp_path: Path) -> None:
    written(tmp_path, "features", {"rows": [{"ratio": 9.0}, {"ratio": 21.0, "all, configs/s": 5.0}]}, date="2020-02-02")
    equal = [{"library": "lightgbm", "call": "gbr", "lightgbm / this": "–"}]
    written(tmp_path, "fit", {"tables": {"At equal tau": equal}})
    (tmp_path / "repack.json").write_text(json.dumps({"machine": {}, "rows": []}))
    rows = {row[0]: row[1:] for row in rows_of(tmp_path)}
    assert len(rows) == len(FIGURES)
    geometry = rows["Tile geometry in whole-array NumPy / by kernels"]
    assert geometry == (21.0, "≥ 20", "yes", "2020-02-02", "[features](features.md)")
    assert rows["Tile caches in scalar Python / by kernels"][0] == "–"
    never = rows["LightGBM called plainly / LightGBM in gbr, to equal valid tau"]
    assert never == ("never", "≥ 2", "no", "undated", "[fit](fit.md)")
    assert rows["Features from the original file / from the repacked copy"][2] == "not measured"
    assert sum(row[2] == "not measured" for row in rows.values()) == len(FIGURES) - 3


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        ([], [("short", "")]),
        (["--all"], [("short", ""), ("hours", "")]),
        (["--quick"], [("short", "--few 1")]),
        (["--table"], []),
    ],
)
def test_what_is_run(
    arguments: list[str], ran: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    where: list[Path] = []

    def run(bench: Bench, given: str, environment: dict[str, str]) -> bool:
        seen.append((bench.name, given))
        assert bool(environment) == ("--quick" in arguments)
        return bench.name != "hours"

    monkeypatch.setattr(command, "BENCHES", (Bench("short", "--few 1"), Bench("hours", long=True)))
    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "publish", lambda *given: where.append(given[-1]))
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert command.main() == int("--all" in arguments)
    assert seen == ran
    assert (where == [tmp_path]) == ("--quick" not in arguments)


def test_a_curve_says_when_it_first_reaches_a_tau() -> None:
    from benchmarks import bench_fit

    curve = np.array([[1.0, 0.2], [2.0, 0.5], [3.0, 0.4], [4.0, 0.6]])
    assert [bench_fit.reached(curve, tau) for tau in (0.1, 0.5, 0.55, 0.6)] == [1, 2, 4, 4]
    assert bench_fit.reached(curve, 0.7) == float("inf")


def test_sampling_goes_on_where_it_stopped(tmp_path: Path) -> None:
    from benchmarks import bench_sampling

    log = tmp_path / "fits.log"
    assert bench_sampling.logged(None) == bench_sampling.logged(log) == {}
    log.write_text("4 uniform 0 0.5\n16 close 2 0.25\n")
    assert bench_sampling.logged(log) == {(4, "uniform", 0): 0.5, (16, "close", 2): 0.25}
