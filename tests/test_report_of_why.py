"""Why a configuration is ranked before another one, as pages tell it: against what the explanation itself holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbr import Ranker, explain, predict
from gbr.attribution.explanation import Explanation
from gbr.attribution.explanation import explain as explained
from gbr.report import render, report
from gbr.report.explained import SHOWN, for_page
from tests.collection import rewrite, trained, write_collection
from tests.made import collection
from tests.test_explain import LAYOUT, TILE
from tests.test_report import HOSTILE, Seen, looked_at

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of tiles, and beside it three graphs to predict, of which the last has one configuration."""
    root = write_collection(tmp_path_factory.mktemp("tiles"), {"train": 4, "valid": 2, "test": 3})
    run = trained(root, backend="lightgbm", settings={"n_estimators": 8})
    last = graphs_of(run)[-1]
    with np.load(last) as stored:
        rewrite(last, **{name: stored[name][:1] for name in stored.files if name.startswith("config_")})
    return run


def graphs_of(run: Path) -> list[Path]:
    return sorted(run.parent.glob("npz/**/test/*.npz"))


def page_of(found: Explanation, top: int = SHOWN, **about: Any) -> tuple[str, Seen]:
    summary = {
        "title": "a_graph",
        "model": "lightgbm",
        "command": "explain",
        "version": "1",
        "made": "today",
        "settings": [("seed", "0")],
        "why": for_page(found, top),
    }
    text = render.explanation_page(summary | about)
    return text, looked_at(text)


def check_page(seen: Seen, whole: dict[str, Any], top: int) -> None:
    """Everything of an explanation, as a dict, is on the page; of what may be long the first few."""
    for block in whole["blocks"]:
        assert block["doc"] in seen.text
        assert f"{block['effect']:+.4f}" in seen.text
    for place, column in enumerate(whole["columns"]):
        about = f"{column['name']}{column['doc']} ({column['unit']})"
        assert (about in seen.text) == (place < top)
        if place < top:
            assert f"{column['effect']:+.4f}" in seen.text
            assert all(name in seen.text for name, _ in column["behind"])
    for node in whole["nodes"][:top]:
        for tensor in node["tensors"]:
            assert f"{node['name']} {tensor['role']}{tensor['shape']}" in seen.text
            assert all((layout or "unset") in seen.text for layout in tensor["layouts"])
    for place, copy in enumerate(whole["copies"]):
        assert (copy["what"] in seen.text) == (place < top)
    for loop in whole["loops"]:
        assert (f"{loop['name']}: {loop['runs_over']}extent {loop['extent']}" in seen.text) == (loop["extent"] > 1)
    for operand in whole["operands"]:
        assert f"{operand['name']} ({operand['role']}){operand['shape']}" in seen.text


@pytest.mark.parametrize(("found", "top"), [(LAYOUT, 8), (LAYOUT, 1), (TILE, 8), (TILE, 2)])
def test_a_page_holds_what_the_explanation_holds(found: Explanation, top: int) -> None:
    _, seen = page_of(found, top)
    check_page(seen, found.as_dict(), top)
    assert "2^21.50" in seen.text
    if top > 1:
        assert "12.5%" in seen.text


def test_layouts_are_told_with_their_copies_in_bytes() -> None:
    _, seen = page_of(LAYOUT)
    for told in (
        "Why configuration 17 behind the compiler’s default",
        "number 47 of 96configuration 17",
        "number 1 of 96configuration 0, which leaves all layouts to the compiler",
        "The model's score puts 17 behind 0 by 1.0000.",
        "{4,3}minor 4, padded x32",
        "{3,2,1,0,4}minor 64, padded x8",
        "3.2 MB, > 100",
        "512 B",
    ):
        assert told in seen.text


def bars(seen: Seen) -> list[tuple[float, float, bool]]:
    """Where the bars of blocks begin and how wide they are, in per cent, and which are for the first."""
    return [
        (*(float(str(about[name]).rstrip("%")) for name in ("x", "width")), "first" in str(about["class"]))  # type: ignore[misc]
        for tag, about in seen.tags
        if tag == "rect"
    ]


def test_bars_stand_on_the_side_they_speak_for() -> None:
    blocks = [replace(LAYOUT.blocks[0], name=f"block{n}", effect=effect) for n, effect in enumerate((0.6, -0.2, 0.1))]
    _, seen = page_of(replace(LAYOUT, blocks=tuple(blocks)))
    assert bars(seen) == [(25.0, 75.0, True), (0.0, 25.0, False), (25.0, 12.5, True)]
    _, seen = page_of(LAYOUT)  # -0.75 and -0.25, all for the other one: zero stands at the right
    assert bars(seen) == [(0.0, 100.0, False), (66.67, 33.33, False)]


def test_a_tie_is_called_a_tie() -> None:
    same: dict[str, Any] = {
        "columns": (),
        "blocks": (),
        "nodes": (),
        "copies": (),
        "lead": 0.0,
        "alike": 0.0,
        "scores": (1.0, 1.0),
    }
    _, seen = page_of(replace(LAYOUT, chosen="median", places=(1, 49), **same))
    assert bars(seen) == []
    assert "A tie: the first and the median" in seen.text
    assert "The model sees no difference between them." in seen.text


def test_hostile_names_stay_text() -> None:
    columns = tuple(replace(column, doc=HOSTILE, behind=((HOSTILE, 1.0),)) for column in LAYOUT.columns)
    nodes = tuple(replace(node, name=HOSTILE) for node in LAYOUT.nodes)
    copies = tuple(replace(copy, what=HOSTILE) for copy in LAYOUT.copies)
    hostile = replace(LAYOUT, graph=f"{HOSTILE}.npz", columns=columns, nodes=nodes, copies=copies)
    text, seen = page_of(hostile, title=HOSTILE)
    assert seen.text.count(HOSTILE) >= 2 + 2 * len(columns) + len(copies)
    assert "<script" not in text


def test_a_prediction_says_why_the_first_is_first(tiles: Path) -> None:
    paths, ranker = graphs_of(tiles), Ranker.load(tiles)
    summary = report.summarise_prediction(tiles, predict.rank_files(tiles, paths), None)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary | {"settings": [*map(list, summary["settings"])]}
    text = render.prediction_page(summary)
    seen = looked_at(text)
    assert [name for name in seen.ids() if name.startswith("why-")] == ["why-1", "why-2"]
    assert seen.text.count("Why the first before the median") == 2
    assert summary["graphs"][2]["why"] is None
    assert "is told for" not in seen.text
    for graph, path in zip(summary["graphs"][:2], paths, strict=False):
        found = explained(ranker, path, int(ranker.rank(path)[0]))
        assert found.runtimes is not None
        assert graph["why"] == for_page(replace(found, runtimes=None))
        assert [block["effect"] for block in graph["why"]["blocks"]] == [block.effect for block in found.blocks]
    assert "Measured:" not in text  # a prediction tells nothing of runtimes


def test_many_graphs_are_explained_for_the_first_few_and_the_page_says_so(
    tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_EXPLAINED", 1)
    summary = report.summarise_prediction(tiles, predict.rank_files(tiles, graphs_of(tiles)), None)
    seen = looked_at(render.prediction_page(summary))
    assert [name for name in seen.ids() if name.startswith("why-")] == ["why-1"]
    assert "is told for 1 of these 3 graphs" in seen.text


def test_layouts_are_compared_with_the_compilers_own(tmp_path: Path) -> None:
    root = collection(tmp_path, "layout:made:random", train=4, valid=2, test=1)
    run = trained(root, subset="layout:made:random", backend="lightgbm", settings={"n_estimators": 8})
    (path,) = graphs_of(run)
    ranker = Ranker.load(run)
    found = explained(ranker, path, 1)
    assert found.nodes
    summary = report._about("layout", "explain", run, ranker) | {"why": for_page(found, 3)}
    check_page(looked_at(render.explanation_page(summary)), found.as_dict(), 3)


def test_the_command_writes_the_page(tiles: Path, tmp_path: Path, capsys: Capture) -> None:
    graph = graphs_of(tiles)[0]
    line = ["--model", str(tiles), str(graph), "--config", "3", "--against", "9"]
    assert explain.main([*line, "--report", str(tmp_path / "new" / "why.html"), "--top", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "the report is" in err
    assert len(json.loads(out)["columns"]) == 3
    seen = looked_at((tmp_path / "new" / "why.html").read_text())
    found = explained(Ranker.load(tiles), graph, 3, 9)
    check_page(seen, found.as_dict(), 3)
    order = "before" if found.places[0] < found.places[1] else "behind"
    assert f"{order} configuration 9" in seen.text
    assert f"Measured: 3 takes {found.runtimes[0] / found.runtimes[1]:.3f} times" in seen.text  # type: ignore[index]
    assert str(graph) in seen.text
    assert explain.main([*line, "--report", str(tmp_path)]) == 2
    assert "expected a file, got a folder" in capsys.readouterr().err
