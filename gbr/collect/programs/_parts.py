"""What the networks are made of: convolutions in either layout, normalisations, pooling, attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

#: Layout -> dimension numbers of image, filters and result.  The filters follow the image.
DIMENSIONS = {
    "nhwc": ("NHWC", "HWIO", "NHWC"),
    "nchw": ("NCHW", "OIHW", "NCHW"),
    "nwc": ("NWC", "WIO", "NWC"),
    "ncw": ("NCW", "OIW", "NCW"),
}


def channels_last(layout: str) -> bool:
    """Whether channels are the minor-most dimension."""
    return layout.endswith("c")


def filters(layout: str, window: int, features_in: int, features_out: int) -> tuple[int, ...]:
    """Shape of a convolution's filters."""
    rank = len(layout) - 2
    if channels_last(layout):
        return (*[window] * rank, features_in, features_out)
    return (features_out, features_in, *[window] * rank)


def image(layout: str, batch: int, extents: tuple[int, ...], features: int) -> tuple[int, ...]:
    """Shape of a batch of images (or sequences)."""
    return (batch, *extents, features) if channels_last(layout) else (batch, features, *extents)


def axes(layout: str) -> tuple[int, ...]:
    """Spatial dimensions of an image."""
    rank = len(layout) - 2
    return tuple(range(1, 1 + rank)) if channels_last(layout) else tuple(range(2, 2 + rank))


def channel(layout: str) -> int:
    """Dimension of an image that holds the channels."""
    return len(layout) - 1 if channels_last(layout) else 1


def conv(
    layout: str, x: Any, w: Any, stride: int = 1, padding: Any = "SAME", dilation: int = 1, groups: int = 1
) -> Any:
    """Convolve, with the same stride and dilation along every spatial dimension."""
    rank = len(layout) - 2
    return lax.conv_general_dilated(
        x,
        w,
        (stride,) * rank,
        padding,
        rhs_dilation=(dilation,) * rank,
        dimension_numbers=DIMENSIONS[layout],
        feature_group_count=groups,
    )


def normalise(layout: str, x: Any) -> Any:
    """Normalise every channel over the batch, as batch normalisation does without its scale."""
    over = (0, *axes(layout))
    mean = x.mean(over, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean(over, keepdims=True) + 1e-5)


def layer_norm(x: Any) -> Any:
    """Normalise the last dimension."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-5)


def max_pool(layout: str, x: Any, size: int = 2) -> Any:
    """Take the maximum of every window."""
    window = [size if dim in axes(layout) else 1 for dim in range(x.ndim)]
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def mean_pool(layout: str, x: Any, size: int = 2) -> Any:
    """Average every window, by splitting the spatial dimensions."""
    shape: list[int] = []
    over = []
    for dim, extent in enumerate(x.shape):
        if dim in axes(layout):
            over.append(len(shape) + 1)
            shape += [extent // size, size]
        else:
            shape.append(extent)
    return x.reshape(shape).mean(over)


def flat(x: Any) -> Any:
    """One row per example."""
    return x.reshape(x.shape[0], -1)


def attend(q: Any, k: Any, v: Any, causal: bool = False, bias: Any = None) -> Any:
    """Scaled dot-product attention of (batch, heads, length, width)."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * (1.0 / q.shape[-1] ** 0.5)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = jnp.where(jnp.tri(q.shape[2], k.shape[2], dtype=bool), scores, -1e9)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v)


def heads(x: Any, count: int) -> Any:
    """Split (batch, length, model) into (batch, heads, length, width)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def joined(x: Any) -> Any:
    """Undo :func:`heads`."""
    x = x.transpose(0, 2, 1, 3)
    return x.reshape(*x.shape[:2], -1)
