"""Reports as a browser shows them: on a phone, in the dark, with something else chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gbr import predict
from gbr.attribution.explanation import BlockEffect
from gbr.data.collection import resolve
from gbr.evaluation.scoring import Scored
from gbr.report import explained, render, report
from gbr.report.summary import of_data
from tests.browser import Page, browser
from tests.collection import trained, write_collection
from tests.test_explain import LAYOUT
from tests.test_metrics import slates_of

DOTS = "[...document.querySelectorAll('#ranks circle')].map(dot => dot.getAttribute('cy')).join()"
AGAINST = BlockEffect("config", "Whether layouts are set.", 0.5)
COLOUR = "getComputedStyle(document.querySelector('{}')).{}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def reports(page: Page, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run's report, with a graph that jumps and one whose name is long, a prediction's, and an explanation's."""
    root = write_collection(tmp_path_factory.mktemp("data"), {"train": 4, "valid": 3, "test": 2})
    scored: list[Scored] = []
    run = trained(root, scored=scored, backend="lightgbm")
    figures = json.loads((run / "metrics.json").read_text())
    summary = report.summarise_run("train", run, resolve("tile:cpu", root), figures, scored, root / "store")
    runtimes = np.random.default_rng(0).lognormal(9, 0.1, 200)
    runtimes[120:] *= 3
    jumping = slates_of(runtimes.astype(int).tolist(), names=("a_long_name_" * 8 + "x" * 60,))
    summary["suspects"] = of_data(Scored("valid", jumping, np.arange(200.0)))["suspects"]
    told = json.loads(json.dumps(summary).replace("matmul_5", "matmul_" * 12 + "5" * 40))
    places = [root / "run.html", root / "prediction.html", root / "why.html"]
    render.write(places[0], render.page(told))
    paths = sorted((root / "npz/tile/cpu/test").iterdir())
    predicted = report.summarise_prediction(run, predict.rank_files(run, paths), 5)
    render.write(places[1], render.prediction_page(predicted))
    long = [replace(one, name=f"{'convolution_' * 6}.{'1' * 40}") for one in LAYOUT.nodes]
    columns = [replace(one, name=f"neighborhood.{'x' * 60}") for one in LAYOUT.columns]
    wide = replace(LAYOUT, nodes=tuple(long), columns=tuple(columns), blocks=(*LAYOUT.blocks, AGAINST))
    render.write(places[2], render.explanation_page(predicted | {"why": explained.for_page(wide)}))
    return places


def test_a_phone_shows_everything_without_scrolling_sideways(page: Page, reports: list[Path]) -> None:
    for width in (360, 1000):
        page.size(width, mobile=width < 500)
        for path in reports:
            page.open(path)
            page.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            assert page.run("document.documentElement.scrollWidth") <= width
            # Not even a table is wider than its place.
            assert page.run("[...document.querySelectorAll('.words')].every(one => "
                            "one.offsetWidth <= one.parentNode.clientWidth)")  # fmt: skip
            assert page.faults == []
            assert page.requests == [path.as_uri()]


def test_the_dark_has_its_own_colours(page: Page, reports: list[Path]) -> None:
    page.open(reports[0])
    shown = []
    for dark in (False, True):
        page.dark(dark)
        shown.append([page.run(COLOUR.format(*one)) for one in (("body", "backgroundColor"), ("#ranks .dot", "fill"))])
    page.dark(False)
    assert shown[0][0] == "rgb(255, 255, 255)"
    light, night = (sum(map(int, one[0].removeprefix("rgb(").removesuffix(")").split(","))) for one in shown)
    assert night < 120 < light
    assert shown[0][1] != shown[1][1]


def test_another_graph_chosen_is_another_graph_drawn(page: Page, reports: list[Path]) -> None:
    page.size(800)
    page.open(reports[0])
    drawn, facts = page.run(DOTS), page.run("document.getElementById('facts').textContent")
    assert drawn.count(",") == 29
    assert page.run("document.querySelectorAll('#ranks .first').length") == 5
    page.run("(choose => { choose.selectedIndex = choose.length - 1; choose.dispatchEvent(new Event('change')); })"
             "(document.getElementById('choose'))")  # fmt: skip
    assert page.run(DOTS) != drawn
    assert page.run("document.getElementById('facts').textContent") != facts
    page.run("document.querySelector('.rows a[data-graph]').click()")
    chosen = page.run("document.getElementById('choose').value")
    assert chosen == page.run("document.querySelector('.rows a[data-graph]').dataset.graph")
    assert page.run("document.querySelectorAll('[data-suspect] circle').length") == 200
    assert page.run("document.querySelectorAll('[data-suspect] .jump').length") == 1
    assert page.faults == []


def test_bars_stand_on_both_sides_of_zero_in_two_colours(page: Page, reports: list[Path]) -> None:
    page.size(360, mobile=True)
    page.open(reports[2])
    start = page.run("document.querySelector('.rows svg').getBoundingClientRect().left")
    box = "document.querySelectorAll('.rows svg')[{}].querySelector('{}').getBoundingClientRect()"
    for place, block in enumerate((*LAYOUT.blocks, AGAINST)):
        left, right = (page.run(f"{box.format(place, 'rect')}.{edge}") for edge in ("left", "right"))
        zero = page.run(f"{box.format(place, '.base')}.x")
        assert right - left == pytest.approx(abs(block.effect) / 0.75 * (zero - start), abs=1)
        assert (left if block.effect > 0 else right) == pytest.approx(zero, abs=1)
        assert zero - start > 50
    for dark in (False, True):
        page.dark(dark)
        own, other = (page.run(COLOUR.format(f"rect.column{which}", "fill")) for which in (".first", ":not(.first)"))
        assert own != other
    page.dark(False)
