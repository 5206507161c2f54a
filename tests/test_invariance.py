"""What must not matter: the numbering of nodes, the order of configurations, the unit of time, a copy, a stray node."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbr import Ranker, write_graph
from gbr.data.build import extract, schema_of, shared_columns
from gbr.data.graph import graph_from_arrays
from gbr.evaluation.metrics import kendall_tau
from gbr.models.params import OBJECTIVES
from tests import made
from tests.collection import matmul_arrays, rewrite, trained, write_collection
from tests.conftest import ROOT
from tests.ranking import problem
from tests.renumbering import Arrays, picked, renumbered, with_isolated_constant
from tests.test_ensemble import amounts
from tests.test_repack import network

KINDS = ("tile", "layout")
FOLDERS = {"tile": ROOT / "data/npz/tile/cpu", "layout": ROOT / "data/npz/layout/cpu/random"}
#: Sums over nodes in float32, in another order: relative to 1, or to the value where that is larger.
DUST = {"rtol": 2e-6, "atol": 2e-6}
EVERY = [(backend, objective) for backend, offered in OBJECTIVES.items() for objective in offered]
#: What learns from the order alone, and what also from how far apart runtimes are.
ORDER = {"lambdarank", "pairwise", "l2", "difference"}
few = settings(max_examples=8, deadline=None)


@cache
def graphs(kind: str) -> list[Arrays]:
    """Some of the measured graphs, and some made up."""
    files = sorted(FOLDERS[kind].glob("*/*.npz"))
    found = [dict(np.load(path)) for path in files[:: max(1, len(files) // 20)]]
    if kind == "tile":
        return [*found, made.tile_arrays(40), matmul_arrays((96, 192, 128), 30, seed=1)]
    return [*found, made.layout_arrays(40), network(60)]


@cache
def features_of(kind: str, number: int) -> np.ndarray:
    return features(graphs(kind)[number])


def features(arrays: Arrays) -> np.ndarray:
    return extract(graph_from_arrays("g", arrays))[1]


def any_graph(kind: str) -> st.SearchStrategy[int]:
    return st.integers(0, len(graphs(kind)) - 1)


def block_of(kind: str) -> np.ndarray:
    """Name of the block of every column."""
    return np.array([name.split(".", 1)[0] for name in schema_of(kind).names])


@cache
def learnt(kind: str) -> list[tuple[str, Ranker]]:
    """Rankers of objectives that are no mixtures of others (of layouts, with their many columns, the defaults)."""
    files = sorted(FOLDERS[kind].glob("train/*.npz"))
    known = [dict(np.load(path)) for path in files[:: max(1, len(files) // 8)]]
    X = np.concatenate([features(arrays) for arrays in known])
    runtime = np.concatenate([arrays["config_runtime"] for arrays in known])
    qid = np.repeat(np.arange(len(known)), [len(arrays["config_runtime"]) for arrays in known])
    schema = schema_of(kind)
    costs = [schema.names.index(name) for name in schema.costs]
    fitted = []
    for backend, objective in EVERY:
        slow = kind == "layout" and objective in ("difference", "l2", "speed")
        if slow or backend == "ensemble" or (backend == "costmodel" and not costs):
            continue
        ranker = Ranker(backend, objective, n_estimators=10, learning_rate=0.3, costs=costs or None, n_jobs=1)
        fitted.append((objective, ranker.fit(X, runtime, qid=qid)))
    return fitted


def check_scores(kind: str, before: np.ndarray, after: np.ndarray, skip: tuple[str, ...] = ()) -> None:
    """Scores of the rows as they were and as they are; they may differ where dust lies on a tree's threshold."""
    for objective, ranker in learnt(kind):
        if objective in skip:
            continue
        old, new = ranker.predict(before), ranker.predict(after)
        if kind == "tile" or objective == "nnls":
            np.testing.assert_array_equal(new, old, err_msg=objective)
        elif np.ptp(old):
            assert kendall_tau(new, old) > 0.94, objective


# --- nodes and configurations in another order -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_the_numbering_of_nodes_does_not_matter(kind: str, data: st.DataObject) -> None:
    number, seed = data.draw(any_graph(kind)), data.draw(st.integers(0, 2**32 - 1))
    before = features_of(kind, number)
    after = features(renumbered(graphs(kind)[number], np.random.default_rng(seed)))
    if kind == "tile":
        np.testing.assert_array_equal(after[:, block_of(kind) != "nodes"], before[:, block_of(kind) != "nodes"])
    np.testing.assert_allclose(after, before, **DUST)
    check_scores(kind, before, after)


def test_ranks_within_the_slate_do_not_rest_on_rounding() -> None:
    # Equal parts of all bytes are kept by different nodes here: summed as shares they came apart, and were ranked.
    arrays = dict(np.load(FOLDERS["layout"] / "test" / "dlrm_interaction-grad.npz"))
    ranks = [place for place, name in enumerate(schema_of("layout").names) if name.startswith("slate.rank.")]
    before = features(arrays)[:, ranks]
    for seed in range(8):
        after = features(renumbered(arrays, np.random.default_rng(seed)))[:, ranks]
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_permuted_configurations_have_permuted_scores(kind: str, data: st.DataObject) -> None:
    number, seed = data.draw(any_graph(kind)), data.draw(st.integers(0, 2**32 - 1))
    arrays, before = graphs(kind)[number], features_of(kind, number)
    order = np.random.default_rng(seed).permutation(len(before))
    after = features(picked(arrays, order))
    if kind == "tile":
        np.testing.assert_array_equal(after, before[order])
    np.testing.assert_allclose(after, before[order], **DUST)
    check_scores(kind, before[order], after)
    for objective, ranker in learnt(kind):
        if objective != "difference":  # which compares with rows chosen by their place
            np.testing.assert_array_equal(ranker.predict(before[order]), ranker.predict(before)[order])


# --- runtimes told in another unit, or stretched ---------------------------------------------------------------------


def small(backend: str, objective: str) -> Ranker:
    costs = [0, 1, 2] if backend == "costmodel" or objective == "mixed-few" else None
    return Ranker(backend, objective, n_estimators=8, learning_rate=0.2, num_leaves=7, costs=costs, n_jobs=1)


def told(objective: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return amounts() if objective == "nnls" else problem(12)


@pytest.mark.parametrize("factor", [1e-9, 3.7, 1e6])
@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_the_unit_of_time_does_not_matter(backend: str, objective: str, factor: float) -> None:
    X, runtime, qid = told(objective)
    before = small(backend, objective).fit(X, runtime, qid=qid).predict(X)
    after = small(backend, objective).fit(X, runtime * factor, qid=qid).predict(X)
    if objective in ORDER:
        np.testing.assert_array_equal(after, before)
    else:  # quotients of runtimes round; the cost model's scores are in units of time themselves
        after = after / factor if objective == "nnls" else after
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.ptp(before))


@pytest.mark.parametrize(("backend", "objective"), EVERY)
def test_who_learns_from_the_order_alone_is_blind_to_stretching(backend: str, objective: str) -> None:
    X, runtime, qid = told(objective)
    before = small(backend, objective).fit(X, runtime, qid=qid).predict(X)
    after = small(backend, objective).fit(X, runtime**3, qid=qid).predict(X)
    assert np.array_equal(after, before) == (objective in ORDER)


# --- a configuration twice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_a_copy_scores_as_its_original(kind: str, data: st.DataObject) -> None:
    number = data.draw(any_graph(kind))
    arrays, before = graphs(kind)[number], features_of(kind, number)
    size = len(before)
    copied = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4)))
    _, after, duplicate_of = extract(graph_from_arrays("g", picked(arrays, np.append(np.arange(size), copied))))
    np.testing.assert_array_equal(after[size:], after[copied])
    np.testing.assert_array_equal(duplicate_of[size:], duplicate_of[copied])
    if kind == "tile":
        np.testing.assert_array_equal(after[:size], before)
    else:  # a copy is one more configuration that others are compared with
        own = block_of(kind) != "slate"
        np.testing.assert_allclose(after[:size, own], before[:, own], **DUST)
    for _, ranker in learnt(kind):
        scores = ranker.predict(after)
        np.testing.assert_array_equal(scores[size:], scores[copied])


@pytest.mark.parametrize("backend", ["ensemble", "lightgbm", "xgboost"])
def test_copies_to_learn_from_change_nothing(backend: str, tmp_path: Path) -> None:
    write_collection(tmp_path, {"train": 4, "valid": 2})
    once = trained(tmp_path, out=tmp_path / "once", backend=backend)
    for path in tmp_path.glob("npz/tile/cpu/train/*.npz"):
        with np.load(path) as stored:
            arrays = picked(dict(stored), np.append(np.arange(30), [3, 3, 17]))
        arrays["config_runtime"][30:] += 5  # no copy was faster than its original
        rewrite(path, **arrays)
    twice = trained(tmp_path, out=tmp_path / "twice", backend=backend)
    (first,), (second,) = once.glob("model-*"), twice.glob("model-*")
    assert first.read_bytes() == second.read_bytes()


# --- a node that nothing uses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [lambda n_nodes: 0, lambda n_nodes: n_nodes // 2, lambda n_nodes: n_nodes])
def test_a_stray_node_is_counted_and_changes_nothing_else(kind: str, place: Callable[[int], int]) -> None:
    names, blocks = np.array(schema_of(kind).names), block_of(kind)
    assert {"opcodes", "nodes"} <= {name.split(".")[0] for name in shared_columns(schema_of(kind))}
    for number, arrays in enumerate(graphs(kind)[::4]):
        before, after = features_of(kind, 4 * number), features(with_isolated_constant(arrays, place))
        touched = np.isin(blocks, ["opcodes", "nodes"])
        np.testing.assert_array_equal(after[:, ~touched], before[:, ~touched])
        more = {name: float(step) for name, step in zip(names, (after - before)[0], strict=True) if step}
        counts = {name: step for name, step in more.items() if name.startswith("opcodes")}
        assert counts == {"opcodes.class.source": 1, "opcodes.op.constant": 1, "opcodes.nodes": 1}
        means = names[blocks == "nodes"]
        n_nodes = len(arrays["node_opcode"])
        shrunk = [list(names).index(name) for name in means if ".mean.layout" in name]
        np.testing.assert_allclose(after[0, shrunk], before[0, shrunk] * n_nodes / (n_nodes + 1), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stray_node_leaves_the_order_to_who_does_not_count_nodes(kind: str) -> None:
    blind = ~np.isin(block_of(kind), ["opcodes", "nodes"])
    for backend, objective in (("lightgbm", "lambdarank"), ("xgboost", "pairwise")):
        numbers = range(0, len(graphs(kind)), 3)
        X = np.concatenate([features_of(kind, number)[:, blind] for number in numbers])
        runtime = np.concatenate([graphs(kind)[number]["config_runtime"] for number in numbers])
        qid = np.repeat(np.array(numbers), [len(features_of(kind, number)) for number in numbers])
        ranker = small(backend, objective).fit(X, runtime, qid=qid)
        arrays = graphs(kind)[1]
        before, after = features_of(kind, 1), features(with_isolated_constant(arrays))
        assert np.ptp(ranker.predict(before[:, blind]))
        np.testing.assert_array_equal(ranker.predict(after[:, blind]), ranker.predict(before[:, blind]))


def test_what_is_renumbered_is_a_graph_file(tmp_path: Path) -> None:
    """The twins above are files that gbr takes: operands first, distinct configurable nodes."""
    changed: list[Callable[[Arrays], Any]] = [
        lambda arrays: renumbered(arrays, np.random.default_rng(0)),
        with_isolated_constant,
        lambda arrays: with_isolated_constant(arrays, lambda n_nodes: 0),
    ]
    for kind in KINDS:
        for number, change in enumerate(changed):
            arrays = graphs(kind)[0]
            assert not np.array_equal(change(arrays)["node_opcode"], arrays["node_opcode"])
            write_graph(tmp_path / f"{kind}{number}.npz", change(arrays))
