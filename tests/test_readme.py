"""Code blocks and commands of the README and the pages of docs run as they are."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import polars as pl
import pytest

import gbr
from docs import picture, results
from gbr import Ranker

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))

Capture = pytest.CaptureFixture[str]


def blocks(page: str, language: str = "python") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_block(page: str, index: int, names: dict[str, Any]) -> None:
    exec(compile(blocks(page)[index], f"{page}, block {index}", "exec"), names)


def commands() -> list[str]:
    """Every ``python -m gbr...`` of the pages, in blocks and, with arguments, in prose."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"^(?:    )?(?:\$ )?(python -m gbr\..*)$", text, re.MULTILINE)
        found += re.findall(r"`(python -m gbr\.[^`]* [^`]*)`", text)
    return found


class Parsed(Exception):  # noqa: N818 (not an error)
    """The command line is valid."""


@pytest.mark.parametrize("line", commands())
def test_command_lines_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise Parsed

    group_invoke = click.Group.invoke

    def invoke_subcommand(self: click.Group, ctx: click.Context) -> None:
        self.callback = None
        group_invoke(self, ctx)

    monkeypatch.setattr(click.Command, "invoke", stop)
    monkeypatch.setattr(click.Group, "invoke", invoke_subcommand)
    _python, _m, module, *arguments = shlex.split(line, comments=True)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    for imported in (module, f"{module}.__main__"):
        monkeypatch.delitem(sys.modules, imported, raising=False)
    with pytest.raises(Parsed, match=r"^$"):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_networks_are_described(capsys: Capture) -> None:
    run_block("docs/models.md", 0, {})
    assert capsys.readouterr().out == "124.4 M parameters, 151 MB of cache\nat least 247 µs to read the weights\n"


def test_readme_ranks_rows_of_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    run_block("README.md", 0, names)
    assert float(capsys.readouterr().out) > 0.6
    assert sorted(names["best_first"].tolist()) == list(range(30))
    loaded = Ranker.load(tmp_path / "runs" / "mine")
    assert np.array_equal(loaded.predict(names["X"])[450:], names["scores"])


def test_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """All blocks in one session, on some of the measured graphs."""
    source, folder = ROOT / "data/npz/tile/cpu", tmp_path / "data/npz/tile/cpu"
    for split, count in {"train": 10, "valid": 4}.items():
        (folder / split).mkdir(parents=True)
        paths = sorted((source / split).glob("*.npz"))
        for path in paths[:: len(paths) // count][:count]:
            shutil.copy(path, folder / split)
    shutil.copy(source / "hardware.toml", folder)
    monkeypatch.chdir(tmp_path)
    gbr.build("tile:cpu", jobs=1)
    names: dict[str, Any] = {}
    for index in range(len(blocks("docs/guide.md"))):
        run_block("docs/guide.md", index, names)
    out = capsys.readouterr().out
    assert float(re.findall(r"Kendall tau of held-out families: (\S+)$", out, re.MULTILINE)[0]) > 0.3
    written, blend = pl.read_csv(tmp_path / "submission.csv"), names["blend"]
    assert written.columns == ["ID", "TopConfigs"]
    assert len(written) == names["valid"]["graph"].n_unique()
    for name, top in written.rows():
        own = blend.filter(graph=name.removeprefix("tile:xla:"))
        first = own["row"].to_numpy()[np.argsort(own["score"].to_numpy(), kind="stable")][:5]
        assert [int(row) for row in top.split(";")] == first.tolist()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES)
def test_links_and_make_targets_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_results_table_and_picture(tile_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tile_run / "run"
    figures = json.loads((run / "metrics.json").read_text())
    figures["valid"]["kendall_tau_ci"] = [0.5, 0.75]
    assert "(0.50–0.75)" in results.table([(Ranker.load(run), figures)])
    figures = json.loads((run / "metrics.json").read_text())  # of one family, without an interval
    table = results.table([(Ranker.load(run), figures)])
    (model,) = [line for line in table.splitlines() if line.startswith("| **LightGBM**, pairwise |")]
    assert f" {figures['valid']['kendall_tau']:.3f} |" in model
    assert model.endswith(f" {100 * figures['test']['slowdown@5']:.1f} % |")
    page = tmp_path / "README.md"
    begin, end = results.BEGIN.format(kind="tile"), results.END.format(kind="tile")
    page.write_text(f"before\n{begin}old\n{end}after\n")
    other = tmp_path / "other.md"
    other.write_text("no table\n")
    monkeypatch.setattr(results, "PAGES", (page, other))
    monkeypatch.setattr(sys, "argv", ["results.py", str(run)])
    results.main()
    assert page.read_text() == f"before\n{begin}{table}{end}after\n"
    assert other.read_text() == "no table\n"

    paths = sorted((tile_run / "npz/tile/cpu/test").glob("*.npz"))
    panels = picture.panels(Ranker.load(run), paths)
    assert [tau for _, tau, _ in panels] == sorted((tau for _, tau, _ in panels), reverse=True)
    circles = list(
        ElementTree.fromstring(picture.drawing(panels, len(paths))).iter("{http://www.w3.org/2000/svg}circle")
    )
    assert len(circles) == 3 * 30
    assert sum(circle.get("fill") == picture.BEST for circle in circles) == 3 * 5
