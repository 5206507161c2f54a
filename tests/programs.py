"""Small tensor programs for tests: a node is an opcode, a shape, operands and some attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from features.graph import Program
from features.hlo import FEAT_ID, N_FEAT, OPCODE_ID


@dataclass
class Sketch:
    """Collects nodes; ``program()`` turns them into arrays.  Nodes are float32 and row-major by default."""

    opcodes: list[int] = field(default_factory=list)
    feat: list[np.ndarray] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)

    def node(self, opcode: str, shape: Sequence[int], *operands: int, **attributes: float | Sequence[int]) -> int:
        row = np.zeros(N_FEAT, np.float32)
        row[FEAT_ID["shape_element_type_is_f32"]] = 1
        layout = attributes.pop("layout", list(range(len(shape)))[::-1])
        _slots(row, "shape_dimensions", shape)
        _slots(row, "layout_minor_to_major", layout)
        row[FEAT_ID["shape_dimensions_sum"]] = sum(shape)
        row[FEAT_ID["shape_dimensions_product"]] = float(np.prod(shape))
        for name, value in attributes.items():
            if isinstance(value, (int, float)):
                row[FEAT_ID[name]] = value
            else:
                _slots(row, name, value)
        self.opcodes.append(OPCODE_ID[opcode])
        self.feat.append(row)
        number = len(self.opcodes) - 1
        self.edges += [(number, operand) for operand in operands]
        return number

    def program(self) -> Program:
        self.feat[-1][FEAT_ID["is_root"]] = 1
        edges = np.array(self.edges, np.int64).reshape(-1, 2)
        return Program(np.array(self.opcodes, np.uint8), np.array(self.feat), edges)


def _slots(row: np.ndarray, stem: str, values: Sequence[int]) -> None:
    for slot, value in enumerate(values):
        row[FEAT_ID[f"{stem}_{slot}"]] = value


class Measured(dict):
    """Arrays in place of a measurement of gbr.collect, in a module that processes import fast."""

    def __call__(self, *_: object) -> dict:
        return dict(self)


def matmul(m: int, n: int, k: int, *, transposed: bool = False) -> Program:
    """a[m, k] @ b[k, n]; ``transposed``: b is given as [n, k] and transposed first."""
    sketch = Sketch()
    a = sketch.node("parameter", (m, k))
    b = sketch.node("parameter", (n, k) if transposed else (k, n))
    if transposed:
        b = sketch.node("transpose", (k, n), b, dimensions=(1, 0))
    sketch.node("dot", (m, n), a, b)
    return sketch.program()


def batched_matmul(b: int, m: int, n: int, k: int) -> Program:
    sketch = Sketch()
    left = sketch.node("parameter", (b, m, k))
    right = sketch.node("parameter", (b, k, n))
    sketch.node("dot", (b, m, n), left, right)
    return sketch.program()


def conv2d(batch: int, size: int, features_in: int, features_out: int, window: int, stride: int = 1) -> Program:
    """NHWC, HWIO, no padding, with a bias that is broadcast and a relu."""
    sketch = Sketch()
    out = (size - window) // stride + 1
    image = sketch.node("parameter", (batch, size, size, features_in))
    filters = sketch.node("parameter", (window, window, features_in, features_out))
    bias = sketch.node("parameter", (features_out,))
    shape = (batch, out, out, features_out)
    numbers = {
        "input_batch_dim": 0, "input_feature_dim": 3, "input_spatial_dims": (1, 2), "kernel_input_feature_dim": 2,
        "kernel_output_feature_dim": 3, "kernel_spatial_dims": (0, 1), "output_batch_dim": 0, "output_feature_dim": 3,
    }  # fmt: skip
    conv = sketch.node(
        "convolution", shape, image, filters, window_size=(window, window), window_stride=(stride, stride),
        window_window_dilation=(1, 1), window_base_dilation=(1, 1), feature_group_count=1, batch_group_count=1,
        **{f"convolution_dim_numbers_{name}": value for name, value in numbers.items()},
    )  # fmt: skip
    total = sketch.node("add", shape, conv, sketch.node("broadcast", shape, bias, dimensions=(3,)))
    zeros = sketch.node("broadcast", shape, sketch.node("constant", ()))
    sketch.node("maximum", shape, total, zeros)
    return sketch.program()


def softmax(rows: int, columns: int) -> Program:
    """exp(x) / sum(exp(x), axis=1)."""
    sketch = Sketch()
    x = sketch.node("parameter", (rows, columns))
    power = sketch.node("exponential", (rows, columns), x)
    zero = sketch.node("constant", ())
    total = sketch.node("reduce", (rows,), power, zero, dimensions=(1,))
    wide = sketch.node("broadcast", (rows, columns), total, dimensions=(0,))
    sketch.node("divide", (rows, columns), power, wide)
    return sketch.program()


def column_sum(rows: int, columns: int) -> Program:
    sketch = Sketch()
    x = sketch.node("parameter", (rows, columns))
    zero = sketch.node("constant", ())
    sketch.node("reduce", (columns,), x, zero, dimensions=(0,))
    return sketch.program()


def transpose(shape: Sequence[int], order: Sequence[int]) -> Program:
    sketch = Sketch()
    x = sketch.node("parameter", shape)
    sketch.node("transpose", [shape[dim] for dim in order], x, dimensions=order)
    return sketch.program()


def max_pool(rows: int, columns: int, window: int, stride: int) -> Program:
    sketch = Sketch()
    x = sketch.node("parameter", (rows, columns))
    low = sketch.node("constant", ())
    out = ((rows - window) // stride + 1, (columns - window) // stride + 1)
    ones = (1, 1)
    sketch.node(
        "reduce-window", out, x, low, window_size=(window, window), window_stride=(stride, stride),
        window_window_dilation=ones, window_base_dilation=ones,
    )  # fmt: skip
    return sketch.program()


def reshaped_sum(a: int, b: int, c: int) -> Program:
    """x[a * b, c] read as [a, b, c] and added to y[a, b, c]."""
    sketch = Sketch()
    x = sketch.node("parameter", (a * b, c))
    split = sketch.node("reshape", (a, b, c), x)
    y = sketch.node("parameter", (a, b, c))
    sketch.node("add", (a, b, c), split, y)
    return sketch.program()


KERNELS = {
    "matmul": matmul(12, 20, 7),
    "matmul transposed": matmul(12, 20, 7, transposed=True),
    "batched matmul": batched_matmul(3, 5, 8, 6),
    "conv2d": conv2d(2, 9, 3, 4, 3),
    "conv2d stride 2": conv2d(2, 9, 3, 4, 3, 2),
    "softmax": softmax(6, 10),
    "column sum": column_sum(6, 10),
    "transpose": transpose((4, 6, 5), (2, 0, 1)),
    "max pool": max_pool(11, 9, 3, 2),
    "reshape": reshaped_sum(3, 4, 5),
}
