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
        values = {
            "shape_element_type_is_f32": 1,
            "shape_dimensions": shape,
            "layout_minor_to_major": range(len(shape))[::-1],
            "shape_dimensions_sum": sum(shape),
            "shape_dimensions_product": np.prod(shape).item(),
        }
        if "layout" in attributes:
            attributes["layout_minor_to_major"] = attributes.pop("layout")
        for name, value in (values | attributes).items():
            if isinstance(value, (int, float)):
                row[FEAT_ID[name]] = value
            else:
                first = FEAT_ID[f"{name}_0"]
                row[first : first + len(value)] = value
        self.opcodes.append(OPCODE_ID[opcode])
        self.feat.append(row)
        number = len(self.opcodes) - 1
        self.edges += [(number, operand) for operand in operands]
        return number

    def program(self) -> Program:
        self.feat[-1][FEAT_ID["is_root"]] = 1
        edges = np.array(self.edges, np.int64).reshape(-1, 2)
        return Program(np.array(self.opcodes, np.uint8), np.array(self.feat), edges)


class Measured(dict):
    """Arrays in place of a measurement of gbr.collect, in a module that processes import fast."""

    def __call__(self, *_: object) -> dict:
        return dict(self)


def program(*nodes: tuple) -> Program:
    """Nodes are an opcode, a shape, operands, and attributes in a dict if any."""
    sketch = Sketch()
    for opcode, shape, *operands in nodes:
        attributes = operands.pop() if operands and isinstance(operands[-1], dict) else {}
        sketch.node(opcode, shape, *operands, **attributes)
    return sketch.program()


def matmul(m: int, n: int, k: int, *, transposed: bool = False) -> Program:
    """a[m, k] @ b[k, n]; ``transposed``: b is given as [n, k] and transposed first."""
    a, dot = ("parameter", (m, k)), "dot"
    if transposed:
        turned = ("transpose", (k, n), 1, {"dimensions": (1, 0)})
        return program(a, ("parameter", (n, k)), turned, (dot, (m, n), 0, 2))
    return program(a, ("parameter", (k, n)), (dot, (m, n), 0, 1))


def batched_matmul(b: int, m: int, n: int, k: int) -> Program:
    return program(("parameter", (b, m, k)), ("parameter", (b, k, n)), ("dot", (b, m, n), 0, 1))


def window(size: int, stride: int) -> dict:
    names = {"size": size, "stride": stride, "window_dilation": 1, "base_dilation": 1}
    return {f"window_{name}": (value, value) for name, value in names.items()}


NHWC, HWIO = (0, 3), (2, 3)


def conv_dims(image: Sequence[int], kernel: Sequence[int], out: Sequence[int], rank: int = 4) -> dict:
    """Numbers of the batch and feature dimensions (of a kernel: input and output feature); the others are spatial."""
    stem, found = "convolution_dim_numbers", {}
    features = (
        ("input", "batch", "feature"),
        ("kernel", "input_feature", "output_feature"),
        ("output", "batch", "feature"),
    )
    for (tensor, *names), dims in zip(features, (image, kernel, out), strict=True):
        found |= {f"{stem}_{tensor}_{name}_dim": dim for name, dim in zip(names, dims, strict=True)}
        if tensor != "output":
            found[f"{stem}_{tensor}_spatial_dims"] = [dim for dim in range(rank) if dim not in dims]
    return found


def nhwc(taps: int, stride: int = 1) -> dict:
    """Attributes of a convolution of NHWC images with HWIO filters."""
    return window(taps, stride) | conv_dims(NHWC, HWIO, NHWC) | {"feature_group_count": 1, "batch_group_count": 1}


def conv2d(batch: int, size: int, features_in: int, features_out: int, taps: int, stride: int = 1) -> Program:
    """No padding, with a bias that is broadcast and a relu."""
    side = (size - taps) // stride + 1
    out = (batch, side, side, features_out)
    return program(
        ("parameter", (batch, size, size, features_in)),
        ("parameter", (taps, taps, features_in, features_out)),
        ("parameter", (features_out,)),
        ("convolution", out, 0, 1, nhwc(taps, stride)),
        ("broadcast", out, 2, {"dimensions": (3,)}),
        ("add", out, 3, 4),
        ("constant", ()),
        ("broadcast", out, 6),
        ("maximum", out, 5, 7),
    )


def softmax(rows: int, columns: int) -> Program:
    """exp(x) / sum(exp(x), axis=1)."""
    return program(
        ("parameter", (rows, columns)),
        ("exponential", (rows, columns), 0),
        ("constant", ()),
        ("reduce", (rows,), 1, 2, {"dimensions": (1,)}),
        ("broadcast", (rows, columns), 3, {"dimensions": (0,)}),
        ("divide", (rows, columns), 1, 4),
    )


def column_sum(rows: int, columns: int) -> Program:
    x = ("parameter", (rows, columns))
    return program(x, ("constant", ()), ("reduce", (columns,), 0, 1, {"dimensions": (0,)}))


def transpose(shape: Sequence[int], order: Sequence[int]) -> Program:
    turned = [shape[dim] for dim in order]
    return program(("parameter", shape), ("transpose", turned, 0, {"dimensions": order}))


def max_pool(rows: int, columns: int, taps: int, stride: int) -> Program:
    out = ((rows - taps) // stride + 1, (columns - taps) // stride + 1)
    x = ("parameter", (rows, columns))
    return program(x, ("constant", ()), ("reduce-window", out, 0, 1, window(taps, stride)))


def reshaped_sum(a: int, b: int, c: int) -> Program:
    """x[a * b, c] read as [a, b, c] and added to y[a, b, c]."""
    shape = (a, b, c)
    return program(("parameter", (a * b, c)), ("reshape", shape, 0), ("parameter", shape), ("add", shape, 1, 2))


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
