"""Searches of explicit lists of configurations: without a program, and of a kernel."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gbr
from features.hlo import TILE_CONFIG
from gbr import Ranker
from gbr.data.configs import parameters
from gbr.data.graph import graph_from_arrays
from gbr.data.hardware import named
from gbr.errors import GbrWarning, UsageError
from gbr.tune import ConfigSpace, KernelSpace, Tuner, search
from tests.conftest import ROOT
from tests.made import matmul_arrays

CONFIGS: list[dict[str, Any]] = [
    {"kwargs": {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": 32, "EVEN": m > n}, "num_warps": warps, "num_stages": 3}
    for m, n, warps in itertools.product((16, 32, 64, 128), (16, 32, 64, 128), (2, 4, 8))
]
GRAPH = graph_from_arrays("matmul", matmul_arrays((512, 512, 512), 4, seed=0))


def cost(config: dict[str, Any]) -> float:
    """Fastest at 64 x 128 and four warps."""
    block = config["kwargs"]
    away = abs(math.log2(block["BLOCK_M"] / 64)) + abs(math.log2(block["BLOCK_N"] / 128))
    if block["BLOCK_M"] == 16:
        raise RuntimeError("out of resource")
    return 1 + away + abs(math.log2(config["num_warps"] / 4))


def test_configurations_are_dictionaries_or_objects_of_triton() -> None:
    expected = {"BLOCK": 64, "num_warps": 4, "num_stages": 2}
    one = SimpleNamespace(kwargs={"BLOCK": 64}, num_warps=4, num_stages=2, num_ctas=1, maxnreg=None, pre_hook=None)
    given: list[Any] = [expected, {"kwargs": {"BLOCK": 64}, "num_warps": 4, "num_stages": 2}, one]
    assert [parameters(each) for each in given] == [expected] * 3
    space = ConfigSpace([*given, {"BLOCK": 128, "order": "ij"}])
    assert space.duplicate_of.tolist() == [0, 0, 0, 3]
    assert space.columns(None)[:, 1].tolist() == pytest.approx([math.log2(5)] * 3 + [-1])
    for wrong in ([], [3], ["x"]):
        with pytest.raises(UsageError, match="configs: expected"):
            ConfigSpace(wrong)


@pytest.mark.parametrize("options", [{}, {"graph": GRAPH, "hardware": "a100"}])
def test_a_list_is_searched_and_failures_are_recorded(options: dict[str, Any]) -> None:
    tuned = gbr.tune(CONFIGS[::-1], cost, budget=30, progress=False, **options)
    assert cost(tuned.config) <= 2
    assert tuned.config in CONFIGS
    assert "times as fast" in str(tuned)
    if not options:
        assert tuned.found.failed > 0


def test_a_kernel_has_features_a_prior_and_all_parameters_as_choices() -> None:
    space = KernelSpace(CONFIGS, GRAPH, "a100")
    assert len(set(space.duplicate_of)) == len(CONFIGS)
    first = TILE_CONFIG.index("output_bounds_0")
    config = space.graph.configs(np.array([5]))[0]
    assert config[first : first + 3].tolist() == [16, 32, 32]  # blocks, whatever the position of other parameters
    order = Ranker.physics(space.estimate().resolved("tile", "").hardware).predict_graph(space.graph)
    assert Tuner(space).ask(3) == np.argsort(order, kind="stable")[:3].tolist()
    np.testing.assert_array_equal(Ranker.physics("a100").predict_graph(GRAPH, CONFIGS), order)
    found = search(Tuner(space), lambda config: cost(CONFIGS[config]), budget=16)
    assert found.measured == 16


def test_slots_that_the_hardware_names_are_used() -> None:
    hardware = replace(named("a100"), config=(("input_bounds", ("num_warps", "block_n")), ("output_bounds", ("", "x"))))
    space = KernelSpace(CONFIGS[:12], GRAPH, hardware)
    first = TILE_CONFIG.index("input_bounds_0")
    expected = [[config["num_warps"], config["kwargs"]["BLOCK_N"]] for config in CONFIGS[:12]]
    configs = space.graph.configs(np.arange(12))
    assert configs[:, first : first + 2].tolist() == expected
    assert not configs[:, TILE_CONFIG.index("output_bounds_0") :][:, :6].any()


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="graph="):
        gbr.tune(CONFIGS, cost, model="physics", progress=False)
    with pytest.raises(UsageError, match="hardware: expected the machine"):
        gbr.tune(CONFIGS, cost, graph=GRAPH, progress=False)
    with pytest.raises(UsageError, match="hardware: expected the program of the kernel as well; pass graph="):
        gbr.tune(CONFIGS, cost, hardware="a100", progress=False)
    with pytest.raises(UsageError, match="configs: expected a list of configurations, got a int"):
        gbr.tune(3, cost, progress=False)


def test_a_model_of_other_slots_or_hardware_is_refused_or_reported(tile_run: Path) -> None:
    with pytest.raises(UsageError, match=r"configurations with bounds without names, .*; got BLOCK_M"):
        gbr.tune(CONFIGS, cost, graph=GRAPH, model=tile_run / "run", progress=False)
    hardware = replace(named("a100"), config=(("output_bounds", ("block_m", "num_warps")),))
    model = gbr.Ranker()._set_estimate("tile", hardware)
    model.trained_on_ = {**(model.trained_on_ or {}), "subset": "tile:gpu"}  # as if trained
    with pytest.warns(GbrWarning) as caught:
        gbr.tune(CONFIGS, cost, graph=GRAPH, model=model, hardware="h100", budget=16, progress=False)
    texts = [str(each.message) for each in caught]
    assert texts[0].startswith("the model was trained for 'NVIDIA A100-SXM4-40GB', not 'NVIDIA H100")
    assert "are ignored: BLOCK_N, BLOCK_K, EVEN, num_stages; it knows block_m, num_warps" in texts[1]
    assert len(texts) == len(set(texts))
    with pytest.raises(UsageError, match=r"other slots than the space; pass model\.hardware"):
        Tuner(KernelSpace(CONFIGS, GRAPH, "a100"), model)
    assert gbr.tune(CONFIGS, cost, graph=GRAPH, model=Ranker.physics("a100"), budget=16, progress=False).found.measured


def test_the_example_tunes_a_matmul_on_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    done = subprocess.run([sys.executable, ROOT / "examples" / "triton_matmul.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TFLOP/s" in done.stdout
