"""The site: links, pictures, pages made from the code, and the blocks of pages that have an output."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

import gbr
from docs import diagrams, hooks
from features.schema import Block, Column
from gbr.__main__ import COMMANDS
from gbr.data.devices import devices

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("page", "markdown", "expected"),
    [
        ("index.md", "[a](docs/guide.md#x)", "[a](guide.md#x)"),
        ("index.md", "![a](docs/order.svg)", "![a](order.svg)"),
        ("results/tune.md", "[a](../../docs/tuning.md)", "[a](../tuning.md)"),
        (
            "trust.md",
            "[`a`](../SECURITY.md), [b](../benchmarks/results/tune.md)",
            "[`a`](security.md), [b](results/tune.md)",
        ),
        ("trust.md", "[tests/test_site.py](../tests/test_site.py)", "`tests/test_site.py`"),
        ("trust.md", "[the license](../LICENSE)", "the license"),
        ("concepts.md", "[a](../features/tile/extractor.py)", "[a](reference/tile.md)"),
        ("quickstart.md", "[a](../examples/rank_tiles.ipynb)", "[a](examples/rank_tiles.md)"),
        ("examples/rank_tiles.md", "[a](../docs/guide.md#x)", "[a](../guide.md#x)"),
        ("examples/rank_tiles.md", "![png](rank_tiles_3_0.png)", "![png](rank_tiles_3_0.png)"),
        ("reference/tile.md", "[a](../hardware.md)", "[a](../hardware.md)"),
        ("guide.md", "[a](https://b.org/c) [d](#e)", "[a](https://b.org/c) [d](#e)"),
        ("guide.md", "[a](missing.md) [b](../missing.py)", "[a](missing.md) [b](../missing.py)"),
        ("guide.md", "```\n[a](../LICENSE)\n```", "```\n[a](../LICENSE)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(page: str, markdown: str, expected: str) -> None:
    assert hooks.relinked(markdown, page) == expected


def test_other_hosts_are_refused() -> None:
    class Page:
        class file:  # noqa: N801
            src_uri = "index.md"

    own = '<link rel="canonical" href="https://a.org/"><a href="https://b.org"><script src="assets/a.js"></script>'
    assert hooks.on_post_page(own, Page) == own
    errors = pytest.importorskip("mkdocs.exceptions", reason="mkdocs comes with gbr[docs]")
    for part in ('<script src="https://c.org/a.js">', '<link rel="stylesheet" href="//c.org/a.css">'):
        with pytest.raises(errors.PluginError, match="expected no scripts, styles or images of other hosts"):
            hooks.on_post_page(own + part, Page)


def test_roles_of_docstrings_become_links() -> None:
    html = "<p>See :func:<code>gbr.load</code>::</p>"
    expected = '<p>See <autoref optional identifier="gbr.load"><code>gbr.load</code></autoref>:</p>'
    assert hooks.on_page_content(html) == expected


def test_commands_and_columns_are_listed() -> None:
    page = hooks.commands()
    assert re.findall(r"^## gbr (\S+)$", page, re.MULTILINE) == list(COMMANDS)
    assert "### gbr features build\n" in page
    assert "<tr><td><code>--top K</code></td><td>Only the best K.  [default: all]  [x&gt;=1]</td></tr>" in page
    block = Block("a", 1, "what a GPU is.", (Column("b<c", "log2", "x & y"),), per_config=False)
    page = hooks.blocks("Title", "About.", [block])
    assert "## a\n\nWhat a GPU is: 1 columns, one value per graph." in page
    assert "<tr><td><code>a.b&lt;c</code></td><td>log2</td><td>x &amp; y</td></tr>" in page


def test_known_devices_are_listed() -> None:
    page = hooks.known_devices()
    assert page.count("<tr><td>") == len(devices())
    assert re.search(
        r"<td>NVIDIA A100-SXM4-40GB</td><td>gpu, Ampere 8.0</td><td>108</td><td>40</td><td>1555</td>", page
    )
    assert "| `lanes` | count | float32 multiply-adds per unit and clock |" in page


def test_diagrams_are_up_to_date() -> None:
    assert (ROOT / "docs/flow.svg").read_text(encoding="utf-8") == diagrams.flow()
    assert (ROOT / "docs/tau.svg").read_text(encoding="utf-8") == diagrams.tau()
    tau = kendalltau(np.arange(5), diagrams.MEASURED).statistic
    text = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    assert f"{len(diagrams.discordant())} of 10 pairs cross, so that tau is (8 − 2) / 10 = {tau:.1f}" in text


@pytest.mark.parametrize("page", ["adapt", "matrix", "kernels"])
def test_blocks_have_their_output(
    page: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile_run: Path
) -> None:
    if page == "kernels":
        pytest.importorskip("jax")
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "tile").symlink_to(tile_run / "run")
        monkeypatch.chdir(tmp_path)
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)), encoding="utf-8")
    names = runpy.run_path(str(script))
    printed, shown = (
        capsys.readouterr().out,
        "".join(re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)),
    )
    numbers = r"\d+\.\d+"
    assert re.sub(numbers, "", printed) == re.sub(numbers, "", shown)
    found, expected = (list(map(float, re.findall(numbers, out))) for out in (printed, shown))
    assert found == pytest.approx(expected, abs=0.05)
    if page == "kernels":  # the graph file has the names of its parameters
        own = gbr.Ranker.physics().rank(next(Path("mydata").rglob("*.npz")))
        assert "".join(f"{names['configs'][index]}\n" for index in own[:3]) in shown
