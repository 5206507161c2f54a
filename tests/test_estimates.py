"""Networks on machines: measured ones, others of the same kind, and kinds that were not measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import gbr.predict as command
from gbr import Ranker
from gbr.collect import estimates, models
from gbr.collect.estimates import COST, Run, estimate
from gbr.data.architectures import figures, find_model
from gbr.data.devices import devices
from gbr.data.machines import Machine, find_machine, read_machine
from gbr.data.table import write_table
from gbr.errors import ModelError, UsageError
from gbr.train import train

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "data/table/models"
CPU = "AMD EPYC Genoa"
NETWORKS = ("gpt-a", "llama-b", "bert-a", "resnet-a", "lstm-a")
LLAMA = {
    "name": "Llama-2-7B", "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip
SERVER = Machine(
    "a server", "AMD", "cpu", cores=16, bandwidth_gbs={0: 95.0}, peak_gflops={"float32": {0: 1100.0}}
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    rows = pl.read_parquet(TABLE / "data.parquet").drop("operations", "dots", "loops", strict=False)
    write_table(folder / "table/models", rows, models.roles(rows))
    train("table:models", folder, out=folder / "run", objective="runtime", settings={"n_estimators": 20}, jobs=1)
    return folder / "run"


@pytest.fixture(scope="module")
def ranker(trained: Path) -> Ranker:
    return Ranker.load(trained)


@pytest.fixture(autouse=True)
def without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = estimates.describe
    monkeypatch.setattr(estimates, "describe", lambda *args, program: known(*args, program=False))


def seconds(ranker: Ranker, names: Sequence[Any], machines: Sequence[Any], run: Run) -> dict[tuple[str, ...], float]:
    rows, _ = estimate(ranker, names, machines, run)
    return {(row["model"], row["device"], row["phase"]): row["seconds"] for row in rows}


def test_measured_devices_have_what_the_model_predicts(ranker: Ranker) -> None:
    machine, network = read_machine(TABLE / "machine-amd-epyc-genoa.toml"), find_model("gpt-a")
    for dtype, threads in (("float32", 1), ("bfloat16", 2)):
        found, notes = estimate(ranker, ["gpt-a"], [CPU.lower()], Run(2, 64, dtype, threads))
        shapes = [models.Shape(row["phase"], 2, 64) for row in found]
        rows = [models.describe(network, shape, dtype, threads, machine, program=False) for shape in shapes]
        frame = pl.DataFrame(rows, infer_schema_length=None)
        missing = set(ranker.table.roles.described) - set(frame.columns)
        expected = ranker.predict_table(frame.with_columns(**dict.fromkeys(missing, pl.lit(None, pl.Float64))))
        columns = expected.select(seconds="predicted", low="low", high="high")
        assert columns.equals(pl.DataFrame(found).select(columns.columns))
        assert not any(row["extrapolated"] for row in found)
        assert not notes


@pytest.mark.parametrize("name", NETWORKS)
def test_other_kinds_are_at_least_at_the_roofline_and_monotone(ranker: Ranker, name: str) -> None:
    network, shapes = find_model(name), ((1, 32), (2, 32), (16, 32), (16, 128))
    found = {
        (dtype, shape): seconds(ranker, [name], [*devices()], Run(*shape, dtype))
        for dtype in ("float32", "bfloat16")
        for shape in shapes
    }
    for (dtype, (batch, sequence)), rows in found.items():
        assert len(rows) == len(network.phases) * len(devices())
        for (_, device, phase), took in rows.items():
            card, length = devices()[device], min(sequence, network.longest or sequence)
            needed = figures(network, phase, batch, 1 if name == "lstm-a" and phase == "decode" else length, dtype)
            fastest = max(card.rates.values())
            assert took >= needed["flops"] / (1e12 * fastest)
            assert took >= (needed["weight_bytes"] + needed["cache_bytes"]) / (1e9 * card.bandwidth_gbs)
            assert took > 5e-6  # kernels have to start
    for dtype in ("float32", "bfloat16"):
        for smaller, larger in pairwise(shapes):
            assert all(took <= found[dtype, larger][each] for each, took in found[dtype, smaller].items())
    for shape in shapes:
        assert all(took <= found["float32", shape][each] for each, took in found["bfloat16", shape].items())


def test_other_kinds_do_not_depend_on_threads_and_have_no_intervals(ranker: Ranker) -> None:
    one, notes = estimate(ranker, ["gpt-a"], ["H100", "TPU v5e"], Run(threads=1))
    assert one == estimate(ranker, ["gpt-a"], ["H100", "TPU v5e"], Run(threads=2))[0]
    assert {(row["low"], row["high"], row["extrapolated"], row["dtype"]) for row in one} == {
        (None, None, True, "bfloat16")
    }
    (note,) = notes
    assert note.startswith("not measured: NVIDIA H100 80GB HBM3, TPU v5e; estimated by the roofline")


@pytest.mark.parametrize(
    ("network", "device", "run", "published", "factor"),
    [
        # github.com/pytorch-labs/gpt-fast: 104.9 tokens/s, and 76.33 on one die of the MI250X
        (LLAMA, "A100-SXM4-80GB", Run(1, 16, phase="decode"), 1 / 104.9, 1.1),
        (LLAMA, "MI250X", Run(1, 16, phase="decode"), 1 / 76.33, 1.2),
        # github.com/NVIDIA/DeepLearningExamples, ResNet-50 v1.5 in PyTorch: 426 and 1190 images/s
        ("resnet50", "T4", Run(128, dtype="float32"), 128 / 426, 1.3),
        ("resnet50", "T4", Run(128), 128 / 1190, 4),
    ],
)
def test_published_runtimes(
    ranker: Ranker, network: Any, device: str, run: Run, published: float, factor: float
) -> None:
    if network == "resnet50":
        network = {"model_type": "resnet", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]}
    (found,) = seconds(ranker, [network], [device], run).values()
    assert published / factor < found < published * factor


def test_other_devices_of_a_measured_kind(ranker: Ranker) -> None:
    (row,), (note,) = estimate(ranker, ["gpt-a"], [SERVER], Run(phase="prefill"))
    assert note == f"not measured: a server; extrapolated from {CPU}, without intervals"
    assert (row["low"], row["high"], row["extrapolated"], row["dtype"]) == (None, None, True, "float32")
    needed = figures(find_model("gpt-a"), "prefill", 1, 128, "float32")
    assert row["seconds"] >= needed["flops"] / 1100e9
    slow = replace(SERVER, bandwidth_gbs={0: 0.01})
    (row,), _ = estimate(ranker, ["gpt-a"], [slow], Run(phase="prefill"))
    assert row["seconds"] >= needed["weight_bytes"] / 0.01e9


def test_rows_are_ranked_by_phase(ranker: Ranker) -> None:
    rows, _ = estimate(ranker, ["gpt-a", "bert-a"], ["T4", CPU, "H100"])
    assert [row["phase"] for row in rows] == ["forward"] * 3 + ["prefill"] * 3 + ["decode"] * 3
    for phase in ("forward", "prefill", "decode"):
        took = [row["seconds"] for row in rows if row["phase"] == phase]
        assert took == sorted(took)
    assert {row["dtype"] for row in rows if row["device"] == CPU} == {"float32"}
    only, _ = estimate(ranker, ["gpt-a", "bert-a"], ["T4", CPU, "H100"], Run(phase="decode"))
    assert only == rows[6:]
    with pytest.raises(UsageError, match="--phase decode: none of the networks has it; expected forward"):
        estimate(ranker, ["bert-a"], ["T4"], Run(phase="decode"))


def test_prices(ranker: Ranker) -> None:
    machine = replace(find_machine("RTX 4090"), name="mine")
    rows, notes = estimate(ranker, ["gpt-a"], [machine, "RTX 4090"], prices={"Mine": 1.0})
    assert [row["device"] for row in rows] == ["mine", "NVIDIA GeForce RTX 4090"] * 2
    for own, card in (rows[:2], rows[2:]):
        assert own[COST] == pytest.approx(1e6 / 3600 * card["seconds"])
        assert card[COST] is None
    assert "no price: NVIDIA GeForce RTX 4090; without cost and last" in notes[1]
    rows, _ = estimate(ranker, ["gpt-a"], ["all"], Run(phase="decode"), {"RTX 4090": 1.8, CPU: 0.1})
    assert {rows[0]["device"], rows[1]["device"]} == {"NVIDIA GeForce RTX 4090", CPU}
    assert len(rows) == 1 + len(devices())
    with pytest.raises(UsageError, match="--price A10: NVIDIA A10 is not among the devices; add --device A10"):
        estimate(ranker, ["gpt-a"], ["A100"], prices={"A10": 3.0})
    with pytest.raises(UsageError, match="expected NAME=PRICE"):
        estimates.parse_price("A100")


def test_what_cannot_be_estimated_is_refused(ranker: Ranker) -> None:
    with pytest.raises(UsageError, match=r"unknown device 'RTX 409'; did you mean .*; measured: AMD EPYC Genoa"):
        estimate(ranker, ["gpt-a"], ["RTX 409"])
    card = replace(find_machine("T4"), name="card", peak_gflops={"float32": {0: 8100.0}})
    with pytest.raises(UsageError, match="card: peak_gflops of bfloat16 is missing; no gpu was measured"):
        estimate(ranker, ["gpt-a"], [card])
    X = pl.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0]})
    with pytest.raises(ModelError, match="this model was not trained on a table"):
        estimate(Ranker(n_estimators=2, n_jobs=1).fit(X, [1.0, 2.0]), ["gpt-a"], ["A100"])


def test_command(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(trained), "--describe", "gpt-a", "--device", "T4", "--device", CPU, "--top", "1"]
    assert command.main([*arguments, "--price", "T4=0.35"]) == 0
    out, err = capsys.readouterr()
    first, second = csv.DictReader(out.splitlines())
    assert (first["phase"], second["phase"]) == ("prefill", "decode")  # the best of each
    assert first["device"] == "Tesla T4"
    assert (first["low"], first["high"], first["extrapolated"]) == ("", "", "true")
    assert float(first[COST]) == pytest.approx(0.35e6 / 3600 * float(first["seconds"]), rel=1e-3)
    assert "not measured: Tesla T4" in err
    assert f"no price: {CPU}" in err
    assert command.main([*arguments, "--phase", "decode", "--dtype", "float32", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["phase"], row["dtype"], row["extrapolated"], row["low"]) == ("decode", "float32", True, None)
