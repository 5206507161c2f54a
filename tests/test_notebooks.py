"""The notebooks as they are committed, with outputs but without what differs in each run; and their pages."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs import hooks
from examples import conftest
from examples.simulated_caches import write_caches
from gbr.data.devices import devices
from gbr.table import import_table

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
#: Text that names a folder of one machine, or a process.
ABSOLUTE = re.compile(
    r"(?<![\w.~])/(?:home|Users|root|tmp|work|var|usr|opt|private)/|[A-Z]:\\\\|<[\w. ]+ at 0x[0-9a-f]+>"
)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_as_they_ran(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"] == conftest.METADATA
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", ()) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
    assert [cell["metadata"] for cell in notebook["cells"] if cell["metadata"]] == []
    text = [output.get("text") or output["data"].get("text/html", "") for output in outputs]
    assert [found for found in map(ABSOLUTE.search, map("".join, text)) if found] == []


def test_notebooks_are_small() -> None:
    pictures = [
        output["data"]["image/png"]
        for path in NOTEBOOKS
        for cell in cells(path, "code")
        for output in cell["outputs"]
        if "image/png" in output.get("data", ())
    ]
    assert sum(len(base64.b64decode(picture)) for picture in pictures) < 1.5e6
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 3e6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_notebooks_exist(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_simulated_times_keep_to_the_peak_rate(tmp_path: Path) -> None:
    paths = write_caches(tmp_path, ["A100", "RTX 4090"], [1024])
    table = import_table(paths, tmp_path / "table", test={"device": ("RTX 4090",)})
    assert table.roles.config == ("block_m", "block_n", "block_k", "warps", "stages", "vector")
    assert [group.split for group in table.groups] == ["train", "test"]
    for group in table.groups:
        cost = table.cost[group.start : group.stop]
        rate = devices()[table.frame["device"][group.start]].rates["fp32"]
        assert 2 * 1024**3 / (1e9 * rate) < cost.min() < np.median(cost) < 2  # ms
        assert 0 < np.isinf(cost).mean() < 0.1


def test_noise_is_removed() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat comes with gbr[dev]")
    output = nbformat.v4.new_output
    notebook = nbformat.v4.new_notebook(
        metadata={"language_info": {"name": "python", "version": "3.11.1"}},
        cells=[
            nbformat.v4.new_markdown_cell("text"),
            nbformat.v4.new_code_cell(
                metadata={"execution": {"iopub.status.busy": "2026"}},
                outputs=[
                    output("stream", name="stderr", text="gbr: building: 2 s so far\n"),
                    output("stream", name="stdout", text="gbr: printed\n"),
                    output("stream", name="stderr", text="gbr: done in 5 s\nWARNING\n"),
                    output("display_data", data={"text/plain": "1"}),
                ],
            ),
        ],
    )
    conftest.remove_noise(notebook)
    assert notebook.metadata == conftest.METADATA
    assert notebook.cells[1].metadata == {}
    kept = notebook.cells[1].outputs
    assert [each.get("text") for each in kept] == ["gbr: printed\n", "WARNING\n", None]


def test_pages_show_outputs(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert", reason="nbconvert comes with gbr[docs]")
    nbformat = pytest.importorskip("nbformat", reason="nbformat comes with gbr[dev]")
    frame = '<div><style>\n.a {b: c}\n\n</style><table border="1" class="dataframe"><tr><td>1</td></tr></table></div>'
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": frame}),
        nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(b"picture").decode()}),
    ]
    path = tmp_path / "mine.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("a = 1", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=conftest.METADATA), path)
    page, pictures = hooks.notebook(path)
    assert list(pictures.values()) == [b"picture"]
    (name,) = pictures
    assert name.startswith("mine")
    assert f"]({name})" in page
    assert "<table><tr><td>1</td></tr></table>" in page
    assert "style" not in page
    assert "```python\na = 1\n```" in page
