"""Measure configurations of tensor programs on this machine.

``python -m gbr.collect tile`` times tiled loop nests, ``python -m gbr.collect layout`` times JAX programs under
different layouts, ``python -m gbr.collect triton`` times kernels on a GPU, and :func:`layout` times any JAX function.
Each program is a ``.npz`` file in the format of TpuGraphs.  ``python -m gbr.collect models`` times networks, a table of
:mod:`gbr.collect.models`.
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
        As for ``jax.jit``.  Operations inside loops, branches and ``jax.checkpoint`` keep their layouts.
    args : sequence
        Arguments of the function: arrays, or pytrees of arrays.
    out : path
        Graph file to write, ``.npz``; written atomically.
    configs : int
        Number of configurations; the first leaves all layouts to the compiler.
    rounds : int
        Rounds per pass; each of the two passes records the minimum CPU time of every configuration.
    seed : int
        Seed of the sampled layouts and of the order of measurements.

    Returns
    -------
    Quality
        ``spread`` (slowest over fastest), ``tau`` (between the two passes), ``nodes``, ``configs`` and ``doubts()``.

    Raises
    ------
    GbrError
        If an argument is invalid, JAX is missing, ``out`` cannot be written, or the function cannot be traced, has no
        layouts to choose, or computes a different result under a layout.
    """
    path = Path(out)
    if path.suffix != ".npz":
        raise UsageError(f"out: expected a name that ends in .npz, got {path}")
    if not isinstance(args, list | tuple):
        raise UsageError(f"args: expected the arguments in a tuple, as in (x,), got {type(args).__name__}")
    if configs < 2 or rounds < 1:
        raise UsageError(f"expected at least two configs and one round, got {configs} configs and {rounds} rounds")

    from gbr.collect.layouts import measure_program
    from gbr.collect.tasks import Settings, Task, collect

    def measure(name: str, _variant: str, settings: Settings) -> dict[str, Any]:
        return measure_program(function, args, settings, name)

    (quality,) = collect(measure, [Task(path.stem, "", path)], Settings(configs, rounds, seed))
    return quality
