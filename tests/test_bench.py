"""The speed benchmarks: each runs on tiny input, and their table reads the stored results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import bench_fit
from benchmarks.__main__ import FIGURES, Bench, Figure, summary
from benchmarks.common import FOLDER, FOLDER_VARIABLE, Section

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "arguments", "page"),
    [
        ("features", "--configs 20 --every 200 --nodes 20", "layout_features"),
        ("layout_build", "--configs 300 --nodes 30 --rounds 1", "layout_build"),
    ],
)
def test_benchmarks_run_on_tiny_input(name: str, arguments: str, page: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", f"benchmarks.bench_{name}", *arguments.split()]
    subprocess.run(line, check=True, cwd=ROOT, env=os.environ | {FOLDER_VARIABLE: str(tmp_path)}, capture_output=True)
    found = json.loads((tmp_path / f"{page}.json").read_text())
    for figure in FIGURES:
        if figure.page == page:
            assert figure.value(found) > 0, figure.title


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.title)
def test_stored_results_contain_every_figure(figure: Figure) -> None:
    assert isinstance(figure.value(json.loads((FOLDER / f"{figure.page}.json").read_text())), float | int)


def test_targets() -> None:
    most, least = Figure("a", "x", len, "≤ 1.15"), Figure("b", "x", len, "≥ 2")
    assert [most.reached(1.15), most.reached(1.2), least.reached(2.0), least.reached(1.9)] == ["yes", "no"] * 2


def test_summary_shows_measured_and_missing_figures(tmp_path: Path) -> None:
    found = {"machine": {"date": "2020-02-02"}, "rows": [{"ratio": 9.0}, {"ratio": 21.0}]}
    (tmp_path / "features.json").write_text(json.dumps(found))
    never = {"tables": {"At equal tau": [{"library": "lightgbm", "call": "gbr", "lightgbm / this": "–"}]}}
    (tmp_path / "fit.json").write_text(json.dumps({"machine": {}} | never))
    rows = {row[0]: row[1:] for row in map(list, map(dict.values, summary(tmp_path)))}
    geometry = rows["Tile geometry in whole-array NumPy / by kernels"]
    assert geometry == [21.0, "≥ 20", "yes", "2020-02-02", "[features](features.md)"]
    fit = rows["Plain LightGBM / LightGBM in gbr, time to equal valid tau"]
    assert fit == ["never", "≥ 4", "no", "undated", "[fit](fit.md)"]
    assert sum(row[2] == "not measured" for row in rows.values()) == len(FIGURES) - 2


@pytest.mark.parametrize(
    ("argument", "ran"),
    [("", ["short"]), ("--all", ["short", "hours"]), ("--quick", ["short --few 1"]), ("--table", [])],
)
def test_which_benchmarks_run(argument: str, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(bench: Bench, arguments: str, environment: dict[str, str]) -> bool:
        seen.append(f"{bench.name} {arguments}".strip())
        assert bool(environment) == (argument == "--quick")
        return bench.name != "hours"

    monkeypatch.setattr(command, "BENCHES", (Bench("short", "--few 1"), Bench("hours", slow=True)))
    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *argument.split()])
    assert command.main() == int(argument == "--all")
    assert seen == ran
    assert (tmp_path / "bench.md").exists() == (argument != "--quick")


def test_tables_align_rounded_numbers_right() -> None:
    section = Section("Title", "", [{"name": "a", "value": ""}, {"name": "b", "value": 0.12345}])
    assert section.lines == ["| name | value |", "|---|---:|", "| a |  |", "| b | 0.123 |"]


def test_time_until_a_tau_is_reached() -> None:
    curve = np.array([[1.0, 0.2], [2.0, 0.5], [3.0, 0.4], [4.0, 0.6]])
    assert [bench_fit.reached(curve, tau) for tau in (0.1, 0.5, 0.55, 0.6)] == [1, 2, 4, 4]
    assert bench_fit.reached(curve, 0.7) == float("inf")
