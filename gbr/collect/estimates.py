"""How long networks would run on machines, by a model of the runtimes that ``gbr.collect models`` measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from gbr.collect.models import Shape, describe
from gbr.data.architectures import Architecture, find_model, models
from gbr.data.devices import devices, find_device
from gbr.data.machines import COLUMNS, Machine, find_machine, of_device
from gbr.errors import MissingLibraryError, ModelError, UsageError
from gbr.ranker import Ranker

#: Stands for all networks, or all devices, that gbr knows.
ALL: Final = "all"
_SECONDS_PER_HOUR: Final = 3600
_RUNS: Final = 1e6

Row = dict[str, Any]


class Run(NamedTuple):
    """What is run: its batch and sequence, type of numbers, and threads on a CPU."""

    batch: int = 1
    sequence: int = 128
    dtype: str = "float32"
    threads: int = 1


_ONE: Final = Run()


def estimate(
    ranker: Ranker,
    descriptions: Sequence[str | Path | Mapping[str, Any]],
    machines: Sequence[str | Machine],
    run: Run = _ONE,
    prices: Mapping[str, float] | None = None,
) -> tuple[list[Row], list[str]]:
    """Runtimes of networks on machines, the fastest first or, with prices, the cheapest.

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
        Price of a device per hour, by its name.

    Returns
    -------
    rows : list of dict
        ``model``, ``device``, ``phase``, ``batch``, ``sequence``, ``seconds``, ``low`` and ``high``; with a price
        ``cost`` of a million runs.
    notes : list of str

    Raises
    ------
    UsageError
        For an unknown network or device, with near names.
    ModelError
        If the model predicts no runtimes of networks.
    """
    known = ranker.table.known.frame
    if not ranker.predicts_runtimes or not {"device", "phase", "threads", "dtype", "flops"} <= {*known.columns}:
        raise ModelError(
            "this model predicts no runtimes of networks; train one with "
            "`python -m gbr.train --subset table:models --objective runtime`"
        )
    targets = _targets(known, machines, run)
    names = {*known["device"], *(row["device"] for row in targets)}
    charges = {_name(name, names): price for name, price in (prices or {}).items()}
    networks = [model for each in descriptions for model in (models().values() if each == ALL else [find_model(each)])]
    notes, program = [], True
    rows = []
    for model in networks:
        for phase in model.phases:
            shape = Shape(phase, run.batch, _length(model, phase, run.sequence))
            blank = Machine("", "", "cpu", 1)
            try:
                row = describe(model, shape, run.dtype, run.threads, blank, program=program)
            except MissingLibraryError:
                program = False
                notes.append("JAX is not installed: figures of the programs are missing, and estimates are worse")
                row = describe(model, shape, run.dtype, run.threads, blank, program=False)
            rows += [row | figures for figures in targets]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    for name in set(ranker.table.roles.described) - set(frame.columns):
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name))
    found = ranker.predict_table(frame)
    other = sorted({row["device"] for row in rows} - set(known["device"]))
    if other:
        n_known = known["device"].n_unique()
        notes.append(
            f"not measured: {', '.join(other[:3])}{' ...' if len(other) > 3 else ''}; extrapolated by bandwidth and "
            f"peak rate from {n_known} measured device{'s' if n_known > 1 else ''}, and intervals do not cover this"
        )
    keys = ("model", "device", "phase", "batch", "sequence")
    results = []
    for row, seconds, low, high in zip(rows, *(found[name] for name in ("predicted", "low", "high")), strict=True):
        result = {key: row[key] for key in keys} | {"seconds": seconds, "low": low, "high": high}
        if row["device"] in charges:
            result["cost"] = charges[row["device"]] * seconds * _RUNS / _SECONDS_PER_HOUR
        results.append(result)
    return sorted(results, key=lambda row: (row.get("cost", np.inf), row["seconds"])), notes


def _length(model: Architecture, phase: str, sequence: int) -> int:
    """The sequence as the table has it: 1 where a run has none, and at most the longest one of the model."""
    if model.longest == 1 or (phase == "decode" and not model.heads):
        return 1
    return min(sequence, model.longest) if model.longest else sequence


def _targets(known: pl.DataFrame, machines: Sequence[str | Machine], run: Run) -> list[Row]:
    """Columns of each machine."""
    found: dict[str, Row] = {}
    for name in machines:
        if isinstance(name, Machine):
            found[name.name] = {"device": name.name} | name.columns(run.dtype, run.threads)
            continue
        for each in [*known["device"].unique(maintain_order=True), *devices()] if name == ALL else [name]:
            measured = known.filter(pl.col("device").str.to_lowercase() == each.casefold())
            if len(measured):
                near = measured.with_columns(
                    other=(pl.col("dtype") != run.dtype).cast(pl.Int64) * 1000 + (pl.col("threads") - run.threads).abs()
                )
                row = near.sort("other", maintain_order=True).row(0, named=True)
                found[row["device"]] = {key: row[key] for key in ("device", *COLUMNS) if key in row}
            else:
                machine = of_device(devices()[each]) if each in devices() else find_machine(each)
                found[machine.name] = {"device": machine.name} | machine.columns(run.dtype, run.threads)
    return list(found.values())


def _name(name: str, known: Iterable[str]) -> str:
    """Name of a device as the rows have it."""
    return next((each for each in known if each.casefold() == name.casefold()), None) or find_device(name).name


def parse_price(text: str) -> tuple[str, float]:
    """Device and price per hour of ``NAME=PRICE``; UsageError for anything else."""
    name, _, price = text.rpartition("=")
    try:
        if name and float(price) > 0:
            return name, float(price)
    except ValueError:
        pass
    raise UsageError(f"--price: expected NAME=PRICE, a device and its price per hour, got {text!r}")
