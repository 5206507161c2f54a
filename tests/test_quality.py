"""The quality benchmark: folds, baselines, resuming, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.quality import __main__ as command
from benchmarks.quality import page as figures
from benchmarks.quality import run as runner
from benchmarks.quality.contenders import ALL_COLUMNS, COLUMN, PHYSICS, RAW, best_column, column_taus, fits
from benchmarks.quality.folds import joined, load, protocols
from gbr import write_graph
from gbr.data.collection import resolve
from gbr.data.files import atomic_write
from gbr.data.groups import QueryGroups
from gbr.errors import UsageError
from gbr.evaluation.metrics import count_pairs, slowdown_at_k
from tests.made import SHAPES, matmul_arrays
from tests.ranking import groups_of

FAMILIES = {"train": "abcd", "valid": "ef", "test": "gh"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two graphs of each family."""
    root = tmp_path_factory.mktemp("quality")
    names = [
        (split, f"matmul_{letter}_{copy}") for split, every in FAMILIES.items() for letter in every for copy in "01"
    ]
    for number, (split, name) in enumerate(names):
        m, n, k = SHAPES[number % len(SHAPES)]
        path = root / "npz/tile/cpu" / split / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_graph(path, matmul_arrays((m, n, k + number), 20, seed=number))
    return root


def made_groups(sizes: list[int], columns: int, seed: int) -> QueryGroups:
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (sum(sizes), columns)).astype(np.float32)
    targets = [rng.integers(1, 9, size).tolist() for size in sizes]
    return groups_of(*targets, X=X, columns=tuple(f"block.c{number}" for number in range(columns)))


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.integers(1, 5), min_size=3, max_size=12),
    n_folds=st.sampled_from([0, 2, 3, 10]),
    kind=st.sampled_from(["tile", "layout"]),
)
def test_folds_are_disjoint(counts: list[int], n_folds: int, kind: str) -> None:
    families = np.repeat([f"f{number}" for number in range(len(counts))], counts)
    splits = np.resize(["train", "valid", "test"], len(families))
    found = {protocol.name: protocol for protocol in protocols(kind, families, splits, n_folds)}
    for protocol in found.values():
        times = np.zeros(len(families), int)
        for fold in protocol.folds:
            parts = [fold.learn, fold.held] + ([fold.stop] if fold.stop is not None else [])
            np.testing.assert_array_equal(np.sum(parts, axis=0), 1)
            assert all(part.any() for part in parts)
            times += fold.held
            if protocol.name == "family":
                sides = [set(families[part]) for part in parts]
                assert sum(map(len, sides)) == len(set().union(*sides)) == len(counts)
            if protocol.name == "graph":
                assert set(families[fold.held]) <= set(families[fold.known])
                assert len(set(families[fold.held])) == fold.held.sum()
            if protocol.name != "official":
                single = protocol.name == "family" and len(set(families[fold.known])) == 1
                assert (fold.stop is None) == single
        assert times.max() == 1
        np.testing.assert_array_equal(times > 0, protocol.held)
    assert found["family"].held.all()
    assert len(found["family"].folds) == (min(n_folds, len(counts)) if n_folds else len(counts))
    if kind == "layout":
        assert len(found["program"].folds) == len(families)
    elif max(counts) > 1:
        assert len(found["graph"].folds) == min(n_folds or 9, max(counts))
        assert not found["graph"].held[np.repeat(np.array(counts) == 1, counts)].any()


def test_best_column_equals_naive_loop() -> None:
    pool = made_groups([12, 2, 30, 7], 6, seed=1)
    pool.X[:, 2] = 1
    pool.X[3, 4] = np.nan
    pool.X[:, 5] = -pool.target + np.random.default_rng(2).integers(0, 6, len(pool.X))
    known = np.array([True, False, True, True])
    naive = np.zeros((4, 6))
    for graph, column in np.ndindex(4, 6):
        rows = pool.rows(graph)
        naive[graph, column] = count_pairs(np.nan_to_num(pool.X[rows, column]), pool.target[rows]).untied_tau
    taus = column_taus(pool)
    np.testing.assert_allclose(taus, naive, atol=1e-6)
    means = naive[known].mean(axis=0)
    both = [(sign * means[column], column, sign) for column in range(6) for sign in (1.0, -1.0)]
    assert best_column(taus, known) == max(both)[1:] == (5, -1.0)


def test_bootstrap_draws_families_and_pairs_graphs() -> None:
    rng = np.random.default_rng(3)
    families = np.repeat([f"f{number}" for number in range(30)], rng.integers(1, 8, 30))
    base, shift = rng.normal(size=len(families)), rng.normal(0.2, 0.5, 30)
    values = base + shift[np.unique(families, return_inverse=True)[1]]
    values[4] = np.nan
    mean, interval = figures.difference(values, base, families)
    kept = np.isfinite(values)
    assert mean == pytest.approx(np.mean((values - base)[kept]))
    means = []
    for _ in range(2000):
        drawn = [np.flatnonzero((families == family) & kept) for family in rng.choice(np.unique(families), 30)]
        means.append(float((values - base)[np.concatenate(drawn)].mean()))
    assert interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.03)
    assert figures.difference(values[:1], base[:1], families[:1])[1] is None


def test_figures_equal_the_metrics() -> None:
    pool = made_groups([9, 14, 5], 1, seed=4)
    scores = np.random.default_rng(5).normal(size=28)
    scores[20] = np.nan
    found = figures.per_graph(scores, pool, np.array([True, True, False]))
    assert list(found) == ["tau", "OPA", "slowdown@1", "slowdown@5", "slowdown@10"]
    assert [np.isfinite(values).tolist() for values in found.values()] == [[True, False, False]] * 5
    target = pool.target[:9]
    assert found["tau"][0] == count_pairs(scores[:9], target).untied_tau
    assert found["slowdown@5"][0] == slowdown_at_k(scores[:9], target, 5)


def test_groups_of_splits_are_joined_in_order() -> None:
    first, second = made_groups([3, 4], 2, seed=6), made_groups([5], 2, seed=7)
    second = QueryGroups(**{**vars(second), "repeat": second.runtime})
    both = joined([first, second])
    assert both.sizes.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(both.target, np.concatenate([first.target, second.target]))
    assert both.repeat is not None
    np.testing.assert_array_equal(both.repeat, np.concatenate([np.zeros(7), second.target]))
    assert both.normalizer is None


def test_every_contender_has_one_fit(root: Path) -> None:
    pool = load(resolve("tile:cpu", root), root, root / "store", 1)
    names = [name for fit in fits(pool) for name in fit.names]
    assert len(names) == len(set(names))
    models = {"ensemble mixed", "ensemble mixed-top", "lightgbm speed", "xgboost l2"}
    assert models | {COLUMN, RAW, PHYSICS, ALL_COLUMNS} <= set(names)
    assert set(pool.families) == {f"matmul_{letter}" for letters in FAMILIES.values() for letter in letters}


def test_an_interrupted_run_resumes(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    line = ["--subset", "tile:cpu", "--data", str(root), "--store", str(root / "store"), "--runs", str(runs)]
    line += ["--quick", "--jobs", "1"]
    monkeypatch.setattr(command, "QUICK_TREES", 5)
    left = [9]

    def interrupted(path: Path) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return atomic_write(path)

    monkeypatch.setattr(runner, "atomic_write", interrupted)
    assert command.main(line) == 130
    written = {path: path.stat().st_mtime_ns for path in runs.rglob("*.npz")}
    assert len(written) == 9
    assert not list(runs.glob("quick/*"))

    monkeypatch.setattr(runner, "atomic_write", atomic_write)
    assert command.main([*line, "--protocol", "official", "--protocol", "graph"]) == 0
    page = (runs / "quick/quality-tile-cpu.md").read_text()
    assert "## Graph held out" in page
    assert "## Family held out" not in page
    assert command.main(line) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written

    tables = json.loads((runs / "quick/quality-tile-cpu.json").read_text())["tables"]
    assert list(tables) == [
        "Family held out (one of 2 groups of families at a time)",
        "Families, the worst first",
        "Graph held out, family seen",
        "Official split (train, stopped on valid, scored on test)",
        "Feature blocks",
    ]
    first, families, *_ = tables.values()
    taus = {row["contender"]: row["tau"] for row in first}
    (default,) = (row for row in first if row["contender"].endswith("(default)"))
    assert taus["retest"] > default["tau"] > taus[RAW] - 0.2
    for row in first:
        assert row["tau - default"] == ("" if row is default else pytest.approx(row["tau"] - default["tau"]))
    by_family = [row["tau"] for row in families]
    assert by_family == sorted(by_family)
    assert np.mean(by_family) == pytest.approx(default["tau"])

    left[0] = 0
    monkeypatch.setattr(runner, "atomic_write", interrupted)
    assert command.main(line) == 0  # a complete run fits nothing


def test_invalid_folds_and_families(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--folds", "1"]) == 2
    assert "--folds 1: expected 0 or at least 2" in capsys.readouterr().err
    with pytest.raises(UsageError, match="expected at least 3 families of graphs, got 2"):
        protocols("tile", np.array(["a", "b"]), np.array(["train", "test"]), 10)
