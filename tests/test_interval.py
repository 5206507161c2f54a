from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from gbr.evaluation.interval import tau_interval
from gbr.evaluation.metrics import kendall_tau


def sample(n: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)


@pytest.mark.parametrize(("n", "rho"), [(60, 0.8), (400, 0.5)])
def test_the_true_tau_lies_inside_as_often_as_said(n: int, rho: float) -> None:
    """Tau of a bivariate normal is 2 / pi * asin(rho) (Kendall and Gibbons, 1990)."""
    true = 2 / np.pi * np.arcsin(rho)
    inside = 0
    for seed in range(40):
        x, y = sample(n, rho, seed)
        found = tau_interval(kendall_tau(x, y), x, y, level=0.8, seed=seed)
        assert found is not None
        inside += found[0] <= true <= found[1]
    assert 0.65 <= inside / 40 <= 0.95


def test_it_is_the_bootstrap_of_distinct_rows_written_out() -> None:
    x, y = sample(40, 0.7, seed=1)
    y[::7] = y[0]  # ties
    rng = np.random.default_rng(5)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=400)
    taus = []
    for weight in weights:
        rows = np.repeat(np.arange(40), weight)
        first, second = np.triu_indices(40, 1)
        pairs = weight[first] * weight[second]
        s, t = np.sign(x[first] - x[second]), np.sign(y[first] - y[second])
        taus.append((pairs * s * t).sum() / np.sqrt((pairs * s**2).sum() * (pairs * t**2).sum()))
        assert len(rows) == 40
    tau = kendalltau(x, y).statistic
    expected = np.quantile(taus, [0.025, 0.975])
    assert tau_interval(tau, x, y, seed=5) == pytest.approx(expected.tolist(), abs=1e-9)


def test_more_rows_are_surer_and_ends_are_possible_taus() -> None:
    widths = []
    for n in (50, 250, 2000, 8000):
        x, y = sample(n, 0.6, seed=2)
        found = tau_interval(kendall_tau(x, y), x, y)
        assert found is not None
        widths.append(found[1] - found[0])
    assert widths == sorted(widths, reverse=True)
    assert widths[3] == pytest.approx(widths[2] / 2, rel=0.35)
    x = np.arange(30.0)
    assert tau_interval(1.0, x, x) == [1.0, 1.0]


@pytest.mark.parametrize("scores", [[0.0, 0.0, 0.0, 0.0], [1.0, 2.0]])
def test_where_tau_is_undefined_there_is_none(scores: list[float]) -> None:
    assert tau_interval(0.0, np.array(scores), np.arange(len(scores), dtype=np.float64)) is None
