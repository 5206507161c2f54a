"""Triton kernels whose block sizes are parameters, and PyTorch's results as a reference; both are optional extras."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gbr.errors import CollectError, MissingLibraryError

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as fault:
    raise MissingLibraryError(
        f"measuring GPU kernels needs PyTorch and Triton, which cannot be imported ({fault}); pip install torch triton"
    ) from fault

#: Launches that one sample replays; a launch by the host takes longer than a short kernel.
LAUNCHES: Final = 20
_TYPES: Final = {"f16": torch.float16, "bf16": torch.bfloat16}
#: Largest error relative to the largest result, some times the rounding of the type.
_TOLERANCE: Final = {"f16": 1e-2, "bf16": 4e-2}


@triton.jit
def _matmul(
    a, b, c, m, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr
):  # fmt: skip
    """``c = a @ b``, all row-major; blocks in groups of ``GROUP_M`` rows of blocks."""
    rows_of_blocks, columns_of_blocks = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    block = tl.program_id(0)
    in_group = GROUP_M * columns_of_blocks
    first = block // in_group * GROUP_M
    height = min(rows_of_blocks - first, GROUP_M)
    block_m, block_n = first + block % in_group % height, block % in_group // height
    rows = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    left = a + rows[:, None] * k + steps[None, :]
    right = b + steps[:, None] * n + columns[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        inside = start + steps < k
        x = tl.load(left, mask=(rows[:, None] < m) & inside[None, :], other=0.0)
        y = tl.load(right, mask=inside[:, None] & (columns[None, :] < n), other=0.0)
        total = tl.dot(x, y, total)
        left += BLOCK_K
        right += BLOCK_K * n
    result = c + rows[:, None] * n + columns[None, :]
    tl.store(result, total.to(c.dtype.element_ty), mask=(rows[:, None] < m) & (columns[None, :] < n))


@triton.jit
def _softmax(x, y, m, n, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Softmax of rows; a block runs over its rows twice, in steps of ``BLOCK_K`` columns."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.arange(0, BLOCK_K)
    top = tl.full((BLOCK_M,), -1e30, dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(0, n, BLOCK_K):
        inside = (rows[:, None] < m) & (start + steps[None, :] < n)
        part = tl.load(x + rows[:, None] * n + start + steps[None, :], mask=inside, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(part, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(part - higher[:, None]), 1)
        top = higher
    for start in range(0, n, BLOCK_K):
        inside = (rows[:, None] < m) & (start + steps[None, :] < n)
        at = rows[:, None] * n + start + steps[None, :]
        part = tl.load(x + at, mask=inside, other=-float("inf")).to(tl.float32)
        tl.store(y + at, (tl.exp(part - top[:, None]) / total[:, None]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _layer_norm(x, w, b, y, m, n, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Layer normalisation of rows; a block runs over its rows twice, in steps of ``BLOCK_K`` columns."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    squares = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(0, n, BLOCK_K):
        inside = (rows[:, None] < m) & (start + steps[None, :] < n)
        part = tl.load(x + rows[:, None] * n + start + steps[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(part, 1)
        squares += tl.sum(part * part, 1)
    mean = total / n
    scale = 1.0 / tl.sqrt(squares / n - mean * mean + 1e-5)
    for start in range(0, n, BLOCK_K):
        columns = start + steps
        inside = (rows[:, None] < m) & (columns[None, :] < n)
        at = rows[:, None] * n + columns[None, :]
        part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(w + columns, mask=columns < n, other=0.0).to(tl.float32)
        bias = tl.load(b + columns, mask=columns < n, other=0.0).to(tl.float32)
        result = (part - mean[:, None]) * scale[:, None] * weight[None, :] + bias[None, :]
        tl.store(y + at, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _attention(
    q, k, v, y, length, scale, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Attention of one head and ``BLOCK_M`` queries over ``BLOCK_K`` keys at a time, with a running softmax."""
    head = tl.program_id(1) * length * HEAD
    queries = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    steps, dims = tl.arange(0, BLOCK_K), tl.arange(0, HEAD)
    known = queries[:, None] < length
    query = tl.load(q + head + queries[:, None] * HEAD + dims[None, :], mask=known, other=0.0)
    top = tl.full((BLOCK_M,), -1e30, dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    result = tl.zeros((BLOCK_M, HEAD), dtype=tl.float32)
    for start in range(0, length, BLOCK_K):
        keys = start + steps
        key = tl.load(k + head + keys[None, :] * HEAD + dims[:, None], mask=keys[None, :] < length, other=0.0)
        score = tl.where(keys[None, :] < length, tl.dot(query, key) * scale, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        share = tl.exp(score - higher[:, None])
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(share, 1)
        value = tl.load(v + head + keys[:, None] * HEAD + dims[None, :], mask=keys[:, None] < length, other=0.0)
        result = tl.dot(share.to(value.dtype), value, result * shrink[:, None])
        top = higher
    result = result / total[:, None]
    tl.store(y + head + queries[:, None] * HEAD + dims[None, :], result.to(y.dtype.element_ty), mask=known)


def device_name() -> str:
    """Name of the GPU; CollectError if there is none."""
    if not torch.cuda.is_available():
        raise CollectError("gbr collect triton: no GPU that PyTorch can use; run it on the machine to measure")
    return str(torch.cuda.get_device_name())


def clock() -> int:
    """Nanoseconds, after the GPU has finished its work."""
    torch.cuda.synchronize()
    return time.perf_counter_ns()


class Kernel:
    """One kernel with random operands: ``checked(config)`` is a callable that launches it :data:`LAUNCHES` times."""

    def __init__(self, group: str, sizes: tuple[int, ...], dtype: str, seed: int) -> None:
        device_name()
        generator = torch.Generator("cuda").manual_seed(seed)

        def random(*shape: int) -> Any:
            return torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32).to(_TYPES[dtype])

        self._tolerance = _TOLERANCE[dtype]
        self._launch: Callable[[Mapping[str, int]], object]
        if group == "matmul":
            m, n, k = sizes
            a, b = random(m, k), random(k, n)
            expected = a @ b
            y = torch.empty_like(expected)
            self._launch = lambda c: _matmul[(triton.cdiv(m, c["block_m"]) * triton.cdiv(n, c["block_n"]),)](
                a, b, y, m, n, k, BLOCK_M=c["block_m"], BLOCK_N=c["block_n"], BLOCK_K=c["block_k"],
                GROUP_M=c["group_m"], num_warps=c["num_warps"], num_stages=c["num_stages"],
            )  # fmt: skip
        elif group == "attention":
            heads, length, head = sizes
            q, k, v = (random(heads, length, head) for _ in range(3))
            expected = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
            y = torch.empty_like(expected)
            self._launch = lambda c: _attention[(triton.cdiv(length, c["block_m"]), heads)](
                q, k, v, y, length, head**-0.5, HEAD=head, BLOCK_M=c["block_m"], BLOCK_K=c["block_k"],
                num_warps=c["num_warps"], num_stages=c["num_stages"],
            )  # fmt: skip
        else:
            m, n = sizes
            x = random(m, n)
            more = () if group == "softmax" else (random(n), random(n))
            normal = torch.nn.functional.layer_norm
            expected = torch.softmax(x, -1) if group == "softmax" else normal(x, (n,), *more)
            kernel = _softmax if group == "softmax" else _layer_norm
            y = torch.empty_like(expected)
            self._launch = lambda c: kernel[(triton.cdiv(m, c["block_m"]),)](
                x, *more, y, m, n, BLOCK_M=c["block_m"], BLOCK_K=c["block_k"],
                num_warps=c["num_warps"], num_stages=c["num_stages"],
            )  # fmt: skip
        self._y, self._expected = y, expected.float()

    def checked(self, config: Mapping[str, int]) -> Callable[[], object]:
        """Compile and check one configuration; raises if it does not fit the GPU or computes a wrong result."""
        self._y.fill_(float("nan"))
        self._launch(config)
        torch.cuda.synchronize()
        error = float((self._y.float() - self._expected).abs().max() / self._expected.abs().max())
        if not error <= self._tolerance:
            raise CollectError(f"configuration {dict(config)}: the result is wrong by {error:.3g} of its largest value")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(LAUNCHES):
                self._launch(config)
        replay: Callable[[], object] = graph.replay
        return replay
