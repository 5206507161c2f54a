"""Accelerators: their figures against one another, and the names they are found by."""

from __future__ import annotations

import csv
import gzip
import json
import math
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from gbr.data.devices import FIGURES, Device, _parse, devices, figures, find_device
from gbr.errors import UsageError

EACH = pytest.mark.parametrize("device", devices().values(), ids=lambda device: device.name)
GPUS = pytest.mark.parametrize(
    "device", [device for device in devices().values() if device.kind == "gpu"], ids=lambda device: device.name
)
#: What all devices have, and what all GPUs have besides.
ALWAYS = {"year", "units", "memory_gb", "bandwidth_gbs", "shared_kb"}
GPU = {"lanes", "clock_mhz", "shared_block_kb", "registers", "threads", "warp", "fp32"}


@EACH
def test_figures_are_complete_and_plausible(device: Device) -> None:
    found = {column.name: value for column, value in zip(FIGURES, figures(device), strict=True) if not np.isnan(value)}
    assert (ALWAYS | (GPU if device.kind == "gpu" else {"bf16"})) <= set(found)
    assert device.vendor != "NVIDIA" or "blocks" in found
    assert (device.vendor, device.kind) in {("NVIDIA", "gpu"), ("AMD", "gpu"), ("Google", "tpu")}
    assert all(value > 0 for value in found.values())
    assert 2014 <= device.year <= 2026
    assert 100 < device.bandwidth_gbs < 10_000
    assert 5 <= device.bandwidth_gbs / device.memory_gb <= 80
    assert (device.l2_mb or 0) < device.memory_gb * 1024 / 32
    assert set(device.rates) <= {column.name for column in FIGURES}


@GPUS
def test_peak_is_units_times_lanes_times_clock(device: Device) -> None:
    assert device.lanes is not None
    assert device.clock_mhz is not None
    peak = device.units * device.lanes * 2 * device.clock_mhz / 1e6
    assert device.rates["fp32"] == pytest.approx(peak, rel=0.01)


@GPUS
def test_rates_are_powers_of_two_per_unit_and_clock(device: Device) -> None:
    assert device.clock_mhz is not None
    # Tensor cores of these are quoted at lower clocks.
    lower = device.architecture in ("Hopper 9.0", "Blackwell 10.0") or device.name == "NVIDIA TITAN V"
    for kind, rate in device.rates.items():
        if (device.architecture, kind) != ("Kepler 3.7", "fp32"):
            bits = math.log2(rate * 1e6 / device.units / device.clock_mhz)
            assert bits == pytest.approx(round(bits), abs=0.22 if lower else 0.025)


@EACH
def test_shorter_types_are_not_slower(device: Device) -> None:
    order = [device.rates[kind] for kind in ("fp64", "fp32", "tf32", "fp16", "fp8") if kind in device.rates]
    assert order == sorted(order)
    assert device.rates.get("bf16", 0) <= device.rates.get("fp16", math.inf)
    assert device.rates.get("int8", math.inf) >= device.rates.get("bf16", 0)


@GPUS
def test_limits_of_a_unit_are_consistent(device: Device) -> None:
    assert device.shared_block_kb is not None
    assert device.shared_kb is not None
    assert device.threads is not None
    assert device.warp is not None
    assert device.registers is not None
    assert device.shared_kb / 2.4 < device.shared_block_kb <= device.shared_kb
    assert device.threads % device.warp == 0
    assert device.registers / device.threads >= 24


@pytest.mark.parametrize(
    ("name", "limits"),
    [  # CUDA C++ Programming Guide: shared memory of a multiprocessor and a block, registers, threads, blocks
        ("V100", (96, 96, 65536, 2048, 32)),
        ("T4", (64, 64, 65536, 1024, 16)),
        ("A100", (164, 163, 65536, 2048, 32)),
        ("RTX 3090", (100, 99, 65536, 1536, 16)),
        ("RTX 4090", (100, 99, 65536, 1536, 24)),
        ("H100", (228, 227, 65536, 2048, 32)),
    ],
)
def test_limits_are_those_of_the_compute_capability(name: str, limits: tuple[int, ...]) -> None:
    device = find_device(name)
    assert (device.shared_kb, device.shared_block_kb, device.registers, device.threads, device.blocks) == limits


def test_figures_without_a_value_are_nan() -> None:
    values = dict(zip((column.name for column in FIGURES), figures(find_device("A100")), strict=True))
    assert values["fp16"] == 312
    assert values["units"] == 108
    assert math.isnan(values["fp8"])
    assert math.isnan(values["l3_mb"])
    assert figures(find_device("TPU v4")).dtype == np.float64


def test_every_figure_is_a_field_or_a_rate() -> None:
    rates = {rate for device in devices().values() for rate in device.rates}
    numbers = {each.name for each in fields(Device)} - {"name", "vendor", "kind", "architecture", "rates", "aliases"}
    assert {column.name for column in FIGURES} == numbers | rates


@EACH
def test_name_and_aliases_find_their_device(device: Device) -> None:
    for name in (device.name, *device.aliases):
        assert find_device(name) is device
        assert find_device(name.upper().replace(" ", "_")) is device
        assert find_device(f"  {name.lower()} ") is device
    assert pickle.loads(pickle.dumps(device)) == device
    assert hash(device) is not None


def test_names_are_unique() -> None:
    names = [_parse(name) for device in devices().values() for name in (device.name, *device.aliases)]
    assert len(set(names)) == len(names)
    assert len(devices()) >= 45


@pytest.mark.parametrize(
    ("name", "found"),
    [
        # drivers
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100-PCIE-40GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 96GB"),
        ("GeForce GTX 1080 Ti", "NVIDIA GeForce GTX 1080 Ti"),
        ("GeForce GTX TITAN X", "NVIDIA GeForce GTX TITAN X"),
        ("NVIDIA TITAN X (Pascal)", "NVIDIA TITAN X (Pascal)"),
        ("AMD Radeon PRO W7800", "AMD Radeon PRO W7800"),
        ("AMD Radeon (TM) Pro W6600", "AMD Radeon PRO W6600"),
        ("gfx1030", "AMD Radeon RX 6900 XT"),
        ("gfx90a:sramecc+:xnack-", "AMD Instinct MI250X"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU7x", "TPU v7x"),
        # results of MLPerf
        ("AMD Instinct MI300X 192GB HBM3", "AMD Instinct MI300X"),
        ("AMD Instinct MI325X 256GB HBM3E", "AMD Instinct MI325X"),
        ("NVIDIA B200-SXM-180GB", "NVIDIA B200"),
        ("NVIDIA GB200", "NVIDIA GB200"),
        ("NVIDIA GH200 Grace Hopper Superchip 144GB", "NVIDIA GH200 144GB"),
        ("NVIDIA GH200 Grace Hopper Superchip 96GB", "NVIDIA GH200 96GB"),
        ("NVIDIA H100-NVL-94GB", "NVIDIA H100 NVL"),
        ("NVIDIA H100-PCIe-80GB", "NVIDIA H100 PCIe"),
        ("Virtualized NVIDIA H100-SXM-80GB", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA H200-NVL-141GB", "NVIDIA H200 NVL"),
        ("NVIDIA H200-SXM-141GB", "NVIDIA H200"),
        ("TPU Trillium", "TPU v6e"),
        # people and file names
        ("RTX_2080_Ti", "NVIDIA GeForce RTX 2080 Ti"),
        ("rtx3090", "NVIDIA GeForce RTX 3090"),
        ("3090", "NVIDIA GeForce RTX 3090"),
        ("RTX_Titan", "NVIDIA TITAN RTX"),
        ("TITAN X", "NVIDIA TITAN X (Pascal)"),
        ("RTX 6000", "Quadro RTX 6000"),
        ("RTX 6000 Ada", "NVIDIA RTX 6000 Ada Generation"),
        ("A6000", "NVIDIA RTX A6000"),
        ("w6600", "AMD Radeon PRO W6600"),
        ("7900 XTX", "AMD Radeon RX 7900 XTX"),
        ("Radeon VII", "AMD Radeon VII"),
        ("A100", "NVIDIA A100-SXM4-40GB"),
        ("A100 80GB", "NVIDIA A100-SXM4-80GB"),
        ("A100-PCIe-80GB", "NVIDIA A100 80GB PCIe"),
        ("H100 PCI-E", "NVIDIA H100 PCIe"),
        ("H100 94 GB", "NVIDIA H100 NVL"),
        ("RTX 3080 12GB", "NVIDIA GeForce RTX 3080"),
        ("tpu-v4", "TPU v4"),
        ("v5e", "TPU v5e"),
    ],
)
def test_usual_names_are_found(name: str, found: str) -> None:
    assert find_device(name).name == found


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("RTX 3099", "NVIDIA GeForce RTX 3090"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", "NVIDIA GeForce RTX 3080"),  # another chip of the same name
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA A100"),
        ("RTX TITAN X", "NVIDIA TITAN X (Pascal)"),
        ("Titan", "NVIDIA TITAN V"),
        ("6000", "Quadro RTX 6000"),
        ("MI300", "AMD Instinct MI300X"),
        ("toaster", "devices()"),
        ("N/A", "devices()"),
        ("", "devices()"),
        ("NVIDIA", "devices()"),
        ("\x00日本", "devices()"),
        ("9" * 10_000 + "GB", "devices()"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match="unknown device") as fault:
        find_device(name)
    assert near in str(fault.value)
    assert str(fault.value).isprintable()


def test_names_of_real_tables_are_found(shared_data: Path) -> None:
    with (shared_data / "tables/mlperf-inference-v5.csv").open(encoding="utf-8-sig") as file:
        names = {row["Accelerator"] for row in csv.DictReader(file)} - {"N/A"}
    for path in (shared_data / "tables/kernel_tuner").glob("*.json.gz"):
        with gzip.open(path) as cache:
            reported = json.load(cache)["device_name"]
        names.add(reported)
        assert (
            find_device(path.name.removesuffix(".json.gz").split("__")[1]).architecture
            == find_device(reported).architecture
        )
    assert len({find_device(name).name for name in names}) >= 18
