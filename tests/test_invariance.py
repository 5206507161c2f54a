"""Invariance to the numbering of nodes, the order of configurations, the unit of time, copies and isolated nodes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.hlo import FEAT_ID, N_FEAT, OPCODE_ID
from gbr import Ranker
from gbr.data.build import extract, schema_of
from gbr.data.graph import graph_from_arrays
from gbr.evaluation.metrics import kendall_tau
from gbr.models.params import OBJECTIVES
from tests import made
from tests.conftest import ROOT
from tests.made import matmul_arrays, rewrite, trained, write_collection
from tests.ranking import amounts, problem
from tests.test_repack import network

Arrays = dict[str, Any]
KINDS = ("tile", "layout")
FOLDERS = {"tile": ROOT / "data/npz/tile/cpu", "layout": ROOT / "data/npz/layout/cpu/random"}
#: Rounding of sums over nodes in float32 in another order.
ROUNDING = {"rtol": 2e-6, "atol": 2e-6}
BACKENDS = [
    (backend, objective)
    for backend, offered in OBJECTIVES.items()
    if backend not in ("prior", "runtime")
    for objective in offered
]
#: Objectives that use only the order of the runtimes.
ORDER = {"lambdarank", "pairwise", "l2", "costed"}  # without named costs, costed is pairwise alone
few = settings(max_examples=8, deadline=None)


def renumbered(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """Renumber the nodes in a random topological order; ``node_config_ids`` are sorted again."""
    graph = nx.DiGraph(arrays["edge_index"][:, ::-1].tolist())
    graph.add_nodes_from(range(len(arrays["node_opcode"])))
    order = list(nx.lexicographical_topological_sort(graph, key=rng.random(len(graph)).__getitem__))
    number = np.argsort(order)
    moved = number[arrays["edge_index"]]
    changed = {
        "node_opcode": arrays["node_opcode"][order],
        "node_feat": arrays["node_feat"][order],
        "edge_index": moved[np.argsort(moved[:, 0], kind="stable")],  # the operands of a node stay in order
    }
    if "node_config_ids" in arrays:
        ids = number[arrays["node_config_ids"]]
        at = np.argsort(ids)
        changed |= {"node_config_ids": ids[at], "node_config_feat": arrays["node_config_feat"][:, at]}
    return arrays | changed


def picked(arrays: Arrays, rows: np.ndarray) -> Arrays:
    """The graph with these configurations."""
    return {
        key: values[rows] if key.startswith(("config", "node_config_f")) else values for key, values in arrays.items()
    }


def with_isolated_constant(arrays: Arrays, at: int) -> Arrays:
    """Add a scalar without users."""
    n_nodes = len(arrays["node_opcode"])
    row = np.zeros((1, N_FEAT), np.float32)
    row[0, FEAT_ID["shape_element_type_is_f32"]] = row[0, FEAT_ID["shape_dimensions_product"]] = 1
    number = np.arange(n_nodes) + (np.arange(n_nodes) >= at)
    changed = {
        "node_opcode": np.insert(arrays["node_opcode"], at, OPCODE_ID["constant"]),
        "node_feat": np.insert(arrays["node_feat"], at, row, axis=0),
        "edge_index": number[arrays["edge_index"]],
    }
    if "node_config_ids" in arrays:
        changed |= {"node_config_ids": number[arrays["node_config_ids"]]}
    if "node_splits" in arrays:
        changed |= {"node_splits": np.array([[0, n_nodes + 1]])}
    return arrays | changed


@cache
def graphs(kind: str) -> list[Arrays]:
    """Some of the measured graphs and some synthetic ones."""
    files = sorted(FOLDERS[kind].glob("*/*.npz"))
    found = [dict(np.load(path)) for path in files[:: max(1, len(files) // 20)]]
    if kind == "tile":
        return [*found, made.tile_arrays(40), matmul_arrays((96, 192, 128), 30, seed=1)]
    return [*found, made.layout_arrays(40), network(60)]


def features(arrays: Arrays) -> np.ndarray:
    return extract(graph_from_arrays("g", arrays))[1]  # validates the arrays like a file


@cache
def features_of(kind: str, number: int) -> np.ndarray:
    return features(graphs(kind)[number])


@cache
def block_of(kind: str) -> np.ndarray:
    """Block name of every column."""
    return np.array([name.split(".", 1)[0] for name in schema_of(kind).names])


@cache
def rankers(kind: str) -> list[tuple[str, Ranker]]:
    """Rankers of each single objective; for layouts, with their many columns, without the slow ones."""
    files = sorted(FOLDERS[kind].glob("train/*.npz"))
    known = [dict(np.load(path)) for path in files[:: max(1, len(files) // 8)]]
    X = np.concatenate([features(arrays) for arrays in known])
    runtime = np.concatenate([arrays["config_runtime"] for arrays in known])
    qid = np.repeat(np.arange(len(known)), [len(arrays["config_runtime"]) for arrays in known])
    costs = [schema_of(kind).names.index(name) for name in schema_of(kind).costs]
    fitted = []
    for backend, objective in BACKENDS:
        slow = kind == "layout" and objective in ("l2", "speed")
        if not slow and backend != "ensemble" and (backend != "costmodel" or costs):
            ranker = Ranker(backend, objective, n_estimators=10, learning_rate=0.3, costs=costs or None, n_jobs=1)
            fitted.append((objective, ranker.fit(X, runtime, qid=qid)))
    return fitted


def check_scores(kind: str, before: np.ndarray, after: np.ndarray) -> None:
    """Compare scores; those of layouts may differ where rounding crosses the threshold of a tree."""
    for objective, ranker in rankers(kind):
        old, new = ranker.predict(before), ranker.predict(after)
        if kind == "tile" or objective == "nnls":
            np.testing.assert_array_equal(new, old, err_msg=objective)
        elif np.ptp(old):
            assert kendall_tau(new, old) > 0.94, objective


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_numbering_of_nodes_does_not_matter(kind: str, data: st.DataObject) -> None:
    number, seed = data.draw(st.integers(0, len(graphs(kind)) - 1)), data.draw(st.integers(0, 2**32 - 1))
    before = features_of(kind, number)
    after = features(renumbered(graphs(kind)[number], np.random.default_rng(seed)))
    if kind == "tile":
        np.testing.assert_array_equal(after[:, block_of(kind) != "nodes"], before[:, block_of(kind) != "nodes"])
    np.testing.assert_allclose(after, before, **ROUNDING)
    check_scores(kind, before, after)


def test_slate_relative_ranks_do_not_depend_on_rounding() -> None:
    # Different nodes keep equal parts of all bytes here: their shares must not differ by rounding.
    arrays = dict(np.load(FOLDERS["layout"] / "test" / "dlrm_interaction-grad.npz"))
    ranks = [column for column, name in enumerate(schema_of("layout").names) if name.startswith("slate.rank.")]
    before = features(arrays)[:, ranks]
    for seed in range(8):
        after = features(renumbered(arrays, np.random.default_rng(seed)))[:, ranks]
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_permuted_and_repeated_configurations_have_the_same_scores(kind: str, data: st.DataObject) -> None:
    number, seed = data.draw(st.integers(0, len(graphs(kind)) - 1)), data.draw(st.integers(0, 2**32 - 1))
    before = features_of(kind, number)
    size, close = len(before), {"rtol": 0} if kind == "tile" else ROUNDING
    order = np.random.default_rng(seed).permutation(size)
    after = features(picked(graphs(kind)[number], order))
    np.testing.assert_allclose(after, before[order], **close)
    check_scores(kind, before[order], after)
    copied = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4)))
    arrays = picked(graphs(kind)[number], np.append(np.arange(size), copied))
    _, more, duplicate_of = extract(graph_from_arrays("g", arrays))
    np.testing.assert_array_equal(more[size:], more[copied])
    np.testing.assert_array_equal(duplicate_of[size:], duplicate_of[copied])
    absolute = block_of(kind) != "slate"  # slate-relative features change with the number of configurations
    np.testing.assert_allclose(more[:size, absolute], before[:, absolute], **close)
    for _, ranker in rankers(kind):
        np.testing.assert_array_equal(ranker.predict(more[order]), ranker.predict(more)[order])


@pytest.mark.parametrize("backend", ["lightgbm", "xgboost"])
def test_copies_in_the_training_set_do_not_change_the_model(backend: str, tmp_path: Path) -> None:
    write_collection(tmp_path, {"train": 4, "valid": 2})
    once = trained(tmp_path, out=tmp_path / "once", backend=backend)
    for path in tmp_path.glob("npz/tile/cpu/train/*.npz"):
        with np.load(path) as stored:
            arrays = picked(dict(stored), np.append(np.arange(30), [3, 3, 17]))
        arrays["config_runtime"][30:] += 5  # no copy is faster than its original
        rewrite(path, **arrays)
    twice = trained(tmp_path, out=tmp_path / "twice", backend=backend)
    (first,), (second,) = once.glob("model-*"), twice.glob("model-*")
    assert first.read_bytes() == second.read_bytes()


def small(backend: str, objective: str) -> Ranker:
    costs = [0, 1, 2] if backend == "costmodel" else None
    return Ranker(backend, objective, n_estimators=8, learning_rate=0.2, num_leaves=7, costs=costs, n_jobs=1)


@pytest.mark.parametrize(("backend", "objective"), BACKENDS)
def test_unit_of_time_and_monotone_transforms(backend: str, objective: str) -> None:
    X, runtime, qid = amounts() if objective == "nnls" else problem(12)
    before = small(backend, objective).fit(X, runtime, qid=qid).predict(X)
    for factor in (1e-9, 3.7, 1e6):
        after = small(backend, objective).fit(X, runtime * factor, qid=qid).predict(X)
        if objective in ORDER:
            np.testing.assert_array_equal(after, before)
        else:  # ratios of runtimes are rounded; scores of the cost model are in units of time
            after = after / factor if objective == "nnls" else after
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.ptp(before))
    cubed = small(backend, objective).fit(X, runtime**3, qid=qid).predict(X)
    assert np.array_equal(cubed, before) == (objective in ORDER)


@pytest.mark.parametrize("kind", KINDS)
def test_an_isolated_node_changes_only_counts_and_statistics(kind: str) -> None:
    names, blocks = np.array(schema_of(kind).names), block_of(kind)
    for number, arrays in list(enumerate(graphs(kind)))[::4]:
        n_nodes = len(arrays["node_opcode"])
        at = (0, n_nodes // 2, n_nodes)[number // 4 % 3]
        before, after = features_of(kind, number), features(with_isolated_constant(arrays, at))
        others = ~np.isin(blocks, ["opcodes", "nodes"])
        np.testing.assert_array_equal(after[:, others], before[:, others])
        changes = dict(zip(names.tolist(), (after - before)[0].tolist(), strict=True))
        counts = {name: step for name, step in changes.items() if name.startswith("opcodes") and step}
        assert counts == {"opcodes.class.source": 1, "opcodes.op.constant": 1, "opcodes.nodes": 1}
        means = [column for column, name in enumerate(names) if name.startswith("nodes.mean.layout")]
        np.testing.assert_allclose(after[0, means], before[0, means] * n_nodes / (n_nodes + 1), rtol=1e-5)
