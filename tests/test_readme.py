"""What the README shows works as it stands there."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import pytest

from docs import picture, results
from gbr import Ranker
from tests.collection import trained, write_collection

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/guide.md", "docs/tuning.md")
RANKING, TUNING = range(2)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands() -> list[str]:
    """Every ``python -m gbr...`` of the pages, in blocks and in prose."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"^(?:    )?(?:\$ )?(python -m gbr\..*)$", text, re.MULTILINE)
        found += re.findall(r"`(python -m gbr\.[^`]*)`", text)
    return found


class Parsed(Exception):  # noqa: N818 (not an error)
    """The arguments were understood; the command itself need not run."""


def test_there_is_something_to_check() -> None:
    assert len(blocks("README.md", "python")) == 2
    assert {shlex.split(line)[2] for line in commands()} >= {
        "gbr.features",
        "gbr.train",
        "gbr.evaluate",
        "gbr.predict",
        "gbr.collect",
    }


@pytest.mark.parametrize("line", commands())
def test_every_command_line_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: click.Command, ctx: click.Context) -> None:
        raise Parsed

    monkeypatch.setattr(click.Command, "invoke", stop)
    group_invoke = click.Group.invoke

    def invoke_subcommand(self: click.Group, ctx: click.Context) -> None:
        self.callback = None
        group_invoke(self, ctx)

    monkeypatch.setattr(click.Group, "invoke", invoke_subcommand)
    _python, _m, module, *arguments = shlex.split(line, comments=True)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    for imported in (module, f"{module}.__main__"):
        monkeypatch.delitem(sys.modules, imported, raising=False)
    with pytest.raises(Parsed, match=r"^$"):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_block(number: int) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(blocks("README.md", "python")[number], "README.md", "exec"), names)
    return names


def test_a_function_is_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jax", reason="JAX comes with gbr[collect]")
    monkeypatch.chdir(tmp_path)
    names = run_block(TUNING)
    assert re.search(r"as fast as the default \(|the default is already best", capsys.readouterr().out)
    x = np.random.default_rng(0).random((4, 16, 16, 32), np.float32)
    w = np.random.default_rng(1).random((32, 64), np.float32)
    expected = np.einsum("bhwc,cd->bdhw", np.tanh(x), w)
    np.testing.assert_allclose(names["fast"](x, w), expected, rtol=1e-4)


def test_rows_of_ones_own_are_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_block(RANKING)
    assert float(capsys.readouterr().out) > 0.6  # the made-up runtimes can be learnt
    assert sorted(names["best_first"].tolist()) == list(range(30))
    loaded = Ranker.load(tmp_path / "runs" / "mine")
    assert np.array_equal(loaded.predict(names["X"])[450:], names["scores"])


@pytest.mark.parametrize("page", PAGES)
def test_links_into_the_checkout_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_what_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:features|gbr|tests)/\w+\.py)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`((?:features|gbr)(?:\.\w+)+)`", text):
        module, _, attribute = name.rpartition(".")
        parent = import_module(module)
        assert hasattr(parent, attribute) or find_spec(name), name


def test_table_and_picture_are_made_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_collection(tmp_path, {"train": 4, "valid": 2, "test": 4})
    run = trained(root)
    figures = json.loads((run / "metrics.json").read_text())
    told = results.table([(Ranker.load(run), figures)])
    assert "trained on 4 kernels, stopped on 2 of other families, tested on 4 of yet others" in told
    (model,) = [line for line in told.splitlines() if line.startswith("| **ensemble**, mixed |")]
    assert f" {figures['valid']['kendall_tau']:.3f} (" in model
    assert model.endswith(f" {100 * figures['test']['slowdown@5']:.1f} % |")
    assert {line.count("|") for line in told.splitlines()[2:]} == {6}

    page = tmp_path / "README.md"
    begin, end = results.BEGIN.format(kind="tile"), results.END.format(kind="tile")
    page.write_text(f"before\n{begin}old\n{end}after\n")
    monkeypatch.setattr(results, "README", page)
    monkeypatch.setattr(sys, "argv", ["results.py", str(run)])
    results.main()
    assert page.read_text() == f"before\n{begin}{told}{end}after\n"

    paths = sorted((root / "npz" / "tile" / "cpu" / "test").glob("*.npz"))
    shown = picture.panels(Ranker.load(run), paths)
    assert [tau for _name, tau, _relative in shown] == sorted((tau for _name, tau, _relative in shown), reverse=True)
    drawn = ElementTree.fromstring(picture.drawing(shown, len(paths)))
    circles = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 3 * 30
    assert sum(circle.get("fill") == picture.BEST for circle in circles) == 3 * 5
