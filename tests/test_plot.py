from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gbr import Ranker, plot
from gbr.attribution import explain
from gbr.errors import MissingLibraryError, UsageError
from gbr.evaluation.figures import Figures
from gbr.evaluation.metrics import kendall_tau
from gbr.tune import Found, ParameterSpace, Tuner, search
from gbr.tune.tuner import Best


@pytest.fixture
def figures(tile_run: Path) -> Figures:
    return Figures(json.loads((tile_run / "run/metrics.json").read_text()))


def test_taus_has_a_bar_per_graph_and_the_mean(figures: Figures) -> None:
    (axes,) = plot.taus(figures, "valid").axes
    found = {label.get_text(): bar.get_width() for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}
    assert found == {name: graph["kendall_tau"] for name, graph in figures["valid"]["graphs"].items()}
    assert axes.lines[0].get_xdata()[0] == figures["valid"]["kendall_tau"]
    with pytest.raises(UsageError, match="split: expected one with figures, got 'dev'"):
        plot.taus(figures, "dev")


def test_predicted_leaves_out_failed_rows_and_marks_the_first() -> None:
    scores, runtime = np.arange(8.0), np.array([3.0, 1, 2, np.inf, 4, 5, 6, 7])
    (axes,) = plot.predicted(scores, runtime).axes
    points, first = (each.get_offsets() for each in axes.collections)
    worked = np.isfinite(runtime)
    assert np.allclose(points[:, 1] * 6, np.argsort(np.argsort(runtime[worked])))
    assert len(first) == 5
    assert axes.get_title() == f"7 configurations, tau {kendall_tau(scores[worked], runtime[worked]):.3f}"
    with pytest.raises(UsageError, match=r"got shapes \(8,\) and \(7,\)"):
        plot.predicted(scores, runtime[1:])


def test_slowdown_is_that_of_the_first_k() -> None:
    rng = np.random.default_rng(0)
    runtime, qid = rng.random((4, 12)) + 0.5, np.repeat(range(4), 12)
    scores = runtime + 0.3 * rng.random((4, 12))
    runtime[3] = 1.0  # cannot be ranked
    (axes,) = plot.slowdown(scores.ravel(), runtime.ravel(), qid).axes
    k, mean = axes.lines[0].get_data()
    naive = [
        [t[np.argsort(s)[:each]].min() / t.min() - 1 for s, t in zip(scores[:3], runtime[:3], strict=True)]
        for each in k.astype(int)
    ]
    assert np.allclose(mean, 100 * np.mean(naive, axis=1))
    assert axes.get_title() == "3 groups"
    with pytest.raises(UsageError, match="two different runtimes"):
        plot.slowdown(scores[3], runtime[3])


def test_slowdown_compares_orders() -> None:
    runtime = np.random.default_rng(0).random(40) + 0.5
    (axes,) = plot.slowdown({"best": runtime, "worst": -runtime}, runtime).axes
    best, worst, random = (line.get_ydata() for line in axes.lines)
    assert max(best) == 0
    assert worst[0] == pytest.approx(100 * (runtime.max() / runtime.min() - 1))
    assert random[0] == pytest.approx(100 * (runtime.mean() / runtime.min() - 1))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "best, mean",
        "worst, mean",
        "random order, mean",
    ]
    with pytest.raises(UsageError, match=r"got shapes \(39,\) and \(40,\)"):
        plot.slowdown({"best": runtime[1:]}, runtime)


def test_runtimes_count_what_intervals_hold() -> None:
    runtime = np.array([1.0, 2, np.inf, 4, 8])
    predicted = np.array([1.1, 2, 3, 6, 8])
    (axes,) = plot.runtimes(predicted, runtime, predicted / 1.2, predicted * 1.2, unit="ms").axes
    assert axes.get_title() == "4 rows, intervals hold 75%"
    assert axes.get_ylabel() == "predicted [ms]"
    intervals, points = axes.collections
    worked = np.isfinite(runtime)
    np.testing.assert_array_equal(points.get_offsets(), np.column_stack([runtime, predicted])[worked])
    assert [path.vertices[:, 1].tolist() for path in intervals.get_paths()] == [
        [pytest.approx(each / 1.2), pytest.approx(each * 1.2)] for each in predicted[worked]
    ]
    (axes,) = plot.runtimes(predicted, runtime).axes
    assert axes.get_title() == "4 rows"
    with pytest.raises(UsageError, match=r"got shapes \(4,\) and \(5,\)"):
        plot.runtimes(predicted[1:], runtime)


def test_contributions_sum_to_the_lead(tile_run: Path) -> None:
    graph = min((tile_run / "npz/tile/cpu/test").glob("*.npz"))
    found = explain(Ranker.load(tile_run / "run"), graph, 3, 5)
    (axes,) = plot.contributions(found, top=4).axes
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(found.lead)
    assert [label.get_text() for label in axes.get_yticklabels()][::-1][:4] == [each.name for each in found.columns[:4]]


def test_a_notebook_shows_figures_once(figures: Figures) -> None:
    from matplotlib import pyplot

    plot.taus(figures)
    assert pyplot.get_fignums() == []


def test_missing_matplotlib_is_reported(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[plot\]'"):
        plot.taus(figures)


def test_html_of_figures_has_a_table_per_split(figures: Figures) -> None:
    html = Figures(figures | {"subset": "tile:<cpu>"})._repr_html_()
    assert html.count("<table>") == 3
    assert f"<td>{figures['test']['kendall_tau']:.3f}</td>" in html
    assert "tile:&lt;cpu&gt; test: 2 graphs" in html


def test_ipython_prints_a_line_per_split(figures: Figures) -> None:
    printed: list[str] = []

    class Printer:
        text = printed.append

    figures._repr_pretty_(Printer, False)
    assert len(printed) == 3
    found = figures["test"]
    assert printed[2].startswith(f"{figures['subset']} test: 2 graphs: tau {found['kendall_tau']:.3f}, 95 % ")
    assert printed[2].endswith(f", score {found['score']:.3f}\n")


def test_html_of_a_ranker_has_its_parameters(tile_run: Path) -> None:
    loaded = Ranker.load(tile_run / "run")
    assert "min_child_samples" in Ranker(min_child_samples=7)._repr_html_()
    assert "best_iteration_" in dir(loaded)
    assert "min_child_samples" in loaded._repr_html_()


def test_search_shows_each_measurement_and_the_best_so_far() -> None:
    def measure(config: int) -> float:
        if config == 2:
            raise RuntimeError("out of registers")
        return 5.0 - config

    found = search(
        Tuner(ParameterSpace({"threads": [1, 2, 3, 4]}, default={"threads": 1})), measure, budget=4, rounds=0
    )
    assert sorted(config for config, _ in found.history) == [0, 1, 2, 3]
    (axes,) = plot.search(found).axes
    shown = axes.collections[0].get_offsets()
    runtimes = [5.0 - config for config, _ in found.history if config != 2]
    assert np.ma.compressed(shown[:, 1]).tolist() == runtimes
    best, default = (line.get_ydata() for line in axes.lines)
    assert list(best) == [min(r for c, r in found.history[:n] if c != 2) for n in range(1, 5)]
    assert set(default) == {5.0}
    assert axes.get_title() == "4 measurements, 1 failed"


def test_search_needs_a_measurement() -> None:
    found = Found(Best(0, 1.0), None, None, 1, 0, 1, 0.0, ((0, "failed"),))
    with pytest.raises(UsageError, match="expected a search with a successful measurement"):
        plot.search(found)
