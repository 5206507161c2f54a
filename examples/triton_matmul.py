"""Tune a Triton matrix product on this machine's GPU: python examples/triton_matmul.py [M N K].

The analytic estimate of the GPU chooses what to measure first.  Needs PyTorch, Triton and ``gbr[collect]``.
"""

from __future__ import annotations

import sys

import triton.testing

import gbr
from gbr.collect._triton import LAUNCHES, Kernel, device_name
from gbr.collect.triton import DEFAULTS, Config, kernel_graph, sample_configs


def main(m: int = 2048, n: int = 4096, k: int = 4096) -> None:
    """Compare the best of 24 measured configurations with the default."""
    kernel = Kernel("matmul", (m, n, k), "f16", seed=0)
    graph = kernel_graph("matmul", f"{m}x{n}x{k}-f16")

    def milliseconds(config: Config) -> float:
        return float(triton.testing.do_bench(kernel.checked(config))) / LAUNCHES

    configs = sample_configs("matmul", 400, seed=0)
    tuned = gbr.tune(configs, milliseconds, budget=24, graph=graph, hardware=device_name())
    best = milliseconds(tuned.config)
    print(f"default {DEFAULTS['matmul']}\nbest    {tuned.config}: {2 * m * n * k / best / 1e9:.0f} TFLOP/s\n{tuned}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
