"""Spaces, the tuner, the search loop and replays, on synthetic costs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr import Ranker
from gbr.data.graph import graph_from_arrays
from gbr.errors import ModelError, TuneError, UsageError
from gbr.tune import Best, GraphSpace, ParameterSpace, Replay, Tuner, search
from tests.conftest import ROOT
from tests.made import matmul_arrays, trained, write_collection

DATA = ROOT / "data" / "npz"
GRID = {"block": [8, 16, 32, 64, 128, 256], "unroll": [1, 2, 4, 8], "order": ["ij", "ji"]}


def cost(choice: dict[str, object]) -> float:
    """Lowest at block 64, unroll 4, order ij."""
    block, unroll = float(str(choice["block"])), float(str(choice["unroll"]))
    return 10 + abs(math.log2(block / 64)) + 0.5 * abs(math.log2(unroll / 4)) + 2 * (choice["order"] == "ji")


def grid(**arguments: object) -> ParameterSpace:
    return ParameterSpace(GRID, default={"block": 8, "unroll": 1, "order": "ji"}, **arguments)  # type: ignore[arg-type]


def measure_until(tuner: Tuner, costs: np.ndarray, target: float) -> int:
    """Number of measurements until a configuration reaches the target."""
    while tuner.best is None or tuner.best.runtime > target:
        (config,) = tuner.ask()
        tuner.tell([config], [float(costs[config])])
    return len(tuner)


# --- tuner -----------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_every_configuration_is_proposed_once(data: st.DataObject) -> None:
    space = ParameterSpace({"a": [1, 2, 4], "b": [True, False], "c": ["x", "y"]})
    tuner = Tuner(space, seed=data.draw(st.integers(0, 3)))
    proposed: list[int] = []
    outcome = st.one_of(st.floats(1, 9), st.just("crashed"), st.none(), st.just(math.nan), st.just(math.inf))
    while batch := tuner.ask(data.draw(st.integers(1, 4))):
        proposed += batch
        if data.draw(st.booleans()):
            tuner.tell(batch, [data.draw(outcome) for _ in batch])
        if data.draw(st.booleans()):
            extra = data.draw(st.integers(0, len(space) - 1))
            tuner.tell([extra], [data.draw(outcome)])
            if extra not in proposed:
                proposed.append(extra)
        assert tuner.best is None or tuner.best.config not in tuner.failures
        assert set(tuner.runtimes).isdisjoint(tuner.failures)
    assert sorted(proposed) == list(range(len(space)))


def test_equal_configurations_are_measured_once() -> None:
    graph = graph_from_arrays("matmul", matmul_arrays((64, 64, 32), 12, seed=0))  # the last row repeats the first
    tuner = Tuner(GraphSpace(graph))
    tuner.tell([11, 0], [4.0, 2.0])
    assert tuner.runtimes == {0: 3.0}
    assert {0, 11}.isdisjoint(tuner.ask(50))


def test_the_best_is_the_fastest_that_never_failed() -> None:
    tuner = Tuner(grid())
    assert tuner.best is None
    tuner.tell([3, 4, 5], [2.0, 1.0, "wrong result"])
    assert tuner.best == Best(4, 1.0)
    tuner.tell([4, 6, 7], ["timed out", -1.0, math.nan])
    assert (tuner.best, len(tuner)) == (Best(3, 2.0), 5)
    assert tuner.failures == {5: "wrong result", 4: "timed out", 6: "runtime -1.0", 7: "runtime nan"}


def test_the_first_proposals_fill_the_space() -> None:
    space = grid()
    first = [space.describe(config) for config in Tuner(space, seed=0).ask(5)]
    blocks = [choice["block"] for choice in first]
    assert {choice["order"] for choice in first} == {"ij", "ji"}
    assert max(blocks) / min(blocks) >= 16


def test_a_search_needs_fewer_measurements_than_random_order_and_can_be_resumed() -> None:
    space = grid()
    costs = np.array([cost(space.describe(config)) for config in range(len(space))])
    tuners = [Tuner(space, seed=seed) for seed in range(3)]
    counts = [measure_until(tuner, costs, costs.min()) for tuner in tuners]
    assert np.mean(counts) < 0.6 * (len(space) + 1) / 2  # the mean of drawing without replacement
    asked = list(tuners[1].runtimes)
    resumed = Tuner(space, seed=1)
    resumed.tell(asked[:-3], costs[asked[:-3]].tolist())
    measure_until(resumed, costs, costs.min())
    assert list(resumed.runtimes) == asked


def test_failures_are_avoided() -> None:
    """Half of the space crashes: after ten measurements, few proposals still do."""
    space = grid()
    tuner, failed = Tuner(space, seed=0), []
    for _ in range(20):
        (config,) = tuner.ask()
        choice = space.describe(config)
        failed.append(choice["order"] == "ij" and int(choice["block"]) >= 64)
        tuner.tell([config], ["crashed" if failed[-1] else cost(choice)])
    assert sum(failed[10:]) <= 3


@pytest.mark.parametrize(
    ("configs", "outcomes", "message"),
    [
        ([1], [1.0, 2.0], "expected an outcome per configuration, got 2 for 1"),
        ([1, 48], [1.0, 1.0], "parameters: expected 0 to 47, got 48"),
        ([1, 2.0], [1.0, 1.0], "parameters: expected 0 to 47, got 2.0"),
        ([1, 2], [1.0, [1.0]], r"expected a runtime as a number.*, got \[1.0\]"),
    ],
)
def test_invalid_outcomes_are_rejected(configs: list[int], outcomes: list[float], message: str) -> None:
    tuner = Tuner(grid())
    with pytest.raises(UsageError, match=message):
        tuner.tell(configs, outcomes)
    assert not len(tuner)
    with pytest.raises(UsageError, match="ask: expected a positive integer, got 0"):
        tuner.ask(0)
    with pytest.raises(UsageError, match=r"space: expected a Space such as ParameterSpace\(...\), got a dict"):
        Tuner({"block": [1, 2]})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="absent"):
        Tuner(grid(), "runs/absent")
    with pytest.raises(UsageError, match="seed: expected an integer from 0 on, got -1"):
        Tuner(grid(), seed=-1)


# --- spaces ----------------------------------------------------------------------------------------------------------


def test_a_parameter_space_is_the_constrained_product_or_a_sample_with_the_default() -> None:
    space = grid(constraints=[lambda choice: choice["block"] * choice["unroll"] <= 256])
    listed = [space.describe(config) for config in range(len(space))]
    assert len(listed) == sum(b * u <= 256 for b in GRID["block"] for u in GRID["unroll"]) * 2  # type: ignore[operator]
    assert len({tuple(choice.values()) for choice in listed}) == len(listed)
    assert space.describe(space.default or 0) == {"block": 8, "unroll": 1, "order": "ji"}
    default = {"a": 7, "b": 11, "c": 13}
    large = ParameterSpace({name: list(range(20)) for name in "abc"}, default=default)
    assert (len(large), large.describe(large.default or 0)) == (4096, default)


def test_fingerprints_depend_on_names_values_and_constraints() -> None:
    fingerprints = [
        grid().fingerprint,
        grid(constraints=[lambda choice: choice["block"] < 256]).fingerprint,
        ParameterSpace(GRID).fingerprint,
        ParameterSpace({**GRID, "unroll": [1, 2, 4, 16]}).fingerprint,
        ParameterSpace({"blocks" if key == "block" else key: value for key, value in GRID.items()}).fingerprint,
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert grid().fingerprint == grid(features=lambda choice: [choice["block"]]).fingerprint == "ddbcf07937f29830"


def test_values_of_numpy_are_those_of_python() -> None:
    for values in ([1, 2, 4], [0.5, 2.0], ["a", "b"], [True, False]):
        array = np.array(values)
        spaces = [
            ParameterSpace({"a": given, "b": [1, 2]}, default={"a": array[1], "b": 1}) for given in (values, array)
        ]
        assert spaces[0].fingerprint == spaces[1].fingerprint
        assert json.dumps(spaces[1].describe(0)) == json.dumps({"a": values[0], "b": 1})
    tuners = [Tuner(space, seed=seed) for space, seed in zip(spaces, (3, np.int64(3)), strict=True)]
    assert tuners[0].ask(3) == tuners[1].ask(np.int64(3))  # type: ignore[arg-type]


def test_infinite_values_are_beyond_the_others() -> None:
    space = ParameterSpace({"a": [-math.inf, 1, 3, 2**70, 10**400], "b": [1, 2]})
    assert np.unique(space.columns(None)[:, 0]).tolist() == [-71, 1, 2, 70, 71]
    tuner, proposed = Tuner(space), []
    while batch := tuner.ask():
        proposed += batch
        tuner.tell(batch, [1.0 + len(proposed)])
    assert sorted(proposed) == list(range(10))


def test_a_ranker_of_other_programs_scores_the_features() -> None:
    space = grid(features=lambda choice: [math.log2(choice["block"]), choice["unroll"], choice["order"] == "ji"])
    table = space.columns(None)[:, :3].astype(np.float64)
    costs = np.array([cost(space.describe(config)) for config in range(len(space))])
    model = Ranker("lightgbm", n_estimators=30)
    model.fit(np.tile(table, (12, 1)), np.tile(costs, 12), qid=np.repeat(np.arange(12), len(space)))
    (first,) = Tuner(space, model).ask()
    assert costs[first] <= np.sort(costs)[2]
    with pytest.raises(UsageError, match="the model requires the features"):
        Tuner(grid(), model)
    graph = graph_from_arrays("matmul", matmul_arrays((64, 64, 32), 12, seed=0))
    with pytest.raises(ModelError, match="fitted on a plain table, not on graphs"):
        Tuner(GraphSpace(graph), model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parameters": {name: list(range(20)) for name in "abcdef"}}, "combinations, got 64,000,000"),
        ({"parameters": {"a": []}}, r"'a': expected distinct values, got \[\]"),
        ({"parameters": {"a": [1, math.nan]}}, r"'a': expected distinct values, got \[1, nan\]"),
        ({"parameters": {"a": np.eye(2)}}, "'a': expected distinct values, got array"),
        ({"parameters": {"a": [1, 1]}}, r"'a': expected distinct values, got \[1, 1\]"),
        ({"parameters": {"a": [1]}, "constraints": [lambda _: False]}, "no configuration satisfies the constraints"),
        (
            {"parameters": {"a": [1]}, "constraints": [lambda c: c["b"]]},
            r"a constraint raised KeyError: 'b', for \{'a': 1",
        ),
        ({"parameters": {"a": [1]}, "default": {"b": 1}}, r"expected a default .*, got \{'b': 1\}"),
        ({"parameters": {"a": [1, 2]}, "constraints": [lambda c: c["a"] > 1], "default": {"a": 1}}, "got {'a': 1}"),
    ],
)
def test_invalid_parameter_spaces_are_rejected(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ParameterSpace(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "features", [lambda _: ["wide"], lambda c: [1] * c["unroll"], lambda _: [math.nan], lambda _: [1e39]]
)
def test_invalid_features_are_rejected(features: object) -> None:
    with pytest.raises(UsageError, match="features: expected the same number of finite numbers"):
        Tuner(grid(features=features))


# --- replay ----------------------------------------------------------------------------------------------------------


def test_replays_need_fewer_measurements_than_random_order(tmp_path: Path) -> None:
    root = write_collection(tmp_path, {"train": 8, "valid": 2, "test": 2}, n_configs=60)
    model = Ranker.load(trained(root, backend="lightgbm"))
    for path in sorted((root / "npz/tile/cpu/test").glob("*.npz")):
        replay = Replay(path)
        target = 1.02 * replay.runtime.min()
        expected = (len(replay.space) + 1) / (int((replay.runtime <= target).sum()) + 1)
        for ranker, share in ((model, 0.25), (None, 0.6)):
            tuners = [Tuner(replay.space, ranker, seed=seed) for seed in range(2)]
            counts = [measure_until(tuner, replay.runtime, target) for tuner in tuners]
            assert np.mean(counts) <= max(1, share * expected), ranker


def test_replayed_runtimes_are_normalized_and_large_graphs_sampled() -> None:
    arrays = matmul_arrays((512, 512, 32), 5000, seed=0)
    replay = Replay(graph_from_arrays("matmul", arrays))
    assert len(replay.space) == 4096
    assert replay.space.describe(0) == {"row": 0}
    row = replay.space.describe(77)["row"]
    normalizer = arrays["config_runtime_normalizers"][row]
    assert replay(77) == arrays["config_runtime"][row] / normalizer
    assert replay.again(77) == arrays["config_runtime_repeat"][row] / normalizer
    assert np.array_equal(replay.space.graph.configs(np.array([77]))[0], arrays["config_feat"][row])


def test_the_default_of_a_replay_sets_nothing() -> None:
    for name in ("tile/cpu/test/sum_major_2048x1024.npz", "layout/cpu/random/test/dlrm_interaction.npz"):
        assert Replay(DATA / name).space.default == 0
    arrays = matmul_arrays((64, 64, 32), 12, seed=0)
    for normalizer, default in ((7, None), (arrays["config_runtime"][5], 5)):
        arrays["config_runtime_normalizers"] = np.full(12, normalizer)
        assert Replay(graph_from_arrays("matmul", arrays)).space.default == default


# --- search ----------------------------------------------------------------------------------------------------------


def test_the_default_is_measured_first_and_beaten() -> None:
    space, taken = grid(), []

    def measure(config: int) -> float:
        taken.append(config)
        return cost(space.describe(config)) * np.random.default_rng(len(taken)).lognormal(0, 0.002)

    found = search(Tuner(space), measure, budget=25)
    assert taken[0] == space.default
    assert len(set(taken[:25])) == 25
    assert found.verdict is not None
    assert found.verdict.faster
    assert space.describe(found.config) == {"block": 64, "unroll": 4, "order": "ij"}
    assert found.verdict.speedup == pytest.approx(16 / 10, rel=0.01)
    assert found.verdict.low < found.verdict.speedup < found.verdict.high
    assert (found.measured, found.resumed, found.failed) == (25, 0, 0)


def test_noise_is_not_reported_as_a_speedup() -> None:
    rng, space, faster = np.random.default_rng(0), grid(), 0
    for seed in range(6):
        found = search(Tuner(space, seed=seed), lambda _: float(rng.lognormal(0, 0.05)), budget=12)
        assert found.best.runtime < 0.97
        assert found.verdict is not None
        faster += found.verdict.faster
        assert found.config == space.default or found.verdict.faster
    assert faster <= 1


def test_failures_never_win() -> None:
    """Exceptions, invalid runtimes, a finalist that fails when measured again, and a failed default."""
    space = ParameterSpace({"x": list(range(12))}, default={"x": 11})
    seen: set[int] = set()

    def measure(config: int) -> float | str:
        if config in (0, 1):
            raise ValueError("zero\nand one")
        if config == 2 and config in seen:
            return "wrong result"
        seen.add(config)
        return math.nan if config == 5 else 1.0 + config

    tuner = Tuner(space)
    found = search(tuner, measure, budget=len(space))
    error = "ValueError: zero and one"
    assert tuner.failures == {0: error, 1: error, 2: "wrong result", 5: "runtime nan"}
    assert (found.best.config, found.config, found.failed) == (3, 3, 4)
    broken = search(Tuner(space), lambda config: "crashed" if config == 11 else 1.0 + config, budget=6)
    assert (broken.default, broken.verdict) == (None, None)
    assert broken.config != space.default


def test_limits_of_a_search() -> None:
    found = search(Tuner(grid()), lambda config: 1.0 + config, budget=40, seconds=1e-9, rounds=0)
    assert found.measured == 1
    with pytest.raises(TuneError, match="all 4 configurations failed, the first with: no device"):
        search(Tuner(grid()), lambda _: "no device", budget=4)
    with pytest.raises(UsageError, match="budget: expected a positive integer, got 0"):
        search(Tuner(grid()), lambda _: 1.0, budget=0)
