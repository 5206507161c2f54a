from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import gbr.collect
from features.hlo import FEAT_ID, OPCODES
from gbr.collect import layouts
from gbr.collect.__main__ import main
from gbr.collect.choices import sample_layouts, strata
from gbr.collect.layouts import Settings, checked_runs, measure_program
from gbr.collect.programs import Example
from gbr.collect.relayout import Relayout, Site, layout_of
from gbr.data.collection import SPLITS
from gbr.data.graph import graph_from_arrays, read_graph
from gbr.errors import CollectError, MissingLibraryError, UsageError

jax = pytest.importorskip("jax", minversion="0.7")
jnp = jax.numpy


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def convolve(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def small(p, x):
    """A network with everything that inlining meets: a custom_jvp (relu), jitted helpers (softmax, split), reshapes."""
    x = jax.nn.relu(convolve(x, p["conv"]))
    a, b = jnp.split(x.reshape(x.shape[0], -1) @ p["dense"], 2, 1)
    return jax.nn.softmax(a @ b.T)


def loss(p, x):
    return jnp.square(small(p, x)).sum()


SMALL = ({"conv": normal(3, 3, 2, 4), "dense": 0.1 * normal(4 * 5 * 4, 6, seed=1)}, normal(3, 4, 5, 2, seed=2))


@pytest.fixture(scope="module")
def program():
    return Relayout(small, SMALL)


def unset(program):
    return np.full((len(program.sites), 18), -1, np.int8)


def results(run):
    return [np.asarray(each) for each in run()]


# Re-tracing


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
        (jax.grad(loss), SMALL),
        (jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), SMALL),
        (scanned, (normal(4, 4), normal(4, 4, seed=1))),
        (effects, (normal(4, 4), normal(4, 4, seed=1))),
        (jax.grad(lambda x, w: halved(x @ w).sum()), (normal(4, 4), normal(4, 4, seed=1))),
        (jax.vmap(lambda x: jax.checkpoint(jnp.tanh)(x @ x)), (normal(3, 4, 4),)),
    ],
    ids=["forward", "gradient", "jitted", "scan", "cond", "custom_vjp", "checkpoint"],
)
def test_a_retraced_program_gives_the_same_numbers(function, args):
    program = Relayout(function, args)
    expected = [np.asarray(each) for each in jax.tree.leaves(jax.jit(function)(*args))]
    everything = sample_layouts(program.sites, 40, 0)[-1]
    for config in (unset(program), everything):
        found = results(program.compile(config))
        assert [each.dtype for each in found] == [each.dtype for each in expected]
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def opcodes(program):
    return Counter(OPCODES[code] for code in program.graph["node_opcode"])


def test_helpers_and_custom_rules_are_inlined(program):
    assert opcodes(program)["call"] == 0
    assert [site.opcode for site in program.sites] == ["convolution", "reshape", "dot", "dot"]


def test_bodies_of_loops_are_left_alone():
    program = Relayout(scanned, (normal(4, 4), normal(4, 4)))
    assert opcodes(program)["while"] == 1
    assert opcodes(program)["dot"] == 2, "one in the loop, one behind it"
    assert [site.opcode for site in program.sites] == ["dot"]


def test_dead_equations_have_no_node():
    program = Relayout(effects, (normal(4, 4), normal(4, 4)))
    assert opcodes(program)["dot"] == 1


def shapes_in_hlo(graph, node):
    """Shapes of a node and of what it consumes, as the encoded columns tell them."""
    first = FEAT_ID["shape_dimensions_0"]

    def shape(node):
        extents = graph["node_feat"][node, first : first + 6].astype(int)
        return tuple(extents[extents > 0].tolist())

    operands = graph["edge_index"][graph["edge_index"][:, 0] == node, 1]
    return shape(node), sorted(shape(operand) for operand in operands)


@pytest.mark.parametrize("function", [small, jax.grad(loss)], ids=["forward", "gradient"])
def test_sites_are_their_nodes(function):
    program = Relayout(function, SMALL)
    ids = program.graph["node_config_ids"]
    assert ids.tolist() == [site.node for site in program.sites] == sorted(set(ids.tolist()))
    for site in program.sites:
        assert OPCODES[program.graph["node_opcode"][site.node]] == site.opcode
        output, operands = shapes_in_hlo(program.graph, site.node)
        assert site.shapes[0] == output
        assert sorted(site.shapes[1:]) == operands
    equations = dict(program._equations)
    for site in program.sites:
        equation = equations[site.equation]
        avals = [each.aval.shape for each in (*equation.outvars, *equation.invars)]
        assert site.shapes == tuple(avals)


def test_a_reshape_that_lowering_merged_is_no_site():
    def merged(x, w):
        return (x.reshape(4, 6).reshape(2, 12) @ w).reshape(-1)

    program = Relayout(merged, (normal(24), normal(12, 3)))
    assert len(program.sites) == len(program.graph["node_config_ids"])
    reshapes = [site.shapes for site in program.sites if site.opcode == "reshape"]
    assert ((2, 12), (4, 6)) not in reshapes
    assert opcodes(program)["reshape"] == 2
    for site in program.sites:
        assert shapes_in_hlo(program.graph, site.node)[0] == site.shapes[0]


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
    assert len(program.sites) == opcodes(program)["reshape"], "of five reshapes and a dot, one reshape has no choice"


def test_programs_without_layouts_and_untraceable_ones_are_refused():
    with pytest.raises(CollectError, match="relu: no convolution, dot or reshape of rank 2 to 6"):
        Relayout(jax.nn.relu, (normal(3, 3),))
    with pytest.raises(CollectError, match="small: JAX cannot trace it with these arguments"):
        Relayout(small, SMALL[:1])
    with pytest.raises(CollectError, match="small: JAX cannot trace it with these arguments"):
        Relayout(small, ("text", SMALL[1]))


# Constraints


def test_set_layouts_stand_in_the_hlo_turned_round(program):
    config = unset(program)
    config[0, :4] = (2, 3, 1, 0)
    config[0, 6:10] = (0, 1, 2, 3)
    config[2, 12:14] = (1, 0)
    constraints = [line for line in program.hlo(config).splitlines() if 'target="LayoutConstraint"' in line]
    assert len(constraints) == 3
    joined = " ".join(constraints)
    for text in ("f32[3,4,5,4]{2,3,1,0}", "f32[3,4,5,2]{0,1,2,3}", "f32[80,6]{1,0}"):
        assert text in joined, text
    assert "LayoutConstraint" not in program.hlo(unset(program))


def test_a_set_layout_becomes_copies(program):
    def copies(config):
        lowered = program._lower(program._chosen(config))
        return lowered.compile().as_text().count(" copy(")

    transposed = unset(program)
    transposed[0, 6:10] = (0, 1, 2, 3)
    transposed[2, 6:8] = (0, 1)
    row_major = unset(program)
    row_major[2, 6:8] = (1, 0)
    assert copies(row_major) == copies(unset(program))
    assert copies(transposed) > copies(unset(program))


def test_a_tensor_is_set_or_left_to_the_compiler():
    row = np.array([*(2, 0, 1), *[-1] * 3, *[-1] * 6, *(1, 0), *[-1] * 4], np.int8)
    assert [layout_of(row, part) for part in range(3)] == [(2, 0, 1), None, (1, 0)]


# Sampling

SITES = [
    Site(0, 0, "convolution", ((2, 8, 8, 4), (2, 8, 8, 3), (3, 3, 3, 4))),
    Site(1, 1, "reshape", ((2, 256), (2, 8, 8, 4))),
    Site(2, 2, "reshape", ((512,), (2, 256))),
    Site(3, 3, "dot", ((2, 10), (2, 256), (256, 10))),
    Site(4, 4, "dot", ((2,), (2, 256), (256,))),
] * 4


def numbers_set(configs):
    return (configs >= 0).any(2).sum(1)


def test_sample_is_distinct_the_same_for_a_seed_and_begins_with_nothing_set():
    configs = sample_layouts(SITES, 96, 5)
    assert configs.shape == (96, 20, 18)
    assert configs.dtype == np.int8
    assert (configs[0] == -1).all()
    assert len(np.unique(configs, axis=0)) == 96
    np.testing.assert_array_equal(configs, sample_layouts(SITES, 96, 5))
    assert not np.array_equal(configs, sample_layouts(SITES, 96, 6))


@pytest.mark.parametrize(
    ("nodes", "expected"), [(1, [1]), (3, [1, 2, 3]), (10, [2, 3, 4, 5, 8, 10]), (60, [2, 4, 8, 15, 30, 60])]
)
def test_strata_are_few_a_quarter_half_and_all(nodes, expected):
    assert strata(nodes) == expected


def test_every_stratum_has_the_same_share():
    counts = Counter(numbers_set(sample_layouts(SITES, 97, 1))[1:].tolist())
    assert sorted(counts) == strata(len(SITES))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_layouts_are_permutations_of_free_tensors_of_all_kinds():
    configs = sample_layouts(SITES, 400, 2)
    kinds = Counter()
    parts = Counter()
    for config in configs:
        for site, row in zip(SITES, config, strict=True):
            chosen = [layout_of(row, part) for part in range(3)]
            parts[tuple(part for part in range(3) if chosen[part])] += 1
            for part, layout in enumerate(chosen):
                if layout is None:
                    continue
                assert part in site.free
                rank = len(site.shapes[part])
                assert sorted(layout) == list(range(rank))
                assert (row[6 * part + rank : 6 * part + 6] == -1).all()
                if rank == 4:
                    kinds[sum(a != 3 - b for b, a in enumerate(layout))] += 1
    assert {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)} < set(parts)
    total = kinds.total()
    assert 0.1 < kinds[0] / total < 0.25, "set, and row-major all the same"
    assert 0.5 < kinds[2] / total < 0.75, "one swap"
    assert kinds[3] + kinds[4] > 0.1 * total, "any order"


def test_a_small_space_is_used_up():
    (only,) = [Site(0, 0, "dot", ((5,), (5, 4), (4,)))]
    configs = sample_layouts([only], 50, 0)
    assert sorted(layout_of(config[0], 1) or () for config in configs) == [(), (0, 1), (1, 0)]


# Measuring


class FakeClock:
    """Every look takes a little longer than the one before."""

    def __init__(self):
        self.steps = count(1_000_000, 1_000)
        self.now = 0

    def __call__(self):
        self.now += next(self.steps)
        return self.now


def test_a_measured_function_is_a_whole_graph():
    arrays = measure_program(small, SMALL, Settings(configs=6, rounds=3), "small", FakeClock())
    graph = graph_from_arrays("small", arrays)
    assert graph.kind == "layout"
    assert graph.n_configs == 6
    assert graph.node_splits is not None
    assert graph.runtime is not None
    assert graph.repeat is not None
    assert (graph.repeat > graph.runtime).all(), "the second pass is later, and this clock slows down"
    (_, configs), *rest = graph.config_blocks()
    assert not rest
    assert (configs[0] == -1).all()
    assert (configs[1:] >= 0).any((1, 2)).all()
    assert arrays["node_config_feat"].dtype == np.float32
    assert arrays["node_splits"].ndim == 2


def test_a_wrong_result_is_not_measured(program, monkeypatch):
    configs = sample_layouts(program.sites, 3, 0)
    assert len(checked_runs(program, configs, "small")) == 3
    real = program.compile
    compiled = count()

    def wrong(config):
        run = real(config)
        return run if next(compiled) != 2 else lambda: [np.asarray(each) + np.float32(0.5) for each in run()]

    monkeypatch.setattr(program, "compile", wrong)
    with pytest.raises(CollectError, match=r"small, configuration 2: result 0 is off by 0\.5 from the unconstrained"):
        checked_runs(program, configs, "small")


def test_rounding_of_short_types_is_allowed_and_whole_numbers_must_agree():
    limits = {
        str(jnp.dtype(kind)): layouts._limit(np.asarray(jnp.full(3, 2, kind))) for kind in ("f4", "i4", "bfloat16")
    }
    assert limits["float32"] == pytest.approx(4e-4)
    assert limits["int32"] == 0
    assert limits["bfloat16"] == pytest.approx(2 * 4 * 2**-7)


def test_any_function_can_be_measured(tmp_path):
    path = tmp_path / "mine" / "small.npz"
    quality = gbr.collect.layout(small, SMALL, out=path, configs=4, rounds=1)
    assert (quality.graph, quality.nodes, quality.configs) == ("small", 4, 4)
    assert quality.spread >= 1
    graph = read_graph(path)
    assert graph.n_configs == 4
    assert graph.repeat is not None


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"out": "mine.csv"}, r"out: got mine\.csv, want a name that ends in \.npz"),
        ({"args": SMALL[1]}, r"args: got ndarray, want the arguments in a tuple"),
        ({"configs": 1}, "got 1 configs in 25 rounds"),
        ({"rounds": 0}, "got 96 configs in 0 rounds"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(changed, wanted):
    with pytest.raises(UsageError, match=wanted):
        gbr.collect.layout(small, **({"args": SMALL, "out": "mine.npz"} | changed))


# The command

ONE = ["layout", "--programs", "tensornet_chain", "--configs", "3", "--rounds", "1"]


@pytest.fixture
def tiny(monkeypatch):
    def tensornet(variant):
        return Example(lambda p, x: jnp.tanh(x.reshape(4, 6) @ p), (6, 2), ((24,),))

    from gbr.collect.programs import dense

    monkeypatch.setattr(dense, "tensornet", tensornet)


@pytest.mark.usefixtures("tiny")
def test_what_is_there_is_kept(tmp_path, capsys):
    command = ["layout", "--programs", "tensornet", "--configs", "3", "--rounds", "1", "--json", "--out", str(tmp_path)]
    assert main(command) == 0
    assert [each["graph"] for each in json.loads(capsys.readouterr().out)] == ["tensornet_chain", "tensornet_tree-grad"]
    files = sorted((tmp_path / layouts.COLLECTION / "train").iterdir())
    assert [path.stem for path in files] == ["tensornet_chain", "tensornet_tree-grad"]
    before = files[0].read_bytes()
    files[1].unlink()
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert [each["graph"] for each in json.loads(out)] == ["tensornet_tree-grad"]
    assert "1 of 2 programs are there already" in err
    assert files[0].read_bytes() == before


@pytest.mark.usefixtures("tiny")
def test_the_table_tells_nodes_spread_and_doubts(tmp_path, capsys):
    assert main([*ONE, "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "tensornet_chain" in out
    assert "retest tau" in out
    quality = layouts.Quality("p", 3, 6, 1.05, 0.5)
    assert [doubt.partition(" is ")[0] for doubt in quality.doubts()] == [
        "p: retest tau 0.50",
        "p: slowest/fastest 1.05",
    ]
    assert err.count("warning: ") == len(layouts.Quality.of(read_graph(next(tmp_path.rglob("*.npz")))).doubts())


@pytest.mark.usefixtures("tiny")
def test_an_interrupt_leaves_whole_files(tmp_path, capsys, monkeypatch):
    real = layouts.collect

    def interrupted(task, settings):
        if task.variant == "tree-grad":
            raise KeyboardInterrupt
        return real(task, settings)

    monkeypatch.setattr(layouts, "collect", interrupted)
    assert main(["layout", "--programs", "tensornet", *ONE[3:], "--out", str(tmp_path)]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    (path,) = (tmp_path / layouts.COLLECTION / "train").iterdir()
    assert read_graph(path).name == "tensornet_chain"


def test_without_jax_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'gbr\[collect\]'"):
        gbr.collect.layout(small, SMALL, out=tmp_path / "small.npz")
    assert main([*ONE, "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "gbr[collect]" in err
    assert list(tmp_path.rglob("*.npz")) == []


def test_a_jax_without_layouts_is_told_from_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax.experimental.layout", None)
    with pytest.raises(MissingLibraryError, match=r"this JAX cannot constrain layouts .* 'jax>=0\.7'"):
        Relayout(small, SMALL)


def test_names_are_families_or_programs():
    chosen = layouts.tasks(["resnet", "mlp_gated", "senet"], ["train", "test"], Path("root"))
    assert [task.path.stem for task in chosen] == ["mlp_gated", "resnet_nhwc", "resnet_nchw"]
    assert chosen[0].path == Path("root/npz/layout/cpu/random/train/mlp_gated.npz")
    with pytest.raises(UsageError, match="no family or program alexnet; families: lenet"):
        layouts.tasks(["alexnet"], SPLITS, Path("root"))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [(["--programs", "nothing"], "no family or program nothing"), (["--configs", "0"], "0 is not in the range x>=1")],
)
def test_usage_errors_are_one_line(arguments, wanted, tmp_path, capsys):
    assert main(["layout", *arguments, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert wanted in err
    assert err.count("\n") == 1


def test_help_is_cheap():
    code = (
        "import sys; from gbr.collect.__main__ import main; code = main(['layout', '--help']);"
        "sys.exit(code or len({'numba', 'jax', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--programs" in done.stdout
