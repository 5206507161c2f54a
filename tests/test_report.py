from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata

from gbr import Ranker, predict, read_graph
from gbr import evaluate as evaluate_command
from gbr import train as train_command
from gbr.data.collection import resolve
from gbr.data.store import FeatureStore
from gbr.errors import UsageError
from gbr.evaluation import metrics, scoring
from gbr.evaluation.scoring import Scored
from gbr.report import predicted, render, report
from gbr.report.summary import budget, of_data, points, points_each, unpacked
from tests.collection import rewrite, trained, write_collection
from tests.made import collection
from tests.test_metrics import slates_of

SECTIONS = ["scores", "graphs", "one", "budget", "worst", "learning", "importance", "data", "settings"]
HOSTILE = "<script>alert('x')<!-- &amp;"


class Seen(html.parser.HTMLParser):
    """Tags, ids and text of a page; complains of what is not closed."""

    VOID = ("meta", "br", "wbr", "input", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def ids(self) -> list[str]:
        return [about["id"] for _, about in self.tags if about.get("id")]  # type: ignore[misc]


def looked_at(text: str) -> Seen:
    """A page that parses, stands alone, and whose names all lead somewhere."""
    page = Seen(text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|src=|//cdn", text)
    assert not [tag for tag, about in page.tags if tag in ("link", "img", "iframe", "object") or "src" in about]
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, about in page.tags:
        if tag == "a":
            assert str(about["href"])[1:] in ids
        for name in ("for", "aria-labelledby"):
            assert about.get(name) is None or about[name] in ids
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", page.text)
    return page


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="graph-data">(.*?)</script>', text, re.DOTALL)
    assert found
    told: dict[str, Any] = json.loads(found[1])
    return told


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_collection(tmp_path_factory.mktemp("data"), {"train": 5, "valid": 3, "test": 3})
    (path,) = (root / "npz/tile/cpu/test").glob("matmul_8.npz")
    rewrite(path, config_runtime=np.full(30, 1500), config_runtime_repeat=np.full(30, 1500))
    return root


@pytest.fixture(scope="module")
def scored() -> list[Scored]:
    return []


@pytest.fixture(scope="module")
def run(root: Path, scored: list[Scored]) -> Path:
    return trained(root, scored=scored)


@pytest.fixture(scope="module")
def figures(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def summary(root: Path, run: Path, scored: list[Scored], figures: dict[str, Any]) -> dict[str, Any]:
    return report.summarise_run("train", run, resolve("tile:cpu", root), figures, scored, root / "store")


@pytest.fixture(scope="module")
def page(summary: dict[str, Any]) -> str:
    return render.page(summary)


def test_a_summary_is_json_and_holds_every_split(summary: dict[str, Any], figures: dict[str, Any]) -> None:
    assert json.loads(json.dumps(summary, allow_nan=False))["title"] == "tile:cpu"
    assert [split["name"] for split in summary["splits"]] == ["test", "valid"]
    assert [split["name"] for split in summary["data"]] == ["test", "valid", "train"]
    assert summary["figures"]["train"]["learnt"]
    assert not summary["figures"]["test"]["learnt"]
    for split in summary["splits"]:
        taus = [graph["figures"]["kendall_tau"] for graph in split["graphs"]]
        assert taus == sorted(taus, reverse=True)
        assert np.mean(taus) == pytest.approx(figures[split["name"]]["kendall_tau"])
        assert split["unseen"] == 0.0  # all are called matmul
        assert [graph["name"] for graph in split["worst"]] == [graph["name"] for graph in split["graphs"][:-4:-1]]
    assert summary["data"][0]["unrankable"] == 1
    assert summary["figures"]["test"]["skipped"] == {"matmul_8": "all runtimes are equal"}


def test_what_is_drawn_of_a_graph_is_what_the_file_and_the_model_say(
    root: Path, run: Path, summary: dict[str, Any]
) -> None:
    graph = summary["splits"][1]["graphs"][0]
    path = root / f"npz/tile/cpu/valid/{graph['name']}.npz"
    runtime, scores = read_graph(path).runtime, Ranker.load(run).predict_graph(path)
    assert runtime is not None
    drawn = {name: unpacked(graph["points"][name]) for name in ("row", "predicted", "measured", "over")}
    assert drawn["row"] == pytest.approx(np.arange(30) / 29, abs=1e-5)
    assert drawn["predicted"] == pytest.approx((rankdata(scores) - 1) / 29, abs=1e-5)
    assert drawn["measured"] == pytest.approx((rankdata(runtime) - 1) / 29, abs=1e-5)
    slowest = graph["points"]["slowest"]
    assert slowest == pytest.approx(runtime.max() / runtime.min())
    assert slowest ** drawn["over"] == pytest.approx(runtime / runtime.min(), rel=1e-3)
    assert graph["figures"]["kendall_tau"] == pytest.approx(kendalltau(scores, runtime).statistic)
    assert graph["interval"][0] < graph["figures"]["kendall_tau"] < graph["interval"][1]
    repeat = read_graph(path).repeat
    assert graph["quality"]["retest"] == pytest.approx(kendalltau(repeat, runtime).statistic)


def test_large_slates_are_sampled_with_the_first_five() -> None:
    rng = np.random.default_rng(0)
    scores, target = rng.random(3000), rng.random(3000) + 1
    found = points(scores, target, 200)
    assert (found["n"], found["shown"]) == (3000, 200)
    rows = np.round(unpacked(found["row"]) * 2999).astype(int)
    assert len(set(rows)) == 200
    assert set(np.argsort(scores)[:5]) <= set(rows)
    assert unpacked(found["predicted"]) == pytest.approx((rankdata(scores) - 1)[rows] / 2999, abs=1e-5)
    assert points_each(10) > points_each(676) >= 60


def test_the_budget_is_the_mean_slowdown_of_every_graph() -> None:
    rng = np.random.default_rng(1)
    slates = slates_of(*([int(value) for value in rng.integers(500, 1500, size)] for size in (40, 25)))
    scores = rng.random(65)
    found = budget(slates, scores, list(slates.names))
    assert found is not None
    assert found["k"] == [1, 2, 3, 5, 7, 10, 15, 20, 30, 40]
    for k, told, most in zip(found["k"], found["model"], found["most"], strict=True):
        slowdowns = [
            metrics.slowdown_at_k(scores[slates.rows(number)], slates.target[slates.rows(number)], k)
            for number in range(2)
        ]
        assert told == pytest.approx(np.mean(slowdowns))
        assert most == pytest.approx(np.quantile(slowdowns, 0.9))
    assert found["random"][0] == pytest.approx(
        np.mean([slates.target[slates.rows(n)].mean() / slates.target[slates.rows(n)].min() - 1 for n in range(2)])
    )
    assert found["retest"] is None
    assert budget(slates, scores, []) is None


def test_the_page_shows_the_figures(page: str, summary: dict[str, Any], figures: dict[str, Any]) -> None:
    seen = looked_at(page)
    assert [name for name in seen.ids() if name in SECTIONS] == SECTIONS
    for split in ("test", "valid", "train"):
        for found in (figures[split], *figures[split]["baselines"].values()):
            if found.get("kendall_tau") is not None:
                assert f"{found['kendall_tau']:.3f}" in seen.text
            assert render.percent(found["slowdown@1"]) in seen.text
    assert "test: matmul_8 – all runtimes are equal" in seen.text
    for _name, value in summary["settings"]:
        assert value in seen.text
    assert summary["importance"]["blocks"][0]["name"] in seen.text
    drawn = data_of(page)
    assert list(drawn["graphs"]) == [f"{s['name']}/{g['name']}" for s in summary["splits"] for g in s["graphs"]]
    options = [about["value"] for tag, about in seen.tags if tag == "option"]
    assert options == list(drawn["graphs"])


def test_importances_are_the_models_own(run: Path, summary: dict[str, Any]) -> None:
    ranker = Ranker.load(run)
    told = summary["importance"]
    assert {one["name"]: one["share"] for one in told["blocks"]} == ranker.block_importances_
    best = told["columns"][0]
    assert best["share"] == ranker.feature_importances_.max()
    assert best["name"] == ranker.feature_names_in_[ranker.feature_importances_.argmax()]
    assert best["doc"]


def test_a_hostile_name_stays_text(summary: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(summary).replace("matmul_5", HOSTILE).replace("tile:cpu", HOSTILE))
    text = render.page(hostile)
    seen = looked_at(text)
    assert HOSTILE in seen.text
    assert [tag for tag, _ in seen.tags].count("script") == 2
    assert "<script>alert" not in text
    assert any(name.endswith(HOSTILE) for name in data_of(text)["graphs"])


def test_a_graph_whose_runtimes_jump_is_pointed_out(root: Path, run: Path, figures: dict[str, Any]) -> None:
    store = FeatureStore(root / "store", "tile:cpu")
    slates = scoring.measured(store, "valid")
    rng = np.random.default_rng(0)
    runtimes = rng.lognormal(9, 0.1, (2, 200))
    runtimes[1, 120:] *= 3
    scored = Scored("valid", slates_of(*runtimes.astype(int).tolist()), rng.random(400))
    found = of_data(scored)
    (suspect,) = found["suspects"]
    assert suspect["name"] == scored.slates.names[1]
    assert found["totals"]["jumps"] == 1
    assert [jump["row"] for jump in suspect["quality"]["jumps"]] == [120]
    assert len(slates) == 3
    scored = [Scored("valid", slates, Ranker.load(run).predict(store.load("valid").X))]
    summary = report.summarise_run("evaluate", run, resolve("tile:cpu", root), figures, scored, root / "store")
    summary["suspects"] = found["suspects"]
    summary["data"][0]["jumps"] = 1
    seen = looked_at(render.page(summary))
    assert "1 kernel flagged" in seen.text
    assert "jumps at row 120 (×" in seen.text


def test_each_command_writes_its_report(
    root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--data", root, "--store", root / "store", "--jobs", 1]
    line = ["--model", run, "--subset", "tile:cpu", "--split", "test", "--report", tmp_path / "new" / "e.html", *place]
    assert evaluate_command.main([*map(str, line)]) == 0
    told = capsys.readouterr()
    assert "the report is" in told.err
    seen = looked_at((tmp_path / "new" / "e.html").read_text())
    assert [name for name in seen.ids() if name in SECTIONS] == SECTIONS
    line = ["--subset", "tile:cpu", "--out", tmp_path / "run", "--set", "n_estimators=5", "--backend", "lightgbm"]
    assert train_command.main([*map(str, [*line, *place, "--report", tmp_path / "t.html"])]) == 0
    assert "lightgbm, objective pairwise" in looked_at((tmp_path / "t.html").read_text()).text
    line = ["--model", run, root / "npz/tile/cpu/test", "--top", 2, "--report", tmp_path / "p.html"]
    capsys.readouterr()
    assert predict.main([*map(str, line)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + 2 * 3
    assert rows[1:3] == [
        ",".join(map(str, cells))
        for cells in predict._lines(predict.ranking(Ranker.load(run), line[2] / "matmul_10.npz", 2))  # type: ignore[operator]
    ]
    looked_at((tmp_path / "p.html").read_text())


def test_a_place_that_cannot_be_is_refused_before_the_work(
    root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, line in (
        (predict, ["--model", "nowhere", "graph.npz"]),
        (evaluate_command, ["--model", "nowhere", "--subset", "tile:cpu", "--data", root]),
    ):
        assert command.main([*map(str, line), "--report", str(tmp_path)]) == 2
        assert "expected a file, got a folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot create"):
        report.check_report_path(tmp_path / "file" / "below" / "r.html")


def test_layouts_have_all_sections(tmp_path: Path) -> None:
    root = collection(tmp_path, "layout:made:random", train=4, valid=3)
    scored: list[Scored] = []
    run = trained(root, subset="layout:made:random", backend="lightgbm", scored=scored)
    figures = json.loads((run / "metrics.json").read_text())
    summary = report.summarise_run("train", run, resolve("layout:made:random", root), figures, scored, root / "store")
    seen = looked_at(render.page(summary))
    assert [name for name in seen.ids() if name in SECTIONS] == SECTIONS
    assert "only 5 distinct configurations" in seen.text
    (path, *_others) = sorted((root / "npz/layout/made/random/valid").iterdir())
    rankings = predict.rank_files(run, [path])
    told = report.summarise_prediction(run, rankings, 3)["graphs"][0]
    assert [one["config"] for one in told["best"]] == rankings[0]["configs"][:3]
    config = read_graph(path).configs(np.array([told["best"][0]["config"]]))[0]
    (node, text), *_more = told["best"][0]["nodes"]
    assert node.startswith("convolution.")
    assert text.startswith("output {" + ",".join(map(str, config[0][:4])) + "}")
    looked_at(render.prediction_page(report.summarise_prediction(run, rankings, None)))


def test_a_prediction_tells_places_distances_and_configurations(root: Path, run: Path) -> None:
    path = root / "npz/tile/cpu/test/matmul_9.npz"
    ranking = predict.ranking(Ranker.load(run), path)
    configs, scores = np.array(ranking["configs"]), np.array(ranking["scores"])
    found = predicted.of_graph(path, configs, scores, 4)
    assert [one["place"] for one in found["best"]] == [1, 2, 3, 4]
    assert [one["config"] for one in found["best"]] == configs[:4].tolist()
    assert found["best"][3]["behind"] == pytest.approx((scores[3] - scores[0]) / scores.std())
    assert sum(found["histogram"]["counts"]) == found["n_configs"] == 30
    assert sum(found["histogram"]["top"]) == 4
    feat = read_graph(path).config_feat
    assert feat is not None
    rows, columns = feat[configs[0], 8:10].astype(int)
    assert found["best"][0]["says"] == f"output {rows}×{columns}"
    alike = predicted.of_graph(path, configs, np.zeros(30), 99)
    assert alike["histogram"] == {"counts": [30], "top": [30], "width": 0.0}
    summary = report.summarise_prediction(run, [ranking | {"scores": [0.0] * 30}], 99)
    looked_at(render.prediction_page(summary))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (np.full(18, -1), ""),
        ([1, 0, *[-1] * 4, *[-1] * 6, 3, 2, *[-1] * 4], "output {1,0}, kernel {3,2}"),
    ],
)
def test_layouts_in_words(row: Any, text: str) -> None:
    assert predicted.layout_texts(np.array(row, np.int8)) == text


@pytest.mark.parametrize(("value", "text"), [(0.017, "1.7 %"), (0.9999, "100 %"), (2.044, "204 %"), (None, "–")])
def test_shares_for_a_person(value: float | None, text: str) -> None:
    assert render.percent(value).replace("\u00a0", " ") == text
