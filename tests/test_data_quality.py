from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata, ttest_ind

from gbr import read_graph
from gbr.evaluation import data_quality

ROOT = Path(__file__).parents[1]
MEASURED = sorted(ROOT.glob("data/npz/*/cpu/**/*.npz"))


def noise(n: int, seed: int = 0, spread: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(10, spread, n)


@pytest.mark.parametrize(("start", "length", "factor"), [(1000, 400, 1.5), (300, 60, 2.0), (0, 500, 0.6)])
def test_block_of_slower_runtimes_is_found(start: int, length: int, factor: float) -> None:
    runtimes = noise(3000)
    runtimes[start : start + length] *= factor
    found = data_quality.jumps(runtimes)
    edges = [edge for edge in (start, start + length) if edge]
    assert [jump.row for jump in found] == pytest.approx(edges, abs=3)
    assert found[-1].ratio == pytest.approx(1 / factor, rel=0.15)


def test_jump_statistic_is_students_t_of_the_ranks() -> None:
    runtimes = noise(48, spread=0.3)
    runtimes[24:] *= 1.4
    ranks = (rankdata(runtimes) - 1) / 47
    shift, t = data_quality._compared(ranks, 24)
    assert shift == pytest.approx([ranks[24:].mean() - ranks[:24].mean()])
    assert t == pytest.approx([ttest_ind(ranks[24:], ranks[:24]).statistic], rel=1e-9)


def test_noise_drifts_and_outliers_are_not_jumps() -> None:
    assert not any(data_quality.jumps(noise(2000, seed)) for seed in range(50))
    assert data_quality.jumps(np.full(500, 7.0)) == []
    assert data_quality.jumps(noise(40) * np.repeat([1.0, 9.0], 20)) == []  # too few rows
    drift = np.exp(-np.linspace(0, 1, 10_000)) * noise(10_000, spread=0.3)
    assert data_quality.jumps(drift) == []
    runtimes = noise(600)
    runtimes[[5, 250, 251, 252, 400]] *= 1000
    assert data_quality.jumps(runtimes) == []


def test_jumps_that_the_model_predicts_do_not_count() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat([1.0, 3.0, 1.0], 200)
    runtimes = level * noise(600)
    predicted = level * rng.lognormal(0, 0.3, 600)
    assert [jump.row for jump in data_quality.jumps(runtimes)] == pytest.approx([200, 400], abs=3)
    assert data_quality.jumps(runtimes, predicted) == []
    corrupted = noise(600) * level
    assert [jump.row for jump in data_quality.jumps(corrupted, noise(600, seed=3))] == pytest.approx([200, 400], abs=3)


def runtimes_of(path: Path) -> np.ndarray:
    runtime = read_graph(path).runtime
    assert runtime is not None
    return runtime.astype(np.float64)


def test_measured_collections_have_no_jumps() -> None:
    assert len(MEASURED) > 400
    assert [path.stem for path in MEASURED[::6] if data_quality.jumps(runtimes_of(path))] == []


def test_injected_jumps_are_found() -> None:
    rng = np.random.default_rng(0)
    found = []
    for path in [path for path in MEASURED if "layout" in path.parts][::2]:
        runtimes = runtimes_of(path)
        start = int(rng.integers(0, len(runtimes) - 40))
        runtimes[start : start + 40] *= 2
        found.append(bool(data_quality.jumps(runtimes)))
    assert np.mean(found) >= 0.9


def test_known_bad_graph_of_tpugraphs_is_found(shared_data: Path) -> None:
    folder = shared_data / "npz/layout/xla/default"
    assert len(data_quality.jumps(runtimes_of(folder / "valid/unet_3d.4x4.bf16.npz"))) == 2
    assert data_quality.jumps(runtimes_of(folder / "train/unet3d.npz")) == []


def test_group_quality_and_doubts() -> None:
    target = np.array([100.0, 102.0, 101.0, 109.0, 104.0, 103.0])
    repeat = np.array([103.0, 100.0, 109.0, 101.0, 104.0, 102.0])
    found = data_quality.group_quality(target, np.array([0, 0, 2, 2, 4, 5]), repeat)
    assert (found["configs"], found["distinct"], found["spread"]) == (6, 4, pytest.approx(1.09))
    assert found["duplicate_spread"] == pytest.approx(np.median([1.02, 109 / 101]) - 1)
    assert found["retest"] == pytest.approx(kendalltau(target, repeat).statistic)
    assert found["unrankable"] is None
    assert data_quality.doubts(found) == [
        "only 4 distinct configurations",
        f"the second measurement has a tau of only {found['retest']:.2f}",
        "the slowest takes only 1.090 times as long as the fastest",
    ]
    alike = data_quality.group_quality(target, np.zeros(6, np.int64), repeat)
    assert alike["retest"] is None
    assert data_quality.doubts(alike)[0] == "all configurations are identical"
    jumping = noise(300)
    jumping[100:] *= 3
    assert data_quality.doubts(data_quality.group_quality(jumping, np.arange(300))) == ["runtimes jump at row 100"]
