"""Measure JAX programs under different layouts of their convolutions, dots and reshapes.

A program is traced again with chosen layouts as constraints on operands and results.  Its jaxpr is inlined first, so
that operations in jitted helpers or in a ``custom_jvp`` can be constrained too.  Operations in loops, branches and
``jax.checkpoint`` are not constrained.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gbr.collect import _jax
from gbr.collect.tasks import Family, Quality, Settings, Task
from gbr.collect.timer import Clock, measure
from gbr.data.graph import write_graph
from gbr.data.hlo import graph_arrays, read_module
from gbr.errors import CollectError, UsageError

Int8Array = NDArray[np.int8]
Shape = tuple[int, ...]

COLLECTION: Final = Path("npz/layout/cpu/random")
#: Nanoseconds per configuration and pass, see :func:`gbr.collect.timer.measure`; about 25 rounds of a 4 ms program.
ENOUGH_NS: Final = 100_000_000
#: Tensors per node (output, input, kernel), and slots per tensor.
PARTS: Final = 3
SLOTS: Final = 6
#: Tolerance of results relative to the largest element, as float32 sums may be reordered.
_TOLERANCE: Final = 2e-4

# Programs

#: Suffix of a variant that is the gradient of the mean square of the results with respect to the parameters.
GRADIENT: Final = "-grad"


#: All families of networks in :mod:`gbr.collect.programs` by name.
FAMILIES: Final = {
    name: Family(group, name, variants, split=split)
    for name, split, group, variants in (
        ("lenet", "train", "convolutions", "nhwc"),
        ("vgg", "train", "convolutions", "nhwc-grad nchw"),
        ("inception", "train", "convolutions", "nhwc"),
        ("unet", "train", "convolutions", "nhwc"),
        ("autoencoder", "train", "convolutions", "nhwc nchw"),
        ("wavenet", "train", "convolutions", "nwc"),
        ("transformer", "train", "dots", "encoder encoder-grad decoder"),
        ("attention", "train", "dots", "multihead grouped-grad relative"),
        ("mlp", "train", "dots", "classifier-grad gated"),
        ("recurrent", "train", "dots", "lstm gru"),
        ("bilinear", "train", "dots", "factorised"),
        ("tensornet", "train", "dots", "chain tree-grad"),
        ("densenet", "train", "convolutions", "nhwc"),
        ("swin", "train", "dots", "shifted"),
        ("perceiver", "train", "dots", "io"),
        ("performer", "train", "dots", "relu"),
        ("monarch", "train", "dots", "deep"),
        ("mobilenet", "valid", "convolutions", "nhwc"),
        ("senet", "valid", "convolutions", "nhwc"),
        ("discriminator", "valid", "convolutions", "nhwc nchw"),
        ("mixer", "valid", "dots", "block"),
        ("retrieval", "valid", "dots", "towers towers-grad"),
        ("capsule", "valid", "convolutions", "nhwc"),
        ("fourier", "valid", "dots", "radix"),
        ("resnet", "test", "convolutions", "nhwc nchw"),
        ("convnext", "test", "convolutions", "nhwc"),
        ("pixelcnn", "test", "convolutions", "nhwc"),
        ("gmlp", "test", "dots", "deep shallow-grad"),
        ("dlrm", "test", "dots", "interaction interaction-grad"),
        ("deeplab", "test", "convolutions", "nchw"),
        ("experts", "test", "dots", "soft"),
        ("graphconv", "test", "dots", "relations"),
    )
}


def build(family: str, variant: str, seed: int = 0) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a program and random arguments.

    Parameters are normal, divided by the square root of the number of terms in a result, so that activations keep their
    scale.

    Raises
    ------
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    jax = _jax.load_with_layouts()
    from gbr.collect import programs

    name = variant.removesuffix(GRADIENT)
    example = programs.example(family, name)
    rng = np.random.default_rng(seed)
    parameters = {
        name: rng.standard_normal(shape, np.float32) / np.float32(max(1.0, np.prod(shape) / max(shape)) ** 0.5)
        for name, shape in sorted(example.parameters.items())
    }
    inputs = tuple(
        rng.integers(0, each[1], each[0], np.int32)
        if isinstance(each[0], tuple)
        else rng.standard_normal(each, np.float32)
        for each in example.inputs
    )
    function = example.function
    if variant != name:
        function = jax.grad(lambda *args: jax.numpy.mean(jax.numpy.square(example.function(*args))))
    return function, (parameters, *inputs)


# Tracing with layouts

#: HLO opcodes of configurable nodes, by JAX primitive.
CONFIGURABLE: Final = {"conv_general_dilated": "convolution", "dot_general": "dot", "reshape": "reshape"}

#: Parameters that hold a called jaxpr, by primitive.
_INLINED: Final = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
#: Prefix of the named scope that marks an equation in the metadata of its HLO instruction.
_MARK: Final = "gbr_site_"


@dataclass(frozen=True, slots=True)
class Site:
    """A convolution, dot or reshape whose layouts can be chosen.

    Parameters
    ----------
    equation : int
        Index of the equation in the inlined jaxpr.
    node : int
        Index of the node in the HLO graph.
    opcode : str
        HLO opcode: ``convolution``, ``dot`` or ``reshape``.
    shapes : tuple of shape
        Shapes of output, input and kernel; a reshape has no kernel.
    """

    equation: int
    node: int
    opcode: str
    shapes: tuple[Shape, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """Indices of the tensors with at least two dimensions and at most as many as a configuration has slots."""
        return tuple(part for part, shape in enumerate(self.shapes) if 2 <= len(shape) <= SLOTS)


class Relayout:
    """A JAX function that can be compiled under chosen layouts.

    Parameters
    ----------
    function : callable
        Traceable by JAX.
    args : sequence
        Arguments of the function: arrays, or pytrees of arrays.

    Attributes
    ----------
    sites : tuple of Site
        Operations with layouts to choose, in the order of their nodes.
    graph : dict
        Arrays of the unconstrained graph (unoptimised HLO, calls inlined), named as by
        :func:`gbr.data.hlo.graph_arrays`; ``node_config_ids`` are the nodes of ``sites``.

    Raises
    ------
    MissingLibraryError
        If JAX is not installed, or too old.
    CollectError
        If JAX cannot trace the function, or it has no layouts to choose.
    """

    def __init__(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        self._jax = _jax.load_with_layouts()
        name = getattr(function, "__name__", function)
        leaves, self._arguments = self._jax.tree.flatten(tuple(args))

        def flat(*leaves: Any) -> Any:
            results, self._results = self._jax.tree.flatten(function(*self._arguments.unflatten(leaves)))
            return results

        try:
            self.leaves = [self._jax.numpy.asarray(leaf) for leaf in leaves]
            closed = self._jax.make_jaxpr(flat)(*self.leaves)
        except Exception as fault:  # any exception of user code
            raise CollectError(
                f"{name}: JAX cannot trace the function with these arguments ({fault}); expected a function for "
                "jax.jit and all its arguments"
            ) from fault
        inlined = self._jax.make_jaxpr(lambda *leaves: _inline(closed.jaxpr, closed.consts, leaves))(*self.leaves)
        self._jaxpr, self._consts = inlined.jaxpr, inlined.consts
        self._equations = _live(inlined.jaxpr)
        proto = _jax.proto(self._lower({}))
        self.sites = self._sites(proto)
        if not self.sites:
            raise CollectError(
                f"{name}: no convolution, dot or reshape of rank 2 to {SLOTS} outside loops and branches; "
                "there are no layouts to choose"
            )
        self.graph = graph_arrays(proto) | {"node_config_ids": np.array([site.node for site in self.sites], np.int64)}

    def compile(self, config: Int8Array) -> Callable[[], Any]:
        """Compile the program under one configuration, for one thread.

        Parameters
        ----------
        config : int8 (nc, 18)
            Row per site: layouts of output, input and kernel in six slots each, minor to major, -1-padded; if all slots
            of a tensor are -1, the compiler chooses its layout.

        Returns
        -------
        callable without arguments
            Runs the program to completion and returns its results, a list of arrays.

        Raises
        ------
        CollectError
            If XLA cannot compile the program.
        """
        lowered = self._lower(self._chosen(config))
        try:
            compiled = lowered.compile(compiler_options={"xla_cpu_multi_thread_eigen": False})
        except Exception as fault:
            raise CollectError(f"XLA cannot compile the program under these layouts ({fault})") from fault
        leaves, wait = self.leaves, self._jax.block_until_ready
        return lambda: wait(compiled(*leaves))

    def function(self, config: Int8Array) -> Callable[..., Any]:
        """Return the function under one configuration (as for :meth:`compile`), for ``jax.jit``.

        The function raises UsageError for arguments of another structure, shape or type.
        """
        chosen = self._chosen(config)
        expected = [(tuple(each.shape), each.dtype) for each in self.leaves]

        def constrained(*args: Any) -> Any:
            leaves, tree = self._jax.tree.flatten(args)
            leaves = [self._jax.numpy.asarray(leaf) for leaf in leaves]
            found = [(tuple(each.shape), each.dtype) for each in leaves]
            if tree != self._arguments or found != expected:
                raise UsageError(f"expected arguments {expected}, got {found}: layouts are specific to the shapes")
            return self._results.unflatten(self._evaluate(leaves, chosen))

        return constrained

    def hlo(self, config: Int8Array) -> str:
        """Text of the unoptimised HLO under one configuration, as for :meth:`compile`."""
        return str(self._lower(self._chosen(config)).as_text("hlo"))

    def _chosen(self, config: Int8Array) -> dict[int, list[Shape | None]]:
        return {
            site.equation: [layout_of(row, part) for part in range(len(site.shapes))]
            for site, row in zip(self.sites, config, strict=True)
        }

    def _lower(self, chosen: Mapping[int, list[Shape | None]]) -> Any:
        def program(*leaves: Any) -> Any:
            return self._evaluate(leaves, chosen)

        return self._jax.jit(program, keep_unused=True).lower(*self.leaves)

    def _evaluate(self, leaves: Sequence[Any], chosen: Mapping[int, list[Shape | None]]) -> list[Any]:
        values = _Values(self._jaxpr, self._consts, leaves)
        for number, equation in self._equations:
            operands = values.read(equation.invars)
            if equation.primitive.name not in CONFIGURABLE:
                values.write(equation, equation.primitive.bind(*operands, **equation.params))
                continue
            output, *inputs = chosen.get(number) or [None] * (1 + len(operands))
            operands = [self._constrain(value, layout) for value, layout in zip(operands, inputs, strict=True)]
            with self._jax.named_scope(f"{_MARK}{number}"):
                result = equation.primitive.bind(*operands, **equation.params)
            values.write(equation, self._constrain(result, output))
        return values.read(self._jaxpr.outvars)

    def _constrain(self, value: Any, minor_to_major: Shape | None) -> Any:
        if minor_to_major is None:
            return value
        layout = self._jax.experimental.layout
        return layout.with_layout_constraint(value, layout.Layout(major_to_minor=minor_to_major[::-1]))

    def _sites(self, proto: bytes) -> tuple[Site, ...]:
        """Equations with their nodes; an equation that lowering merged with another has no node and is skipped."""
        marked = {f"{_MARK}{number}": (number, equation) for number, equation in self._equations}
        sites: list[Site] = []
        for node, (opcode, name, shapes) in enumerate(_nodes(proto)):
            mark = next((part for part in name.split("/") if part.startswith(_MARK)), None)
            if mark is None or mark not in marked:
                continue
            number, equation = marked[mark]
            avals = [each.aval for each in (*equation.outvars, *equation.invars)]
            site = Site(number, node, opcode, shapes)
            if opcode != CONFIGURABLE[equation.primitive.name] or shapes != tuple(tuple(each.shape) for each in avals):
                continue
            extended = self._jax.dtypes.extended
            if site.free and not any(self._jax.numpy.issubdtype(each.dtype, extended) for each in avals):
                sites.append(site)
                del marked[mark]
        return tuple(sites)


def layout_of(row: Int8Array, part: int) -> Shape | None:
    """Layout of output (0), input (1) or kernel (2) in a row of 18 slots, minor to major; None if it is not set."""
    slots = row[part * SLOTS : (part + 1) * SLOTS]
    return tuple(slots[slots >= 0].tolist()) or None


class _Values:
    """Values of a jaxpr's variables while it is evaluated."""

    def __init__(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> None:
        self._values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(self, variables: Sequence[Any]) -> list[Any]:
        return [each.val if hasattr(each, "val") else self._values[each] for each in variables]

    def write(self, equation: Any, result: Any) -> None:
        results = result if equation.primitive.multiple_results else [result]
        self._values.update(zip(equation.outvars, results, strict=True))


def _inline(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = _Values(jaxpr, consts, args)
    for equation in jaxpr.eqns:
        operands = values.read(equation.invars)
        callee = equation.params.get(_INLINED.get(equation.primitive.name, ""))
        if callee is None:
            values.write(equation, equation.primitive.bind(*operands, **equation.params))
        else:
            values.write(equation, _inline(getattr(callee, "jaxpr", callee), getattr(callee, "consts", ()), operands))
    return values.read(jaxpr.outvars)


def _live(jaxpr: Any) -> list[tuple[int, Any]]:
    """Equations that a result or effect depends on, with their indices."""
    needed = {each for each in jaxpr.outvars if not hasattr(each, "val")}
    live = []
    for number, equation in reversed(list(enumerate(jaxpr.eqns))):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            needed.update(each for each in equation.invars if not hasattr(each, "val"))
            live.append((number, equation))
    return live[::-1]


def _nodes(proto: bytes) -> Iterator[tuple[str, str, tuple[Shape, ...]]]:
    """Opcode, source scope, and shapes of result and operands of every node, in the order of the graph."""
    for computation in read_module(proto).computations:
        shapes = {each.id: tuple(each.shape.dimensions) for each in computation.instructions}
        for each in computation.instructions:
            yield each.opcode, each.metadata.op_name, tuple(shapes[number] for number in (each.id, *each.operand_ids))


# Sampling

#: Shares of layouts with one swap, and with a random order: most layouts that a search visits are near the default.
_ONE_SWAP: Final = 0.6
_ANY_ORDER: Final = 0.25
#: Share of configured nodes of which all tensors are set; of others, one or two tensors are set.
_WHOLE_NODE: Final = 0.25
#: Maximum number of draws per configuration, after which the space is considered exhausted.
_DRAWS: Final = 100


def strata(n_nodes: int) -> list[int]:
    """Numbers of nodes that a configuration sets: 2, 4, 8, a quarter, half, all; ascending and distinct."""
    return sorted({min(n_nodes, few) for few in (2, 4, 8)} | {-(-n_nodes // 4), -(-n_nodes // 2), n_nodes})


def sample_layouts(sites: Sequence[Site], n_configs: int, seed: int) -> Int8Array:
    """Draw layout configurations.

    The numbers of nodes of :func:`strata` are used cyclically, so that many configurations set the same number of
    nodes.  One, two or all tensors of a chosen node are set: to the row-major layout with two dimensions swapped, to a
    random order of the dimensions, or to row-major itself, which changes nothing.

    Parameters
    ----------
    sites : sequence of Site
        Sites with a tensor of at least two dimensions.
    n_configs : int
        Number of configurations.
    seed : int

    Returns
    -------
    int8 (c, nc, 18)
        Distinct configurations: layouts of output, input and kernel, minor to major, -1-padded.  Row 0 sets nothing.
        ``c < n_configs`` if there are not enough distinct ones.
    """
    rng = np.random.default_rng(seed)
    counts = strata(len(sites))
    default = np.full((len(sites), PARTS * SLOTS), -1, np.int8)
    seen = {default.tobytes(): default}
    for attempt in range(_DRAWS * n_configs):
        if len(seen) >= n_configs:
            break
        # The number of configurations selects the stratum, so that every stratum gets its share unless it is exhausted.
        turn = len(seen) if attempt < _DRAWS * n_configs // 2 else attempt
        config = default.copy()
        for node in rng.choice(len(sites), counts[turn % len(counts)], replace=False):
            for part in _parts(rng, sites[node].free):
                layout = _layout(rng, len(sites[node].shapes[part]))
                config[node, part * SLOTS : part * SLOTS + len(layout)] = layout
        seen.setdefault(config.tobytes(), config)
    return np.stack(list(seen.values()))


def _parts(rng: Generator, free: Sequence[int]) -> Sequence[int]:
    if len(free) == 1 or rng.random() < _WHOLE_NODE:
        return free
    return [int(part) for part in rng.permutation(free)[: rng.integers(1, len(free))]]


def _layout(rng: Generator, rank: int) -> list[int]:
    row_major = list(range(rank))[::-1]
    draw = rng.random()
    if draw < _ONE_SWAP:
        a, b = rng.choice(rank, 2, replace=False)
        row_major[a], row_major[b] = row_major[b], row_major[a]
    elif draw < _ONE_SWAP + _ANY_ORDER:
        return [int(dim) for dim in rng.permutation(rank)]
    return row_major


# Measuring


class Reference:
    """Results of an unconstrained program.

    Parameters
    ----------
    run : callable without arguments
        Returns the results, a list of arrays.
    name : str
        Name in messages.
    """

    def __init__(self, run: Callable[[], Any], name: str) -> None:
        self._name = name
        # Compared by NumPy, as JAX 0.10 misreads results in other layouts.
        self._expected = [np.asarray(each) for each in run()]
        self._limits = [tolerance(each) for each in self._expected]

    def check(self, run: Callable[[], Any], number: int) -> None:
        """Run a configuration once and compare its results.

        Raises
        ------
        CollectError
            If a result differs by more than rounding errors.
        """
        for index, (found, expected, limit) in enumerate(zip(run(), self._expected, self._limits, strict=True)):
            if not np.allclose(np.asarray(found), expected, rtol=0, atol=limit, equal_nan=True):
                worst = float(np.nanmax(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))))
                raise CollectError(
                    f"{self._name}, configuration {number}: result {index} differs from that of the unconstrained "
                    f"program by {worst:.3g}, expected at most {limit:.3g}; XLA miscompiles it, and nothing was written"
                )


def tolerance(expected: NDArray[Any]) -> float:
    """Maximum rounding error of a result; larger for short types, 0 for integers."""
    import jax.numpy as jnp

    if not jnp.issubdtype(expected.dtype, jnp.inexact):
        return 0.0
    size = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    return max(_TOLERANCE, 4 * float(jnp.finfo(expected.dtype).eps)) * float(size.max(initial=0.0))


def checked_runs(program: Relayout, configs: Int8Array, name: str) -> list[Callable[[], Any]]:
    """Compile every configuration and compare its results with those of the first; raises as Reference.check."""
    runs = [program.compile(config) for config in configs]
    reference = Reference(runs[0], name)
    for number, run in enumerate(runs):
        reference.check(run, number)
    return runs


def measure_program(
    function: Callable[..., Any],
    args: Sequence[Any],
    settings: Settings,
    name: str,
    clock: Clock = time.process_time_ns,
) -> dict[str, NDArray[Any]]:
    """Measure a function under sampled layouts; returns the arrays of its file, named as in TpuGraphs.

    Parameters
    ----------
    function : callable
        Traceable by JAX.
    args : sequence
        Arguments of the function: arrays, or pytrees of arrays.
    settings : Settings
    name : str
        Name in messages, which also determines the seed.
    clock : callable
        Returns nanoseconds; by default CPU time of the process, because XLA may compute on a separate thread.

    Raises
    ------
    CollectError
        If a configuration computes a different result than the unconstrained program, or the function cannot be traced.
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    seed = zlib.crc32(name.encode()) ^ settings.seed
    program = Relayout(function, args)
    configs = sample_layouts(program.sites, settings.configs, seed)
    runs = checked_runs(program, configs, name)
    timing = measure(runs, rounds=settings.rounds, enough_ns=ENOUGH_NS, seed=seed, clock=clock)
    return {
        **program.graph,
        "node_config_feat": configs.astype(np.float32),
        "config_runtime": timing.first,
        "config_runtime_repeat": timing.second,
    }


def collect(task: Task, settings: Settings) -> Quality:
    """Measure one program and write its file.

    Raises
    ------
    CollectError
        As :func:`measure_program`, or if the file cannot be written.
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    function, args = build(task.family, task.variant)
    write_graph(task.path, measure_program(function, args, settings, task.path.stem))
    _jax.load().clear_caches()
    return Quality.read(task.path)
