"""Figures of the machine that a network runs on: this one, one of the known devices, or one described in TOML.

::

    name = "a server"
    vendor = "AMD"
    kind = "cpu"                       # or gpu, tpu
    cores = 16                         # of a GPU, multiprocessors or compute units
    clock_mhz = 3700                   # optional, as memory_gb, vector_bytes, l1_kb, l2_mb and l3_mb
    bandwidth_gbs = {1 = 22.0, 16 = 95.0}        # by number of threads; or one number for any
    [peak_gflops]
    float32 = {1 = 80.0, 16 = 1100.0}
    bfloat16 = 2200.0

``device = "NVIDIA A100"`` takes the figures of a known device, and further keys replace them.
"""

from __future__ import annotations

import math
import os
import platform
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from gbr.data import hardware
from gbr.data.architectures import DTYPES
from gbr.data.devices import Device, find_device
from gbr.data.files import read_toml, toml_text, write_text
from gbr.errors import DataError

#: Figure by number of threads; 0 stands for any number.
Rates = Mapping[int, float]

KINDS: Final = ("cpu", "gpu", "tpu")
_VENDORS: Final = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
#: Rates of known devices by type of numbers, the first of them that is known: a TPU multiplies float32 as bfloat16.
_RATES: Final = {"float32": ("fp32", "bf16"), "bfloat16": ("bf16", "fp16", "fp32")}


@dataclass(frozen=True)
class Machine:
    """A machine; the module describes the figures.

    ``bandwidth_gbs`` and ``peak_gflops`` are measured on a CPU, and theoretical for known devices.
    """

    name: str
    vendor: str
    kind: str
    cores: int
    clock_mhz: float | None = None
    memory_gb: float | None = None
    vector_bytes: float | None = None
    l1_kb: float | None = None
    l2_mb: float | None = None
    l3_mb: float | None = None
    bandwidth_gbs: Rates = field(default_factory=dict, hash=False)
    peak_gflops: Mapping[str, Rates] = field(default_factory=dict, hash=False)

    def columns(self, dtype: str, threads: int) -> dict[str, str | float | None]:
        """The figures for runs with numbers of a type on so many threads; None for unknown ones."""
        values = {name: getattr(self, name) for name in COLUMNS if name not in ("bandwidth_gbs", "peak_gflops")}
        peak = self.peak_gflops.get(dtype, {})
        return {**values, "bandwidth_gbs": _at(self.bandwidth_gbs, threads), "peak_gflops": _at(peak, threads)}


#: Columns of a table that describe the machine.
COLUMNS: Final = tuple(each.name for each in fields(Machine) if each.name != "name")


def _at(rates: Rates, threads: int) -> float | None:
    """The figure for the nearest number of threads."""
    if not rates:
        return None
    near = min(rates, key=lambda known: abs(math.log(max(known, 1) / max(threads, 1))) if known else 0.0)
    return float(rates[near])


def find_machine(name: str | Path) -> Machine:
    """Find a machine by the name of a device, or read a file that ends in ``.toml``.

    Raises
    ------
    UsageError
        For an unknown device, with the nearest ones.
    DataError
        If the file is missing or invalid.
    """
    return read_machine(Path(name)) if str(name).endswith(".toml") else of_device(find_device(str(name)))


def of_device(device: Device) -> Machine:
    """The figures of a known device."""
    peak = {
        dtype: {0: 1000 * device.rates[known[0]]}
        for dtype, rates in _RATES.items()
        if (known := [each for each in rates if each in device.rates])
    }
    return Machine(
        device.name, device.vendor, device.kind, device.units, device.clock_mhz, device.memory_gb,
        l1_kb=device.shared_kb, l2_mb=device.l2_mb, l3_mb=device.l3_mb,
        bandwidth_gbs={0: device.bandwidth_gbs}, peak_gflops=peak,
    )  # fmt: skip


def this_machine(name: str | None = None, root: Path = Path("/")) -> Machine:
    """Figures of this machine that need no measurement; ``root`` is the folder of ``sys`` and ``proc``."""
    cpu = hardware.cpuinfo(root)
    found = hardware.machine(root)
    level = [cache.nbytes for cache in found.caches] if found else []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return Machine(
        name or cpu.get("model name") or platform.processor() or platform.machine() or "cpu",
        _VENDORS.get(cpu.get("vendor_id", ""), cpu.get("vendor_id") or platform.machine()),
        "cpu",
        os.cpu_count() or 1,
        clock_mhz=round(float(cpu["cpu mhz"])) if cpu.get("cpu mhz") else None,
        memory_gb=round(memory / 1e9, 1) or None,
        vector_bytes=found.vector_bytes if found else None,
        l1_kb=level[0] / 1024 if level else None,
        l2_mb=level[1] / 2**20 if len(level) > 1 else None,
        l3_mb=level[2] / 2**20 if len(level) > 2 else None,
    )


def read_machine(path: Path) -> Machine:
    """Read a description in TOML; a DataError if it is missing or invalid."""
    values = read_toml(path, "a machine")
    try:
        return _parse(values)
    except ValueError as fault:
        raise DataError(f"{path}: {fault}") from fault


def _parse(values: Mapping[str, Any]) -> Machine:
    known = [each.name for each in fields(Machine)]
    if "device" in values:
        values = _with_device(values)
    for key in values:
        if key not in known:
            expected = f"expected {', '.join(known)} or device, as for networks; --hardware takes other files"
            raise ValueError(f"unknown key {key}; {expected}")
    for key in ("name", "vendor", "kind"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise ValueError(f"{key}: expected a string, got {reprlib.repr(values.get(key))}")
    if values["kind"] not in KINDS:
        raise ValueError(f"kind: expected {', '.join(KINDS)}, got {values['kind']!r}")
    peak = values.get("peak_gflops", {})
    if not isinstance(peak, Mapping) or not set(peak) <= set(DTYPES):
        raise ValueError(f"peak_gflops: expected figures of {', '.join(DTYPES)}, got {reprlib.repr(peak)}")
    numbers = {key: _figure(value, key) for key, value in values.items() if key in COLUMNS[3:-2]}
    return Machine(
        values["name"].strip(), values["vendor"].strip(), values["kind"], int(_figure(values.get("cores"), "cores")),
        **numbers,
        bandwidth_gbs=_rates(values.get("bandwidth_gbs", {}), "bandwidth_gbs"),
        peak_gflops={dtype: _rates(rates, f"peak_gflops.{dtype}") for dtype, rates in peak.items()},
    )  # fmt: skip


def _with_device(values: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a known device, which further keys replace."""
    device, given = values["device"], {key: value for key, value in values.items() if key != "device"}
    if not isinstance(device, str):
        raise ValueError(f"device: expected a name, got {reprlib.repr(device)}")
    found = of_device(find_device(device))
    figures = {key: value for key, value in asdict(found).items() if value is not None}
    peak = {dtype: rates[0] for dtype, rates in found.peak_gflops.items()}
    return {**figures, "bandwidth_gbs": found.bandwidth_gbs[0], "peak_gflops": peak, **given}


def _figure(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{key}: expected a positive number, got {reprlib.repr(value)}")
    return value


def _rates(value: Any, key: str) -> Rates:
    if not isinstance(value, Mapping):
        return {0: _figure(value, key)}
    if not all(threads.isdecimal() for threads in value):
        raise ValueError(f"{key}: expected figures by number of threads, got {reprlib.repr(value)}")
    return {int(threads): _figure(each, f"{key}.{threads}") for threads, each in value.items()}


def write_machine(path: Path, machine: Machine) -> None:
    """Write a description in TOML, atomically; a DataError if the file cannot be written."""
    values = asdict(machine)
    peak = values.pop("peak_gflops")
    write_text(path, toml_text(("", values), ("peak_gflops", peak)), DataError)
