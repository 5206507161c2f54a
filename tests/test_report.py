"""Reports: what is summarised against the files and the model, and what the page shows against the summary."""

from __future__ import annotations

import base64
import html.parser
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata

from gbr import Ranker, predict, read_graph
from gbr import evaluate as evaluate_command
from gbr import explain as explain_command
from gbr import train as train_command
from gbr.attribution import Explanation, explain
from gbr.cli import Command
from gbr.data.collection import resolve
from gbr.evaluation import metrics
from gbr.evaluation.metrics import Scored
from gbr.report import plots, report
from gbr.report.tables import explanation_summary
from tests.made import collection, rewrite, trained, write_collection
from tests.ranking import groups_of, problem
from tests.test_explain import LAYOUT, TILE

SECTIONS = ["scores", "graphs", "one", "budget", "worst", "learning", "importance", "data", "settings"]
HOSTILE = "<script>alert('x')<!-- &amp;"


class Page(html.parser.HTMLParser):
    """Tags, ids and text of a page; fails on tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.ids = [attributes["id"] for _, attributes in self.tags if attributes.get("id")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def checked(text: str) -> Page:
    """Parse a page; checks that it is self-contained, that its links resolve, and that no value is missing."""
    page = Page(text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|src=|//cdn", text)
    assert len(page.ids) == len(set(page.ids))
    for tag, about in page.tags:
        if tag == "a":
            assert str(about["href"])[1:] in page.ids
        for name in ("for", "aria-labelledby"):
            assert about.get(name) is None or about[name] in page.ids
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", page.text)
    return page


def sections(page: Page) -> list[str | None]:
    return [name for name in page.ids if name in SECTIONS]


def values(page: Page, tag: str, name: str) -> list[str | None]:
    """Values of an attribute of all tags of a name."""
    return [about.get(name) for each, about in page.tags if each == tag]


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u2") / 65535


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tile collection; of its test graphs one has equal runtimes, and one a single configuration."""
    root = write_collection(tmp_path_factory.mktemp("data"), {"train": 5, "valid": 3, "test": 4})
    folder = root / "npz/tile/cpu/test"
    rewrite(folder / "matmul_8.npz", config_runtime=np.full(30, 1500), config_runtime_repeat=np.full(30, 1500))
    with np.load(folder / "matmul_11.npz") as stored:
        first = {name: stored[name][:1] for name in stored.files if name.startswith("config_")}
    rewrite(folder / "matmul_11.npz", **first)
    return root


@pytest.fixture(scope="module")
def summary(root: Path) -> dict[str, Any]:
    return summarise(root, "tile:cpu", backend="ensemble")


@pytest.fixture(scope="module")
def run(root: Path, summary: dict[str, Any]) -> Path:
    return root / "run"


def summarise(root: Path, name: str, **arguments: Any) -> dict[str, Any]:
    """Train, and summarise the run for its report."""
    scored: list[Scored] = []
    run = trained(root, subset=name, scored=scored, **arguments)
    figures = json.loads((run / "metrics.json").read_text())
    return report.summarise_run("train", run, resolve(name, root), figures, scored, root / "store")


def test_summary_of_run(run: Path, summary: dict[str, Any]) -> None:
    test, valid, train = summary["splits"]
    assert [split["name"] for split in summary["splits"]] == ["test", "valid", "train"]
    assert (train["graphs"], train["worst"], train["budget"]) == ([], [], None)
    assert [figures["training"] for figures in summary["figures"].values()] == [False, False, True]
    for split in (test, valid):
        taus = [graph["figures"]["kendall_tau"] for graph in split["graphs"]]
        assert taus == sorted(taus, reverse=True)
        assert np.mean(taus) == pytest.approx(summary["figures"][split["name"]]["kendall_tau"])
        assert split["unseen"] == 0.0  # all are of the family matmul
        assert [graph["name"] for graph in split["worst"]] == [graph["name"] for graph in split["graphs"][:-4:-1]]
    assert test["data"]["unrankable"] == 2
    ranker, importance = Ranker.load(run), summary["importance"]
    assert {block["name"]: block["share"] for block in importance["blocks"]} == ranker.block_importances_
    assert importance["columns"][0]["share"] == ranker.feature_importances_.max()
    assert importance["columns"][0]["name"] == ranker.feature_names_in_[ranker.feature_importances_.argmax()]


def test_points_are_those_of_file_and_model(root: Path, run: Path, summary: dict[str, Any]) -> None:
    graph = summary["splits"][1]["graphs"][0]
    path = root / f"npz/tile/cpu/valid/{graph['name']}.npz"
    file, scores = read_graph(path), Ranker.load(run).predict_graph(path)
    assert file.runtime is not None
    points = {name: unpacked(graph["plot"][name]) for name in ("row", "predicted", "measured", "over")}
    assert points["row"] == pytest.approx(np.arange(30) / 29, abs=1e-5)
    assert points["predicted"] == pytest.approx((rankdata(scores) - 1) / 29, abs=1e-5)
    assert points["measured"] == pytest.approx((rankdata(file.runtime) - 1) / 29, abs=1e-5)
    assert graph["plot"]["slowest"] ** points["over"] == pytest.approx(file.runtime / file.runtime.min(), rel=1e-3)
    assert graph["figures"]["kendall_tau"] == pytest.approx(kendalltau(scores, file.runtime).statistic)
    assert graph["interval"][0] < graph["figures"]["kendall_tau"] < graph["interval"][1]
    assert graph["quality"]["retest"] == pytest.approx(kendalltau(file.repeat, file.runtime).statistic)


def test_large_graphs_are_sampled_with_the_first_five() -> None:
    scores, target = np.random.default_rng(0).random((2, 3000)) + 1
    found = report.points(scores, target, 200)
    rows = np.round(unpacked(found["row"]) * 2999).astype(int)
    assert (found["n"], found["shown"], len(set(rows))) == (3000, 200, 200)
    assert set(np.argsort(scores)[:5]) <= set(rows)
    assert unpacked(found["predicted"]) == pytest.approx((rankdata(scores) - 1)[rows] / 2999, abs=1e-5)


def test_slowdown_by_budget_is_a_mean_over_graphs() -> None:
    rng = np.random.default_rng(1)
    groups = groups_of(*([int(value) for value in rng.integers(500, 1500, size)] for size in (40, 25)))
    scores = rng.random(65)
    found = report.slowdown_by_budget(groups, scores, list(groups.names))
    assert found is not None
    assert found["k"] == [1, 2, 3, 5, 7, 10, 15, 20, 30, 40]
    assert found["retest"] is None
    rows = [groups.rows(number) for number in range(2)]
    slowdowns = [[metrics.slowdown_at_k(scores[own], groups.target[own], k) for k in found["k"]] for own in rows]
    assert found["model"] == pytest.approx(np.mean(slowdowns, axis=0))
    assert found["most"] == pytest.approx(np.quantile(slowdowns, 0.9, axis=0))
    expected = np.mean([groups.target[own].mean() / groups.target[own].min() - 1 for own in rows])
    assert found["random"][0] == pytest.approx(expected)
    k, share = found["enough"]
    assert found["most"][found["k"].index(k)] <= share


def test_page_of_run_shows_all_figures(summary: dict[str, Any]) -> None:
    page = checked(report.render(summary))
    assert sections(page) == SECTIONS
    for figures in summary["figures"].values():
        for found in (figures, *figures["baselines"].values()):
            if found.get("kendall_tau") is not None:
                assert f"{found['kendall_tau']:.3f}" in page.text
            assert report._FORMATS["percent"](found["slowdown@1"]) in page.text
    assert "test: matmul_8 – all runtimes are equal" in page.text
    assert all(value in page.text for _, value in summary["settings"])
    graphs = [graph for split in summary["splits"] for graph in split["graphs"]]
    assert values(page, "option", "value") == [f"{graph['split']}/{graph['name']}" for graph in graphs]
    plots = json.loads(json.dumps([graph["plot"] for graph in graphs]))
    assert [json.loads(str(plot)) for plot in values(page, "template", "data-plot")] == plots


def test_split_that_cannot_be_ranked(run: Path, tmp_path: Path) -> None:
    root, scored = write_collection(tmp_path, {"test": 1}), list[Scored]()
    rewrite(root / "npz/tile/cpu/test/matmul_0.npz", config_runtime=np.full(30, 1500))
    subset = resolve("tile:cpu", root)
    figures = evaluate_command.evaluate(run, subset, "test", root, root / "store", jobs=1, scored=scored)
    page = checked(report.render(report.summarise_run("evaluate", run, subset, figures, scored, root / "store")))
    assert "test: matmul_0 – all runtimes are equal" in page.text
    assert "learning" not in page.ids


def test_hostile_names_are_escaped(summary: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(summary).replace("matmul_5", HOSTILE).replace("tile:cpu", HOSTILE))
    text = report.render(hostile)
    page = checked(text)
    assert HOSTILE in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert" not in text
    nodes = tuple(replace(node, name=HOSTILE) for node in LAYOUT.nodes)
    copies = tuple(replace(copy, what=HOSTILE) for copy in LAYOUT.copies)
    text = page_of(replace(LAYOUT, graph=f"{HOSTILE}.npz", nodes=nodes, copies=copies))
    assert checked(text).text.count(HOSTILE) >= 5
    assert "<script" not in text


def test_jumps_of_runtimes_are_flagged(summary: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    runtimes = rng.lognormal(9, 0.1, (2, 200))
    runtimes[1, 120:] *= 3
    scored = Scored("test", groups_of(*runtimes.astype(int).tolist()), rng.random(400))
    split = report.summarise_split(scored, "tile", {})
    assert not report.summarise_split(scored, "table", {})["suspects"]  # its rows are in the order of parameters
    (suspect,) = split["suspects"]
    assert suspect["name"] == "g1"
    assert split["data"]["jumps"] == 1
    assert [jump["row"] for jump in suspect["quality"]["jumps"]] == [120]
    page = checked(report.render(summary | {"splits": [*summary["splits"][1:], split]}))
    assert "1 kernel flagged" in page.text
    assert "jumps at row 120 (×" in page.text


def test_many_graphs_are_plotted(summary: dict[str, Any]) -> None:
    split = summary["splits"][0]
    graphs = [split["graphs"][0] | {"name": f"g{number}"} for number in range(50)]
    page = checked(report.render(summary | {"splits": [split | {"graphs": graphs}]}))
    assert values(page, "g", "data-graph") == [f"test/g{number}" for number in range(50)]


def test_commands_write_reports(root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "report.html"

    def page(command: Command, *line: Any) -> Page:
        assert command([str(word) for word in (*line, "--report", path)]) == 0
        return checked(path.read_text())

    data = ["--subset", "tile:cpu", "--data", root, "--store", root / "store", "--jobs", 1]
    assert sections(page(evaluate_command.main, "--model", run, "--split", "test", *data)) == SECTIONS
    settings = ["--backend", "lightgbm", "--set", "n_estimators=5"]
    assert "lightgbm, objective" in page(train_command.main, "--out", tmp_path / "run", *settings, *data).text
    folder = root / "npz/tile/cpu/test"
    capsys.readouterr()
    assert "The best 2 of 30" in page(predict.main, "--model", run, folder, "--top", 2).text
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 + 2 * 3 + 1
    assert "report.html" in err
    explained = page(explain_command.main, "--model", run, folder / "matmul_9.npz", "--config", 3, "--against", 9)
    assert "Measured: 3 takes" in explained.text


def test_report_path_is_checked_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "file/below/r.html", "cannot create")):
        assert predict.main(["--model", "nowhere", "graph.npz", "--report", str(path)]) == 2
        assert message in capsys.readouterr().err


def test_reports_of_layouts(tmp_path: Path) -> None:
    root = collection(tmp_path, "layout:made:random", train=4, valid=3)
    page = checked(report.render(summarise(root, "layout:made:random", backend="lightgbm")))
    assert sections(page) == SECTIONS
    assert "only 5 distinct configurations" in page.text
    path = min((root / "npz/layout/made/random/valid").iterdir())
    rankings = predict.predict(root / "run", [path])
    prediction = report.summarise_prediction(root / "run", rankings, 3)
    best = prediction["graphs"][0]["best"]
    config = read_graph(path).configs(np.array([best[0]["config"]]))[0]
    (node, text), *_ = best[0]["nodes"]
    assert node.startswith("convolution.")
    assert text.startswith("output {" + ",".join(map(str, config[0][:4])) + "}")
    checked(report.render(prediction))


def test_ranking_summary(root: Path, run: Path) -> None:
    path = root / "npz/tile/cpu/test/matmul_9.npz"
    (ranking,) = predict.predict(run, [path])
    configs, scores = ranking["configs"], np.array(ranking["scores"])
    found = report.summarise_ranking(path, configs, scores, 4)
    assert [best["rank"] for best in found["best"]] == [1, 2, 3, 4]
    assert [best["config"] for best in found["best"]] == configs[:4]
    assert found["best"][3]["behind"] == pytest.approx((scores[3] - scores[0]) / scores.std())
    assert sum(found["histogram"]["counts"]) == found["n_configs"] == 30
    assert sum(found["histogram"]["top"]) == 4
    feat = read_graph(path).config_feat
    assert feat is not None
    rows, columns = feat[configs[0], 8:10].astype(int)
    assert found["best"][0]["text"] == f"output {rows}×{columns}"
    equal = report.summarise_ranking(path, configs, np.zeros(30), 99)
    assert equal["histogram"] == {"counts": [30], "top": [30], "width": 0.0}


def test_prediction_explains_the_first_configurations(root: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, ranker = sorted((root / "npz/tile/cpu/test").iterdir()), Ranker.load(run)
    rankings = predict.predict(run, paths)
    summary = report.summarise_prediction(run, rankings, None)
    page = checked(report.render(summary))
    assert [graph["name"] for graph in summary["graphs"] if graph["why"] is None] == ["matmul_11"]
    assert page.text.count("Why the first is ranked before the median") == 3
    assert "is explained for" not in page.text
    assert "Measured:" not in page.text  # a prediction uses no runtimes
    found = explain(ranker, paths[-1], int(ranker.rank(paths[-1])[0]))
    assert summary["graphs"][-1]["why"] == explanation_summary(replace(found, runtimes=None))
    monkeypatch.setattr(report, "_EXPLAINED", 1)
    page = checked(report.render(report.summarise_prediction(run, rankings, None)))
    assert "is explained for the first 1 of 4 graphs" in page.text


def test_texts() -> None:
    assert report.layout_texts(np.full(18, -1, np.int8)) == ""
    assert report.layout_texts(np.array([1, 0, *[-1] * 10, 3, 2, *[-1] * 4], np.int8)) == "output {1,0}, kernel {3,2}"
    assert list(map(report._FORMATS["percent"], (0.017, 0.9999))) == ["1.7\u00a0%", "100\u00a0%"]
    assert list(map(report._FORMATS["times"], (1.017, 12.34))) == ["1.017×", "12.3×"]


# Explanations.


def page_of(found: Explanation, top: int = 8) -> str:
    header = {"title": "a_graph", "model": "", "command": "explain", "version": "1", "made": "today", "settings": []}
    return report.render(header | {"why": explanation_summary(found, top)})


@pytest.mark.parametrize(("found", "top"), [(LAYOUT, 8), (LAYOUT, 1), (TILE, 8)])
def test_page_shows_the_explanation(found: Explanation, top: int) -> None:
    """All lines of text, blocks and cells of tables."""
    text = checked(page_of(found, top)).text
    summary = explanation_summary(found, top)
    cells = [
        cell or "–"
        for title, columns, rows in summary["tables"][1:]
        for row in [[title], columns, *rows]
        for cell in row
    ]
    lines = [line for block in found.blocks for line in (block.name, block.doc, f"{block.effect:+.4f}")]
    assert [line for line in (*lines, *summary["sentences"], *"\n".join(cells).split("\n")) if line not in text] == []
    assert "Why configuration 17 is ranked after" in text
    assert "rank 47 of 96configuration 17" in text


def test_bars_start_at_zero() -> None:
    def bars(**changes: Any) -> list[tuple[str | None, ...]]:
        page = checked(page_of(replace(LAYOUT, **changes)))
        return list(zip(*(values(page, "rect", name) for name in ("x", "width", "class")), strict=True))

    blocks = [replace(LAYOUT.blocks[0], name=f"block{n}", effect=effect) for n, effect in enumerate((0.6, -0.2, 0.1))]
    own, other = "column first", "column"
    assert bars(blocks=blocks) == [("25.0%", "75.0%", own), ("0.0%", "25.0%", other), ("25.0%", "12.5%", own)]
    # Only effects below 0: zero is at the right end.
    assert bars() == [("0.0%", "100.0%", other), ("66.67%", "33.33%", other)]


def test_tie_of_configurations_that_the_model_does_not_distinguish() -> None:
    tie = replace(LAYOUT, chosen="median", places=(1, 49), scores=(1.0, 1.0), columns=(), lead=0.0)
    page = checked(page_of(tie))
    assert values(page, "rect", "x") == []
    assert "A tie: the first and the median" in page.text
    assert "The model does not distinguish the two configurations." in page.text


# Learning curves.


@pytest.mark.parametrize(
    ("backend", "objective"), [("lightgbm", "pairwise"), ("xgboost", "pairwise"), ("ensemble", "mixed")]
)
def test_truncated_model_equals_one_trained_for_fewer_rounds(backend: str, objective: str) -> None:
    X, runtime, qid = problem(12)

    def fitted(rounds: int) -> Ranker:
        settings = {"n_estimators": rounds, "num_leaves": 7, "learning_rate": 0.2}
        return Ranker(backend, objective, random_state=3, n_jobs=1, **settings).fit(X, runtime, qid=qid)

    long, short = fitted(12), fitted(5)
    expected = short.model_.predict(X, 1)
    if backend == "ensemble":  # members are divided by the spread of the whole, not of the first rounds
        expected = sum(
            each.weight / each.spread * each.model.stopped_at(5).predict(X, 1) for each in long.model_.members
        )
    assert np.allclose(long.model_.stopped_at(5).predict(X, 1), expected, rtol=1e-6, atol=1e-7)
    assert np.array_equal(long.model_.stopped_at(99).predict(X, 1), long.model_.predict(X, 1))


def test_learning_curves_end_at_the_tau_of_the_model(
    root: Path, run: Path, tmp_path: Path, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tau(summary: dict[str, Any], *names: str) -> Any:
        taus = [graph["figures"]["kendall_tau"] for graph in summary["splits"][1]["graphs"] if graph["name"] in names]
        return pytest.approx(np.mean(taus), abs=0.01)  # the curve counts ties as in random order

    learning = summary["learning"]
    assert (learning["split"], learning["graphs"], learning["stopped"]) == ("valid", 3, True)
    whole, *members = learning["curves"]
    assert whole["tau"][-1] == tau(summary, "matmul_5", "matmul_6", "matmul_7")
    assert whole["tau"][-1] > whole["tau"][0]
    assert whole["name"] == "ensemble, mixed"
    kept = [member.model.n_iterations for member in Ranker.load(run).model_.members]
    assert [curve["rounds"][-1] for curve in members] == kept
    assert whole["rounds"] == [*(count for count in (1, 2, 3, 5, 8, 13, 21, 34) if count < max(kept)), max(kept)]
    monkeypatch.setattr(report, "CURVE_ROWS", 70)
    some = summarise(root, "tile:cpu", backend="lightgbm", columns=["cache", "geometry"], out=tmp_path)
    assert some["learning"]["graphs"] == 2
    (curve,) = some["learning"]["curves"]
    assert curve["tau"][-1] == tau(some, "matmul_5", "matmul_7")


# Plots.


def test_scales() -> None:
    across, up = plots.linear(0, 2), plots.linear(0, 1, flip=True)
    assert [across(value) for value in (0, 0.5, 2, 3)] == [0, 25, 100, 150]
    assert plots.curve([0, 1, 2], [2, 0.5, 0], across, up) == "M0 -100L50 50L100 100"
    assert plots.linear(1, 1)(1) == 50
    scale = plots.logarithmic(1, 1000)
    assert [scale(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=0.01)
    scale = plots.square_root(1.0)
    assert [scale(value) for value in (0, 0.01, 0.25, 1)] == pytest.approx([0, 10, 50, 100])
    assert plots.square_root(0.107).high == 0.2


@pytest.mark.parametrize("width", [0.001, 0.07, 1, 3, 47, 1000])
def test_ticks_are_few_and_even(width: float) -> None:
    for scale in (plots.linear(-0.3, width - 0.3), plots.logarithmic(1, 2 + width), plots.square_root(width)):
        assert list(scale.ticks) == sorted(set(scale.ticks))
        assert scale.low - 1e-9 <= scale.ticks[0] <= scale.ticks[-1] <= scale.high + 1e-9
    ticks = plots.linear(-0.3, width - 0.3, 6).ticks
    assert 1 <= len(ticks) <= 6
    assert np.ptp(np.diff(ticks)) < 1e-9 * width
