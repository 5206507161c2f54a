"""A JAX function re-traced with chosen layouts: constraints on the operands and results of conv, dot and reshape.

The function's jaxpr is inlined first, so that what sits in jitted helpers or behind a ``custom_jvp`` can be reached;
loop and branch bodies stay as they are, and so does what ``jax.checkpoint`` wants computed twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.collect import _jax
from gbr.data.hlo import graph_arrays, read_module
from gbr.data.hlo.wire import MANY, ONE, TEXT, Field, Message
from gbr.errors import CollectError, MissingLibraryError, UsageError

Int8Array = NDArray[np.int8]
Shape = tuple[int, ...]

#: Slots of one tensor in a configuration: output, input, kernel.
SLOTS: Final = 6
PARTS: Final = 3

#: JAX primitive -> HLO opcode of the nodes whose layouts are chosen.
CONFIGURABLE: Final = {"conv_general_dilated": "convolution", "dot_general": "dot", "reshape": "reshape"}

#: Primitive that calls -> its parameter that holds what is called.
_INLINED: Final = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
#: A scope of this name and a number marks an equation in the metadata of its HLO instruction.
_MARK: Final = "gbr_site_"


@dataclass(frozen=True, slots=True)
class Site:
    """A conv, dot or reshape whose layouts can be chosen.

    Parameters
    ----------
    equation : int
        Its number in the inlined jaxpr.
    node : int
        Its number among the nodes of the HLO graph.
    opcode : str
        In HLO: ``convolution``, ``dot`` or ``reshape``.
    shapes : tuple of shape
        Of output, input and kernel; a reshape has no kernel.
    """

    equation: int
    node: int
    opcode: str
    shapes: tuple[Shape, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """Numbers of the tensors that have more than one layout and fit into a configuration's slots."""
        return tuple(part for part, shape in enumerate(self.shapes) if 2 <= len(shape) <= SLOTS)


class Relayout:
    """A JAX function that can be compiled under layouts of one's choice.

    Parameters
    ----------
    function : callable
        Traceable by JAX.
    args : sequence
        Its arguments: arrays, or pytrees of arrays.

    Attributes
    ----------
    sites : tuple of Site
        In the order of their nodes.
    graph : dict
        Arrays of the unconstrained graph (un-optimised HLO, calls inlined), as :func:`gbr.data.hlo.graph_arrays`
        names them; ``node_config_ids`` are the nodes of ``sites``.

    Raises
    ------
    MissingLibraryError
        If JAX is not installed, or too old.
    CollectError
        If JAX cannot trace the function, or nothing in it has layouts to choose.
    """

    def __init__(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        self._jax = load()
        leaves, self._taken = self._jax.tree.flatten(tuple(args))

        def flat(*leaves: Any) -> Any:
            results, self._returned = self._jax.tree.flatten(function(*self._taken.unflatten(leaves)))
            return results

        try:
            self.leaves = [self._jax.numpy.asarray(leaf) for leaf in leaves]
            closed = self._jax.make_jaxpr(flat)(*self.leaves)
        except Exception as fault:  # whatever the function raises
            raise CollectError(
                f"{_name(function)}: JAX cannot trace it with these arguments ({fault}); want a function that "
                "jax.jit takes, and all its arguments"
            ) from fault
        inlined = self._jax.make_jaxpr(lambda *leaves: _inline(closed.jaxpr, closed.consts, leaves))(*self.leaves)
        self._jaxpr, self._consts = inlined.jaxpr, inlined.consts
        self._equations = _live(inlined.jaxpr)
        lowered = self._lower({})
        proto = bytes(lowered.compiler_ir("hlo").as_serialized_hlo_module_proto())
        self.sites = self._sites(proto)
        if not self.sites:
            raise CollectError(
                f"{_name(function)}: no convolution, dot or reshape of rank 2 to {SLOTS} outside loops and branches; "
                "there are no layouts to choose"
            )
        self.graph = graph_arrays(proto) | {"node_config_ids": np.array([site.node for site in self.sites], np.int64)}

    def compile(self, config: Int8Array) -> Callable[[], Any]:
        """Compile the program under one configuration, for one thread.

        Parameters
        ----------
        config : int8 (nc, 18)
            Row per site: layouts of output, input and kernel in six slots each, minor to major, -1-padded; a tensor of
            nothing but -1 is left to the compiler.

        Returns
        -------
        callable without arguments
            Runs the program, waits for it and returns its results, a list of arrays.

        Raises
        ------
        CollectError
            If the compiler refuses.
        """
        lowered = self._lower(self._chosen(config))
        try:
            compiled = lowered.compile(compiler_options={"xla_cpu_multi_thread_eigen": False})
        except Exception as fault:
            raise CollectError(
                f"XLA cannot compile the program under these layouts ({fault}); nothing was written"
            ) from fault
        leaves, wait = self.leaves, self._jax.block_until_ready

        def run() -> Any:
            return wait(compiled(*leaves))

        return run

    def function(self, config: Int8Array) -> Callable[..., Any]:
        """The function under one configuration, as JAX takes it: to be jitted with arguments of the same shapes.

        Parameters
        ----------
        config : int8 (nc, 18)
            As :meth:`compile` takes it.

        Returns
        -------
        callable
            Takes and returns what the function does.  It raises UsageError for arguments of another structure or shape.
        """
        chosen = self._chosen(config)
        wanted = [(tuple(each.shape), each.dtype) for each in self.leaves]

        def relaid(*args: Any) -> Any:
            leaves, tree = self._jax.tree.flatten(args)
            leaves = [self._jax.numpy.asarray(leaf) for leaf in leaves]
            got = [(tuple(each.shape), each.dtype) for each in leaves]
            if tree != self._taken or got != wanted:
                raise UsageError(f"got arguments {got}, want {wanted}: layouts are chosen for one set of shapes")
            return self._returned.unflatten(self._evaluate(leaves, chosen))

        return relaid

    def hlo(self, config: Int8Array) -> str:
        """Text of the un-optimised HLO under one configuration, as :meth:`compile` takes it."""
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
        env = _Env(self._jaxpr, self._consts, leaves)
        for number, equation in self._equations:
            operands = env.read(equation.invars)
            if equation.primitive.name not in CONFIGURABLE:
                env.write(equation, equation.primitive.bind(*operands, **equation.params))
                continue
            output, *inputs = chosen.get(number) or [None] * (1 + len(operands))
            operands = [_constrain(value, layout) for value, layout in zip(operands, inputs, strict=True)]
            with self._jax.named_scope(f"{_MARK}{number}"):
                result = equation.primitive.bind(*operands, **equation.params)
            env.write(equation, _constrain(result, output))
        return env.read(self._jaxpr.outvars)

    def _sites(self, proto: bytes) -> tuple[Site, ...]:
        """Equations with their nodes; one that lowering merged with another has no node and is left out."""
        wanted = {f"{_MARK}{number}": (number, equation) for number, equation in self._equations}
        found: list[Site] = []
        for node, (opcode, name, shapes) in enumerate(_nodes(proto)):
            mark = next((part for part in name.split("/") if part.startswith(_MARK)), None)
            if mark is None or mark not in wanted:
                continue
            number, equation = wanted[mark]
            expected = tuple(tuple(each.aval.shape) for each in (*equation.outvars, *equation.invars))
            if opcode == CONFIGURABLE[equation.primitive.name] and shapes == expected:
                site = Site(number, node, opcode, shapes)
                if site.free and not any(self._opaque(each.aval) for each in (*equation.outvars, *equation.invars)):
                    found.append(site)
                    del wanted[mark]
        return tuple(found)

    def _opaque(self, aval: Any) -> bool:
        return bool(self._jax.numpy.issubdtype(aval.dtype, self._jax.dtypes.extended))


def layout_of(row: Int8Array, part: int) -> Shape | None:
    """Layout of output (0), input (1) or kernel (2) in a row of 18 slots, minor to major; None where it is not set."""
    slots = row[part * SLOTS : (part + 1) * SLOTS]
    return tuple(slots[slots >= 0].tolist()) or None


class _Env:
    """Values of a jaxpr's variables while it is evaluated."""

    def __init__(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> None:
        self._values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(self, variables: Sequence[Any]) -> list[Any]:
        return [each.val if hasattr(each, "val") else self._values[each] for each in variables]

    def write(self, equation: Any, result: Any) -> None:
        results = result if equation.primitive.multiple_results else [result]
        self._values.update(zip(equation.outvars, results, strict=True))


def _inline(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    env = _Env(jaxpr, consts, args)
    for equation in jaxpr.eqns:
        operands = env.read(equation.invars)
        callee = equation.params.get(_INLINED.get(equation.primitive.name, ""))
        if callee is None:
            env.write(equation, equation.primitive.bind(*operands, **equation.params))
        else:
            env.write(equation, _inline(getattr(callee, "jaxpr", callee), getattr(callee, "consts", ()), operands))
    return env.read(jaxpr.outvars)


def _live(jaxpr: Any) -> list[tuple[int, Any]]:
    """Equations, with their numbers, that some result or effect depends on."""
    needed = {each for each in jaxpr.outvars if not hasattr(each, "val")}
    live = []
    for number, equation in reversed(list(enumerate(jaxpr.eqns))):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            needed.update(each for each in equation.invars if not hasattr(each, "val"))
            live.append((number, equation))
    return live[::-1]


def _constrain(value: Any, minor_to_major: Shape | None) -> Any:
    if minor_to_major is None:
        return value
    from jax.experimental.layout import Layout, with_layout_constraint

    return with_layout_constraint(value, Layout(major_to_minor=minor_to_major[::-1]))


def load() -> Any:
    """Import and return the ``jax`` module, one that computes in the calling thread and can constrain layouts.

    Raises
    ------
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0")
    jax = _jax.load()
    try:
        from jax.experimental.layout import Layout, with_layout_constraint
    except ImportError as fault:
        raise MissingLibraryError(
            f"this JAX cannot constrain layouts ({fault}); install a newer one with `pip install --upgrade 'jax>=0.7'`"
        ) from fault
    del Layout, with_layout_constraint
    return jax


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", function))


#: The same messages as :data:`gbr.data.hlo.module.MODULE`, reduced to what tells where an instruction comes from.
_ORIGINS: Final = Message(
    "HloModuleProto",
    lambda computations=(): [name for names in computations for name in names],
    {
        3: Field(
            "computations",
            MANY,
            Message(
                "HloComputationProto",
                lambda instructions=(): instructions,
                {
                    2: Field(
                        "instructions",
                        MANY,
                        Message(
                            "HloInstructionProto",
                            lambda metadata="": metadata,
                            {
                                7: Field(
                                    "metadata",
                                    ONE,
                                    Message("OpMetadata", lambda op_name="": op_name, {2: Field("op_name", TEXT)}),
                                )
                            },
                        ),
                    )
                },
            ),
        )
    },
)


def _nodes(proto: bytes) -> Iterator[tuple[str, str, tuple[Shape, ...]]]:
    """Opcode, origin, and shapes of result and operands of every node, in the order of the graph."""
    names = iter(_ORIGINS.decode(proto))
    for computation in read_module(proto).computations:
        shapes = {each.id: tuple(each.shape.dimensions) for each in computation.instructions}
        for each in computation.instructions:
            yield each.opcode, next(names), tuple(shapes[number] for number in (each.id, *each.operand_ids))
