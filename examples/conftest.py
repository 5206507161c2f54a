"""``make notebooks ARGS=--overwrite`` keeps the new outputs, without what differs in each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Clean a notebook that was overwritten."""
    if item.config.getoption("overwrite", False):
        import nbformat

        notebook = nbformat.read(item.path, as_version=4)
        remove_noise(notebook)
        nbformat.write(notebook, Path(item.path))


def remove_noise(notebook: Any) -> None:
    """Remove times of execution, the version of Python, and progress."""
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not line.startswith("gbr: "))
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
