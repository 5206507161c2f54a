"""Damaged input: every format is read or refused in one line, and features of damaged graphs are finite.

Random damage to every format (the targets of ``tests/soak``), for seconds instead of hours; below, cases it once found.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.hlo import FEAT_ID
from gbr.data.build import extract
from gbr.data.collection import Subset
from gbr.data.graph import graph_from_arrays
from gbr.errors import DataError
from gbr.evaluation.protocol import indices_of
from gbr.models import costmodel
from tests.made import tile_arrays
from tests.soak.fuzz import TARGETS, damaged


def test_a_tensor_too_large_to_count_is_refused() -> None:
    arrays = tile_arrays()
    arrays["node_feat"][0, FEAT_ID["shape_dimensions_0"] : FEAT_ID["shape_dimensions_0"] + 3] = 2.0**40
    with pytest.raises(
        DataError, match=r"damaged\.npz: no features can be computed \(node 0: expected .* got 1\.33e\+36"
    ):
        extract(graph_from_arrays("damaged", arrays, "damaged.npz"))


#: Fewer examples for formats that other modules damage already, or whose readers take long; more for values.
EXAMPLES = {"npz": 0, "arrays": 150, "hlo": 300, "store": 10, "model": 40, "manifest": 20}


@pytest.fixture(scope="module")
def folder_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", [name for name in TARGETS if EXAMPLES.get(name, 1)])
def test_damaged_files(name: str, folder_of_all: Path) -> None:
    target, folder = TARGETS[name], folder_of_all / name
    folder.mkdir()
    seeds = target.seeds()

    @settings(max_examples=EXAMPLES.get(name, 60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(seeds), st.integers(0, 2**32 - 1))
    def read(data: bytes, seed: int) -> None:
        target.read(damaged(target, data, seed), folder)

    read()


@pytest.mark.parametrize("name", TARGETS)
def test_undamaged_files_are_read(name: str, tmp_path: Path) -> None:
    for data in TARGETS[name].seeds()[:2]:
        TARGETS[name].read(data, tmp_path)


@pytest.mark.parametrize(("price", "n_features"), [(-1.0, 3), (1.0, 0), (1.0, "x")])
def test_invalid_cost_models_are_refused(price: float, n_features: object) -> None:
    content = json.dumps({"costmodel": 1, "features": n_features, "prices": {"0": price}})
    with pytest.raises(ValueError, match="not a cost model"):
        costmodel.load(content.encode())


def test_invalid_index_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "xla_default.json").write_bytes(b'{"unet": [1e999]}')
    with pytest.raises(DataError, match=r"xla_default\.json: invalid JSON"):
        indices_of(Subset("layout:xla:default"), "valid", tmp_path)
