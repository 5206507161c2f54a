"""The programs whose layouts are measured: families of small networks, forward and backward, by split.

Related programs are one family, and a family belongs to one split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

#: What a variant with this ending measures: the gradient of the mean square of the results, by the parameters.
GRADIENT = "-grad"


@dataclass(frozen=True, slots=True)
class Family:
    """Programs that are alike.

    Parameters
    ----------
    name : str
    split : str
    module : str
        Module of this package; its function of the family's name builds a variant.
    variants : tuple of str
    """

    name: str
    split: str
    module: str
    variants: tuple[str, ...]

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the files, ``<family>_<variant>``."""
        return tuple(f"{self.name}_{variant}" for variant in self.variants)


FAMILIES = {
    family.name: family
    for family in (
        Family("lenet", "train", "convnets", ("nhwc",)),
        Family("vgg", "train", "convnets", ("nhwc-grad", "nchw")),
        Family("inception", "train", "convnets", ("nhwc",)),
        Family("unet", "train", "images", ("nhwc",)),
        Family("autoencoder", "train", "images", ("nhwc", "nchw")),
        Family("wavenet", "train", "sequences", ("nwc",)),
        Family("transformer", "train", "attention", ("encoder", "encoder-grad", "decoder")),
        Family("attention", "train", "attention", ("multihead", "grouped-grad", "relative")),
        Family("mlp", "train", "dense", ("classifier-grad", "gated")),
        Family("recurrent", "train", "sequences", ("lstm", "gru")),
        Family("bilinear", "train", "dense", ("factorised",)),
        Family("tensornet", "train", "dense", ("chain", "tree-grad")),
        Family("densenet", "train", "connected", ("nhwc",)),
        Family("swin", "train", "efficient", ("shifted",)),
        Family("perceiver", "train", "efficient", ("io",)),
        Family("performer", "train", "efficient", ("relu",)),
        Family("monarch", "train", "structured", ("deep",)),
        Family("mobilenet", "valid", "convnets", ("nhwc",)),
        Family("senet", "valid", "convnets", ("nhwc",)),
        Family("discriminator", "valid", "images", ("nhwc", "nchw")),
        Family("mixer", "valid", "dense", ("block",)),
        Family("retrieval", "valid", "dense", ("towers", "towers-grad")),
        Family("capsule", "valid", "connected", ("nhwc",)),
        Family("fourier", "valid", "structured", ("radix",)),
        Family("resnet", "test", "convnets", ("nhwc", "nchw")),
        Family("convnext", "test", "convnets", ("nhwc",)),
        Family("pixelcnn", "test", "images", ("nhwc",)),
        Family("gmlp", "test", "dense", ("deep", "shallow-grad")),
        Family("dlrm", "test", "dense", ("interaction", "interaction-grad")),
        Family("deeplab", "test", "fullsize", ("nchw",)),
        Family("experts", "test", "structured", ("soft",)),
        Family("graphconv", "test", "structured", ("relations",)),
    )
}


@dataclass(frozen=True, slots=True)
class Example:
    """A program and the shapes of what it takes.

    Parameters
    ----------
    function : callable
        Of the parameters and of the inputs.
    parameters : dict or list of shapes
        Float32.
    inputs : tuple
        Shapes (float32), or (shape, n): whole numbers below n.
    """

    function: Callable[..., Any]
    parameters: Any
    inputs: tuple[Any, ...]


def build(family: Family, variant: str, seed: int = 0) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the program and its arguments, which are random.

    Parameters are drawn so that activations keep their size: normal, by the root of what a result sums over.

    Raises
    ------
    ImportError
        If JAX is not installed.
    """
    import jax

    name = variant.removesuffix(GRADIENT)
    module = import_module(f"{__name__}.{family.module}")
    example: Example = getattr(module, family.name)(name)
    rng = np.random.default_rng(seed)
    parameters = jax.tree.map(
        lambda shape: _normal(rng, shape) / np.float32(max(1.0, np.prod(shape) / max(shape)) ** 0.5),
        example.parameters,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    inputs = tuple(
        rng.integers(0, each[1], each[0], np.int32) if isinstance(each[0], tuple) else _normal(rng, each)
        for each in example.inputs
    )
    function = example.function
    if variant != name:
        function = _gradient(function)
    return function, (parameters, *inputs)


def _gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    def loss(*args: Any) -> Any:
        return jax.numpy.mean(jax.numpy.square(function(*args)))

    return jax.grad(loss)  # type: ignore[no-any-return]


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.standard_normal(shape, np.float32)
