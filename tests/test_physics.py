"""The order without training: its formulas, where a run is expected, beside scores, and as a prior."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gbr
from features.hardware import CPU, TPU
from features.hlo import TILE_CONFIG
from features.tile.names import named_slots
from gbr import Ranker, predict, read_graph
from gbr.adapt import fit_within
from gbr.attribution import explain
from gbr.collect import triton
from gbr.data.build import extract
from gbr.data.hardware import named
from gbr.data.store import schema_of
from gbr.errors import GbrWarning, ModelError, UsageError
from gbr.evaluation.metrics import kendall_tau
from gbr.models import physics
from gbr.tune import Replay, Tuner
from tests.conftest import ROOT

DATA = ROOT / "data" / "npz"
TILE = sorted((DATA / "tile" / "cpu" / "valid").glob("*.npz"))[0]
LAYOUT = sorted((DATA / "layout" / "cpu" / "random" / "valid").glob("*.npz"))[0]
A100 = named("a100")


@pytest.mark.parametrize(("kind", "hardware"), [("tile", CPU), ("tile", TPU), ("tile", A100), ("layout", CPU)])
def test_the_estimate_is_the_sum_of_its_priced_amounts(kind: str, hardware: object) -> None:
    graph = read_graph(TILE if kind == "tile" else LAYOUT)
    schema, X, _ = extract(graph, hardware)  # type: ignore[arg-type]
    ranker = Ranker.physics(hardware, kind)  # type: ignore[arg-type]
    with pytest.warns(GbrWarning):
        found = ranker.predict_graph(graph)
    prices = physics.PRICES[kind, physics.target(hardware)]  # type: ignore[arg-type]
    expected = sum(
        price * (2.0 ** X[:, schema.names.index(name)].astype(np.float64) - 1) for name, price in prices.items()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert set(ranker.feature_importances_ > 0) == {True}


@pytest.mark.parametrize(("kind", "target"), physics.PRICES)
def test_prices_are_positive_and_of_logarithms(kind: str, target: str) -> None:
    schema = schema_of(kind, {"cpu": CPU, "tpu": TPU, "gpu": A100}[target])
    units = {column.name: column.unit for column in schema.columns}
    for name, price in physics.PRICES[kind, target].items():
        assert (units[name], price > 0) == ("log2", True)


@pytest.mark.parametrize(("collection", "least"), [("tile:cpu", 0.54), ("layout:cpu:random", 0.67)])
def test_the_estimate_is_not_below_the_best_column_of_train_and_valid(collection: str, least: float) -> None:
    """The best single columns, ``geometry.fast0.trips`` and ``copies.all.cost``, have .53 and .675 there."""
    folder, ranker = DATA.joinpath(*collection.split(":")), Ranker.physics()
    taus = [kendall_tau(ranker.predict_graph(path), read_graph(path).runtime) for path in folder.glob("valid/*.npz")]
    assert np.mean(taus) > least


def test_hardware_and_kind_are_those_of_the_collection_unless_given() -> None:
    ranker = Ranker.load("physics")
    for path in (TILE, LAYOUT):
        chosen = ranker.resolved(read_graph(path).kind, path)
        assert chosen.hardware.name == "Intel Xeon, AVX-512"
        np.testing.assert_array_equal(chosen.rank(path), ranker.rank(path))
    assert Ranker.load("physics:a100").resolved("tile", TILE).hardware == A100
    assert ranker.resolved("tile", "elsewhere.npz").hardware == CPU
    with pytest.raises(UsageError, match="nonsense"):
        Ranker.load("physics:nonsense")
    with pytest.raises(UsageError, match="got a table"):
        ranker.resolved("table", "x")


def test_names_of_slots_are_those_of_the_collection(tmp_path: Path) -> None:
    folder = tmp_path / "npz" / "tile" / "some-gpu"
    triton.note_device(folder, "NVIDIA H100 PCIe")
    chosen = Ranker.physics("a100").resolved("tile", folder / "test" / "x.npz").hardware
    assert chosen == replace(A100, config=chosen.config)
    assert "num_warps" in named_slots(chosen.config)


def test_slots_without_names_are_reported_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "npz" / "tile" / "some-gpu" / "test" / TILE.name
    path.parent.mkdir(parents=True)
    path.write_bytes(TILE.read_bytes())
    (path.parents[1] / "hardware.toml").write_text('device = "NVIDIA A100"')
    for _ in range(2):
        Ranker.physics().rank(path)
    gbr.build("tile:some-gpu", tmp_path, tmp_path / "store", jobs=1)
    (warning,) = recwarn
    assert "has no names of slots: all values of a configuration are read as sizes of tiles" in str(warning.message)
    triton.note_device(path.parents[2] / "other-gpu", "NVIDIA A100")
    graph = read_graph(path)
    Ranker.physics("a100").rank(graph, [{"BLOCK_M": 32, "num_warps": 2}, {"BLOCK_M": 64, "num_warps": 4}])
    assert len(recwarn) == 1


def test_parameters_get_the_slots_of_a_trained_model() -> None:
    hardware = replace(A100, config=(("output_bounds", ("num_warps", "block_m")),))
    graph = read_graph(TILE)
    ranker = Ranker()._set_estimate("tile", hardware)
    configs = np.zeros((2, 24), np.float32)
    first = TILE_CONFIG.index("output_bounds_0")
    configs[:, first : first + 2] = [[4, 32], [8, 64]]
    given = [{"BLOCK_M": 32, "num_warps": 4}, {"kwargs": {"BLOCK_M": 64}, "num_warps": 8}]
    with pytest.warns(GbrWarning, match="was measured on"):
        expected = ranker.predict_graph(graph.with_configs(configs))
    np.testing.assert_array_equal(ranker.predict_graph(graph, given), expected)
    with pytest.raises(UsageError, match="the model ranks configurations with num_warps, block_m; got unroll"):
        ranker.rank(graph, [{"unroll": 2}])
    missing = [ranker.predict_graph(graph, [{"BLOCK_M": 32, **each}]) for each in ({"num_warps": None}, {})]
    np.testing.assert_array_equal(*missing)
    with pytest.raises(UsageError, match="BLOCK_M: expected a number of 0 or more, got -3"):
        Ranker.physics("a100").rank(graph, [{"BLOCK_M": -3}])


def test_an_estimate_can_be_saved_scored_and_explained(tmp_path: Path) -> None:
    ranker = Ranker.physics(kind="tile").resolved("tile", TILE)
    ranker.save(tmp_path / "run")
    loaded = Ranker.load(tmp_path / "run")
    graph = read_graph(TILE)
    scores = ranker.predict_graph(graph)
    np.testing.assert_array_equal(loaded.predict_graph(graph), scores)
    np.testing.assert_array_equal(Ranker.physics().scorer(graph)(graph.configs(np.arange(graph.n_configs))), scores)
    found = explain(Ranker.physics(), TILE, 3)
    assert {column.name for column in found.columns} <= set(physics.PRICES["tile", "cpu"])
    assert sum(column.effect for column in found.columns) == pytest.approx(found.lead)
    with pytest.raises(ModelError, match="ranks tile"):
        loaded.predict_graph(LAYOUT)


def test_commands_take_physics_for_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["--model", "physics", str(TILE), "--top", "2", "--report", str(tmp_path / "p.html")]) == 0
    first = int(capsys.readouterr().out.splitlines()[1].split(",")[2])
    assert first == Ranker.physics().rank(TILE)[0]
    assert "estimate without training" in (tmp_path / "p.html").read_text()
    figures = gbr.evaluate("physics", "layout:cpu:random", "valid", ROOT / "data", tmp_path / "store")
    found = json.loads(json.dumps(figures))["valid"]
    assert found["kendall_tau"] > 0.67
    assert "physics" not in found["baselines"]  # it is the model


def test_the_estimate_is_the_prior_of_adaptation_and_of_a_search() -> None:
    graph = read_graph(LAYOUT)
    measured = np.arange(0, 20)
    alone = fit_within(graph, measured, graph.runtime[measured])  # type: ignore[index]
    with_it = Ranker.physics().adapt(graph, measured, graph.runtime[measured])  # type: ignore[index]
    assert alone.trust > 0
    np.testing.assert_array_equal(alone.predict(), with_it.predict())
    space = Replay(TILE).space
    assert Tuner(space).ask(4) == Ranker.physics().rank(TILE)[:4].tolist()
