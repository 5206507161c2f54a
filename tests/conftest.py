"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbr.errors import warn_once
from tests.made import trained, write_collection

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _every_test_may_warn() -> None:
    """Forget the warnings that were issued once per process."""
    warn_once.cache_clear()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real TpuGraphs files, where a developer keeps them beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no TpuGraphs sample files beside the checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def tile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tile collection with its store (``store``) and a model (``run``), shared by tests: do not change it."""
    root = write_collection(tmp_path_factory.mktemp("tile_run"), {"train": 6, "valid": 3, "test": 2})
    trained(root)
    return root
