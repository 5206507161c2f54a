"""Asking, telling and the loop around them, on made spaces."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr import Ranker
from gbr.data.graph import graph_from_arrays
from gbr.errors import ModelError, TuneError, UsageError
from gbr.tune import GraphSpace, ParameterSpace, Replay, Tuner, search
from tests.collection import matmul_arrays, trained, write_collection

DATA = Path(__file__).parents[1] / "data" / "npz"
GRID = {"block": [8, 16, 32, 64, 128, 256], "unroll": [1, 2, 4, 8], "order": ["ij", "ji"]}


def cost(choice: dict[str, object]) -> float:
    """Best at block 64, unroll 4, order ij."""
    block, unroll = float(str(choice["block"])), float(str(choice["unroll"]))
    return 10 + abs(math.log2(block / 64)) + 0.5 * abs(math.log2(unroll / 4)) + 2 * (choice["order"] == "ji")


def space(**arguments: object) -> ParameterSpace:
    return ParameterSpace(GRID, default={"block": 8, "unroll": 1, "order": "ji"}, **arguments)  # type: ignore[arg-type]


def few() -> ParameterSpace:
    values = {"block": [16, 64, 256], "unroll": [1, 4], "order": ["ij", "ji"]}
    return ParameterSpace(values, default={"block": 16, "unroll": 1, "order": "ji"})


class TestTuner:
    @settings(max_examples=8, deadline=None)
    @given(st.data())
    def test_nothing_is_proposed_twice_whatever_is_told(self, data: st.DataObject) -> None:
        small = ParameterSpace({"a": [1, 2, 4], "b": [True, False], "c": ["x", "y"]})
        tuner = Tuner(small, seed=data.draw(st.integers(0, 3)))
        proposed: list[int] = []
        outcome = st.one_of(st.floats(1, 9), st.just("crashed"), st.none(), st.just(math.nan), st.just(math.inf))
        while batch := tuner.ask(data.draw(st.integers(1, 4))):
            proposed += batch
            if data.draw(st.booleans()):
                tuner.tell(batch, [data.draw(outcome) for _ in batch])
            if data.draw(st.booleans()):
                extra = data.draw(st.integers(0, len(small) - 1))
                tuner.tell([extra], [data.draw(outcome)])
                if extra not in proposed:
                    proposed.append(extra)
            assert tuner.best is None or tuner.best.config not in tuner.failures
            assert set(tuner.runtimes).isdisjoint(tuner.failures)
        assert sorted(proposed) == list(range(len(small)))

    def test_equal_configurations_are_one(self) -> None:
        graph = graph_from_arrays("matmul", matmul_arrays((64, 64, 32), 12, seed=0))  # the last row repeats the first
        tuner = Tuner(GraphSpace(graph))
        tuner.tell([11, 0], [4.0, 2.0])
        assert tuner.runtimes == {0: 3.0}
        asked = tuner.ask(50)
        assert 0 not in asked
        assert 11 not in asked

    def test_the_best_is_the_fastest_that_never_failed(self) -> None:
        tuner = Tuner(space())
        assert tuner.best is None
        tuner.tell([3, 4, 5], [2.0, 1.0, "wrong result"])
        assert tuner.best is not None
        assert (tuner.best.config, tuner.best.runtime) == (4, 1.0)
        tuner.tell([4], ["timed out"])
        assert (tuner.best.config, len(tuner)) == (3, 3)
        assert tuner.failures == {5: "wrong result", 4: "timed out"}

    def test_the_same_seed_asks_the_same_and_goes_on_where_it_was(self) -> None:
        own = space()
        whole, asked = Tuner(own, seed=1), []
        for _ in range(12):
            (config,) = whole.ask()
            whole.tell([config], [cost(own.describe(config))])
            asked.append(config)
        again = Tuner(own, seed=1)
        again.tell(asked[:9], [cost(own.describe(config)) for config in asked[:9]])
        rest = []
        for _ in range(3):
            (config,) = again.ask()
            again.tell([config], [cost(own.describe(config))])
            rest.append(config)
        assert rest == asked[9:]

    def test_the_first_ones_fill_the_space(self) -> None:
        own = space()
        first = [own.describe(config) for config in Tuner(own, seed=0).ask(5)]
        assert {choice["order"] for choice in first} == {"ij", "ji"}
        assert len({choice["block"] for choice in first}) >= 2
        assert max(int(c["block"]) for c in first) / min(int(c["block"]) for c in first) >= 16

    def test_fewer_measurements_than_at_random(self) -> None:
        own = space()
        costs = [cost(own.describe(config)) for config in range(len(own))]
        counts = []
        for seed in range(3):
            tuner, taken = Tuner(own, seed=seed), []
            while not taken or min(taken) > min(costs):
                (config,) = tuner.ask()
                tuner.tell([config], [costs[config]])
                taken.append(costs[config])
            counts.append(len(taken))
        assert np.mean(counts) < 0.6 * (len(own) + 1) / 2  # what drawing without replacement needs on average

    def test_what_fails_keeps_the_search_away(self) -> None:
        """Half of the space crashes; after some of it no more than a few of the rest are wasted on it."""
        own = space()
        tuner, failed = Tuner(own, seed=0), []
        for _ in range(20):
            (config,) = tuner.ask()
            choice = own.describe(config)
            fails = choice["order"] == "ij" and int(choice["block"]) >= 64
            failed.append(fails)
            tuner.tell([config], ["crashed" if fails else cost(choice)])
        assert sum(failed[10:]) <= 3

    @pytest.mark.parametrize(
        ("configs", "outcomes", "message"),
        [
            ([1], [1.0, 2.0], "1 configurations and 2 outcomes"),
            ([48], [1.0], "48 is no configuration; parameters has 0 to 47"),
            ([1], [-1.0], "runtime of -1.0, want a number from 0 on"),
            ([1], [[]], r"got \[\], want a runtime"),
        ],
    )
    def test_what_cannot_be_told(self, configs: list[int], outcomes: list[float], message: str) -> None:
        tuner = Tuner(space())
        with pytest.raises(UsageError, match=message):
            tuner.tell(configs, outcomes)
        assert not len(tuner)

    def test_what_cannot_be_asked(self) -> None:
        with pytest.raises(UsageError, match="ask: got 0, want a whole number from 1 on"):
            Tuner(space()).ask(0)
        with pytest.raises(UsageError, match="seed: got -1"):
            Tuner(space(), seed=-1)


class TestParameterSpace:
    def test_it_is_the_product_that_the_constraints_allow(self) -> None:
        own = space(constraints=[lambda choice: choice["block"] * choice["unroll"] <= 256])
        listed = [own.describe(config) for config in range(len(own))]
        assert len(listed) == sum(b * u <= 256 for b in GRID["block"] for u in GRID["unroll"]) * 2  # type: ignore[operator]
        assert all(own.number(choice) == place for place, choice in enumerate(listed))
        assert own.describe(own.default or 0) == {"block": 8, "unroll": 1, "order": "ji"}

    def test_a_large_one_is_sampled_with_its_default(self) -> None:
        own = ParameterSpace({name: list(range(20)) for name in "abc"}, default={"a": 7, "b": 11, "c": 13})
        assert len(own) == 4096
        assert own.default is not None
        assert own.describe(own.default) == {"a": 7, "b": 11, "c": 13}

    def test_the_fingerprint_is_of_names_values_and_what_is_allowed(self) -> None:
        prints = [
            space().fingerprint,
            space(constraints=[lambda choice: choice["block"] < 256]).fingerprint,
            ParameterSpace(GRID).fingerprint,
            ParameterSpace({**GRID, "unroll": [1, 2, 4, 16]}).fingerprint,
            ParameterSpace({"blocks" if key == "block" else key: value for key, value in GRID.items()}).fingerprint,
        ]
        assert len(set(prints)) == len(prints)
        assert space().fingerprint == space(features=lambda choice: [choice["block"]]).fingerprint

    def test_a_ranker_of_other_programs_is_asked_by_features(self) -> None:
        own = space(features=lambda choice: [math.log2(choice["block"]), choice["unroll"], choice["order"] == "ji"])
        table = own.columns(None)[:, :3].astype(np.float64)
        costs = np.array([cost(own.describe(config)) for config in range(len(own))])
        program = np.repeat(np.arange(12), len(own))
        model = Ranker("lightgbm", n_estimators=30).fit(np.tile(table, (12, 1)), np.tile(costs, 12), qid=program)
        (first,) = Tuner(own, model).ask()
        assert costs[first] <= np.sort(costs)[2]
        with pytest.raises(UsageError, match="no features to ask it about"):
            Tuner(space(), model)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"parameters": {name: list(range(20)) for name in "abcdef"}}, "64,000,000 combinations, want at most"),
            ({"parameters": {"a": []}}, r"'a' has \[\]"),
            ({"parameters": {"a": [1, 1]}}, r"'a' has \[1, 1\], want one value or several distinct ones"),
            ({"parameters": {"a": [1]}, "constraints": [lambda _: False]}, "no configuration is left"),
            ({"parameters": {"a": [1]}, "default": {"a": 2}}, r"\{'a': 2\} is no configuration"),
            ({"parameters": {"a": [1, 2]}, "constraints": [lambda c: c["a"] > 1], "default": {"a": 1}}, "not allowed"),
        ],
    )
    def test_what_is_no_space(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            ParameterSpace(**arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize("features", [lambda _: ["wide"], lambda c: [1] * c["unroll"], lambda _: [math.nan]])
    def test_features_that_are_none(self, features: object) -> None:
        with pytest.raises(UsageError, match=r"features: .*want as many"):
            Tuner(space(features=features))


class TestReplay:
    def test_a_trained_model_and_measurements_beat_chance(self, tmp_path: Path) -> None:
        root = write_collection(tmp_path, {"train": 8, "valid": 2, "test": 2}, n_configs=60)
        model = Ranker.load(trained(root, backend="lightgbm"))
        for path in sorted((root / "npz/tile/cpu/test").glob("*.npz")):
            replay = Replay(path)
            for ranker, share in ((model, 0.25), (None, 0.6)):
                counts = []
                for seed in range(2):
                    tuner, taken = Tuner(replay.space, ranker, seed=seed), []
                    while not taken or min(taken) > 1.02 * replay.runtime.min():
                        (config,) = tuner.ask()
                        tuner.tell([config], [replay(config)])
                        taken.append(replay(config))
                    counts.append(len(taken))
                good = int((replay.runtime <= 1.02 * replay.runtime.min()).sum())
                assert np.mean(counts) <= max(1, share * (len(replay.space) + 1) / (good + 1)), ranker

    def test_runtimes_are_over_their_normalizers(self) -> None:
        arrays = matmul_arrays((64, 64, 32), 12, seed=0)
        replay = Replay(graph_from_arrays("matmul", arrays))
        assert replay(3) == arrays["config_runtime"][3] / arrays["config_runtime_normalizers"][3]
        assert replay.again(3) == arrays["config_runtime_repeat"][3] / arrays["config_runtime_normalizers"][3]

    def test_a_large_graph_is_sampled(self) -> None:
        arrays = matmul_arrays((512, 512, 32), 5000, seed=0, twice=False)
        replay = Replay(graph_from_arrays("matmul", arrays))
        assert len(replay.space) == 4096
        assert replay.space.describe(0) == {"row": 0}
        at = 77
        row = replay.space.describe(at)["row"]
        assert replay(at) == arrays["config_runtime"][row] / arrays["config_runtime_normalizers"][row]
        assert np.array_equal(replay.space.graph.configs(np.array([at]))[0], arrays["config_feat"][row])

    def test_the_configuration_to_beat_sets_nothing(self) -> None:
        tile = DATA / "tile/cpu/test/sum_major_2048x1024.npz"
        layout = DATA / "layout/cpu/random/test/dlrm_interaction.npz"
        assert Replay(tile).space.default == Replay(layout).space.default == 0
        arrays = matmul_arrays((64, 64, 32), 12, seed=0)
        arrays["config_runtime_normalizers"] = np.full(12, 7)
        assert Replay(graph_from_arrays("matmul", arrays)).space.default is None
        arrays["config_runtime_normalizers"] = np.full(12, arrays["config_runtime"][5])
        assert Replay(graph_from_arrays("matmul", arrays)).space.default == 5

    def test_a_model_of_a_plain_table_is_refused(self) -> None:
        graph = graph_from_arrays("matmul", matmul_arrays((64, 64, 32), 12, seed=0))
        model = Ranker("lightgbm", n_estimators=2).fit(np.eye(4), np.arange(4), qid=[0, 0, 1, 1])
        with pytest.raises(ModelError, match="train one with"):
            Tuner(GraphSpace(graph), model)


class TestSearch:
    def test_the_default_is_measured_first_and_beaten(self) -> None:
        own = space()
        taken: list[int] = []

        def measure(config: int) -> float:
            taken.append(config)
            return cost(own.describe(config)) * np.random.default_rng(len(taken)).lognormal(0, 0.002)

        found = search(Tuner(own), measure, budget=25)
        assert taken[0] == own.default
        assert len(set(taken[:25])) == 25
        assert found.verdict is not None
        assert found.verdict.faster
        assert own.describe(found.config) == {"block": 64, "unroll": 4, "order": "ij"}
        assert found.verdict.speedup == pytest.approx(16 / 10, rel=0.01)
        assert found.verdict.low < found.verdict.speedup < found.verdict.high
        assert (found.measured, found.resumed, found.failed) == (25, 0, 0)

    def test_luck_is_not_taken_for_speed(self) -> None:
        """All are as fast; single measurements differ by noise, and the best of them seems faster than the default."""
        rng = np.random.default_rng(0)
        own = space()
        claimed = []
        for seed in range(6):
            found = search(Tuner(own, seed=seed), lambda _: float(rng.lognormal(0, 0.05)), budget=12)
            assert found.best.runtime < 0.97
            assert found.verdict is not None
            claimed.append(found.verdict.faster)
            assert found.config == own.default or found.verdict.faster
        assert sum(claimed) <= 1

    def test_a_finalist_that_fails_when_measured_anew_is_out(self) -> None:
        own = few()
        lucky = own.number({"block": 64, "unroll": 4, "order": "ij"})
        seen: set[int] = set()

        def measure(config: int) -> float | str:
            if config == lucky and config in seen:
                return "wrong result"
            seen.add(config)
            return cost(own.describe(config))

        tuner = Tuner(own)
        found = search(tuner, measure, budget=len(own))
        assert tuner.failures == {lucky: "wrong result"}
        assert found.best.config != lucky
        assert found.config != lucky

    def test_what_a_measurement_raises_is_its_reason(self) -> None:
        own = few()

        def measure(config: int) -> float:
            if config % 2:
                raise ValueError("odd\nones fail")
            return cost(own.describe(config)) if config != 4 else math.nan

        tuner = Tuner(own)
        found = search(tuner, measure, budget=len(own))
        assert tuner.failures[3] == "ValueError: odd ones fail"
        assert tuner.failures[4] == "runtime nan"
        assert found.failed == len(own) // 2 + 1
        assert found.config % 2 == 0

    def test_a_failed_default_is_told_and_nothing_is_claimed(self) -> None:
        own = space()
        found = search(Tuner(own), lambda config: "crashed" if config == own.default else 1.0 + config, budget=6)
        assert found.default is None
        assert found.verdict is None
        assert found.config != own.default

    def test_time_is_a_budget_too(self) -> None:
        own = space()
        found = search(Tuner(own), lambda config: cost(own.describe(config)), budget=40, seconds=1e-9, rounds=0)
        assert found.measured == 1

    def test_nothing_that_works_is_one_line(self) -> None:
        with pytest.raises(TuneError, match="parameters: all 4 configurations failed, the first with: no device"):
            search(Tuner(space()), lambda _: "no device", budget=4)
        with pytest.raises(UsageError, match="got a budget of 0"):
            search(Tuner(space()), lambda _: 1.0, budget=0)
