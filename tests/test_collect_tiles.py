"""Generated loop nests against JAX and NumPy, their configurations, and the graphs that come with gbr."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config as numba_config
from numpy.lib.stride_tricks import sliding_window_view

from features.hlo import OPCODES
from gbr.collect import tasks
from gbr.collect.tasks import Settings
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph
from gbr.errors import CollectError

pytest.importorskip("jax")

import jax

from gbr.collect.families import FAMILIES
from gbr.collect.tiles import LEAST_ITERATIONS, kernel_graph, measure_variant, sample_tiles, tile_config

FOLDER = Path(__file__).parents[1] / "data/npz/tile/cpu"

#: Small shapes by the number of extents; the last one of a convolution is its window.
SHAPES = {each.count("x"): each for each in ("8", "7x9", "4x5x7", "3x4x5x6", "2x4x5x6x3", "2x3x4x5x6x3")}


def small(family):
    return family.nest(SHAPES[family.variants.split()[0].count("x")])


def operands_of(family):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(operand, np.float32) for operand in small(family).operands]


def check_kernel(kernel, family, operands, expected, sizes):
    output = np.full(small(family).output, np.nan, np.float32)
    kernel(*operands, output, *map(np.uint64, sizes))
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, rtol=3e-5, atol=3e-5, err_msg=f"tiles {sizes}")


def extents_of(family):
    return list(small(family).loops.values())


# Loop nests


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_kernel_equals_its_program_whatever_the_tiles(family):
    operands = operands_of(family)
    expected = np.asarray(jax.jit(family.program)(*operands))
    extents = extents_of(family)
    kernel = getattr(family.kernel, "py_func", family.kernel)
    odd = [[1 + (step + 2 * dim) % extent for dim, extent in enumerate(extents)] for step in (1, 2)]
    for sizes in (extents, [1] * len(extents), *odd):
        check_kernel(kernel, family, operands, expected, sizes)


def softmax(x):
    e = np.exp(x)
    return e / e.sum(1, keepdims=True)


def pooled(x):
    return sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))


def standardized(x):
    return (x - x.mean((1, 3), keepdims=True)) / np.sqrt(x.var((1, 3), keepdims=True) + 1e-5)


def convolved(x, f):
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    return np.einsum("nhwcpq,pqco->nhwo", windows, f)


@pytest.mark.skipif(bool(numba_config.DISABLE_JIT), reason="needs the JIT")
@pytest.mark.parametrize(
    ("name", "naive"),
    [
        ("attention_scores", lambda u, v: np.einsum("hsd,htd->hst", u, v) / np.sqrt(u.shape[2])),
        ("conv2d", convolved),
        ("sum_outer", lambda x: x.sum((0, 2))),
        ("variance_minor", lambda x: x.var(1)),
        ("softmax", softmax),
        ("group_norm", standardized),
        ("max_pool", pooled),
    ],
)
def test_compiled_kernel_equals_numpy(name, naive):
    family = FAMILIES[name]
    operands = operands_of(family)
    expected = naive(*(operand.astype(np.float64) for operand in operands))

    @settings(max_examples=25, deadline=None)
    @given(st.tuples(*(st.integers(1, extent) for extent in extents_of(family))))
    def check(sizes):
        check_kernel(family.kernel, family, operands, expected, sizes)

    check()


def test_sources_are_those_of_the_committed_measurements():
    sources = {name: family.source for name, family in FAMILIES.items()}
    assert "        fixed1 = float32_0_75 * a[m, k]\n" in sources["matmul_scaled_add"], "outside the loop over n"
    assert "total2 += x[a, b]" in sources["layer_norm"], "the factor 1 / size(b) is applied after the sum"
    assert "if index1 < uint64_1 or" in sources["conv2d"]
    digest = hashlib.sha256("".join(sources.values()).encode()).hexdigest()
    assert digest == "cf3982dea1d5d5269afdb5f688a5685af900e212fecb910e4e28cea55d517e4d"


# Sampling and configurations


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_sampled_tiles_are_distinct_within_bounds_and_reproducible(extents, n_configs, seed):
    sizes = sample_tiles(extents, n_configs, seed)
    assert sizes.dtype == np.int64
    assert 1 <= len(sizes) <= n_configs
    assert sizes[0].tolist() == extents
    assert len(np.unique(sizes, axis=0)) == len(sizes)
    assert (sizes >= 1).all()
    assert (sizes <= extents).all()
    assert (sizes.prod(1) >= min(LEAST_ITERATIONS, math.prod(extents))).all()
    np.testing.assert_array_equal(sizes, sample_tiles(extents, n_configs, seed))


def test_sampled_tiles_are_of_all_kinds():
    extents = np.array([300, 200, 500])
    sizes = sample_tiles(extents, 96, 3)
    assert len(sizes) == 96
    full = sizes == extents
    power = (sizes & (sizes - 1)) == 0
    assert (full.sum(1) == 2).any(), "only one loop tiled"
    assert (~full).all(1).any(), "every loop tiled"
    assert (power | full).all(1).sum() >= 24
    assert ((sizes % 2 == 1) & ~full & (sizes > 1)).any(0).all(), "odd sizes in every loop"
    assert not np.array_equal(sizes, sample_tiles(extents, 96, 4))


def bounds(*values):
    return [*values, *[0] * (6 - len(values)), sum(values), math.prod(values) if values else 0]


@pytest.mark.parametrize(
    ("family", "shape", "sizes", "kernel", "output", "reduced"),
    [
        ("matmul_nt", "50x70x60", (5, 7, 6), (6, 7), (5, 7), ()),
        ("matmul_transposed", "50x70x60", (5, 7, 6), (6, 7), (7, 5), ()),
        ("attention_values", "8x50x70x60", (5, 2, 7, 6), (2, 6, 7), (5, 2, 7), ()),
        ("conv2d", "2x20x24x32x64x3", (1, 5, 6, 16, 8), (3, 3, 8, 16), (1, 5, 6, 16), ()),
        ("conv2d_nchw", "2x20x24x32x64x3", (1, 16, 5, 6, 8), (16, 8, 3, 3), (1, 16, 5, 6), ()),
        ("square_sum_transposed", "30x40x50", (3, 4, 5), (), (5, 3), (3, 4, 5)),
        ("symmetrise", "30", (3, 4), (), (3, 4), ()),
        ("logsumexp", "30x40", (3, 4), (), (3,), (3, 4)),
        ("max_pool", "2x20x24x32", (1, 5, 6, 16), (), (1, 5, 6, 16), (1, 11, 13, 16)),
        ("stencil5", "30x40", (3, 4), (), (3, 4), ()),
    ],
)
def test_configurations_hold_tiles_in_logical_order(family, shape, sizes, kernel, output, reduced):
    config = tile_config(FAMILIES[family].nest(shape), np.array([sizes], np.int64))
    assert config.dtype == np.float32
    assert config.tolist() == [bounds(*kernel) + bounds(*output) + bounds(*reduced)]


# Measuring


def test_a_wrong_kernel_is_not_measured(monkeypatch):
    family = FAMILIES["bias_scale"]
    wrong = replace(family, program=lambda x, scale, bias: family.program(x, scale, bias) + 1)
    monkeypatch.setitem(FAMILIES, "bias_scale", wrong)
    with pytest.raises(CollectError, match=r"bias_scale_7x9, configuration 7x9: .* differs from the JAX result by 1,"):
        measure_variant("bias_scale", "7x9", Settings(8, 1))


def test_measured_arrays_of_a_kernel():
    arrays = measure_variant("outer_update", "40x60", Settings(6, 1))
    runtime = arrays["config_runtime"]
    assert runtime.shape == arrays["config_runtime_repeat"].shape == (6,)
    assert (arrays["config_runtime_normalizers"] == runtime[0]).all()
    assert arrays["config_feat"][0, 8:16].tolist() == bounds(40, 60)


def test_committed_graphs_are_those_of_their_kernels():
    names = [family.stems[number % len(family.stems)] for number, family in enumerate(FAMILIES.values())]
    for task in tasks.choose(FAMILIES, names, SPLITS, FOLDER):
        graph = read_graph(task.path)
        family = FAMILIES[task.family]
        default = np.array([list(family.nest(task.variant).loops.values())])
        arrays = kernel_graph(family, task.variant, default)
        for key in ("node_opcode", "node_feat", "edge_index"):
            np.testing.assert_array_equal(getattr(graph, key), arrays[key], err_msg=graph.name)
        np.testing.assert_array_equal(graph.config_feat[:1], arrays["config_feat"], err_msg=graph.name)
        assert not {"call", "fusion", "custom-call"} & {OPCODES[opcode] for opcode in graph.node_opcode}
        assert graph.n_configs == len(np.unique(graph.config_feat, axis=0)) == 96, graph.name
        assert (graph.normalizer == graph.runtime[0]).all()
