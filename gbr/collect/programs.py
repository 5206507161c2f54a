"""Networks whose layouts are measured: small JAX programs from the literature.

A network is a function of a :class:`Net`, which holds its parameters, and of its inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from gbr.collect import tasks
from gbr.collect._jax import jax, jnp, lax, nn

Shape = tuple[int, ...]
Network = Callable[..., Any]

#: Suffix of a variant that is the gradient of the mean square of the results with respect to the parameters.
GRADIENT: Final = "-grad"


class Net:
    """Parameters by name, and layers that use them.

    The graph of a program begins with its parameters, ordered by name; without ``parameters``, ``shapes`` collects the
    shapes of those that layers use.  The variants ``nhwc`` and ``nchw`` are layouts of images, ``nwc`` of sequences.
    """

    def __init__(self, variant: str, parameters: dict[str, Any] | None = None) -> None:
        self.variant = variant
        self.shapes: dict[str, Shape] = {}
        self._parameters = parameters
        self._uses: Counter[str] = Counter()
        # Layout of images: whether the channels are last, spatial dimensions, channels, and dimension numbers.
        self.last = variant.endswith("c")
        self.axes = tuple(dim for dim, letter in enumerate(variant) if letter in "hw")
        self.channel = variant.find("c")
        data = variant.upper()
        self.dimensions = (data, data[1:-1] + "IO" if self.last else "OI" + data[2:], data)

    def parameter(self, name: str, *shape: int) -> Any:
        """Return a parameter by name."""
        if self._parameters is not None:
            return self._parameters[name]
        self.shapes[name] = shape
        return jnp.ones(shape)

    def next_parameter(self, name: str, *shape: int) -> Any:
        """Return the parameter ``name/0`` on the first call, ``name/1`` on the second, and so on."""
        self._uses[name] += 1
        return self.parameter(f"{name}/{self._uses[name] - 1}", *shape)

    def dense(self, name: str, x: Any, *features: int, to: Network = nn.relu) -> Any:
        """Multiply with a matrix, or with several, and apply ``to`` in between."""
        for number, width in enumerate(features):
            x = (to(x) if number else x) @ self.next_parameter(name, x.shape[-1], width)
        return x

    def filters(self, name: str, window: int, features_in: int, features_out: int) -> Any:
        """Filters of a convolution."""
        windows = (window,) * len(self.axes)
        shape = (*windows, features_in, features_out) if self.last else (features_out, features_in, *windows)
        return self.next_parameter(name, *shape)

    def conv(
        self, name: str, x: Any, window: int, features: int, stride: int = 1, padding: Any = "SAME", dilation: int = 1,
        groups: int = 1, mask: Network = lambda w: w,
    ) -> Any:  # fmt: skip
        """Convolve, with the same stride and dilation along every spatial dimension."""
        filters = mask(self.filters(name, window, x.shape[self.channel] // groups, features))
        return lax.conv_general_dilated(
            x, filters, (stride,) * len(self.axes), padding, rhs_dilation=(dilation,) * len(self.axes),
            dimension_numbers=self.dimensions, feature_group_count=groups,
        )  # fmt: skip

    def norm(self, x: Any) -> Any:
        """Normalize every channel over the batch, as batch normalization does without its scale."""
        return _standardized(x, (0, *self.axes))

    def mean_pool(self, x: Any) -> Any:
        """Average every window of 2, by splitting the spatial dimensions."""
        split = [n for dim, size in enumerate(x.shape) for n in ([size // 2, 2] if dim in self.axes else [size])]
        return x.reshape(split).mean([self.axes[0] + 1 + 2 * number for number in range(len(self.axes))])

    def feed_forward(self, x: Any, wide: int, up: str = "up", down: str = "down") -> Any:
        """Add a two-layer network of the normalized rows."""
        return x + self.dense(down, nn.gelu(self.dense(up, _layer_norm(x), wide)), x.shape[-1])


@dataclass(frozen=True, eq=False)
class Program(tasks.Family):
    """A network and its inputs: shapes (float32), or (shape, n) for integers below n."""

    network: Network
    inputs: tuple[Any, ...]

    def build(self, variant: str, seed: int = 0) -> tuple[Network, tuple[Any, ...]]:
        """Return a variant, a function of a dict of parameters and the inputs, and random arguments.

        Parameters are normal, divided by the square root of the number of terms in a result, so that activations keep
        their scale.
        """
        name = variant.removesuffix(GRADIENT)
        inputs = self.inputs[0][name] if isinstance(self.inputs[0], dict) else self.inputs
        if name == "nchw":
            inputs = tuple((batch, features, *sides) for batch, *sides, features in inputs)
        specs = [(each, None) if isinstance(each[0], int) else each for each in inputs]
        net = Net(name)
        zeros = (np.zeros(shape, np.float32 if below is None else np.int32) for shape, below in specs)
        jax.eval_shape(partial(self.network, net), *zeros)
        rng = np.random.default_rng(seed)
        parameters = {
            key: rng.standard_normal(shape, np.float32) / np.float32(max(1.0, np.prod(shape) / max(shape)) ** 0.5)
            for key, shape in sorted(net.shapes.items())
        }
        arguments = (
            rng.standard_normal(shape, np.float32) if below is None else rng.integers(0, below, shape, np.int32)
            for shape, below in specs
        )

        def function(parameters: dict[str, Any], *args: Any) -> Any:
            return self.network(Net(name, parameters), *args)

        def loss(*args: Any) -> Any:
            return jnp.mean(jnp.square(function(*args)))

        return function if variant == name else jax.grad(loss), (parameters, *arguments)


#: All programs by name.
FAMILIES: Final[dict[str, Program]] = {}


def _program(group: str, variants: str, *inputs: Any, split: str = "train") -> Callable[[Network], Network]:
    """Add a network to :data:`FAMILIES`; inputs are images in NHWC, or one dict of the inputs of every variant."""

    def add(network: Network) -> Network:
        FAMILIES[network.__name__] = Program(group, network.__name__, variants, network, inputs, split=split)
        return network

    return add


def _standardized(x: Any, axes: Any) -> Any:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + 1e-5)


_layer_norm = partial(_standardized, axes=-1)


def _flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)


def _attend(q: Any, k: Any, v: Any, causal: bool = False, bias: Any = None) -> Any:
    """Scaled dot-product attention of (batch, heads, length, width)."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * (1.0 / q.shape[-1] ** 0.5)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = jnp.where(jnp.tri(q.shape[2], k.shape[2], dtype=bool), scores, -1e9)
    return jnp.einsum("bhqk,bhkd->bhqd", nn.softmax(scores), v)


def _heads(x: Any, count: int) -> Any:
    """Split (batch, length, model) into (batch, heads, length, width)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def _joined(x: Any) -> Any:
    """Undo :func:`_heads`."""
    x = x.transpose(0, 2, 1, 3)
    return x.reshape(*x.shape[:2], -1)


@_program("convolutions", "nhwc", (16, 32, 32, 4))
def lenet(net: Net, x: Any) -> Any:
    """Two convolutions with pooling, one of single pixels, four dense layers (after LeCun et al., 1998)."""
    for features in (8, 16):
        x = net.mean_pool(jnp.tanh(net.conv("conv", x, 5, features)))
    x = _flat(jnp.tanh(net.conv("mix", x, 1, 16)))
    return jnp.tanh(net.dense("dense", x, 120, 84, 64, 10, to=jnp.tanh))


@_program("convolutions", "nhwc-grad nchw", (4, 40, 40, 8))
def vgg(net: Net, x: Any) -> Any:
    """Pairs of 3×3 convolutions between poolings (Simonyan and Zisserman, 2014)."""
    for number, features in enumerate((12, 12, 12, 24, 24)):
        x = nn.relu(net.conv("conv", x, 3, features))
        if number in (2, 4):
            x = net.mean_pool(x)
    return net.dense("dense", _flat(x), 64, 10)


@_program("convolutions", "nhwc", (4, 40, 40, 16))
def inception(net: Net, x: Any) -> Any:
    """Two modules of parallel 1×1, 3×3 and 5×5 branches (Szegedy et al., 2014)."""
    for number in range(2):
        one, three, five = (f"modules/{number}/{branch}" for branch in ("one", "three", "five"))
        y = nn.relu(net.conv(three, nn.relu(net.conv(three, x, 1, 8)), 3, 12))
        z = nn.relu(net.conv(five, nn.relu(net.conv(five, x, 1, 4)), 5, 8))
        x = net.mean_pool(jnp.concatenate((nn.relu(net.conv(one, x, 1, 12)), y, z), net.channel))
    return net.dense("out", x.mean(net.axes), 10)


@_program("convolutions", "nhwc nchw", (4, 32, 32, 4), split="test")
def resnet(net: Net, x: Any) -> Any:
    """A stem and three residual blocks, one of which halves the image (He et al., 2015)."""
    x = nn.relu(net.norm(net.conv("stem", x, 3, 16)))
    y = nn.relu(net.norm(net.conv("a", x, 3, 16)))
    x = nn.relu(x + net.norm(net.conv("a", y, 3, 16)))
    y = nn.relu(net.norm(net.conv("b", x, 3, 32, 2)))
    x = nn.relu(net.conv("b/skip", x, 1, 32, 2) + net.norm(net.conv("b", y, 3, 32)))
    y = x
    for window, features in ((1, 16), (3, 16), (1, 32)):
        y = nn.relu(net.norm(net.conv("c", y, window, features)))
    return net.dense("out", (x + y).mean(net.axes), 10)


@_program("convolutions", "nhwc", (4, 40, 40, 16), split="valid")
def mobilenet(net: Net, x: Any) -> Any:
    """Inverted residuals around depthwise convolutions (Sandler et al., 2018)."""
    for number, stride in enumerate((2, 1, 2)):
        block = f"blocks/{number}"
        y = nn.relu6(net.norm(net.conv(block, x, 1, 32)))
        y = nn.relu6(net.norm(net.conv(block, y, 3, 32, stride, groups=32)))
        y = net.conv(block, y, 1, 16)
        x = x + y if stride == 1 else y
    return net.dense("out", x.mean(net.axes), 10)


@_program("convolutions", "nhwc", (4, 48, 48, 4), split="valid")
def senet(net: Net, x: Any) -> Any:
    """Convolutions whose channels are gated by their means (Hu et al., 2017)."""
    pooled = (1, 2, 2, 1)
    x = lax.reduce_window(nn.relu(net.conv("stem", x, 3, 24)), -jnp.inf, lax.max, pooled, pooled, "VALID")
    for number in range(3):
        y = nn.relu(net.conv(f"blocks/{number}/conv", x, 3, 24))
        z = nn.sigmoid(net.dense(f"blocks/{number}/gate", y.mean(net.axes), 8, 24))
        x = x + y * z.reshape(len(z), 1, 1, -1)
    return net.dense("out", x.mean(net.axes), 10)


@_program("convolutions", "nhwc", (2, 80, 80, 3), split="test")
def convnext(net: Net, x: Any) -> Any:
    """A patch stem and blocks of depthwise 7×7, normalization and an inverted bottleneck of dots (Liu et al., 2022)."""
    x = net.conv("stem", x, 4, 32, 4, "VALID")
    for number in range(2):
        y = net.conv(f"blocks/{number}/depth", x, 7, 32, groups=32)
        y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
        rows = nn.gelu(net.dense(f"blocks/{number}/up", y.reshape(-1, 32), 128))
        x = x + net.dense(f"blocks/{number}/down", rows, 32).reshape(x.shape)
    return net.dense("out", x.mean(net.axes), 10)


@_program("convolutions", "nhwc", (4, 32, 32, 4))
def densenet(net: Net, x: Any) -> Any:
    """Every convolution has all previous results as input, through a 1×1 bottleneck (Huang et al., 2016)."""
    x = net.conv("stem", x, 3, 16)
    for number in range(2):
        for layer in range(3):
            y = net.conv(f"blocks/{number}/{layer}", nn.relu(net.norm(x)), 1, 16)
            x = jnp.concatenate((x, net.conv(f"blocks/{number}/{layer}", nn.relu(y), 3, 8)), net.channel)
        x = net.mean_pool(net.conv("between", nn.relu(x), 1, 16))
    return net.dense("out", x.mean(net.axes), 10)


@_program("convolutions", "nhwc", (4, 24, 24, 4), split="valid")
def capsule(net: Net, x: Any) -> Any:
    """Convolutions, then small vectors that vote for larger ones in two rounds of routing (Sabour et al., 2017)."""
    width, classes, wide = 8, 8, 12

    def squashed(x: Any) -> Any:
        size = jnp.square(x).sum(-1, keepdims=True)
        return x * jnp.sqrt(size + 1e-6) / (1 + size)

    x = nn.relu(net.conv("conv", x, 5, 16))
    x = nn.relu(net.conv("conv", x, 3, 16, 2))
    x = net.conv("conv", x, 5, 4 * width)
    low = squashed(x.reshape(x.shape[0], -1, width))
    votes = jnp.einsum("biw,icwv->bicv", low, net.parameter("votes", low.shape[1], classes, width, wide))

    def routed(agreed: Any) -> Any:
        return squashed(jnp.einsum("bic,bicv->bcv", nn.softmax(agreed), votes))

    agreed = jnp.zeros(votes.shape[:3])
    for _ in range(2):
        agreed = agreed + jnp.einsum("bcv,bicv->bic", routed(agreed), votes)
    return net.dense("decode", _flat(routed(agreed)), 128, 256)


@_program("convolutions", "nhwc", (2, 48, 48, 4))
def unet(net: Net, x: Any) -> Any:
    """Downsampling and upsampling with projected skip connections (after Ronneberger et al., 2015)."""
    skips = []
    for features in (8, 16):
        x = nn.relu(net.conv("down", x, 3, features))
        skips.append(net.conv("skip", x, 1, features // 2))
        x = net.mean_pool(x)
    x = nn.relu(net.conv("low", x, 3, 16))
    for _ in range(2):
        # Repeat every pixel by a broadcast and a reshape.
        n, h, w, c = x.shape
        x = jnp.broadcast_to(x.reshape(n, h, 1, w, 1, c), (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
        x = nn.relu(net.conv("up", jnp.concatenate((x, skips.pop()), net.channel), 3, 8))
    return net.conv("out", x, 1, 4)


@_program("convolutions", "nhwc nchw", (6, 48, 48, 4))
def autoencoder(net: Net, x: Any) -> Any:
    """Strided convolutions, dense layers as a bottleneck, then transposed convolutions."""
    x = nn.relu(net.conv("in", x, 3, 4))
    for features in (16, 24):
        x = nn.relu(net.conv("down", x, 3, features, 2))
    x = nn.relu(net.dense("code", _flat(x), 48, 12 * 12 * 24)).reshape(x.shape)
    for features in (16, 8):
        w = net.filters("up", 3, x.shape[net.channel], features)
        x = jnp.tanh(lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=net.dimensions))
    return net.conv("out", x, 1, 4)


@_program("convolutions", "nhwc nchw", (8, 48, 48, 4), split="valid")
def discriminator(net: Net, x: Any) -> Any:
    """Strided convolutions, and the distances between images of a batch (Salimans et al., 2016)."""
    for features in (16, 24, 32):
        x = nn.leaky_relu(net.conv("conv", x, 4, features, 2), 0.2)
        x = x + nn.leaky_relu(net.conv("mix", x, 1, features), 0.2)
    x = jnp.tanh(net.dense("dense", _flat(x), 64))
    y = net.dense("batch", x, 12 * 8).reshape(-1, 12, 8)
    near = jnp.exp(-jnp.abs(y[:, None] - y).sum(3)).sum(1)
    return net.dense("out", jnp.concatenate((x, near), 1), 1)


@_program("convolutions", "nhwc", (2, 32, 32, 4), split="test")
def pixelcnn(net: Net, x: Any) -> Any:
    """Masked, gated convolutions: a pixel depends on pixels above and to the left (van den Oord et al., 2016)."""

    def masked(w: Any) -> Any:
        window = w.shape[0]
        seen = np.arange(window * window).reshape(window, window, 1, 1) < window * window // 2
        return w * seen.astype(np.float32)

    x = net.conv("in", x, 5, 16, mask=masked)
    for _ in range(5):
        value, gate = jnp.split(net.conv("gated", x, 3, 32, mask=masked), 2, -1)
        x = x + jnp.tanh(value) * nn.sigmoid(gate)
    for _ in range(2):
        x = net.conv("last", nn.relu(x), 1, 16)
    return nn.log_softmax(net.conv("out", nn.relu(x), 1, 8).reshape(-1, 8))


@_program("convolutions", "nchw", (2, 64, 64, 4), split="test")
def deeplab(net: Net, x: Any) -> Any:
    """Parallel convolutions of several dilations and a branch with the mean of the image (Chen et al., 2017)."""
    x = nn.relu(net.norm(net.conv("stem", x, 3, 16, 2)))
    x = nn.relu(net.norm(net.conv("stem", x, 3, 16)))
    low = net.conv("low", x, 1, 8)
    seen = [net.conv("pyramid", x, 3, 8, dilation=dilation) for dilation in (1, 2, 4, 6)]
    whole = net.conv("whole", x.mean(net.axes, keepdims=True), 1, 8)
    seen.append(jnp.broadcast_to(whole, seen[0].shape))
    y = nn.relu(net.conv("join", nn.relu(jnp.concatenate(seen, net.channel)), 1, 16))
    y = nn.relu(net.conv("refine", jnp.concatenate((y, low), net.channel), 3, 16))
    y = y.transpose(0, 2, 3, 1)
    return nn.log_softmax(net.dense("out", y.reshape(-1, 16), 12)).reshape(*y.shape[:3], -1)


@_program("convolutions", "nwc", (4, 512, 4))
def wavenet(net: Net, x: Any) -> Any:
    """Gated causal convolutions of growing dilation (van den Oord et al., 2016)."""
    x = net.conv("in", x, 1, 16)
    total = 0.0
    for dilation in (1, 2, 4, 8):
        y = net.conv("gated", x, 2, 32, padding=[(dilation, 0)], dilation=dilation)
        value, gate = jnp.split(y, 2, net.channel)
        y = net.conv("skip", jnp.tanh(value) * nn.sigmoid(gate), 1, 16)
        total = total + y
        x = x + y
    return net.conv("out", nn.relu(total), 1, 8).mean(net.axes)


@_program("dots", "lstm gru", (6, 96, 48))
def recurrent(net: Net, x: Any) -> Any:
    """Unrolled steps of an LSTM or a GRU over a batch of sequences."""
    steps, batch, features = x.shape
    wide = {"lstm": 4, "gru": 3}[net.variant] * 96
    h = c = jnp.zeros((batch, 96))
    inputs = net.dense("x", x.reshape(steps * batch, features), wide).reshape(steps, batch, -1)
    for step in range(steps):
        w = net.parameter("h", 96, wide)
        if net.variant == "lstm":
            i, f, g, o = jnp.split(inputs[step] + h @ w, 4, 1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
        else:
            update, reset, new = jnp.split(inputs[step], 3, 1)
            u, r, n = jnp.split(h @ w, 3, 1)
            z = nn.sigmoid(update + u)
            h = z * h + (1 - z) * jnp.tanh(new + nn.sigmoid(reset + r) * n)
    return net.dense("out", h, 16)


@_program("dots", "encoder encoder-grad decoder", (2, 96, 96))
def transformer(net: Net, x: Any) -> Any:
    """A block of self-attention and a two-layer network, as encoder or with a causal mask (Vaswani et al., 2017)."""
    y = _layer_norm(x)
    q, k, v = (_heads(net.dense("qkv", y, 96), 4) for _ in range(3))
    x = x + net.dense("out", _joined(_attend(q, k, v, causal=net.variant == "decoder")), 96)
    return net.feed_forward(x, 4 * 96)


@_program("dots", "multihead grouped-grad relative", (2, 128, 96))
def attention(net: Net, x: Any) -> Any:
    """Multi-head attention, with fewer heads of keys than of queries, or with biases by distance."""
    batch, length, model = x.shape
    count, width = 6, 16
    shared = 2 if net.variant == "grouped" else count
    q = _heads(net.dense("q", x, model), count)
    k, v = (_heads(net.dense(name, x, shared * width), shared) for name in ("k", "v"))
    if net.variant == "grouped":
        q = q.reshape(batch, shared, -1, length, width).reshape(batch, shared, -1, width)
    bias = None
    if net.variant == "relative":
        # Scores by distance, brought to (query, key) by padding and reading the rows shifted by one.
        far = jnp.einsum("bhqd,rd->bhqr", q, net.parameter("distance", 2 * length - 1, width))
        far = jnp.pad(far, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(batch, count, -1)
        far = far[..., : length * (2 * length - 1)].reshape(batch, count, length, 2 * length - 1)
        bias = far[..., length - 1 :]
    y = _attend(q, k, v, bias=bias).reshape(batch, count, length, width)
    return net.dense("out", _joined(y), model)


@_program("dots", "shifted", (2, 32, 32, 48))
def swin(net: Net, x: Any) -> Any:
    """Attention within windows of an image, which the second block shifts by half a window (Liu et al., 2021)."""
    batch, _, _, model = x.shape
    window, blocks = 8, 4
    for number in range(2):
        shift = number * window // 2
        y = jnp.roll(_layer_norm(x), (-shift, -shift), (1, 2))
        y = y.reshape(batch, blocks, window, blocks, window, model).transpose(0, 1, 3, 2, 4, 5)
        y = net.dense(f"{number}/qkv", y.reshape(-1, window * window, model), 3 * model)
        q, k, v = (_heads(each, 3) for each in jnp.split(y, 3, 2))
        y = net.dense(f"{number}/out", _joined(_attend(q, k, v)), model)
        y = y.reshape(batch, blocks, blocks, window, window, model).transpose(0, 1, 3, 2, 4, 5)
        x = x + jnp.roll(y.reshape(x.shape), (shift, shift), (1, 2))
        x = net.feed_forward(x, 2 * model, f"{number}/up", f"{number}/down")
    return x


@_program("dots", "io", (2, 768, 32), (2, 48, 64), (2, 256, 64))
def perceiver(net: Net, x: Any, latent: Any, queries: Any) -> Any:
    """A few latents attend to a long input and are attended to by the output queries (Jaegle et al., 2021)."""

    def crossed(name: str, x: Any, y: Any) -> Any:
        q, k, v = (_heads(net.dense(f"{name}/{key}", z, 64), 4) for key, z in (("q", x), ("k", y), ("v", y)))
        return net.dense(f"{name}/out", _joined(_attend(q, k, v)), 64)

    z = latent + crossed("read", latent, _layer_norm(x))
    z = z + crossed("think", _layer_norm(z), _layer_norm(z))
    z = net.feed_forward(z, 2 * 64, "mix", "mix")
    return crossed("answer", queries, _layer_norm(z))


@_program("dots", "relu", (2, 384, 64))
def performer(net: Net, x: Any) -> Any:
    """Attention by random features of queries and keys: the sum over keys comes first (Choromanski et al., 2020)."""
    for number in range(2):
        y = _layer_norm(x)
        q, k, v = (_heads(net.dense(f"{number}/qkv", y, 64), 4) for _ in range(3))
        features = net.parameter(f"{number}/features", 16, 32)
        q, k = (nn.relu(jnp.einsum("bhld,df->bhlf", each, features)) + 1e-3 for each in (q, k))
        total = jnp.einsum("bhlf,bhld->bhfd", k, v)
        size = jnp.einsum("bhlf,bhf->bhl", q, k.sum(2))
        y = jnp.einsum("bhlf,bhfd->bhld", q, total) / size[..., None]
        x = x + net.dense(f"{number}/out", _joined(y), 64)
    return x


@_program("dots", "classifier-grad gated", {"classifier": ((192, 256),), "gated": ((8, 48, 64),)})
def mlp(net: Net, x: Any) -> Any:
    """A perceptron of five layers, or three gated layers over tokens (Shazeer, 2020)."""
    if net.variant == "classifier":
        return nn.log_softmax(net.dense("layers", x, 192, 192, 160, 128, 16))
    for number in range(3):
        rows = _layer_norm(x).reshape(-1, 64)
        y = nn.silu(net.dense(f"{number}", rows, 192)) * net.dense(f"{number}", rows, 192)
        x = x + net.dense(f"{number}", y, 64).reshape(x.shape)
    return x


@_program("dots", "factorised", (4, 72, 96), (4, 72, 80))
def bilinear(net: Net, x: Any, y: Any) -> Any:
    """Factorised bilinear pooling of two maps of features (Yu et al., 2017)."""
    a = jnp.einsum("bsi,ij->bsj", x, net.parameter("left", 96, 4 * 64))
    b = jnp.einsum("bsi,ij->bsj", y, net.parameter("right", 80, 4 * 64))
    joint = (a * b).reshape(*a.shape[:2], 64, 4).sum(-1)
    for _ in range(2):
        scores = nn.softmax(jnp.einsum("bsi,ij,btj->bst", joint, net.next_parameter("mix", 64, 64), joint))
        joint = jnp.einsum("bst,bti->bsi", scores, joint)
    return net.dense("out", joint, 32)


@_program("dots", "block", (4, 32, 32, 4), split="valid")
def mixer(net: Net, x: Any) -> Any:
    """Alternating dots over patches and over channels (Tolstikhin et al., 2021)."""
    patches = x.reshape(4, 8, 4, 8, 4, 4).transpose(0, 1, 3, 2, 4, 5).reshape(4, 64, -1)
    x = net.dense("patch", patches, 96)
    for number in range(2):
        tokens, channels = f"blocks/{number}/tokens", f"blocks/{number}/channels"
        y = net.dense(tokens, _layer_norm(x).transpose(0, 2, 1), 96, 64, to=nn.gelu)
        x = x + y.transpose(0, 2, 1)
        x = net.feed_forward(x, 192, channels, channels)
    return net.dense("out", x.mean(1), 10)


@_program("dots", "deep shallow-grad", (4, 96, 64), split="test")
def gmlp(net: Net, x: Any) -> Any:
    """Two or four blocks with a spatial gate (Liu et al., 2021)."""
    for number in range({"shallow": 2, "deep": 4}[net.variant]):
        u, v = jnp.split(nn.gelu(net.dense(f"{number}/in", _layer_norm(x), 256)), 2, -1)
        v = jnp.einsum("bnd,mn->bmd", _layer_norm(v), net.parameter(f"{number}/space", 96, 96)) + 1
        x = x + net.dense(f"{number}/out", u * v, 64)
    return x


@_program("dots", "towers towers-grad", ((192, 8), 2000), ((256, 8), 2000), split="valid")
def retrieval(net: Net, queries: Any, candidates: Any) -> Any:
    """Two towers over embeddings, every query scored against every candidate."""

    def tower(name: str, words: Any) -> Any:
        x = _flat(net.parameter("words", 2000, 64)[words])
        x = net.dense(name, x, 128, 96, 64, to=jnp.tanh)
        return x * lax.rsqrt(jnp.square(x).sum(1, keepdims=True) + 1e-6)

    q, c = tower("query", queries), tower("candidate", candidates)
    return nn.log_softmax(net.dense("rank", q, 64) @ c.T * 8.0)


@_program("dots", "interaction interaction-grad", (256, 16), ((256, 15), 400), split="test")
def dlrm(net: Net, numbers: Any, words: Any) -> Any:
    """Embeddings and a dense tower, all pairs of them multiplied (Naumov et al., 2019)."""
    x = nn.relu(net.dense("bottom", numbers, 64, 64, 32))
    embedded = jax.vmap(lambda table, ids: table[ids], (0, 1), 1)(net.parameter("tables", 15, 400, 32), words)
    every = jnp.concatenate((x.reshape(-1, 1, 32), embedded), 1)
    products = jnp.einsum("bid,bjd->bij", every, every)
    y = jnp.concatenate((x, products.reshape(-1, 16**2)), 1)
    return net.dense("top", y, 128, 96, 64, 1)


@_program("dots", "chain tree-grad", {"chain": ((6, 2048),), "tree": ((8, 16384),)})
def tensornet(net: Net, x: Any) -> Any:
    """Contractions of a tensor with a chain or a tree of factors (Novikov et al., 2015)."""
    if net.variant == "chain":
        cores = ((1, 8, 8, 12), (12, 8, 8, 12), (12, 8, 8, 12), (12, 4, 4, 1), (1, 4, 4, 12), (12, 8, 8, 1))
        p = [net.parameter(f"{number}", *shape) for number, shape in enumerate(cores)]
        y = x.reshape(x.shape[0], 8, 8, 8, 4)
        for core, spec in enumerate(("ijkl,uiam->bjklam", "jklam,mjcn->bklacn", "klacn,nkdo->blacdo")):
            y = jnp.einsum(f"b{spec}", y, p[core])
        y = jnp.tanh(jnp.einsum("blacdo,olew->bacde", y, p[3])).reshape(y.shape[0], 8, 8, 8, 4)
        y = jnp.einsum("bacde,ujem->bacdjm", y, p[4])
        y = jnp.einsum("bacdjm,mkdn->bacjkn", y, p[1])
        y = jnp.einsum("bacjkn,nlco->bajklo", y, p[2])
        return jnp.einsum("bajklo,oiau->bjkli", y, p[5]).reshape(x.shape)
    p = [net.parameter(f"{number}", *shape) for number, shape in enumerate(((16, 16, 24), (16, 4, 16), (24, 16, 20)))]
    y = x.reshape(x.shape[0], 16, 16, 16, 4)
    left = jnp.einsum("bijkl,ijr->brkl", y, p[0])
    both = jnp.einsum("brkl,kls->brs", left, p[1])
    mixed = jnp.einsum("brs,rst->bt", both, p[2])
    back = jnp.einsum("bt,rst,ijr->bsij", mixed, p[2], p[0])
    return jnp.einsum("bsij,kls->bijkl", back, p[1]).reshape(x.shape)


@_program("dots", "deep", (384, 16 * 24))
def monarch(net: Net, x: Any) -> Any:
    """Products of two block-diagonal matrices and a permutation, for the dense layers (Dao et al., 2022)."""
    blocks, width = 16, 24
    for number in range(4):
        left = net.parameter(f"{number}/left", blocks, width, width)
        right = net.parameter(f"{number}/right", width, blocks, blocks)
        y = jnp.einsum("rij,nri->nrj", left, x.reshape(-1, blocks, width))
        y = jnp.einsum("jrs,nrj->njs", right, y)
        y = y.swapaxes(1, 2).reshape(x.shape)
        x = x + (y if number == 3 else nn.gelu(y))
    return x


@_program("dots", "radix", (2, 192, 64), split="valid")
def fourier(net: Net, x: Any) -> Any:
    """Mixing by the real part of a Fourier transform, the long one in two radix steps (Lee-Thorp et al., 2021)."""
    batch, length, model = x.shape
    first, second = 16, 12

    def waves(rows: int, columns: int, length: int, scale: float = 1.0) -> tuple[Any, Any]:
        turns = 2 * np.pi * np.outer(np.arange(rows), np.arange(columns)) / length
        return np.cos(turns).astype(np.float32) / scale, -np.sin(turns).astype(np.float32) / scale

    cos, sin = (each[..., None] for each in waves(first, second, length))
    for number in range(2):
        y = [x @ each for each in waves(model, model, model, model**0.5)]
        a, b = (each.reshape(batch, first, second, model) for each in y)
        c, d = (jnp.asarray(each) for each in waves(first, first, first, first**0.5))
        a, b = (
            jnp.einsum("bijm,ik->bkjm", a, c) - jnp.einsum("bijm,ik->bkjm", b, d),
            jnp.einsum("bijm,ik->bkjm", a, d) + jnp.einsum("bijm,ik->bkjm", b, c),
        )
        a, b = a * cos - b * sin, a * sin + b * cos
        c, d = waves(second, second, second, second**0.5)
        mixed = jnp.einsum("bkjm,jl->blkm", a, c) - jnp.einsum("bkjm,jl->blkm", b, d)
        x = _layer_norm(x + mixed.reshape(x.shape))
        x = _layer_norm(x + net.dense(f"{number}", x, 2 * model, model, to=nn.gelu))
    return x


@_program("dots", "soft", (2, 192, 64), split="test")
def experts(net: Net, x: Any) -> Any:
    """Slots that mix tokens by a softmax, with an expert per group of slots (Puigcerver et al., 2023)."""
    count, slots, wide = 8, 12, 96
    batch, length, model = x.shape
    for number in range(2):
        y = _layer_norm(x)
        scores = jnp.einsum("blm,mes->bles", y, net.parameter(f"{number}/route", model, count, slots))
        taken = jnp.einsum("bles,blm->besm", nn.softmax(scores, 1), y)
        taken = nn.gelu(jnp.einsum("besm,emw->besw", taken, net.parameter(f"{number}/up", count, model, wide)))
        given = jnp.einsum("besw,ewm->besm", taken, net.parameter(f"{number}/down", count, wide, model))
        weights = nn.softmax(scores.reshape(batch, length, -1)).reshape(scores.shape)
        x = x + jnp.einsum("bles,besm->blm", weights, given)
    return x


@_program("dots", "relations", (4, 80, 48), (4, 3, 80, 80), split="test")
def graphconv(net: Net, x: Any, links: Any) -> Any:
    """Features of nodes averaged over dense neighbours of three relations (after Schlichtkrull et al., 2017)."""
    weight = nn.sigmoid(links)
    weight = weight / weight.sum(3, keepdims=True)
    for number in range(2):
        seen = jnp.einsum("grnm,gmi->grni", weight, x)
        own = net.parameter(f"layers/{number}/each", 3, x.shape[2], 64)
        x = nn.relu(jnp.einsum("grni,rij->gnj", seen, own) + net.dense(f"layers/{number}/self", x, 64))
    scores = jnp.einsum("gni,rij,gmj->grnm", x, net.parameter("pair", 3, 64, 64), x)
    return scores.mean((1, 3))[..., None] + net.dense("out", x, 64, 8)
