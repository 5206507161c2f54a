"""Layouts of JAX functions, measured on this machine: those of :mod:`gbr.collect`, of a file, or a function in hand."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbr.collect._jax import load_with_layouts
from gbr.collect.layouts import (
    ENOUGH_NS,
    FAMILIES,
    PARTS,
    Int8Array,
    Reference,
    Relayout,
    build,
    layout_of,
    sample_layouts,
)
from gbr.collect.timer import cores, measure, pin, pinned
from gbr.data.graph import graph_from_arrays
from gbr.errors import GbrError, UsageError
from gbr.tune.child import Measure
from gbr.tune.loop import Found, search
from gbr.tune.space import Configuration, GraphSpace
from gbr.tune.tuner import Tuner

if TYPE_CHECKING:
    from gbr.ranker import Ranker

Program = tuple[Callable[..., Any], Sequence[Any]]

CANDIDATES: Final = 1024
_ROUNDS: Final = 7
#: Compiled programs that are kept for the comparison at the end.
_KEPT: Final = 8
_TENSORS: Final = ("output", "input", "kernel")


@dataclass(frozen=True)
class LayoutTask:
    """A program by name and its layouts; called in the process that measures, it makes ready to do so.

    Parameters
    ----------
    program : str
        As :func:`layout_space` takes it.
    configs : int8 (c, nc, 18)
        By number of configuration.
    """

    program: str
    configs: Int8Array

    def __call__(self) -> Measure:
        """Trace the program, compute what it computes, and return what measures a configuration [ns]."""
        pin(cores()[-1])  # before JAX starts: XLA makes as many threads as the process may use cores
        load_with_layouts()
        return timed(Relayout(*named(self.program)), self.configs, self.program)


def timed(program: Relayout, configs: Int8Array, name: str) -> Measure:
    """What compiles a configuration, checks what it computes and measures it: CPU time of the process [ns]."""
    reference = Reference(program.compile(configs[0]), name)

    @lru_cache(_KEPT)
    def ready(config: int) -> Callable[[], Any]:
        run = program.compile(configs[config])
        reference.check(run, config)
        return run

    def one(config: int) -> float:
        timing = measure([ready(config)], rounds=_ROUNDS, enough_ns=ENOUGH_NS, clock=time.process_time_ns)
        return float(min(timing.first[0], timing.second[0]))

    return one


def layout_space(program: str, *, candidates: int = CANDIDATES, seed: int = 0) -> tuple[GraphSpace, LayoutTask]:
    """Layouts of one program, the first of which leaves everything to the compiler.

    Parameters
    ----------
    program : str
        ``<family>_<variant>`` of the collection, such as ``resnet_nhwc``, or ``FILE.py:NAME`` with a function NAME that
        takes nothing and returns a function for JAX and a tuple of its arguments.
    candidates : int
        Configurations that are drawn.
    seed : int

    Returns
    -------
    GraphSpace
    LayoutTask
        For :class:`gbr.tune.Child`.

    Raises
    ------
    UsageError
        For a name that is no program.
    CollectError
        If JAX cannot trace it, or it has no layouts to choose.
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    load_with_layouts()
    relayout = Relayout(*named(program))
    space, configs = _space(relayout, program.rpartition(":")[2], candidates, seed)
    return space, LayoutTask(program, configs)


@dataclass(frozen=True)
class TunedLayout:
    """What tuning the layouts of a function came to.

    Parameters
    ----------
    found : Found
    choice : dict
        Layouts by tensor of the configuration to use, minor to major; empty where it is the compiler's own.
    function : callable
        The function under these layouts, to be jitted; the given one where the compiler's own are best.
    """

    found: Found
    choice: Configuration
    function: Callable[..., Any]

    def __str__(self) -> str:
        """One line on what was won."""
        verdict = self.found.verdict
        if verdict is None or not verdict.faster:
            return f"the default is already best, within noise ({self.found.measured} measured)"
        return (
            f"{verdict.speedup:.2f} times as fast as the default ({verdict.low:.2f} to {verdict.high:.2f}, "
            f"{self.found.measured} measured)"
        )


def tune_layout(
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    budget: int = 40,
    seconds: float | None = None,
    model: Ranker | None = None,
    journal: Path | str | None = None,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> TunedLayout:
    """Look for layouts of a JAX function's convolutions, dots and reshapes under which it is faster, on one core.

    It is measured in this process, so that any function will do: a configuration under which XLA fails or computes
    something else is recorded as failed; one that takes the process along is so when the search is started again with
    its journal, and for one that hangs there is ``python -m gbr.tune --space layout:FILE.py:NAME``.

    Parameters
    ----------
    function : callable
        What ``jax.jit`` takes.
    args : sequence
        Its arguments: arrays, or pytrees of arrays.  Layouts are for their shapes.
    budget, seconds, journal
        As :func:`gbr.tune.search` takes them.
    model : Ranker, optional
        Trained by ``python -m gbr.train --subset layout:…``.
    candidates : int
        Configurations that are drawn.
    seed : int

    Returns
    -------
    TunedLayout

    Raises
    ------
    CollectError
        If JAX cannot trace the function, or it has no layouts to choose.
    UsageError, ModelError, TuneError
        As :func:`gbr.tune.search` and :class:`gbr.tune.Tuner`.
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    with pinned():
        load_with_layouts()
        relayout = Relayout(function, args)
        name = str(getattr(function, "__name__", "function"))
        space, configs = _space(relayout, name, candidates, seed)
        tuner = Tuner(space, model, seed=seed)
        found = search(tuner, timed(relayout, configs, name), budget=budget, seconds=seconds, journal=journal)
    if found.config == space.default:
        return TunedLayout(found, {}, function)
    return TunedLayout(found, space.describe(found.config), relayout.function(configs[found.config]))


def named(program: str) -> Program:
    """The function and arguments that a name stands for.

    Raises
    ------
    UsageError
        For a name that is no program, or a file that does not give one.
    """
    file, colon, name = program.rpartition(":")
    if colon:
        return _of_file(Path(file), name)
    stems = {
        stem: (family.name, variant)
        for family in FAMILIES.values()
        for stem, variant in zip(family.stems, family.variants, strict=True)
    }
    if program not in stems:
        raise UsageError(f"{program}: no such program; want FILE.py:NAME or one of {', '.join(stems)}")
    family, variant = stems[program]
    return build(family, variant)


def _of_file(path: Path, name: str) -> Program:
    spec = importlib.util.spec_from_file_location("gbr_tuned", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"{path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function, args = getattr(module, name)()
    except GbrError:
        raise
    except Exception as fault:  # whatever a user's code raises
        raise UsageError(
            f"{path}:{name}: {type(fault).__name__}: {fault}; want a function that takes nothing and returns "
            "a function and a tuple of its arguments"
        ) from fault
    if not callable(function) or not isinstance(args, tuple | list):
        raise UsageError(
            f"{path}:{name}: returns {type(function).__name__}, {type(args).__name__}; want function, tuple"
        )
    return function, args


def _space(program: Relayout, name: str, candidates: int, seed: int) -> tuple[GraphSpace, Int8Array]:
    configs = sample_layouts(program.sites, candidates, seed)
    graph = graph_from_arrays(name, {**program.graph, "node_config_feat": configs})

    def told(config: int) -> Configuration:
        return {
            f"{site.opcode} {site.node} {_TENSORS[part]}": list(layout)
            for site, row in zip(program.sites, configs[config], strict=True)
            for part in range(PARTS)
            if (layout := layout_of(row, part)) is not None
        }

    return GraphSpace(graph, told=told), configs
