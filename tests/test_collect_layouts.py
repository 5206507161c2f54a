"""Tracing with layouts, the sample of layouts, and the layout graphs that come with gbr."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import gbr.collect
from features.hlo import FEAT_ID, OPCODES
from gbr.collect import tasks
from gbr.collect.tasks import Settings
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph
from gbr.errors import CollectError, UsageError

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from gbr.collect import layouts
from gbr.collect._jax import Reference
from gbr.collect.layouts import Relayout, Site, layout_of, measure_program, sample_layouts, strata

FOLDER = Path(__file__).parents[1] / "data/npz/layout/cpu/random"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def small(p, x):
    """A network with all that is inlined: a custom_jvp (relu), jitted helpers (softmax, split), reshapes."""
    x = jax.lax.conv_general_dilated(x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    a, b = jnp.split(jax.nn.relu(x).reshape(x.shape[0], -1) @ p["dense"], 2, 1)
    return jax.nn.softmax(a @ b.T)


def loss(p, x):
    return jnp.square(small(p, x)).sum()


SMALL = ({"conv": normal(3, 3, 2, 4), "dense": 0.1 * normal(4 * 5 * 4, 6, seed=1)}, normal(3, 4, 5, 2, seed=2))
SQUARES = (normal(4, 4), normal(4, 4, seed=1))


@pytest.fixture(scope="module")
def program():
    return Relayout(small, SMALL)


def unset(program):
    return np.full((len(program.sites), 18), -1, np.int8)


def opcodes(program):
    return Counter(OPCODES[code] for code in program.graph["node_opcode"])


# Tracing


@jax.custom_vjp
def halved(x):
    return x / 2


halved.defvjp(lambda x: (halved(x), None), lambda _, g: (g * 0.25,))


def scanned(x, w):
    final, every = jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), c.reshape(-1)), x, None, length=3)
    return final @ w, every


def effects(x, w):
    y = jax.jit(lambda a: halved(a @ w))(x)
    unused = y @ w  # noqa: F841 (a dead equation)
    return {"sum": jax.lax.cond(y.sum() > 0, jnp.sin, jnp.cos, y), "rank": jnp.argsort(y.reshape(-1)), "one": x[0, 0]}


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (small, SMALL),
        (jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), SMALL),
        (scanned, SQUARES),
        (effects, SQUARES),
        (jax.grad(lambda x, w: halved(x @ w).sum()), SQUARES),
        (jax.vmap(lambda x: jax.checkpoint(jnp.tanh)(x @ x)), (normal(3, 4, 4),)),
    ],
    ids=["forward", "gradient", "scan", "cond", "custom_vjp", "checkpoint"],
)
def test_a_constrained_program_gives_the_same_results(function, args):
    program = Relayout(function, args)
    expected = [np.asarray(each) for each in jax.tree.leaves(jax.jit(function)(*args))]
    everything = sample_layouts(program.sites, 40, 0)[-1]
    for config in (unset(program), everything):
        found = [np.asarray(each) for each in program.compile(config)()]
        assert [each.dtype for each in found] == [each.dtype for each in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_calls_are_inlined_loops_kept_and_dead_or_merged_operations_no_sites(program):
    assert opcodes(program)["call"] == 0
    assert [site.opcode for site in program.sites] == ["convolution", "reshape", "dot", "dot"]
    loop = Relayout(scanned, SQUARES)
    assert (opcodes(loop)["while"], opcodes(loop)["dot"]) == (1, 2)
    assert [site.opcode for site in loop.sites] == ["dot"], "the one behind the loop"
    assert opcodes(Relayout(effects, SQUARES))["dot"] == 1
    merged = Relayout(lambda x, w: (x.reshape(4, 6).reshape(2, 12) @ w).reshape(-1), (normal(24), normal(12, 3)))
    assert ((2, 12), (4, 6)) not in [site.shapes for site in merged.sites], "merged with another reshape by lowering"
    assert opcodes(merged)["reshape"] == 2


@pytest.mark.parametrize("function", [small, jax.grad(loss)], ids=["forward", "gradient"])
def test_sites_correspond_to_nodes(function):
    program = Relayout(function, SMALL)
    graph = program.graph
    first = FEAT_ID["shape_dimensions_0"]
    shapes = [tuple(row[row > 0].tolist()) for row in graph["node_feat"][:, first : first + 6].astype(int)]
    ids = graph["node_config_ids"]
    assert ids.tolist() == [site.node for site in program.sites] == sorted(set(ids.tolist()))
    for site in program.sites:
        assert OPCODES[graph["node_opcode"][site.node]] == site.opcode
        operands = graph["edge_index"][graph["edge_index"][:, 0] == site.node, 1]
        assert site.shapes[0] == shapes[site.node]
        assert sorted(site.shapes[1:]) == sorted(shapes[operand] for operand in operands)


def test_only_tensors_of_two_to_six_dimensions_are_free():
    def function(x, w):
        wide = jnp.sin(x.reshape((2,) * 7))
        return jnp.sin(jnp.sin(wide.reshape(8, 16)).reshape((2,) * 6 + (2,)).sum(6).reshape(8, 8)) @ w

    program = Relayout(function, (normal(128), normal(8)))
    assert {(site.opcode, *site.shapes): site.free for site in program.sites} == {
        ("reshape", (8, 16), (2,) * 7): (0,),
        ("reshape", (2,) * 7, (8, 16)): (1,),
        ("reshape", (8, 8), (2,) * 6): (0, 1),
        ("dot", (8,), (8, 8), (8,)): (1,),
    }


def test_programs_without_layouts_and_untraceable_programs_are_refused():
    with pytest.raises(CollectError, match="relu: no convolution, dot or reshape of rank 2 to 6"):
        Relayout(jax.nn.relu, (normal(3, 3),))
    for args in (SMALL[:1], ("text", SMALL[1])):
        with pytest.raises(CollectError, match="small: JAX cannot trace the function with these arguments"):
            Relayout(small, args)


def test_layouts_become_constraints_and_copies(program):
    config = unset(program)
    config[0, :4] = (2, 3, 1, 0)
    config[0, 6:10] = (0, 1, 2, 3)
    config[2, 12:14] = (1, 0)

    def lowered(config):
        return program._lower(program._chosen(config))

    constraints = [line for line in lowered(config).as_text("hlo").splitlines() if 'target="LayoutConstraint"' in line]
    assert len(constraints) == 3
    for text in ("f32[3,4,5,4]{2,3,1,0}", "f32[3,4,5,2]{0,1,2,3}", "f32[80,6]{1,0}"):
        assert text in " ".join(constraints), text
    assert "LayoutConstraint" not in lowered(unset(program)).as_text("hlo")
    row_major = unset(program)
    row_major[2, 6:8] = (1, 0)
    changed, untouched, default = (
        lowered(each).compile().as_text().count(" copy(") for each in (config, row_major, unset(program))
    )
    assert untouched == default < changed


def test_function_keeps_its_signature_and_refuses_other_shapes(program):
    function = jax.jit(program.function(sample_layouts(program.sites, 5, 0)[-1]))
    np.testing.assert_allclose(function(*SMALL), small(*SMALL), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="layouts are specific to the shapes"):
        function(SMALL[0], normal(2, 4, 5, 2))


# Sampling

SITES = [
    Site(0, 0, "convolution", ((2, 8, 8, 4), (2, 8, 8, 3), (3, 3, 3, 4))),
    Site(1, 1, "reshape", ((2, 256), (2, 8, 8, 4))),
    Site(2, 2, "reshape", ((512,), (2, 256))),
    Site(3, 3, "dot", ((2, 10), (2, 256), (256, 10))),
    Site(4, 4, "dot", ((2,), (2, 256), (256,))),
] * 4


def test_sampled_layouts_are_distinct_reproducible_and_even_over_the_strata():
    configs = sample_layouts(SITES, 97, 5)
    assert (configs.shape, configs.dtype) == ((97, 20, 18), np.int8)
    assert (configs[0] == -1).all()
    assert len(np.unique(configs, axis=0)) == 97
    np.testing.assert_array_equal(configs, sample_layouts(SITES, 97, 5))
    assert not np.array_equal(configs, sample_layouts(SITES, 97, 6))
    counts = Counter((configs[1:] >= 0).any(2).sum(1).tolist())
    assert sorted(counts) == strata(len(SITES)) == [2, 4, 5, 8, 10, 20]
    assert max(counts.values()) - min(counts.values()) <= 1


def test_sampled_layouts_are_permutations_of_all_kinds():
    kinds = Counter()
    parts = set()
    for config in sample_layouts(SITES, 400, 2):
        for site, row in zip(SITES, config, strict=True):
            chosen = {part: layout for part in range(3) if (layout := layout_of(row, part))}
            parts.add(tuple(chosen))
            assert chosen.keys() <= {*site.free}
            for part, layout in chosen.items():
                rank = len(site.shapes[part])
                assert sorted(layout) == list(range(rank))
                assert (row[6 * part + rank : 6 * part + 6] == -1).all()
                if rank == 4:
                    kinds[sum(a != 3 - b for b, a in enumerate(layout))] += 1
    assert {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)} < parts
    total = kinds.total()
    assert 0.1 < kinds[0] / total < 0.25, "set to row-major"
    assert 0.5 < kinds[2] / total < 0.75, "one swap"
    assert kinds[3] + kinds[4] > 0.1 * total, "any order"


def test_a_small_space_is_used_up():
    assert [strata(nodes) for nodes in (1, 3)] == [[1], [1, 2, 3]]
    configs = sample_layouts([Site(0, 0, "dot", ((5,), (5, 4), (4,)))], 50, 0)
    assert sorted(layout_of(config[0], 1) or () for config in configs) == [(), (0, 1), (1, 0)]


# Measuring


def test_any_function_can_be_measured(tmp_path):
    path = tmp_path / "mine" / "small.npz"
    quality = gbr.collect.layout(small, SMALL, out=path, configs=4, rounds=1)
    assert (quality.graph, quality.nodes, quality.configs) == ("small", 4, 4)
    graph = read_graph(path)
    assert (graph.kind, graph.repeat.shape) == ("layout", (4,))
    assert graph.node_splits is not None
    configs = np.concatenate([block for _, block in graph.config_blocks()])
    assert (configs[0] == -1).all()
    assert (configs[1:] >= 0).any((1, 2)).all()


def test_a_wrong_result_is_not_measured(monkeypatch):
    real = Relayout.compile
    compiled = count()

    def wrong(program, config):
        run = real(program, config)
        return run if next(compiled) != 2 else lambda: [np.asarray(each) + np.float32(0.5) for each in run()]

    monkeypatch.setattr(Relayout, "compile", wrong)
    with pytest.raises(CollectError, match=r"small, configuration 2: result 0 differs .* by 0\.5,"):
        measure_program(small, SMALL, Settings(3, 1), "small")


def test_tolerance_is_wider_for_short_types_and_zero_for_integers():
    results = [jnp.full(3, 2, kind) for kind in ("f4", "i4", "bfloat16")]
    assert Reference(results, "twos").limits == pytest.approx([4e-4, 0, 2 * 4 * 2**-7])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": "mine.csv"}, r"out: expected a name that ends in \.npz, got mine\.csv"),
        ({"args": SMALL[1]}, r"args: expected the arguments in a tuple, as in \(x,\), got ndarray"),
        ({"configs": 1}, "got 1 configs and 25 rounds"),
        ({"rounds": 0}, "got 96 configs and 0 rounds"),
    ],
)
def test_invalid_arguments_are_refused(changed, message):
    with pytest.raises(UsageError, match=message):
        gbr.collect.layout(small, **({"args": SMALL, "out": "mine.npz"} | changed))


@pytest.mark.parametrize("task", tasks.choose(layouts.FAMILIES, None, SPLITS, FOLDER), ids=lambda task: task.path.stem)
def test_committed_graph_is_that_of_its_program(task):
    graph = read_graph(task.path)
    program = Relayout(*layouts.FAMILIES[task.family].build(task.variant))
    for key in ("node_config_ids", "node_opcode", "node_feat", "edge_index"):
        np.testing.assert_array_equal(getattr(graph, key), program.graph[key], err_msg=key)
    assert graph.n_configs >= 96
    assert not np.array_equal(graph.runtime, graph.repeat)
    assert 10 <= len(graph.node_config_ids) <= 60
    configs = np.concatenate([block for _, block in graph.config_blocks()])
    assert (configs[0] == -1).all()
    assert len(np.unique(configs, axis=0)) == graph.n_configs
    assert set((configs[1:] >= 0).any(2).sum(1).tolist()) == set(strata(len(graph.node_config_ids)))
