"""Write the HLO modules that tests/test_hlo.py reads: each as protobuf (.hlo.pb) and as text (.hlo.txt).

Run ``JAX_PLATFORMS=cpu python tests/data/make_hlo.py`` from the root of a checkout; the committed files were made with
jax 0.10.2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

FOLDER = Path(__file__).parent


def conv_grad(x, kernel, bias):
    """Gradient of conv + bias + relu + reduce: forward, input-gradient and weight-gradient convolutions, a call."""

    def loss(x, kernel, bias):
        out = lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jax.nn.relu(out + bias) ** 2)

    return jax.grad(loss, argnums=(0, 1, 2))(x, kernel, bias)


def depthwise(x, kernel):
    """Grouped convolutions: by features forward, by batch in the weight gradient."""

    def loss(kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        out = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=3)
        return jnp.sum(out**2)

    return jax.grad(loss)(kernel)


def matmul(a, b):
    """A product with a transposed operand, and a reshape."""
    return (a @ b.T).reshape(2, -1)


def softmax(x):
    """Two reductions and their broadcasts."""
    return jax.nn.softmax(x, axis=-1)


def loops(x):
    """A scan inside a scan: nested while, calls, tuples."""

    def inner(carry, _):
        return jnp.tanh(carry @ carry), carry.sum()

    def outer(carry, _):
        return lax.scan(inner, carry, None, length=3)

    return lax.scan(outer, x, None, length=2)


def odds(scalar, seven, empty, wide, index):
    """Rank 7, rank 0, size 0, negative padding, slices, a stable sort, an opcode and an element type of later years."""
    return (
        jnp.transpose(seven, (6, 5, 4, 3, 2, 1, 0)),
        scalar * 2,
        empty + 1,
        lax.pad(wide, jnp.float32(0), ((-1, 2, 0), (3, -2, 1))),
        wide[1:4:2, 3:8],
        lax.dynamic_slice(wide, (index, index), (2, 3)),
        lax.sort(wide, is_stable=True),
        lax.erf(wide),
        wide.astype(jnp.float8_e4m3fn),
        wide.astype(jnp.complex64),
        lax.reduce_window(wide, -jnp.inf, lax.max, (2, 2), (2, 1), ((1, 0), (0, 1))),
    )


PROGRAMS: dict[Callable[..., Any], tuple[tuple[tuple[int, ...], Any], ...]] = {
    conv_grad: (((2, 8, 6, 3), jnp.float32), ((3, 3, 3, 4), jnp.float32), ((4,), jnp.float32)),
    depthwise: (((2, 6, 5, 3), jnp.float32), ((3, 2, 1, 6), jnp.float32)),
    matmul: (((4, 16), jnp.bfloat16), ((8, 16), jnp.bfloat16)),
    softmax: (((4, 10), jnp.float32),),
    loops: (((4, 4), jnp.float32),),
    odds: (
        ((), jnp.float32),
        ((2, 3, 1, 2, 1, 2, 5), jnp.int8),
        ((0, 3), jnp.float32),
        ((5, 9), jnp.float32),
        ((), jnp.int32),
    ),
}


def lower(program: Callable[..., Any]) -> tuple[bytes, str]:
    """Return what the compiler would get, as protobuf and as text."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in PROGRAMS[program]]
    module = jax.jit(program).lower(*shapes).compiler_ir("hlo")
    return module.as_serialized_hlo_module_proto(), module.as_hlo_text().strip() + "\n"


def main() -> None:
    """Write both forms of every program."""
    # Without this the protobuf names the source files of whoever runs the script.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    for program in PROGRAMS:
        data, text = lower(program)
        (FOLDER / f"{program.__name__}.hlo.pb").write_bytes(data)
        (FOLDER / f"{program.__name__}.hlo.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
