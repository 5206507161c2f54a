"""Measure how long networks run on this machine: prompts, tokens and whole inputs, by type and number of threads."""

from __future__ import annotations

import gc
import math
import multiprocessing
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from gbr.collect.timer import cores, pin, samples
from gbr.data import machines
from gbr.data.architectures import DTYPES, IMAGES, RECURRENT, Architecture, figures
from gbr.data.files import exclusive_lock, remove_partial_files
from gbr.data.machines import Machine, read_machine, this_machine, write_machine
from gbr.data.table import DATA, write_table
from gbr.data.table_roles import Roles
from gbr.errors import CollectError, DataError, UsageError, one_line

#: Families of the splits, besides train.
VALID: Final = ("bert", "gru")
TEST: Final = ("mistral", "resnet")

#: Batches and sequences from which the shapes are drawn.
BATCHES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 32)
SEQUENCES: Final = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
#: Most operations and bytes of activations of a drawn shape, by type: some tenths of a second on one core.
_MOST_FLOPS: Final = {"float32": 16e9, "bfloat16": 6e9}
_MOST_BYTES: Final = 1e9
#: Shapes per model and type: of each phase of a model that generates, and of another model.
_SHAPES: Final = {"prefill": 1, "decode": 1, "forward": 2}

_THREADS: Final = (1, 2)

#: Nanoseconds after which a run is not sampled again in a pass.
_ENOUGH_NS: Final = 250_000_000
#: Ratio of the passes above which a run is measured again, and how often.
_DOUBT: Final = 1.08
_AGAIN: Final = 3
#: Share of the memory that weights and activations may take.
_MEMORY: Final = 0.7
#: Size of the arrays of a triad, and width of the matrices of a product, whose rates describe a machine.
_TRIAD: Final = 1 << 24
_MATRIX: Final = 1024

GROUP: Final = ("device", "threads", "dtype", "phase")
_SIZES: Final = (
    "hidden", "layers", "heads", "kv_heads", "head_width", "intermediate", "vocabulary", "image", "patch",
)  # fmt: skip
_KEY: Final = (*GROUP, "family", "model", "batch", "sequence")
_RESULTS: Final = ("time", "median", "repeat", "samples", "compile_seconds", "peak_bytes")

Row = dict[str, Any]


class Shape(NamedTuple):
    """A run: ``sequence`` is 1 for images, and counts the tokens in the cache, with the new one, of ``decode``."""

    phase: str
    batch: int
    sequence: int


class Task(NamedTuple):
    """Runs of one model with the same weights on so many threads."""

    model: Architecture
    dtype: str
    threads: int
    shapes: tuple[Shape, ...]


class Settings(NamedTuple):
    """Rounds per pass, and seed of the shapes and the order of measurements."""

    rounds: int = 15
    seed: int = 0


# Rows of the table ----------------------------------------------------------------------------------------------------


def describe(
    model: Architecture, shape: Shape, dtype: str, threads: int, machine: Machine, *, program: bool = True
) -> Row:
    """Columns of a row that are known without a measurement.

    ``program`` adds figures of the HLO program, for which JAX must be installed; else they are missing.
    """
    row: Row = {"device": machine.name, "threads": threads, "dtype": dtype, "phase": shape.phase}
    row |= {"family": model.family, "model": model.name, "batch": shape.batch, "sequence": shape.sequence}
    row |= {name: getattr(model, name) for name in _SIZES}
    row |= figures(model, *shape, dtype)
    if program:
        from gbr.collect.networks import program_figures  # JAX

        row |= program_figures(model, *shape, dtype)
    return row | machine.columns(dtype, threads)


def roles(frame: pl.DataFrame) -> Roles:
    """The meaning of the columns, and the families of the splits that are present."""
    present = set(frame["family"].unique())
    split = {
        name: {"family": found}
        for name, families in (("test", TEST), ("valid", VALID))
        if (found := tuple(each for each in families if each in present)) and present > set(found)
    }
    labels = (*GROUP, "family", "model", *machines.COLUMNS, *_RESULTS)
    config = tuple(name for name in frame.columns if name not in labels)
    return Roles(
        GROUP, config, "time", context=machines.COLUMNS, unit="s", repeats=("repeat",), **split  # type: ignore[arg-type]
    )  # fmt: skip


def read_rows(path: Path) -> pl.DataFrame:
    """Measured rows of a table, or of its Parquet file."""
    path = path / DATA if path.is_dir() else path
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as fault:
        reason = getattr(fault, "strerror", None) or one_line(fault)
        raise DataError(f"{path}: cannot be read ({reason}); expected rows that gbr.collect models wrote") from fault
    if missing := [name for name in (*_KEY, "time", "repeat") if name not in frame.columns]:
        raise DataError(f"{path}: no column {missing[0]!r}; expected rows that gbr.collect models wrote")
    return frame


def add_rows(folder: Path, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Add rows to those of the table in a folder, of which equal runs are replaced; returns all."""
    if (folder / DATA).exists():
        frames = [read_rows(folder), *frames]
    rows = pl.concat(frames, how="diagonal_relaxed").unique(_KEY, keep="last", maintain_order=True).sort(_KEY)
    write_table(folder, rows, roles(rows))
    return rows


# Tasks ----------------------------------------------------------------------------------------------------------------


def choose(known: Mapping[str, Architecture], names: Sequence[str] | None) -> list[Architecture]:
    """Select models by name or family, by default all; a UsageError for other names, with near ones."""
    every = {*known, *(model.family for model in known.values())}
    for name in names or ():
        if name not in every:
            near = get_close_matches(name, sorted(every), 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(sorted(every))}"
            raise UsageError(f"unknown model or family {name!r}; {hint}")
    return [model for model in known.values() if not names or {model.name, model.family} & set(names)]


def draw_shapes(model: Architecture, dtype: str, seed: int) -> Iterator[Shape]:
    """Draw shapes that take up to some tenths of a second."""
    rng = np.random.default_rng(zlib.crc32(f"{model.name} {dtype}".encode()) ^ seed)
    for phase in model.phases:
        fit = []
        for shape in grid(model, BATCHES, SEQUENCES, phase):
            found = figures(model, *shape, dtype)
            if found["flops"] <= _MOST_FLOPS[dtype] and found["activation_bytes"] + found["cache_bytes"] <= _MOST_BYTES:
                fit.append(shape)
        fit = fit or [next(grid(model, BATCHES, SEQUENCES, phase))]
        for at in rng.choice(len(fit), min(len(fit), _SHAPES[phase]), replace=False):
            yield fit[at]


def grid(model: Architecture, batches: Sequence[int], sequences: Sequence[int], *phases: str) -> Iterator[Shape]:
    """All shapes of some phases, by default all, up to the longest sequence of the model."""
    if model.family in IMAGES:
        sequences = (1,)
    elif model.longest:
        sequences = sorted({min(sequence, model.longest) for sequence in sequences})
    for phase in phases or model.phases:
        single = phase == "decode" and model.family in RECURRENT  # a state has no length
        for batch in batches:
            for sequence in (1,) if single else sequences:
                yield Shape(phase, batch, sequence)


def plan(
    models: Iterable[Architecture], dtypes: Sequence[str], threads: Sequence[int] | None, seed: int,
    batches: Sequence[int] | None = None, sequences: Sequence[int] | None = None,
) -> list[Task]:  # fmt: skip
    """All tasks in random order, so that the first ones cover everything; those that differ in threads are neighbours.

    Numbers of threads are 1 and 2 by default, if there are so many cores.  Shapes are drawn, or all those of
    ``batches`` and ``sequences`` are taken.
    """
    if threads is None:
        threads = [count for count in _THREADS if count <= len(cores())]
    elif most := [count for count in threads if count > len(cores())]:
        raise UsageError(f"--threads {most[0]}: this process may use {len(cores())} cores")
    tasks = [
        [
            Task(model, dtype, count, tuple(
                grid(model, batches or (1,), sequences or (128,)) if batches or sequences
                else draw_shapes(model, dtype, seed)
            ))
            for count in threads
        ]
        for model in models
        for dtype in dtypes
    ]  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(tasks))
    return [task for at in order for task in tasks[at]]


def remaining(tasks: Iterable[Task], rows: pl.DataFrame | None, device: str) -> list[Task]:
    """The tasks with the shapes that have not been measured on a device."""
    if rows is None:
        return [*tasks]
    done = set(rows.select(_KEY).iter_rows())
    found = []
    for task in tasks:
        prefix = (device, task.threads, task.dtype)
        shapes = tuple(
            shape for shape in task.shapes
            if (*prefix, shape.phase, task.model.family, task.model.name, shape.batch, shape.sequence) not in done
        )  # fmt: skip
        if shapes:
            found.append(task._replace(shapes=shapes))
    return found


# Measuring, in a process per number of threads ------------------------------------------------------------------------


class Workers:
    """A process for each number of threads, pinned to as many cores before JAX counts them."""

    def __init__(self) -> None:
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def __call__(self, threads: int, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the process; a CollectError if it dies."""
        pool = self._pools.get(threads)
        if pool is None:
            context = multiprocessing.get_context("spawn")
            pool = self._pools[threads] = ProcessPoolExecutor(1, context, pin, tuple(cores()[-threads:]))
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as fault:
            del self._pools[threads]
            raise CollectError("the process that measured it died; probably the memory was exhausted") from fault


def _clock(threads: int) -> Callable[[], int]:
    """CPU time of the process, which other work does not disturb, for one thread; else time passed."""
    return time.process_time_ns if threads == 1 else time.perf_counter_ns


def _options(threads: int) -> dict[str, Any]:
    return {"xla_cpu_multi_thread_eigen": False} if threads == 1 else {}


def measure_task(task: Task, machine: Machine, settings: Settings) -> list[Row]:
    """Measure the runs of a model, in a process for its number of threads; see :class:`Workers`."""
    from gbr.collect._jax import jax, jnp
    from gbr.collect.networks import program, random_weights

    model, dtype, threads, shapes = task
    weights = random_weights(model, dtype, settings.seed)
    rng = np.random.default_rng(settings.seed)
    runs, rows = [], []
    for shape in shapes:
        function, (inputs, state) = program(model, *shape, dtype)
        lowered = jax.jit(function, donate_argnums=2).lower(weights, inputs, state)
        begun = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=_options(threads))
        except Exception as fault:  # any exception of XLA
            raise CollectError(f"XLA cannot compile {shape} ({one_line(fault)[:200]})") from fault
        seconds = time.perf_counter() - begun
        if inputs.dtype == np.int32:
            values = jnp.asarray(rng.integers(0, model.vocabulary, inputs.shape, np.int32))
        else:
            values = jnp.asarray(rng.standard_normal(inputs.shape, np.float32), dtype)
        cache = jax.tree.map(lambda each: jnp.full(each.shape, 0.01, each.dtype), state)
        run = _Run(compiled, weights, values, cache)
        run()
        runs.append(run)
        memory = compiled.memory_analysis()
        peak = sum(
            getattr(memory, f"{part}_size_in_bytes", 0) for part in ("argument", "output", "temp")
        ) - getattr(memory, "alias_size_in_bytes", 0)  # fmt: skip
        rows.append(
            describe(model, shape, dtype, threads, machine) | {"compile_seconds": round(seconds, 3), "peak_bytes": peak}
        )

    timing: dict[str, Any] = {"rounds": settings.rounds, "enough_ns": _ENOUGH_NS, "clock": _clock(threads)}
    first, second = samples(runs, seed=settings.seed, **timing)
    for again in range(1, _AGAIN + 1):
        doubtful = [at for at in range(len(runs)) if not 1 / _DOUBT < min(second[at]) / min(first[at]) < _DOUBT]
        if not doubtful:
            break
        more = samples([runs[at] for at in doubtful], seed=settings.seed + again, **timing)
        for found, extra in zip((first, second), more, strict=True):
            for at, values in zip(doubtful, extra, strict=True):
                found[at] += values
    for row, one, two in zip(rows, first, second, strict=True):
        row |= {
            "time": min(one) / 1e9,
            "median": median(one) / 1e9,
            "repeat": min(two) / 1e9,
            "samples": len(one + two),
        }
    del runs, weights
    gc.collect()
    jax.clear_caches()
    return rows


class _Run:
    """A compiled run with its arguments; its state replaces the one before it."""

    def __init__(self, compiled: Any, weights: Any, inputs: Any, state: Any) -> None:
        self._compiled, self._weights, self._inputs, self._state = compiled, weights, inputs, state
        self._replaces = state != () if isinstance(state, tuple) else True

    def __call__(self) -> None:
        from gbr.collect._jax import jax

        result, state = self._compiled(self._weights, self._inputs, self._state)
        jax.block_until_ready((result, state))
        if self._replaces:
            self._state = state


def measure_rates(threads: int) -> tuple[float, dict[str, float]]:
    """Memory bandwidth of a triad in GB/s, and GFLOP/s of a product of matrices by type; as :func:`measure_task`."""
    from gbr.collect._jax import jax, jnp

    def fastest(function: Callable[..., Any], a: Any, b: Any) -> float:
        compiled = (
            jax.jit(function, donate_argnums=2, keep_unused=True)
            .lower(a, b, a)
            .compile(compiler_options=_options(threads))
        )
        run = _Run(compiled, a, b, jnp.copy(a))  # the result replaces the third array
        run()
        first, second = samples([run], rounds=10, enough_ns=10**9, clock=_clock(threads))
        return min(first[0] + second[0]) / 1e9

    x, y = (jnp.full(_TRIAD, value, np.float32) for value in (1.0, 2.0))
    bandwidth = 3 * x.nbytes / fastest(lambda x, y, old: ((), x + 3 * y), x, y) / 1e9
    peak = {}
    for dtype in DTYPES:
        a = jnp.full((_MATRIX, _MATRIX), 0.5, dtype)
        peak[dtype] = 2 * _MATRIX**3 / fastest(lambda a, b, old: ((), a @ b), a, a) / 1e9
    return round(bandwidth, 2), {dtype: round(rate, 1) for dtype, rate in peak.items()}


def measured_machine(folder: Path, name: str | None, threads: Sequence[int], workers: Workers) -> Machine:
    """Figures of this machine, from its file in the folder of the table; those that are missing are measured."""
    machine = this_machine(name)
    path = folder / f"machine-{re.sub(r'[^a-z0-9]+', '-', machine.name.casefold())}.toml"
    if path.exists():
        machine = replace(read_machine(path), name=machine.name)
    missing = [count for count in threads if count not in machine.bandwidth_gbs]
    for count in missing:
        bandwidth, peak = workers(count, measure_rates, count)
        rates = {dtype: {**machine.peak_gflops.get(dtype, {}), count: rate} for dtype, rate in peak.items()}
        machine = replace(
            machine, bandwidth_gbs={**machine.bandwidth_gbs, count: bandwidth}, peak_gflops=rates
        )  # fmt: skip
    if missing:
        write_machine(path, machine)
    return machine


def measure(
    folder: Path, tasks: Sequence[Task], settings: Settings, *,
    device: str | None = None, limit: int | None = None, seconds: float = math.inf,
    started: Callable[[int], Callable[[int], None]] = lambda _rows: lambda _more: None,
    warn: Callable[[str], None] = lambda _text: None,
) -> pl.DataFrame | None:  # fmt: skip
    """Measure the runs of ``tasks`` that the table in ``folder`` lacks, and add them to it.

    Parameters
    ----------
    device : str, optional
        Name of this machine, by default that of its processor.
    limit, seconds : optional
        Most rows to measure, and time after which no further model is begun.
    started : callable
        Gets the number of rows to measure, and returns a function that gets the number of those done.
    warn : callable
        Gets one line on a model that is left out.

    Returns
    -------
    polars.DataFrame or None
        The rows that were measured.

    Raises
    ------
    CollectError
        If models failed, or another process measures.
    """
    begun = time.monotonic()
    with exclusive_lock(folder, CollectError, "gbr.collect"), Workers() as workers:
        remove_partial_files(folder)
        rows = read_rows(folder) if (folder / DATA).exists() else None
        todo = remaining(tasks, rows, device or this_machine().name)
        if limit is not None:
            todo = _first(todo, limit)
        machine = measured_machine(folder, device, sorted({task.threads for task in todo}), workers)
        advance = started(sum(len(task.shapes) for task in todo))
        found, failed = [], []
        for task in todo:
            if time.monotonic() - begun > seconds:
                break
            try:
                if not _fits(task, machine):
                    raise CollectError("the memory of this machine is too small")
                measured = workers(task.threads, measure_task, task, machine, settings)
            except CollectError as fault:
                failed.append(task.model.name)
                warn(f"{task.model.name}, {task.dtype}, {task.threads} threads: left out: {fault}")
            else:
                found.append(pl.DataFrame(measured, infer_schema_length=None))
                add_rows(folder, found[-1:])
            advance(len(task.shapes))
    if failed:
        raise CollectError(f"{len(failed)} models were left out: {', '.join(dict.fromkeys(failed))}; see the warnings")
    return pl.concat(found, how="diagonal_relaxed") if found else None


def _first(tasks: Iterable[Task], rows: int) -> list[Task]:
    """The first tasks with so many rows in all."""
    found = []
    for task in tasks:
        if rows > 0:
            found.append(task._replace(shapes=task.shapes[:rows]))
        rows -= len(task.shapes)
    return found


def _fits(task: Task, machine: Machine) -> bool:
    """Whether the memory is large enough for a task; types without instructions are converted to float32."""
    found = [figures(task.model, *shape, "float32") for shape in task.shapes]
    needed = max(sum(each[name] for name in each if name.endswith("_bytes")) for each in found)
    return machine.memory_gb is None or needed < _MEMORY * 1e9 * machine.memory_gb


# Quality --------------------------------------------------------------------------------------------------------------


def retest(rows: pl.DataFrame) -> Row:
    """How well two passes agree: shares of the time by which half and nine tenths of the rows differ at most."""
    difference = np.abs(np.log((rows["repeat"] / rows["time"]).to_numpy()))
    middle, high = np.expm1(np.quantile(difference, (0.5, 0.9)))
    return {"rows": len(rows), "median": float(middle), "nine tenths": float(high)}


def markdown(rows: pl.DataFrame) -> str:
    """Format measured rows: a summary, and a line per family and phase."""
    quality = [
        f"{threads} thread{'s' if threads > 1 else ''}: {found['rows']} rows, half of them within "
        f"{found['median']:.1%}, nine tenths within {found['nine tenths']:.1%}"
        for threads in sorted(rows["threads"].unique())
        for found in [retest(rows.filter(pl.col("threads") == threads))]
    ]
    lines = [
        f"{len(rows)} rows of {rows['model'].n_unique()} models of {rows['family'].n_unique()} families on "
        f"{', '.join(sorted(rows['device'].unique()))}. Two passes: {'; '.join(quality)}.",
        "",
        "| family | split | phase | models | rows | parameters | ms | retest, nine tenths within |",
        "|---|---|---|---|---|---|---|---|",
    ]
    split = dict.fromkeys(VALID, "valid") | dict.fromkeys(TEST, "test")
    for part in rows.partition_by("family", "phase", maintain_order=True):
        family, phase = part["family"][0], part["phase"][0]
        size, took = part["parameters"] / 1e6, part["time"] * 1e3
        lines.append(
            f"| {family} | {split.get(family, 'train')} | {phase} | {part['model'].n_unique()} | {len(part)} | "
            f"{min(size):.3g} to {max(size):.3g} M | {min(took):.3g} to {max(took):.3g} | "
            f"{retest(part)['nine tenths']:.1%} |"
        )
    return "\n".join(lines)
