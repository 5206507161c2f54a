"""Spaces measured on this machine: tiles of the kernels of :mod:`gbr.collect`, and layouts of JAX functions."""

from __future__ import annotations

import hashlib
import json
import runpy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gbr import __version__, cli
from gbr.collect._jax import Reference, cpu_device
from gbr.collect.families import FAMILIES
from gbr.collect.layouts import ENOUGH_NS, PARTS, Int8Array, Relayout, layout_of, sample_layouts
from gbr.collect.programs import FAMILIES as PROGRAMS
from gbr.collect.tasks import seed_of
from gbr.collect.tiles import Kernel, kernel_graph, sample_tiles
from gbr.collect.timer import IntArray, cores, measure, pin, pinned
from gbr.data.files import parse_json, write_text
from gbr.data.graph import N_LAYOUT, graph_from_arrays
from gbr.data.hardware import machine
from gbr.data.table_roles import nearest
from gbr.errors import GbrError, TuneError, UsageError
from gbr.tune.runner import Found, shown_search
from gbr.tune.space import Configuration, GraphSpace
from gbr.tune.tuner import Tuner

if TYPE_CHECKING:
    from gbr.ranker import Ranker

Measure = Callable[[int], float]

#: Rounds per pass of the timer; few, as the finalists are measured again.
_ROUNDS: Final = 7
#: Maximum number of compiled programs to keep for the final comparison.
_CACHED: Final = 8
_TENSORS: Final = ("output", "input", "kernel")


# --- tiles of kernels ------------------------------------------------------------------------------------------------


def _measure_tiles(family: str, shape: str, tiles: IntArray, seed: int) -> Measure:
    """Compile a kernel and return the function that measures a configuration [ns]; called in the measuring process."""
    pin(cores()[-1])
    kernel = Kernel(FAMILIES[family], shape, seed)

    def runtime(config: int) -> float:
        return float(np.min(measure([kernel.checked(tiles[config])], rounds=_ROUNDS)))

    return runtime


def tile_space(kernel: str, *, candidates: int = 512, seed: int = 0) -> tuple[GraphSpace, Callable[[], Measure]]:
    """Tiles of one kernel, of which the first is untiled, and the argument of :class:`gbr.tune.Child` to measure them.

    Parameters
    ----------
    kernel : str
        ``<family>_<shape>`` such as ``matmul_nt_256x192x256``; any shape that the family supports.
    candidates : int
        Number of configurations.
    seed : int
        For tiles and operands.
    """
    name, _, shape = kernel.rpartition("_")
    if name not in FAMILIES:
        hint = f"unknown family {name!r}{nearest(name, FAMILIES)}"
        raise UsageError(f"{kernel}: expected FAMILY_SHAPE such as matmul_nt_256x192x256; {hint}")
    family, extents = FAMILIES[name], shape.split("x")
    n_extents = family.variants.split()[0].count("x") + 1
    if len(extents) != n_extents or not all(extent.isdigit() and int(extent) for extent in extents):
        raise UsageError(f"{kernel}: expected {n_extents} positive extents as in {family.stems[0]}, got {shape!r}")
    kernel_seed = seed_of(kernel, seed)
    loops = family.nest(shape).loops
    tiles = sample_tiles(list(loops.values()), candidates, kernel_seed)
    graph = graph_from_arrays(kernel, kernel_graph(family, shape, tiles))

    def describe(config: int) -> Configuration:
        return {loop: int(tile) for loop, tile in zip(loops, tiles[config], strict=True)}

    return GraphSpace(graph, describe=describe, hardware=machine()), partial(
        _measure_tiles, family.name, shape, tiles, kernel_seed
    )


# --- layouts of JAX functions ----------------------------------------------------------------------------------------


def _measure_layouts(name: str, configs: Int8Array) -> Measure:
    """Trace a program and return the function that measures a configuration; called in the measuring process."""
    pin(cores()[-1])  # before JAX starts: XLA creates a thread per core that the process may use
    return _timed(Relayout(*named(name)), configs, name)


def _timed(program: Relayout, configs: Int8Array, name: str) -> Measure:
    """Return a function that compiles, checks and measures a configuration: CPU time of the process [ns]."""
    reference = Reference(program.compile(configs[0])(), name)

    @lru_cache(_CACHED)
    def compiled(config: int) -> Callable[[], Any]:
        run = program.compile(configs[config])
        reference.check(run(), config)
        return run

    def runtime(config: int) -> float:
        return float(
            np.min(measure([compiled(config)], rounds=_ROUNDS, enough_ns=ENOUGH_NS, clock=time.process_time_ns))
        )

    return runtime


def _space(program: Relayout, name: str, candidates: int, seed: int) -> tuple[GraphSpace, Int8Array]:
    configs = sample_layouts(program.sites, candidates, seed)
    graph = graph_from_arrays(name, {**program.graph, "node_config_feat": configs})

    def describe(config: int) -> Configuration:
        return {
            f"{site.opcode} {site.node} {_TENSORS[part]}": list(layout)
            for site, row in zip(program.sites, configs[config], strict=True)
            for part in range(PARTS)
            if (layout := layout_of(row, part)) is not None
        }

    return GraphSpace(graph, describe=describe, hardware=machine()), configs


def layout_space(program: str, *, candidates: int = 1024, seed: int = 0) -> tuple[GraphSpace, Callable[[], Measure]]:
    """Layouts of one program, of which the first leaves all to the compiler, and the argument of :class:`Child`.

    Parameters
    ----------
    program : str
        ``<family>_<variant>`` of the collection, such as ``resnet_nhwc``, or ``FILE.py:NAME``, where ``NAME()`` returns
        a function for JAX and a tuple of its arguments.
    candidates : int
        Number of configurations.
    seed : int
    """
    space, configs = _space(Relayout(*named(program)), program.rpartition(":")[2], candidates, seed)
    return space, partial(_measure_layouts, program, configs)


@dataclass(frozen=True)
class TunedLayout:
    """The result of tuning the layouts of a function."""

    found: Found
    choice: Configuration  # layouts by tensor, minor to major; empty for those of the compiler
    function: Callable[..., Any]  # with these layouts, for jax.jit; the original one if those of the compiler are best
    config: Int8Array = field(repr=False)  # row per operation, as in a graph file
    program: str  # hash of the traced program

    def __str__(self) -> str:
        """One line with the speedup."""
        return str(self.found)

    def save(self, path: Path | str) -> None:
        """Write the layouts as JSON, for :func:`load_layout`; a TuneError if the file cannot be written."""
        verdict = self.found.verdict
        content = {
            "gbr": __version__,
            "program": self.program,
            "choice": self.choice,
            "config": self.config.tolist(),
            "verdict": None if verdict is None else asdict(verdict),
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
        write_text(Path(path), "{\n" + ",\n".join(lines) + "\n}\n", TuneError)


def load_layout(path: Path | str, function: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any]:
    """Apply the layouts that :meth:`TunedLayout.save` wrote to the same function and arguments of the same shapes.

    Returns
    -------
    callable
        For ``jax.jit``; the function itself if the layouts of the compiler were best.

    Raises
    ------
    TuneError
        If the file cannot be read, or was written for another function, other shapes or another version of JAX.
    """
    try:
        content = parse_json(Path(path).read_bytes())
        program, chosen = content["program"], bool(content["choice"])
        config = np.array(content["config"], np.int8).reshape(-1, N_LAYOUT)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as fault:
        raise TuneError(f"{path}: not a file of TunedLayout.save ({fault}); tune the function again") from fault
    with pinned():
        relayout = Relayout(function, args)
    if program != _fingerprint(relayout) or len(config) != len(relayout.sites):
        raise TuneError(f"{path}: tuned for another function, other shapes or another version of JAX; tune it again")
    return relayout.function(config) if chosen else function


def _fingerprint(program: Relayout) -> str:
    """16 hex digits over the traced program."""
    digest = hashlib.sha256()
    for key, array in sorted(program.graph.items()):
        digest.update(f"{key} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def tune_layout(
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    budget: int = 40,
    seconds: float | None = None,
    model: Ranker | Path | str | None = None,
    journal: Path | str | None = None,
    candidates: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> TunedLayout:
    """Search layouts of the convolutions, dots and reshapes of a JAX function that make it faster, on one core.

    Measurements run in this process, so any function can be tuned; a configuration that XLA rejects or that computes a
    wrong result is recorded as failed.  If one kills the process, run the search again with its journal; if one may
    hang, use ``python -m gbr.tune --space layout:FILE.py:NAME``.

    Parameters
    ----------
    function : callable
        As for ``jax.jit``.
    args : sequence
        Arguments of the function: arrays, or pytrees of arrays.  The layouts apply to their shapes.
    budget, seconds, journal
        As for :func:`gbr.tune.search`.
    model : Ranker or path, optional
        Trained by ``python -m gbr.train --subset layout:…``, or its run directory; by default the analytic estimate.
    candidates : int
        Number of configurations.
    seed : int
    progress : bool
        Show the progress on stderr.

    Raises
    ------
    GbrError
        If JAX is missing or cannot trace the function, or for the reasons of :func:`gbr.tune.search`.
    """
    with pinned():
        name = str(getattr(function, "__name__", "function"))
        with cli.busy(f"compiling {name}") if progress else nullcontext():
            relayout = Relayout(function, args)
            relayout.move(cpu_device())
            space, configs = _space(relayout, name, candidates, seed)
            tuner = Tuner(space, model, seed=seed)
            run = _timed(relayout, configs, name)
        found = shown_search(
            tuner, run, f"measuring layouts of {name}" if progress else None,
            budget=budget, seconds=seconds, journal=journal,
        )  # fmt: skip
    choice, config = space.describe(found.config), configs[found.config]
    chosen = relayout.function(config) if choice else function
    return TunedLayout(found, choice, chosen, config, _fingerprint(relayout))


def named(program: str) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Function and arguments of a program of the collection or of a file, see :func:`layout_space`."""
    file, colon, name = program.rpartition(":")
    if not colon:
        stems = {
            stem: (family, variant)
            for family in PROGRAMS.values()
            for stem, variant in zip(family.stems, family.variants.split(), strict=True)
        }
        if program not in stems:
            hint = "; for a file, expected FILE.py:NAME" if program.endswith(".py") else nearest(program, stems)
            raise UsageError(f"{program}: unknown program{hint}")
        family, variant = stems[program]
        return family.build(variant)
    if not Path(file).is_file():
        raise UsageError(f"{file}: no such Python file")
    try:
        function, args = runpy.run_path(file)[name]()
    except GbrError:
        raise
    except Exception as fault:  # any exception of user code
        raise UsageError(
            f"{program}: expected a function without arguments that returns (function, tuple of its arguments), got "
            f"{type(fault).__name__}: {fault}"
        ) from fault
    return function, args
