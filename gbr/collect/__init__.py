"""Measured collections of this machine: which configuration of a tensor program is fast here.

``python -m gbr.collect tile`` times tiled loop nests, ``python -m gbr.collect layout`` JAX programs under chosen
layouts, :func:`layout` any function of yours.  One ``.npz`` per program, in the format of TpuGraphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbr.errors import UsageError

if TYPE_CHECKING:
    from gbr.collect.tasks import Quality

__all__ = ["layout"]


def layout(
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    out: Path | str,
    configs: int = 96,
    rounds: int = 25,
    seed: int = 0,
) -> Quality:
    """Measure a JAX function under many layouts of its convolutions, dots and reshapes, on one core of this machine.

    Parameters
    ----------
    function : callable
        What ``jax.jit`` takes.  Conv, dot and reshape inside loops, branches and ``jax.checkpoint`` are left alone.
    args : sequence
        Its arguments: arrays, or pytrees of arrays.
    out : path
        Graph file to write, ``.npz``; it appears whole or not at all.
    configs : int
        Configurations, the first of which leaves everything to the compiler.
    rounds : int
        Rounds per pass; each of the two passes keeps every configuration's minimum of CPU time.
    seed : int
        Of the sample and of the order in which configurations take turns.

    Returns
    -------
    Quality
        ``spread`` (slowest over fastest), ``tau`` (between the two passes), ``nodes``, ``configs`` and ``doubts()``.

    Raises
    ------
    UsageError
        If ``out``, ``args`` or a number cannot be right.
    MissingLibraryError
        If JAX is not installed, or too old.
    CollectError
        If the function cannot be traced, has no layouts to choose, or computes something else under one of them.
    DataError
        If ``out`` cannot be written.
    """
    path = Path(out)
    if path.suffix != ".npz":
        raise UsageError(f"out: expected a name that ends in .npz, got {path}")
    if not isinstance(args, list | tuple):
        raise UsageError(f"args: expected the arguments in a tuple, as in (x,), got {type(args).__name__}")
    if configs < 2 or rounds < 1:
        raise UsageError(f"expected at least two configs and one round, got {configs} configs and {rounds} rounds")

    from gbr.collect.layouts import measure_program
    from gbr.collect.tasks import Quality, Settings
    from gbr.collect.timer import pinned
    from gbr.data.graph import write_graph

    with pinned():
        write_graph(path, measure_program(function, args, Settings(configs, rounds, seed), path.stem))
        return Quality.read(path)
