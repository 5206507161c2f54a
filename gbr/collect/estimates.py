"""How long networks would run on machines.

A model of measured runtimes predicts them for devices of a kind that was measured.  What it learnt on a CPU does not
hold for a GPU, such as the time that XLA for CPUs takes to convert each bfloat16 weight.  Other kinds get a roofline
with shares of the rates that good programs reach, and a time to start the kernels of each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from gbr.collect.models import Shape, describe
from gbr.data.architectures import PHASES, RECURRENT, Architecture, find_model, models
from gbr.data.devices import devices, find_device
from gbr.data.machines import COLUMNS, Machine, find_machine, of_device
from gbr.errors import MissingLibraryError, ModelError, UsageError
from gbr.ranker import Ranker

#: Stands for all networks, or all devices, that gbr knows.
ALL: Final = "all"
#: Key of the cost in rows with prices.
COST: Final = "cost_per_million_runs"
_SECONDS_PER_HOUR: Final = 3600
_RUNS: Final = 1e6

#: Assumed for kinds of devices that were not measured: the shares of peak rate and bandwidth that programs reach, and
#: seconds to start the kernels of a layer, about ten of 3 us.
_OF_PEAK: Final = 0.5
_OF_BANDWIDTH: Final = 0.75
_STARTS: Final = 30e-6
_MOVED: Final = ("weight_bytes", "activation_bytes", "cache_bytes")
_ROOFLINE: Final = "estimated by the roofline, as no device of the kind was measured"
_BLANK: Final = Machine("", "", "cpu", 1)

Row = dict[str, Any]


class Run(NamedTuple):
    """What is run.

    Attributes
    ----------
    batch, sequence : int
    dtype : str, optional
        Type of numbers; by default float32 on a CPU and bfloat16 on an accelerator.
    threads : int
        On a CPU.
    phase : str, optional
        Only this one of :data:`gbr.data.architectures.PHASES`; by default all that a network has.
    """

    batch: int = 1
    sequence: int = 128
    dtype: str | None = None
    threads: int = 1
    phase: str | None = None


_ONE: Final = Run()


def estimate(
    ranker: Ranker,
    descriptions: Sequence[str | Path | Mapping[str, Any]],
    machines: Sequence[str | Machine],
    run: Run = _ONE,
    prices: Mapping[str, float] | None = None,
) -> tuple[list[Row], list[str]]:
    """Runtimes of networks on machines, by phase: the fastest first or, with prices, the cheapest.

    Parameters
    ----------
    ranker : Ranker
        A model with the objective ``runtime``, of a table of ``gbr.collect models``.
    descriptions : sequence of str, path or mapping
        Networks as :func:`gbr.data.architectures.find_model` takes them, or ``all``.
    machines : sequence of str or Machine
        Devices of the training rows, or as :func:`gbr.data.machines.find_machine` takes them, or ``all``; or machines.
    run : Run
    prices : mapping of str to float, optional
        Price per hour of some of the machines, by name.

    Returns
    -------
    rows : list of dict
        ``model``, ``device``, ``phase``, ``dtype``, ``batch``, ``sequence``, ``seconds``, ``low``, ``high`` and
        ``extrapolated``, whether the device was not measured.  Then ``seconds`` are at least those of the roofline, and
        ``low`` and ``high`` are None, as nothing tells how far they are off.  With prices ``cost_per_million_runs``, in
        their currency; None and last without a price.
    notes : list of str

    Raises
    ------
    UsageError
        For an unknown network or device, with near names; the price of a device that is not among the machines; a phase
        that no network has; or a machine of a kind that was not measured, without its rates.
    ModelError
        If the model predicts no runtimes of networks.
    """
    known = ranker.table.known.frame
    if not ranker.predicts_runtimes or not {"device", "kind", "phase", "threads", "dtype", "flops"} <= {*known.columns}:
        raise ModelError(
            "this model predicts no runtimes of networks; train one with "
            "`python -m gbr.train --subset table:models --objective runtime`"
        )
    targets = _targets(known, machines, run)
    charges = _charges(prices or {}, {*known["device"]}, {row["device"] for row in targets})
    networks = [model for each in descriptions for model in (models().values() if each == ALL else [find_model(each)])]
    measured, kinds = {*known["device"]}, {*known["kind"]}
    rows, notes = _runs(networks, targets, run, kinds)
    predicted = iter(_predicted(ranker, [row for row in rows if row["kind"] in kinds]))
    results = []
    for row in rows:
        extrapolated = row["device"] not in measured
        seconds, low, high = next(predicted) if row["kind"] in kinds else (physical(row), None, None)
        if extrapolated:
            seconds, low, high = max(seconds, roofline(row)), None, None
        result = {key: row[key] for key in ("model", "device", "phase", "dtype", "batch", "sequence")}
        result |= {"seconds": seconds, "low": low, "high": high, "extrapolated": extrapolated}
        if charges:
            price = charges.get(row["device"])
            result[COST] = None if price is None else price * seconds * _RUNS / _SECONDS_PER_HOUR
        results.append(result)

    new = [row for row in targets if row["device"] not in measured]
    for basis, names in (
        (f"extrapolated from {_some(sorted(measured))}", [row["device"] for row in new if row["kind"] in kinds]),
        (_ROOFLINE, [row["device"] for row in new if row["kind"] not in kinds]),
    ):
        if names:
            notes.append(f"not measured: {_some(names)}; {basis}, without intervals")
    if charges and (names := [row["device"] for row in targets if row["device"] not in charges]):
        notes.append(f"no price: {_some(names)}; without cost and last, add --price NAME=PRICE")
    return sorted(results, key=_order), notes


def _order(row: Row) -> tuple[int, float, float]:
    cost = row.get(COST)
    return PHASES.index(row["phase"]), np.inf if cost is None else cost, row["seconds"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _runs(
    networks: Sequence[Architecture], targets: Sequence[Row], run: Run, kinds: Iterable[str]
) -> tuple[list[Row], list[str]]:
    """Rows of the runs on each machine; those of ``kinds`` have figures of the program, or a note if JAX is missing."""
    rows, notes = [], []
    with_program = {row["dtype"] for row in targets if row["kind"] in kinds}
    for model in networks:
        for phase in model.phases if run.phase is None else {*model.phases} & {run.phase}:
            shape = Shape(phase, run.batch, _length(model, phase, run.sequence))
            for dtype in dict.fromkeys(row["dtype"] for row in targets):
                try:
                    row = describe(model, shape, dtype, 1, _BLANK, program=dtype in with_program)
                except MissingLibraryError:
                    with_program.clear()
                    notes.append("JAX is not installed: figures of the programs are missing, and estimates are worse")
                    row = describe(model, shape, dtype, 1, _BLANK, program=False)
                rows += [row | figures for figures in targets if figures["dtype"] == dtype]
    if not rows:
        raise UsageError(f"--phase {run.phase}: none of the networks has it; expected {', '.join(networks[0].phases)}")
    return rows, notes


def _predicted(ranker: Ranker, rows: Sequence[Row]) -> list[tuple[float, float, float]]:
    """Runtimes and their intervals by a model."""
    if not rows:
        return []
    frame = pl.DataFrame(rows, infer_schema_length=None)
    for name in set(ranker.table.roles.described) - set(frame.columns):
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name))
    return [*ranker.predict_table(frame).select("predicted", "low", "high").iter_rows()]


def roofline(row: Row, of_peak: float = 1.0, of_bandwidth: float = 1.0) -> float:
    """Least seconds of a run by shares of the rates of its machine; an unknown rate does not count."""
    peak, bandwidth = row["peak_gflops"] or np.inf, row["bandwidth_gbs"] or np.inf
    moved = sum(row[name] for name in _MOVED)
    return float(max(row["flops"] / (of_peak * peak), moved / (of_bandwidth * bandwidth)) / 1e9)


def physical(row: Row) -> float:
    """Seconds of a run on a machine of a kind that was not measured; a UsageError where its rates are unknown."""
    if missing := [name for name in ("bandwidth_gbs", "peak_gflops") if not row[name]]:
        of = f" of {row['dtype']}" if missing[0] == "peak_gflops" else ""
        raise UsageError(f"{row['device']}: {missing[0]}{of} is missing; no {row['kind']} was measured to go without")
    steps = int(row["sequence"]) if row["family"] in RECURRENT else 1
    return roofline(row, _OF_PEAK, _OF_BANDWIDTH) + _STARTS * int(row["layers"]) * steps


def _length(model: Architecture, phase: str, sequence: int) -> int:
    """The sequence as the table has it: 1 where a run has none, and at most the longest one of the model."""
    if model.longest == 1 or (phase == "decode" and not model.heads):
        return 1
    return min(sequence, model.longest) if model.longest else sequence


def _targets(known: pl.DataFrame, machines: Sequence[str | Machine], run: Run) -> list[Row]:
    """Columns of each machine, with the type of numbers and the threads of the run on it."""
    found = []
    for name in machines:
        every: Iterable[str | Machine] = [name]
        if name == ALL:
            every = [*known["device"].unique(maintain_order=True), *map(of_device, devices().values())]
        found += [_target(known, each, run) for each in every]
    return list({row["device"]: row for row in found}.values())


def _target(known: pl.DataFrame, machine: str | Machine, run: Run) -> Row:
    if not isinstance(machine, Machine):
        measured = known.filter(pl.col("device").str.to_lowercase() == machine.casefold())
        if len(measured):
            here = _on(measured["kind"][0], run)
            is_other, more = pl.col("dtype") != here["dtype"], (pl.col("threads") - here["threads"]).abs()
            row = measured.sort(is_other, more, maintain_order=True).row(0, named=True)
            return {key: row[key] for key in ("device", *COLUMNS) if key in row} | here
        try:
            machine = find_machine(machine)
        except UsageError as fault:
            raise UsageError(f"{fault}; measured: {_some(sorted({*known['device']}))}") from fault
    here = _on(machine.kind, run)
    return {"device": machine.name} | machine.columns(**here) | here


def _on(kind: str, run: Run) -> Row:
    """Type of numbers and threads of a run on a kind of device; only a CPU has a choice of threads."""
    if kind == "cpu":
        return {"dtype": run.dtype or "float32", "threads": run.threads}
    return {"dtype": run.dtype or "bfloat16", "threads": 1}


def _charges(prices: Mapping[str, float], known: Iterable[str], asked: Iterable[str]) -> dict[str, float]:
    """Prices by the name of the device in the rows; a UsageError for a device that is not asked for."""
    found = {}
    for name, price in prices.items():
        device = next((each for each in (*asked, *known) if each.casefold() == name.casefold()), None)
        device = device or find_device(name).name
        if device not in asked:
            raise UsageError(f"--price {name}: {device} is not among the devices; add --device {name}, or leave it out")
        found[device] = price
    return found


def parse_price(text: str) -> tuple[str, float]:
    """Device and price per hour of ``NAME=PRICE``; UsageError for anything else."""
    name, _, price = text.rpartition("=")
    try:
        if name and float(price) > 0:
            return name, float(price)
    except ValueError:
        pass
    raise UsageError(f"--price: expected NAME=PRICE, a device and its price per hour, got {text!r}")
