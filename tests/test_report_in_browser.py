"""Reports in a headless Chromium: on a phone, in dark mode, with another graph selected."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import predict
from gbr.evaluation.metrics import Scored
from gbr.report import report
from gbr.report.tables import explanation_summary
from tests.made import write_collection
from tests.ranking import groups_of
from tests.test_explain import LAYOUT
from tests.test_report import summarise

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

#: The report in a frame of a given width, and what a script finds in it.
WRAPPER = """<!doctype html><iframe style="width:{width}px;height:800px;border:0" srcdoc="{report}"></iframe>
<pre id="found"></pre><script>addEventListener("load", () => {{
const frame = document.querySelector("iframe").contentWindow;
const found = {{ value: frame.eval({script}), faults: frame.faults,
  requests: frame.performance.getEntriesByType("resource").map((entry) => entry.name) }};
document.getElementById("found").textContent = JSON.stringify(found);
}});</script>"""
FAULTS = "<script>var faults = []; addEventListener('error', (event) => faults.push(event.message));</script>"


@pytest.fixture(scope="module")
def chromium() -> str:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium (apt-get install chromium)")
    return program


def evaluate(chromium: str, folder: Path, report: str, script: str, width: int = 800, dark: bool = False) -> Any:
    """Value of a JavaScript expression in a report; checks that the report has no errors and loads nothing."""
    framed = html.escape(report.replace("<head>", "<head>" + FAULTS))
    path = folder / "wrapper.html"
    path.write_text(WRAPPER.format(width=width, report=framed, script=json.dumps(script)), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [chromium, *options, scheme, f"--user-data-dir={folder}", "--dump-dom", path.as_uri()]
    page = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r'<pre id="found">(.+?)</pre>', page, re.DOTALL)
    assert found, page[:1000]
    result = json.loads(html.unescape(found[1]))
    assert result["faults"] == []
    assert result["requests"] == []
    return result["value"]


@pytest.fixture(scope="module")
def reports(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run with a suspicious graph and a long name, a prediction, and an explanation with long names."""
    root = write_collection(tmp_path_factory.mktemp("data"), {"train": 4, "valid": 3, "test": 2})
    summary = summarise(root, "tile:cpu", backend="lightgbm")
    runtimes = np.random.default_rng(0).lognormal(9, 0.1, 200)
    runtimes[120:] *= 3
    jumping = groups_of(runtimes.astype(int).tolist(), names=("a_long_name_" * 8 + "x" * 60,))
    suspects = report.summarise_split(Scored("valid", jumping, np.arange(200.0)), "tile", {})["suspects"]
    summary["splits"][0]["suspects"] = suspects
    long = json.loads(json.dumps(summary).replace("matmul_5", "matmul_" * 12 + "5" * 40))
    paths = sorted((root / "npz/tile/cpu/test").iterdir())
    prediction = report.summarise_prediction(root / "run", predict.predict(root / "run", paths), 5)
    nodes = tuple(replace(node, name=f"{'convolution_' * 6}.{'1' * 40}") for node in LAYOUT.nodes)
    columns = tuple(replace(column, name=f"neighborhood.{'x' * 60}") for column in LAYOUT.columns)
    wide = explanation_summary(replace(LAYOUT, nodes=nodes, columns=columns))
    explanation = prediction | {"command": "explain", "why": wide}
    summaries = {"run": long, "prediction": prediction, "explanation": explanation}
    return {name: report.render(each) for name, each in summaries.items()}


@pytest.mark.parametrize("width", [360, 1000])
@pytest.mark.parametrize("name", ["run", "prediction", "explanation"])
def test_nothing_is_wider_than_the_page(
    chromium: str, reports: dict[str, str], tmp_path: Path, name: str, width: int
) -> None:
    script = """document.querySelectorAll("details").forEach((each) => { each.open = true; });
        [document.documentElement.scrollWidth,
         [...document.querySelectorAll(".words")].every((each) => each.offsetWidth <= each.parentNode.clientWidth)]"""
    found, tables_fit = evaluate(chromium, tmp_path, reports[name], script, width)
    assert found <= width
    assert tables_fit


def test_dark_mode(chromium: str, reports: dict[str, str], tmp_path: Path) -> None:
    script = """[["body", "backgroundColor"], ["#ranks .dot", "fill"]].map(([selector, name]) =>
        getComputedStyle(document.querySelector(selector))[name])"""
    light, dark = (evaluate(chromium, tmp_path, reports["run"], script, dark=dark) for dark in (False, True))
    assert light[0] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", dark[0]))) < 120
    assert light[1] != dark[1]


def test_another_graph_can_be_selected(chromium: str, reports: dict[str, str], tmp_path: Path) -> None:
    script = """(() => {
        const choose = document.getElementById("choose");
        const state = () => [choose.value, document.getElementById("facts").textContent,
            [...document.querySelectorAll("#ranks circle")].map((dot) => dot.getAttribute("cy")).join()];
        const found = [state()];
        choose.selectedIndex = choose.length - 1;
        choose.dispatchEvent(new Event("change"));
        found.push(state());
        const link = document.querySelector(".rows a[data-graph]");
        link.click();
        found.push(state(), link.dataset.graph);
        return [...found, ["#ranks .first", "[data-suspect] circle", "[data-suspect] .jump"].map((selector) =>
            document.querySelectorAll(selector).length)];
    })()"""
    first, second, third, linked, counts = evaluate(chromium, tmp_path, reports["run"], script)
    assert first[2].count(",") == 29
    assert all(before != after for before, after in zip(first, second, strict=True))
    assert third[0] == linked
    assert counts == [5, 200, 1]
