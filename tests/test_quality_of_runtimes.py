from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata, ttest_ind

from gbr import read_graph
from gbr.evaluation import data_quality as quality

ROOT = Path(__file__).parents[1]
MEASURED = sorted(ROOT.glob("data/npz/*/cpu/**/*.npz"))


def noise(n: int, seed: int = 0, spread: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(10, spread, n)


@pytest.mark.parametrize(("start", "length", "factor"), [(1000, 400, 1.5), (300, 60, 2.0), (0, 500, 0.6)])
def test_a_slower_block_is_found_where_it_begins_and_ends(start: int, length: int, factor: float) -> None:
    runtimes = noise(3000)
    runtimes[start : start + length] *= factor
    found = quality.jumps(runtimes)
    edges = [edge for edge in (start, start + length) if edge]
    assert [jump.row for jump in found] == pytest.approx(edges, abs=3)
    assert found[-1].ratio == pytest.approx(1 / factor, rel=0.15)


def test_jumps_are_students_t_of_the_ranks() -> None:
    runtimes = noise(48, spread=0.3)
    runtimes[24:] *= 1.4
    ranks = (rankdata(runtimes) - 1) / 47
    shift, t = quality._compared(ranks, 24)
    assert shift == pytest.approx([ranks[24:].mean() - ranks[:24].mean()])
    assert t == pytest.approx([ttest_ind(ranks[24:], ranks[:24]).statistic], rel=1e-9)


def test_independent_runtimes_and_drifts_are_no_jumps() -> None:
    assert not any(quality.jumps(noise(2000, seed)) for seed in range(50))
    assert quality.jumps(np.full(500, 7.0)) == []
    assert quality.jumps(noise(40) * np.repeat([1.0, 9.0], 20)) == []  # too few rows to tell
    drift = np.exp(-np.linspace(0, 1, 10_000)) * noise(10_000, spread=0.3)
    assert quality.jumps(drift) == []


def test_a_few_extreme_runtimes_are_no_block() -> None:
    runtimes = noise(600)
    runtimes[[5, 250, 251, 252, 400]] *= 1000
    assert quality.jumps(runtimes) == []


def test_what_the_model_expects_is_no_fault_of_the_machine() -> None:
    """A file that lists its configurations in order jumps where the configurations change."""
    rng = np.random.default_rng(0)
    level = np.repeat([1.0, 3.0, 1.0], 200)
    runtimes = level * noise(600)
    predicted = level * rng.lognormal(0, 0.3, 600)
    assert [jump.row for jump in quality.jumps(runtimes)] == pytest.approx([200, 400], abs=3)
    assert quality.jumps(runtimes, predicted) == []
    corrupted = noise(600) * level
    assert [jump.row for jump in quality.jumps(corrupted, noise(600, seed=3))] == pytest.approx([200, 400], abs=3)


def test_no_alarm_on_what_was_measured_with_care() -> None:
    assert len(MEASURED) > 400
    alarms = []
    for path in MEASURED[::6]:
        graph = read_graph(path)
        assert graph.runtime is not None
        if quality.jumps(graph.runtime.astype(np.float64)):
            alarms.append(path.stem)
    assert alarms == []


def test_most_made_corruption_of_measured_layouts_is_found() -> None:
    rng = np.random.default_rng(0)
    layouts = [path for path in MEASURED if "layout" in path.parts]
    found = 0
    for path in layouts[::2]:
        graph = read_graph(path)
        assert graph.runtime is not None
        runtimes = graph.runtime.astype(np.float64)
        start = int(rng.integers(0, len(runtimes) - 40))
        runtimes[start : start + 40] *= 2
        found += bool(quality.jumps(runtimes))
    assert found >= 0.9 * len(layouts[::2])


def test_the_graph_that_was_found_corrupted_by_eye_is_found(shared_data: Path) -> None:
    bad = read_graph(shared_data / "npz/layout/xla/default/valid/unet_3d.4x4.bf16.npz").runtime
    good = read_graph(shared_data / "npz/layout/xla/default/train/unet3d.npz").runtime
    assert bad is not None
    assert good is not None
    assert len(quality.jumps(bad.astype(np.float64))) == 2
    assert quality.jumps(good.astype(np.float64)) == []


def test_ranks_are_scipys() -> None:
    values = np.random.default_rng(0).integers(0, 9, 50).astype(np.float64)
    assert quality.normalised_ranks(values) == pytest.approx((rankdata(values) - 1) / 49)
    assert quality.normalised_ranks(np.array([3.0])) == pytest.approx([0])


def test_a_slate_tells_its_quality_and_its_doubts() -> None:
    target = np.array([100.0, 102.0, 101.0, 109.0, 104.0, 103.0])
    repeat = np.array([103.0, 100.0, 109.0, 101.0, 104.0, 102.0])
    found = quality.slate_quality(target, np.array([0, 0, 2, 2, 4, 5]), repeat)
    assert found["configs"] == 6
    assert found["distinct"] == 4
    assert found["spread"] == pytest.approx(1.09)
    assert found["duplicate_spread"] == pytest.approx(np.median([1.02, 109 / 101]) - 1)
    assert found["retest"] == pytest.approx(kendalltau(target, repeat).statistic)
    assert found["unrankable"] is None
    assert quality.doubts(found) == [
        "only 4 distinct configurations",
        f"a second measurement agrees only to tau {found['retest']:.2f}",
        "slowest only 1.090× the fastest",
    ]
    alike = quality.slate_quality(target, np.zeros(6, np.int64), repeat)
    assert alike["retest"] is None
    assert quality.doubts(alike)[0] == "all configurations are identical"
    jumping = noise(300)
    jumping[100:] *= 3
    assert quality.doubts(quality.slate_quality(jumping, np.arange(300))) == ["runtimes jump at row 100"]
