"""Latencies on a device that was not measured: networks of NAS-Bench-201, and results of MLPerf.

``--nas`` is a Parquet file with a column ``architecture`` and one column of latencies per device (of HELP, MIT
licence); ``--mlperf`` is a CSV file of results of MLPerf Inference.  Each device of the first is held out in turn, with
all its batch sizes; of the second, accelerators, then models.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.common import Row, Section, machine, parser, publish
from gbr import Ranker
from gbr.adapt import TableRows
from gbr.data.table import read_table, write_table
from gbr.data.table_formats import import_files
from gbr.errors import GbrWarning
from gbr.train import train

FloatArray = NDArray[np.float64]

MEASURED: Final = 10
DRAWS: Final = 5
#: Networks per device that the model is fitted on; the history has all of them.
SAMPLE: Final = 2000
#: Spearman correlations with 10 measured networks, from table 3 of HELP (Lee et al., NeurIPS 2021).
HELP: Final = {"pixel2": 0.802, "raspi4": 0.890}
MLPERF: Final[dict[str, Any]] = {
    "target": "Avg. Result at System Name",
    "direction": "higher",
    "device": "Accelerator",
    "group": ("Model MLC", "Scenario", "Units"),
    "config": ("Accelerator", "# of Accelerators", "# of Nodes", "Processor", "Host Processor Core Count"),
}
SPLITS: Final = {
    "accelerators": (
        {"Accelerator": ("H200-NVL", "L40S", "MI325X", "B200", "GH200")},
        {"Accelerator": ("H100-NVL",)},
    ),
    "models": (
        {"Model MLC": ("retinanet", "mixtral-8x7b", "stable-diffusion-xl")},
        {"Model MLC": ("gptj-99", "3d-unet-99")},
    ),
}
NAS: Final = """\
Spearman correlation with the measured latency of {networks} networks, without a measurement (*A*, the mean rank on the
other devices, and *model*) and with {measured} random ones (*adapted*, mean of {draws} draws). *operations* is
a linear model of the operations that is fitted to all latencies of the device itself: what it lacks is mostly noise of
single measurements. *HELP* is the published figure with {measured} measurements, from fewer devices
and networks; its other devices are not in this table."""
RESULTS: Final = """\
Throughputs of systems: Kendall tau within each model and scenario of what is held out, then the median error of the
predicted throughput in percent. *A* is the mean rank of the nearest systems elsewhere, *raw* a fit on the plain
columns, *linear* a linear regression on logarithms, *nearest* the most similar row. Nothing but its name describes a
model in this table, so that the throughput of a held-out one cannot be known, only the order of systems."""


def nas(path: Path, work: Path, only: list[str]) -> list[Row]:
    """One row per device and batch size."""
    frame, roles, _ = import_files([path], None, {"unit": "ms"}, ("device", "batch"))
    found: list[Row] = []
    for device in frame["device"].unique(maintain_order=True).to_list():
        if only and device not in only:
            continue
        root, name = work / "root", f"nas-{device}"
        write_table(root / "table" / name, frame, replace(roles, test={"device": (device,)}))
        out = work / "runs" / name
        if not (out / "metrics.json").exists():
            train(f"table:{name}", data=root, store=work / "store", out=out, force=True, sample=SAMPLE)
        model, table = Ranker.load(out), read_table(root / "table" / name)
        for group in (group for group in table.groups if group.split == "test"):
            rows = slice(group.start, group.stop)
            found.append(_nas_row(model, table.frame[rows], table.cost[rows]))
            print(*found[-1].values(), flush=True)
    return found


def _nas_row(model: Ranker, frame: Any, cost: FloatArray) -> Row:
    known = TableRows(frame, model)
    adapted = []
    for seed in range(DRAWS):
        rows = np.random.default_rng(seed).choice(len(cost), MEASURED, replace=False)
        adapted.append(_spearman(model.adapt(known, rows, cost[rows]).predict(), cost))
    operations = (known.choices[:, :, None] == np.arange(known.choices.max() + 1)).reshape(len(cost), -1)
    inputs = np.column_stack([operations, np.ones(len(cost))]).astype(float)
    fitted = inputs @ np.linalg.lstsq(inputs, np.log(cost), rcond=None)[0]
    device, batch = frame["device"][0], frame["batch"][0]
    return {
        "held out": device if batch is None else f"{device}, batch {batch}",
        "A": _spearman(known.ranks.mean(axis=0), cost),
        "model": _spearman(known.scores, cost),
        "adapted": float(np.mean(adapted)),
        "HELP": HELP.get(device),
        "operations": _spearman(fitted, cost),
    }


def _spearman(first: FloatArray, second: FloatArray) -> float:
    return float(spearmanr(first, second)[0])


def mlperf(path: Path, work: Path) -> list[Row]:
    """One row per split and objective."""
    found: list[Row] = []
    for held_out, (test, valid) in SPLITS.items():
        frame, roles, _ = import_files([path], None, {**MLPERF, "test": test, "valid": valid})
        root, name = work / "root", f"mlperf-{held_out}"
        write_table(root / "table" / name, frame, roles)
        for objective in (None, "runtime"):
            out = work / "runs" / f"{name}-{objective}"
            figures = train(
                f"table:{name}", data=root, store=work / "store", out=out, force=True, objective=objective
            )["test"]  # fmt: skip
            beside, runtimes = figures["baselines"], figures.get("runtime", {})
            found.append(
                {
                    "held out": held_out,
                    "objective": objective or "order",
                    "A": beside["mean_rank"]["kendall_tau"],
                    "raw": beside["raw_l2"]["kendall_tau"],
                    "model": figures["kendall_tau"],
                    "median error": _percent(runtimes),
                    "linear": _percent(runtimes.get("baselines", {}).get("linear", {})),
                    "nearest": _percent(runtimes.get("baselines", {}).get("nearest", {})),
                }
            )
    return found


def _percent(figures: dict[str, float]) -> float | None:
    return 100 * figures["median_ape"] if figures else None


def main() -> None:
    """Hold out devices, accelerators and models, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--nas", type=Path, required=True, metavar="FILE")
    arguments.add_argument("--mlperf", type=Path, required=True, metavar="FILE")
    arguments.add_argument("--work", type=Path, default=Path("runs/latencies"), metavar="DIR")
    arguments.add_argument("--devices", nargs="*", default=[], help="default: all")
    args = arguments.parse_args()
    warnings.simplefilter("ignore", GbrWarning)  # phones have no figures
    results = mlperf(args.mlperf, args.work)
    latencies = nas(args.nas, args.work, args.devices)
    sections = [
        Section("NAS-Bench-201", NAS.format(networks="15,625", measured=MEASURED, draws=DRAWS), latencies),
        Section("MLPerf Inference 5.0", RESULTS, results),
    ]
    text = "Tables of others, which are not part of gbr; see the docstring of the benchmark."
    publish("latencies", "Latencies on other devices", text, sections, machine("lightgbm", "scikit-learn"))


if __name__ == "__main__":
    main()
