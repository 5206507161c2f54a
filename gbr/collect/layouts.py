"""Measure JAX programs under different layouts of their convolutions, dots and reshapes.

A program is traced again with chosen layouts as constraints on operands and results.  Calls are inlined, so that
operations in jitted helpers or in a ``custom_jvp`` can be constrained too.  Operations in loops, branches and
``jax.checkpoint`` are not constrained.
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gbr.collect._jax import Layout, Reference, jax, jnp, proto, with_layout_constraint
from gbr.collect.programs import FAMILIES
from gbr.collect.tasks import DRAWS, Settings, distinct, seed_of
from gbr.collect.timer import measure
from gbr.data.hlo import graph_arrays, read_module
from gbr.errors import CollectError, UsageError

Int8Array = NDArray[np.int8]
Shape = tuple[int, ...]

#: Nanoseconds per configuration and pass, see :func:`gbr.collect.timer.measure`; about 25 rounds of a 4 ms program.
ENOUGH_NS: Final = 100_000_000
#: Tensors per node (output, input, kernel), and slots per tensor.
PARTS: Final = 3
SLOTS: Final = 6

# Tracing with layouts

#: HLO opcodes of configurable nodes, by JAX primitive.
CONFIGURABLE: Final = {"conv_general_dilated": "convolution", "dot_general": "dot", "reshape": "reshape"}
#: Parameters that hold a called jaxpr, by primitive.
_INLINED: Final = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
#: Prefix of the named scope that marks an equation in the metadata of its HLO instruction.
_MARK: Final = "gbr_site_"


class Site(NamedTuple):
    """A convolution, dot or reshape whose layouts can be chosen.

    ``equation`` and ``node`` are the indices among such operations of the jaxpr and in the HLO graph, ``shapes`` those
    of output, input and kernel; a reshape has no kernel.
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
        Traceable by JAX; CollectError is raised if it is not, or has no layouts to choose.
    args : sequence
        Arguments of the function: arrays, or pytrees of arrays.

    Attributes
    ----------
    sites : tuple of Site
        Operations with layouts to choose, in the order of their nodes.
    graph : dict
        Arrays of the unconstrained graph (unoptimised HLO, calls inlined), named as by
        :func:`gbr.data.hlo.graph_arrays`; ``node_config_ids`` are the nodes of ``sites``.
    """

    def __init__(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        name = getattr(function, "__name__", function)
        if not isinstance(args, tuple | list):
            raise UsageError(f"{name}: expected a tuple of the arguments of the function, got {reprlib.repr(args)}")
        leaves, self._arguments = jax.tree.flatten(tuple(args))

        def flat(*leaves: Any) -> Any:
            results, self._results = jax.tree.flatten(function(*self._arguments.unflatten(leaves)))
            return results

        try:
            self.leaves = [jnp.asarray(leaf) for leaf in leaves]
            self._closed = jax.make_jaxpr(flat)(*self.leaves)
        except Exception as fault:  # any exception of user code
            raise CollectError(
                f"{name}: JAX cannot trace the function with these arguments ({fault}); expected a function for "
                "jax.jit and all its arguments"
            ) from fault
        self._configurable: dict[int, Any] = {}  # equations by the number of their mark
        module = proto(self._lower({}))
        self.sites = tuple(self._sites(module))
        if not self.sites:
            raise CollectError(
                f"{name}: no convolution, dot or reshape of rank 2 to {SLOTS} outside loops and branches; "
                "there are no layouts to choose"
            )
        self.graph = graph_arrays(module) | {"node_config_ids": np.array([site.node for site in self.sites], np.int64)}

    def compile(self, config: Int8Array) -> Callable[[], Any]:
        """Compile the program under one configuration, for one thread; raises CollectError if XLA cannot.

        Parameters
        ----------
        config : int8 (nc, 18)
            Row per site: layouts of output, input and kernel in six slots each, minor to major, -1-padded; if all slots
            of a tensor are -1, the compiler chooses its layout.

        Returns
        -------
        callable without arguments
            Runs the program to completion and returns its results, a list of arrays.
        """
        lowered = self._lower(self._chosen(config))
        try:
            compiled = lowered.compile(compiler_options={"xla_cpu_multi_thread_eigen": False})
        except Exception as fault:
            raise CollectError(f"XLA cannot compile the program under these layouts ({fault})") from fault
        return lambda: jax.block_until_ready(compiled(*self.leaves))

    def move(self, device: Any) -> None:
        """Compile and run the program on another device from now on."""
        self.leaves = jax.device_put(self.leaves, device)

    def function(self, config: Int8Array) -> Callable[..., Any]:
        """Return the function under one configuration (as for :meth:`compile`), for ``jax.jit``.

        The function raises UsageError for arguments of another structure, shape or type.
        """
        chosen = self._chosen(config)
        expected = [(tuple(each.shape), each.dtype) for each in self.leaves]

        def constrained(*args: Any) -> Any:
            leaves, tree = jax.tree.flatten(args)
            leaves = [jnp.asarray(leaf) for leaf in leaves]
            found = [(tuple(each.shape), each.dtype) for each in leaves]
            if tree != self._arguments or found != expected:
                raise UsageError(f"expected arguments {expected}, got {found}: layouts are specific to the shapes")
            return self._results.unflatten(self._constrained(leaves, chosen))

        return constrained

    def _chosen(self, config: Int8Array) -> dict[int, list[Shape | None]]:
        return {
            site.equation: [layout_of(row, part) for part in range(len(site.shapes))]
            for site, row in zip(self.sites, config, strict=True)
        }

    def _lower(self, chosen: Mapping[int, list[Shape | None]]) -> Any:
        return jax.jit(lambda *leaves: self._constrained(leaves, chosen), keep_unused=True).lower(*self.leaves)

    def _constrained(self, leaves: Sequence[Any], chosen: Mapping[int, list[Shape | None]]) -> list[Any]:
        numbers = count()

        def bind(equation: Any, operands: list[Any]) -> Any:
            name, params = equation.primitive.name, equation.params
            if (callee := params.get(_INLINED.get(name, ""))) is not None:
                return _evaluate(callee, operands, bind)
            if name not in CONFIGURABLE:
                return equation.primitive.bind(*operands, **params)
            number = next(numbers)
            self._configurable[number] = equation
            output, *inputs = chosen.get(number) or [None] * (1 + len(operands))
            operands = [_with_layout(value, layout) for value, layout in zip(operands, inputs, strict=True)]
            with jax.named_scope(f"{_MARK}{number}"):
                result = equation.primitive.bind(*operands, **params)
            return _with_layout(result, output)

        return _evaluate(self._closed, leaves, bind)

    def _sites(self, module: bytes) -> Iterator[Site]:
        """Equations with their nodes; an equation that lowering merged with another has no node and is skipped."""
        marked = {f"{_MARK}{number}": (number, each) for number, each in self._configurable.items()}
        for node, (opcode, name, shapes) in enumerate(_nodes(module)):
            mark = next((part for part in name.split("/") if part in marked), None)
            if mark is None:
                continue
            number, equation = marked[mark]
            avals = [each.aval for each in (*equation.outvars, *equation.invars)]
            site = Site(number, node, opcode, shapes)
            same = (opcode, shapes) == (
                CONFIGURABLE[equation.primitive.name],
                tuple(tuple(each.shape) for each in avals),
            )
            if same and site.free and not any(jnp.issubdtype(each.dtype, jax.dtypes.extended) for each in avals):
                yield site
                del marked[mark]


def _nodes(module: bytes) -> Iterator[tuple[str, str, tuple[Shape, ...]]]:
    """Opcode, source scope, and shapes of result and operands of every node, in the order of the graph."""
    for computation in read_module(module).computations:
        shapes = {each.id: tuple(each.shape.dimensions) for each in computation.instructions}
        for each in computation.instructions:
            yield each.opcode, each.metadata.op_name, tuple(shapes[number] for number in (each.id, *each.operand_ids))


def layout_of(row: Int8Array, part: int) -> Shape | None:
    """Layout of output (0), input (1) or kernel (2) in a row of 18 slots, minor to major; None if it is not set."""
    slots = row[part * SLOTS : (part + 1) * SLOTS]
    return tuple(slots[slots >= 0].tolist()) or None


def _with_layout(value: Any, minor_to_major: Shape | None) -> Any:
    if minor_to_major is None:
        return value
    return with_layout_constraint(value, Layout(major_to_minor=minor_to_major[::-1]))


def _evaluate(closed: Any, args: Sequence[Any], bind: Callable[[Any, list[Any]], Any]) -> list[Any]:
    """Evaluate every equation with ``bind(equation, operands)``."""
    jaxpr = closed.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))

    def read(variables: Sequence[Any]) -> list[Any]:
        return [each.val if hasattr(each, "val") else values[each] for each in variables]

    for equation in jaxpr.eqns:
        result = bind(equation, read(equation.invars))
        values.update(zip(equation.outvars, result if isinstance(result, list | tuple) else [result], strict=True))
    return read(jaxpr.outvars)


# Sampling

#: Shares of layouts with one swap, and with a random order: most layouts that a search visits are near the default.
_ONE_SWAP: Final = 0.6
_ANY_ORDER: Final = 0.25
#: Share of configured nodes of which all tensors are set; of others, one or two tensors are set.
_WHOLE_NODE: Final = 0.25


def strata(n_nodes: int) -> list[int]:
    """Numbers of nodes that a configuration sets: 2, 4, 8, a quarter, half, all; ascending and distinct."""
    return sorted({min(n_nodes, few) for few in (2, 4, 8)} | {-(-n_nodes // 4), -(-n_nodes // 2), n_nodes})


def sample_layouts(sites: Sequence[Site], n_configs: int, seed: int) -> Int8Array:
    """Draw layout configurations.

    The numbers of nodes of :func:`strata` are used cyclically, so that many configurations set the same number of
    nodes.  One, two or all tensors of a chosen node are set: to the row-major layout with two dimensions swapped, to a
    random order of the dimensions, or to row-major itself, which changes nothing.

    Returns
    -------
    int8 (c, nc, 18)
        Distinct configurations, as for :meth:`Relayout.compile`; the first sets nothing.  ``c < n_configs`` if there
        are not enough distinct ones.
    """
    rng = np.random.default_rng(seed)
    counts = strata(len(sites))
    default = np.full((len(sites), PARTS * SLOTS), -1, np.int8)

    def draw(attempt: int, found: int) -> Int8Array:
        # The number of configurations selects the stratum, so that every stratum gets its share unless it is exhausted.
        turn = found if attempt < DRAWS * n_configs // 2 else attempt
        config = default.copy()
        for node in rng.choice(len(sites), counts[turn % len(counts)], replace=False):
            parts: Sequence[int] = sites[node].free
            if len(parts) > 1 and rng.random() >= _WHOLE_NODE:
                parts = rng.permutation(parts)[: rng.integers(1, len(parts))].tolist()
            for part in parts:
                layout = _draw(rng, len(sites[node].shapes[part]))
                config[node, part * SLOTS : part * SLOTS + len(layout)] = layout
        return config

    return distinct(default, draw, n_configs)


def _draw(rng: Generator, rank: int) -> list[int]:
    row_major = list(range(rank))[::-1]
    draw = rng.random()
    if draw < _ONE_SWAP:
        a, b = rng.choice(rank, 2, replace=False)
        row_major[a], row_major[b] = row_major[b], row_major[a]
    elif draw < _ONE_SWAP + _ANY_ORDER:
        return [int(dim) for dim in rng.permutation(rank)]
    return row_major


# Measuring


def measure_program(
    function: Callable[..., Any],
    args: Sequence[Any],
    settings: Settings,
    name: str,
) -> dict[str, NDArray[Any]]:
    """Measure a function under sampled layouts; returns the arrays of its file, named as in TpuGraphs.

    ``name`` is the name in messages, which also determines the seed.  Raises CollectError as :class:`Relayout`, or if a
    configuration computes a different result than the unconstrained program.
    """
    seed = seed_of(name, settings.seed)
    program = Relayout(function, args)
    configs = sample_layouts(program.sites, settings.configs, seed)
    runs = [program.compile(config) for config in configs]
    reference = Reference(runs[0](), name)
    for number, run in enumerate(runs):
        reference.check(run(), number)
    # CPU time of the process, because XLA may compute on a separate thread.
    first, second = measure(runs, rounds=settings.rounds, enough_ns=ENOUGH_NS, seed=seed, clock=time.process_time_ns)
    return {
        **program.graph,
        "node_config_feat": configs.astype(np.float32),
        "config_runtime": first,
        "config_runtime_repeat": second,
    }


def measure_variant(family: str, variant: str, settings: Settings) -> dict[str, NDArray[Any]]:
    """Measure one program of the collection, see :func:`measure_program`."""
    arrays = measure_program(*FAMILIES[family].build(variant), settings, f"{family}_{variant}")
    jax.clear_caches()
    return arrays
