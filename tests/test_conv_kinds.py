"""Kinds of convolutions on those that frameworks emit for a layer and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.layout.extractor import LayoutExtractor, schema
from features.layout.nodes import configurable_nodes, row_values
from features.operations import KINDS, node_kinds
from features.tensors import Tensors
from tests.programs import Sketch

Shape = tuple[int, ...]


def kind_of(input_: Shape, kernel: Shape, output: Shape, numbers: tuple[Shape, Shape, Shape], **window: Any) -> str:
    """Numbers: (batch, feature) of the input, (input, output feature) of the kernel, (batch, feature) of the output."""
    of_input, of_kernel, of_output = numbers
    sketch = Sketch()
    first, second = sketch.node("parameter", input_), sketch.node("parameter", kernel)
    dims = range(len(output))
    conv = sketch.node(
        "convolution",
        output,
        first,
        second,
        convolution_dim_numbers_input_batch_dim=of_input[0],
        convolution_dim_numbers_input_feature_dim=of_input[1],
        convolution_dim_numbers_input_spatial_dims=tuple(dim for dim in dims if dim not in of_input),
        convolution_dim_numbers_kernel_input_feature_dim=of_kernel[0],
        convolution_dim_numbers_kernel_output_feature_dim=of_kernel[1],
        convolution_dim_numbers_kernel_spatial_dims=tuple(dim for dim in dims if dim not in of_kernel),
        convolution_dim_numbers_output_batch_dim=of_output[0],
        convolution_dim_numbers_output_feature_dim=of_output[1],
        **window,
    )
    program = sketch.program()
    (kind,) = node_kinds(program, Tensors.of(program), np.array([conv], np.int64))
    return list(KINDS)[kind]


NHWC, NCHW = (0, 3), (0, 1)
HWIO, OIHW = (2, 3), (1, 0)


@pytest.mark.parametrize(
    ("wanted", "case"),
    [
        ("forward", ((4, 40, 40, 8), (3, 3, 8, 12), (4, 40, 40, 12), (NHWC, HWIO, NHWC), (3, 3))),
        ("forward", ((4, 8, 40, 40), (12, 8, 3, 3), (4, 12, 40, 40), (NCHW, OIHW, NCHW), (3, 3))),
        ("forward", ((4, 8, 40, 40), (3, 3, 8, 12), (4, 12, 40, 40), (NCHW, HWIO, NCHW), (3, 3))),
        ("forward", ((4, 7, 7, 8), (7, 7, 8, 12), (4, 1, 1, 12), (NHWC, HWIO, NHWC), (7, 7))),  # a layer of one pixel
        ("forward", ((8, 40, 40, 4), (3, 3, 8, 12), (12, 40, 40, 4), ((3, 0), HWIO, (3, 0)), (3, 3))),  # batch last
        ("input_gradient", ((4, 40, 40, 12), (3, 3, 8, 12), (4, 40, 40, 8), (NHWC, (3, 2), NHWC), (3, 3))),
        ("input_gradient", ((4, 12, 40, 40), (12, 8, 3, 3), (4, 8, 40, 40), (NCHW, (0, 1), NCHW), (3, 3))),
        ("weight_gradient", ((4, 40, 40, 8), (4, 40, 40, 12), (3, 3, 8, 12), ((3, 0), (0, 3), (2, 3)), (40, 40))),
        ("weight_gradient", ((4, 8, 40, 40), (4, 12, 40, 40), (12, 8, 3, 3), ((1, 0), (0, 1), (1, 0)), (40, 40))),
    ],
)
def test_kinds_by_dimension_numbers(wanted: str, case: tuple[Any, ...]) -> None:
    input_, kernel, output, numbers, size = case
    assert kind_of(input_, kernel, output, numbers, window_size=size) == wanted


@pytest.mark.parametrize("window", [{"window_base_dilation": (2, 2)}, {"window_window_reversal": (1, 1)}])
def test_a_stretched_input_or_a_reversed_window_is_an_inputs_gradient(window: dict[str, Shape]) -> None:
    shapes = (4, 20, 20, 12), (3, 3, 12, 8), (4, 40, 40, 8)
    assert kind_of(*shapes, (NHWC, HWIO, NHWC), window_size=(3, 3), **window) == "input_gradient"


def test_dots_and_others() -> None:
    sketch = Sketch()
    left, right = sketch.node("parameter", (4, 8)), sketch.node("parameter", (8, 2))
    dot = sketch.node("dot", (4, 2), left, right)
    flat = sketch.node("reshape", (8,), dot)
    program = sketch.program()
    kinds = node_kinds(program, Tensors.of(program), np.array([dot, flat], np.int64))
    assert kinds.tolist() == [list(KINDS).index("dot"), len(KINDS)]


def test_padding_goes_to_its_own_kind() -> None:
    sketch = Sketch()
    numbers: dict[str, Any] = {
        "convolution_dim_numbers_input_feature_dim": 3,
        "convolution_dim_numbers_input_spatial_dims": (1, 2),
        "convolution_dim_numbers_kernel_input_feature_dim": 2,
        "convolution_dim_numbers_kernel_output_feature_dim": 3,
        "convolution_dim_numbers_kernel_spatial_dims": (0, 1),
        "convolution_dim_numbers_output_feature_dim": 3,
        "window_size": (3, 3),
    }
    image, filters = sketch.node("parameter", (2, 9, 8, 64)), sketch.node("parameter", (3, 3, 64, 64))
    forward = sketch.node("convolution", (2, 9, 8, 64), image, filters, **numbers)
    gradient = sketch.node("convolution", (2, 9, 8, 64), image, filters, **numbers, window_window_reversal=(1, 1))
    program = sketch.program()
    tensors = Tensors.of(program)
    nodes = configurable_nodes(program, tensors, np.array([forward, gradient], np.int64))
    configs = np.full((2, 2, 18), -1, np.int8)
    configs[1, 1, :4] = 3, 1, 2, 0
    rows = LayoutExtractor(program, nodes.ids).vectors(configs).astype(float)
    value = dict(zip(schema().names, rows.T, strict=True))
    factor = 2.0 ** row_values(nodes, configs[:, 1].astype(np.int64), np.array([1, 1])).values[:, 0, 8]
    np.testing.assert_allclose(value["layout.forward.output_padding"], np.log2(factor[:1].repeat(2)), atol=1e-6)
    np.testing.assert_allclose(value["layout.input_gradient.output_padding"], np.log2(factor), atol=1e-6)
    assert (value["layout.weight_gradient.output_padding"] == 0).all()
    np.testing.assert_allclose(
        value["slate.over_least.layout.input_gradient.output_padding"], np.log2(factor / factor.min()), atol=1e-6
    )
