from __future__ import annotations

import numpy as np
import pytest

from gbr.report import plots


def test_positions_are_per_cent_from_the_left_and_the_top() -> None:
    across, up = plots.linear(0, 2), plots.linear(0, 2, flip=True)
    assert [across(value) for value in (0, 0.5, 2, 9, -9)] == [0, 25, 100, 100, 0]
    assert [up(value) for value in (0, 0.5, 2)] == [100, 75, 0]
    assert across.beyond(3) == 150
    assert plots.bare(0, 10)(5) == 50
    assert plots.linear(1, 1)(1) == 50


def test_equal_factors_and_equal_roots_are_equally_far() -> None:
    scale = plots.logarithmic(1, 1000)
    assert [scale(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=0.01)
    scale = plots.rooted(1.0)
    assert [scale(value) for value in (0, 0.01, 0.25, 1)] == pytest.approx([0, 10, 50, 100])


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_few_round_and_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = float(rng.uniform(-1, 1))
    high = low + float(10 ** rng.uniform(-3, 3))
    ticks = plots.linear(low, high, 6).ticks
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-6 <= tick <= high + 1e-6 for tick in ticks)
    gaps = np.diff(ticks)
    assert len(gaps) == 0 or np.allclose(gaps, gaps[0])
    for scale in (plots.logarithmic(1, 2 + abs(high)), plots.rooted(abs(high) + 0.001)):
        assert 2 <= len(scale.ticks) <= 11
        assert list(scale.ticks) == sorted(set(scale.ticks))
        assert scale.low <= scale.ticks[0] <= scale.ticks[-1] <= scale.high


def test_a_rooted_scale_ends_at_a_round_value_above() -> None:
    assert plots.rooted(0.107).high == 0.2
    assert plots.rooted(0.2).high == pytest.approx(0.2)
    labels = [plots.rooted(0.107)(tick) for tick in plots.rooted(0.107).ticks]
    assert np.diff(labels).min() >= 10


def test_counts_have_whole_ticks() -> None:
    assert plots.counted(9).ticks == (0, 5)
    assert plots.counted(3).ticks == (0, 1, 2, 3)


def test_a_path_goes_through_its_values_and_may_leave_the_plot() -> None:
    x, y = plots.linear(0, 10), plots.linear(0, 1, flip=True)
    assert plots.curve([0, 5, 10], [2, 0.5, 0], x, y) == "M0 -100L50 50L100 100"
