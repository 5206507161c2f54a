"""Caches in Kernel Tuner's format of a matrix product that is simulated, not measured.

The runtime of a configuration follows from public figures of the GPU: which resident blocks hide latencies, how many
waves of blocks cover the product, and what they read from memory.  It tells GPUs apart, and says nothing of a real
kernel.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from gbr.data.devices import Device, find_device

#: The first values are the default.
PARAMETERS = {
    "block_m": (64, 16, 32, 128),
    "block_n": (64, 16, 32, 128),
    "block_k": (16, 8, 32),
    "warps": (4, 2, 8),
    "stages": (2, 1, 3),
    "vector": (1, 4),
}


def write_caches(folder: Path, devices: list[str], sizes: list[int], seed: int = 0) -> list[Path]:
    """Write one cache for each device and size of the product; returns their paths."""
    paths = []
    for device, size in itertools.product(map(find_device, devices), sizes):
        rng = np.random.default_rng([seed, *device.name.encode(), size])
        cache = {}
        for values in itertools.product(*PARAMETERS.values()):
            config = dict(zip(PARAMETERS, values, strict=True))
            if not 4 <= config["block_m"] * config["block_n"] / (32 * config["warps"]) <= 256:
                continue
            time, times = runtime(config, device, size), []
            if not isinstance(time, str):
                times = (time * rng.lognormal(0, 0.02, 8)).tolist()
                time = float(np.mean(times))
            cache[",".join(map(str, values))] = config | {"time": time, "times": times}
        content = {
            "device_name": device.name,
            "kernel_name": "matmul",
            "problem_size": [size, size],
            "tune_params_keys": list(PARAMETERS),
            "tune_params": PARAMETERS,
            "objective": "time",
            "cache": cache,
        }
        paths.append(folder / f"matmul_{device.name.replace(' ', '_')}_{size}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


def runtime(config: dict[str, int], device: Device, size: int) -> float | str:
    """Milliseconds of a product of two float32 matrices of ``size``, or Kernel Tuner's name of the failure."""
    m, n, k, warps, stages, vector = config.values()
    threads = 32 * warps
    outputs = m * n / threads
    registers = 24 + outputs + 2 * vector * (outputs**0.5)
    shared = 4 * k * (m + n) * stages
    if registers > 255:
        return "CompilationFailedConfig"
    by_registers, by_shared = device.registers // (registers * threads), 1024 * device.shared_kb // shared
    blocks = int(min(device.threads // threads, device.blocks, by_registers, by_shared))  # resident on a multiprocessor
    if shared > 1024 * device.shared_block_kb or not blocks:
        return "RuntimeFailedConfig"
    grid = -(-size // m) * -(-size // n)
    waves = -(-grid // (blocks * device.units))
    resident = min(blocks, -(-grid // device.units))

    # Arithmetic: operands in registers are used again; resident warps, outputs of a thread and stages hide latencies.
    reuse = (outputs * vector**0.5) ** 0.5
    hidden = resident * warps * (outputs**0.5) * (1 + 0.4 * (stages - 1)) / (0.25 * device.lanes)
    busy = reuse / (8 + reuse) * hidden / (1 + hidden)
    arithmetic = 1e-3 * size * m * n * resident * waves / (device.clock_mhz * device.lanes * busy)

    # Memory: strips of both operands for each block; blocks that run at once share those in the second-level cache.
    once, strips = 8.0 * size * size, 4.0 * grid * size * (m + n)
    l2_mb = device.l2_mb or 4
    cached = l2_mb / (1 + l2_mb)
    coalesced = min(1, k * vector / 64) ** 0.5
    memory = (once + (strips - once) * (1 - cached)) / (1e6 * device.bandwidth_gbs * coalesced)
    barriers = 1e-4 * size / k * waves * (1 + warps / 4) / stages
    return float(np.hypot(arithmetic, memory) + barriers + 0.005)
