"""Accelerators by name, and their public figures, from ``features/devices.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.schema import Column
from gbr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator as a program sees it; ``devices.toml`` explains the figures.

    A figure that is not published or does not exist is None, or missing from ``rates``.
    """

    name: str
    vendor: str
    kind: str  # gpu or tpu
    architecture: str  # with NVIDIA's compute capability: "Ampere 8.0"
    year: int
    units: int  # multiprocessors, compute units or TensorCores
    memory_gb: float
    bandwidth_gbs: float
    lanes: int | None = None
    clock_mhz: float | None = None
    l2_mb: float | None = None
    l3_mb: float | None = None
    shared_kb: float | None = None
    shared_block_kb: float | None = None
    registers: int | None = None
    threads: int | None = None
    blocks: int | None = None
    warp: int | None = None
    tdp_w: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()


#: The values of :func:`figures`.
FIGURES: Final = (
    Column("year", "year", "year of release"),
    Column("units", "count", "multiprocessors, compute units or TensorCores"),
    Column("lanes", "count", "float32 multiply-adds per unit and clock"),
    Column("clock_mhz", "MHz", "boost clock"),
    Column("memory_gb", "GB", "device memory"),
    Column("bandwidth_gbs", "GB/s", "bandwidth of the device memory"),
    Column("l2_mb", "MiB", "L2 cache"),
    Column("l3_mb", "MiB", "Infinity Cache"),
    Column("shared_kb", "KiB", "shared memory per unit"),
    Column("shared_block_kb", "KiB", "shared memory of one block, at most"),
    Column("registers", "count", "32-bit registers per unit"),
    Column("threads", "count", "resident threads per unit, at most"),
    Column("blocks", "count", "resident blocks per unit, at most"),
    Column("warp", "count", "threads of a warp or wavefront"),
    Column("tdp_w", "W", "board power"),
    Column("fp64", "TFLOP/s", "peak rate of float64, vector units"),
    Column("fp32", "TFLOP/s", "peak rate of float32, vector units"),
    Column("tf32", "TFLOP/s", "peak rate of tf32, matrix cores"),
    Column("fp16", "TFLOP/s", "peak rate of float16, matrix cores if there are any"),
    Column("bf16", "TFLOP/s", "peak rate of bfloat16, matrix cores"),
    Column("fp8", "TFLOP/s", "peak rate of float8, matrix cores"),
    Column("int8", "TOP/s", "peak rate of int8, matrix cores if there are any"),
)

#: Words of a name that do not tell devices apart.
_BRANDS: Final = frozenset(
    "nvidia amd ati google cloud tesla geforce quadro instinct radeon gpu graphics accelerator corporation tm r c "
    "virtualized grace hopper superchip generation workstation edition".split()
)
#: Words that a name may lack: "3090" for "RTX 3090".
_SERIES: Final = re.compile(r"^(gtx|rtx|rx|pro|tpu)+")
_MEMORY: Final = re.compile(r"\b(\d{1,4}) ?(?:gib|gb|g)\b")
_FORM: Final = re.compile(r"\b(sxm|pcie|nvl)\d*\b")
_MEMORY_TYPE: Final = re.compile(r"\b(?:hbm|gddr)\d\w*\b")
#: Features of an LLVM target, as in gfx90a:sramecc+:xnack-.
_TARGET: Final = re.compile(r"(gfx\w+)(?::\w+[+-])*")


@dataclass(frozen=True, slots=True)
class _Name:
    model: str  # lower case, without brand, form, memory and separators: rtx2080ti
    form: str  # sxm, pcie, nvl; empty if not given
    memory: int  # GB; 0 if not given


@cache
def devices() -> Mapping[str, Device]:
    """Known devices by name.

    Examples
    --------
    >>> devices()["NVIDIA H200"].units
    132
    """
    content = tomllib.loads(files("features").joinpath("devices.toml").read_text(encoding="utf-8"))
    architectures = {name: _flat(section) for name, section in content["architectures"].items()}
    found = {}
    for name, section in content["devices"].items():
        values = _flat(section)
        found[name] = Device(name=name, **architectures[values["architecture"]], **values)
    return found


def find_device(name: str) -> Device:
    """Find a device by its name, as drivers, result files and people write it.

    Case, separators, vendor and brand do not matter.  Form (SXM, PCIe, NVL) and memory size choose between devices of
    the same name, and do not have to match.

    Raises
    ------
    UsageError
        For an unknown name, with the nearest ones.

    Examples
    --------
    >>> find_device("rtx_2080_ti").name
    'NVIDIA GeForce RTX 2080 Ti'
    >>> find_device("A100-PCIe-80GB").name
    'NVIDIA A100 80GB PCIe'
    """
    wanted = _parse(name)
    exact, models = _index()
    if wanted in exact:
        return exact[wanted]
    found = models.get(wanted.model) or _any_series(wanted.model)
    if not found:
        near = dict.fromkeys(models[model][0].name for model in get_close_matches(wanted.model, models, 3))
        hint = f"did you mean {' or '.join(near)}?" if near else "gbr.data.devices.devices() lists the known ones"
        raise UsageError(f"unknown device {name!r}; {hint}")
    return min(found, key=lambda device: _mismatch(wanted, device))


def figures(device: Device) -> NDArray[np.float64]:
    """The figures of a device in the order of :data:`FIGURES`; NaN for those it does not have."""
    values = (device.rates.get(column.name, getattr(device, column.name, None)) for column in FIGURES)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _flat(section: dict[str, Any]) -> dict[str, Any]:
    """A section with its tables, except rates, merged into it."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and key != "rates":
            flat |= value
        else:
            flat[key] = tuple(value) if isinstance(value, list) else value
    return flat


def _parse(name: str) -> _Name:
    if target := _TARGET.fullmatch(name.strip().casefold()):
        return _Name(target[1], "", 0)
    text = re.sub(r"\bpci e\b", "pcie", re.sub(r"[\W_]+", " ", name.casefold()))
    memory, form = _MEMORY.search(text), _FORM.search(text)
    for pattern in (_MEMORY, _FORM, _MEMORY_TYPE):
        text = pattern.sub(" ", text)
    model = "".join(word for word in text.split() if word not in _BRANDS)
    return _Name(model, form[1] if form else "", int(memory[1]) if memory else 0)


@cache
def _index() -> tuple[dict[_Name, Device], dict[str, list[Device]]]:
    """Devices by parsed name, and by model in the order of the file."""
    exact: dict[_Name, Device] = {}
    models: dict[str, list[Device]] = {}
    for device in devices().values():
        for name in map(_parse, (device.name, *device.aliases)):
            exact[name] = device
            same = models.setdefault(name.model, [])
            if device not in same:
                same.append(device)
    return exact, models


def _any_series(model: str) -> list[Device]:
    """Devices of a model whose series is missing or wrong, if its number is unambiguous: 6000 is not."""
    number = _SERIES.sub("", model)
    found = [each for each in _index()[1] if _SERIES.sub("", each) == number and re.search(r"\d", number)]
    return _index()[1][found[0]] if len(found) == 1 else []


def _mismatch(wanted: _Name, device: Device) -> tuple[bool, float]:
    forms = {_parse(name).form for name in (device.name, *device.aliases)}
    ratio = wanted.memory / device.memory_gb if wanted.memory else 1
    return bool(wanted.form) and wanted.form not in forms, max(ratio, 1 / ratio)
