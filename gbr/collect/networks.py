"""Networks of :mod:`gbr.data.architectures` in JAX: runs of a whole input, of a prompt, and of one more token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from gbr.collect._jax import jax, jnp, lax, nn, proto
from gbr.data.architectures import IMAGES, RECURRENT, Architecture, blocks, weights
from gbr.data.hlo import read_module

Weights = dict[str, Any]
State = tuple[Any, ...]

#: Rate at which rotary positions slow down, and the smallest variance.
_ROTARY: Final = 10_000.0
_EPSILON: Final = 1e-5
#: Random numbers, which are repeated: their values do not matter for the time.
_RANDOM: Final = 1 << 18

#: Columns of :func:`program_figures` and the HLO opcodes that they count.
CLASSES: Final = {
    "dots": ("dot",),
    "convolutions": ("convolution",),
    "reductions": ("reduce", "reduce-window"),
    "transcendentals": (
        "exponential", "log", "tanh", "rsqrt", "sqrt", "logistic", "power", "sine", "cosine", "erf", "divide",
    ),
    "elementwise": (
        "add", "subtract", "multiply", "maximum", "minimum", "compare", "select", "convert", "negate", "and", "or",
    ),
    "movements": (
        "broadcast", "reshape", "transpose", "slice", "concatenate", "gather", "pad", "dynamic-slice",
        "dynamic-update-slice", "copy", "iota",
    ),
    "loops": ("while",),
}  # fmt: skip


def random_weights(model: Architecture, dtype: str, seed: int = 0) -> Weights:
    """Random parameters, scaled so that activations keep their size."""
    numbers = np.random.default_rng(seed).standard_normal(_RANDOM, np.float32)

    def array(name: str, shape: tuple[int, ...]) -> Any:
        if len(shape) == 1:
            values = np.full(shape, name.endswith("scale"), jnp.dtype(dtype))
        else:
            scale = 0.02 if name in ("tokens", "positions", "segments") else float(np.prod(shape[:-1])) ** -0.5
            values = np.resize((numbers * np.float32(scale)).astype(jnp.dtype(dtype)), shape)
        return jax.device_put(values, may_alias=False)

    return {name: array(name, weight.shape) for name, weight in weights(model).items()}


def program(
    model: Architecture, phase: str, batch: int, sequence: int, dtype: str
) -> tuple[Callable[..., tuple[Any, State]], tuple[Any, State]]:
    """A run of a network as a function for ``jax.jit``, and its arguments as shapes.

    Returns
    -------
    function
        ``function(weights, inputs, state)`` returns results, and the state after it: keys and values of each layer, or
        states.  The state before is () but for ``decode``, which replaces the last of ``sequence`` tokens.
    arguments
        ``inputs`` and ``state``, with shapes and types of arrays.
    """
    count = 1 if phase == "decode" else sequence
    inputs = jax.ShapeDtypeStruct((batch, count), np.int32)
    if model.family in IMAGES:
        inputs = jax.ShapeDtypeStruct((batch, model.image, model.image, model.channels), dtype)
    state: State = ()
    if phase == "decode":
        shape: tuple[int, ...] = (batch, model.hidden)
        if model.heads:
            kept = min(sequence, model.window or sequence)
            shape = (batch, model.kv_heads, kept, model.head_width)
        arrays = 1 if model.family == "gru" else 2
        state = tuple((jax.ShapeDtypeStruct(shape, dtype),) * arrays for _ in range(model.layers))
    function = _recurrent if model.family in RECURRENT else _convolutional if model.depths else _transformer
    return partial(function, model), (inputs, state)


def program_figures(model: Architecture, phase: str, batch: int, sequence: int, dtype: str) -> dict[str, float]:
    """What metadata alone does not say: figures of the HLO program before it is compiled.

    Returns
    -------
    dict
        ``operations``, all instructions, and those of each of :data:`CLASSES`, as often as they are called (the body of
        a loop counts once); ``result_bytes`` and ``largest_result_bytes`` of the instructions.
    """
    function, arguments = program(model, phase, batch, sequence, dtype)
    shapes = {name: jax.ShapeDtypeStruct(weight.shape, dtype) for name, weight in weights(model).items()}
    return _figures(jax.jit(function).lower(shapes, *arguments))


def _figures(lowered: Any) -> dict[str, float]:
    module = read_module(proto(lowered))
    calls = Counter({module.entry_id: 1})
    opcodes: Counter[str] = Counter()
    total = largest = 0
    for computation in reversed(module.computations):  # callers before what they call
        times = calls[computation.id]
        for each in computation.instructions:
            # The computation of a reduction runs per element and is no part of the program.
            if each.opcode in ("call", "while", "conditional"):
                for called in each.called_ids:
                    calls[called] += times
            if each.opcode not in ("parameter", "constant", "tuple", "get-tuple-element", "call") and times:
                opcodes[each.opcode] += times
                nbytes = int(np.prod(each.shape.dimensions, dtype=np.int64)) * _SIZES.get(each.shape.element_type, 4)
                total += times * nbytes
                largest = max(largest, nbytes)
    return {
        "operations": sum(opcodes.values()),
        **{name: sum(opcodes[each] for each in members) for name, members in CLASSES.items()},
        "result_bytes": total,
        "largest_result_bytes": largest,
    }


#: Bytes by xla.PrimitiveType, where they are not 4: pred, 8 and 16 bits, 64 bits.
_SIZES: Final = {1: 1, 2: 1, 6: 1, 3: 2, 7: 2, 10: 2, 16: 2, 5: 8, 9: 8, 12: 8}


# Layers ---------------------------------------------------------------------------------------------------------------


def _dense(w: Weights, name: str, x: Any) -> Any:
    x = x @ w[name]
    return x + w[f"{name}/bias"] if f"{name}/bias" in w else x


def _norm(w: Weights, name: str, x: Any) -> Any:
    """Layer normalization, or by the root of the mean square where there is no bias."""
    y = x.astype(np.float32)
    bias = w.get(f"{name}/bias")
    if bias is not None:
        y = y - y.mean(-1, keepdims=True)
    y = (y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + _EPSILON)).astype(x.dtype) * w[f"{name}/scale"]
    return y if bias is None else y + bias


def _rotated(x: Any, positions: Any) -> Any:
    """Turn pairs of (batch, heads, length, width) by angles that grow with the position."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * _ROTARY ** (-np.arange(half, dtype=np.float32) / half)
    sine, cosine = jnp.sin(angles).astype(x.dtype), jnp.cos(angles).astype(x.dtype)
    a, b = x[..., :half], x[..., half : 2 * half]
    return jnp.concatenate((a * cosine - b * sine, b * cosine + a * sine, x[..., 2 * half :]), -1)


def _attention(model: Architecture, w: Weights, layer: str, x: Any, cache: Any, positions: Any) -> tuple[Any, Any]:
    """Attention of (batch, length, width), and the keys and values with those of the new tokens."""
    batch, length, _ = x.shape
    heads, groups, width = model.heads, model.kv_heads, model.head_width
    parts = _dense(w, f"{layer}/qkv", x).reshape(batch, length, heads + 2 * groups, width).transpose(0, 2, 1, 3)
    q, k, v = parts[:, :heads], parts[:, heads : heads + groups], parts[:, heads + groups :]
    if not model.positions:
        q, k = _rotated(q, positions), _rotated(k, positions)
    if cache is not None:  # the new token takes the last position
        last = cache[0].shape[2] - length
        k, v = (lax.dynamic_update_slice(old, new, (0, 0, last, 0)) for old, new in zip(cache, (k, v), strict=True))
    scores = jnp.einsum("bghqd,bgkd->bghqk", q.reshape(batch, groups, heads // groups, length, width), k)
    scores = scores.astype(np.float32) * width**-0.5
    if model.family not in ("bert", "vit") and length > 1:
        seen = jnp.tri(length, dtype=bool)
        if model.window and model.window < length:
            seen &= ~jnp.tri(length, k=-model.window, dtype=bool)
        scores = jnp.where(seen, scores, -1e9)
    y = jnp.einsum("bghqk,bgkd->bghqd", nn.softmax(scores).astype(x.dtype), v)
    y = y.reshape(batch, heads, length, width).transpose(0, 2, 1, 3).reshape(batch, length, heads * width)
    return _dense(w, f"{layer}/out", y), (k, v)


def _feed_forward(model: Architecture, w: Weights, layer: str, x: Any) -> Any:
    y = _dense(w, f"{layer}/up", x)
    y = nn.silu(_dense(w, f"{layer}/gate", x)) * y if model.gated else nn.gelu(y, approximate=model.family == "gpt")
    return _dense(w, f"{layer}/down", y)


def _transformer(model: Architecture, w: Weights, inputs: Any, state: State) -> tuple[Any, State]:
    """Logits of the last token, the pooled first token, or classes of images."""
    if model.family == "vit":
        x = _convolve(inputs, w["patches"], model.patch, "VALID") + w["patches/bias"]
        first = jnp.broadcast_to(w["first"], (len(x), 1, model.hidden))
        x = jnp.concatenate((first, x.reshape(len(x), -1, model.hidden)), 1)
    else:
        x = w["tokens"][inputs]
    length = x.shape[1]
    last = state[0][0].shape[2] if state else length
    positions = np.arange(last - length, last, dtype=np.int32)
    if model.positions:
        x = x + w["positions"][positions]
    if model.family == "bert":
        x = _norm(w, "norm", x + w["segments"][0])
    caches = []
    for number in range(model.layers):
        layer = f"layers/{number}"
        before = model.family != "bert"  # the order of normalization and layer
        y = _norm(w, f"{layer}/attention/norm", x) if before else x
        y, cache = _attention(model, w, layer, y, state[number] if state else None, positions)
        x = x + y if before else _norm(w, f"{layer}/attention/norm", x + y)
        y = _feed_forward(model, w, layer, _norm(w, f"{layer}/feed/norm", x) if before else x)
        x = x + y if before else _norm(w, f"{layer}/feed/norm", x + y)
        caches.append(cache)
    if model.family == "bert":
        return (x, jnp.tanh(_dense(w, "pooler", x[:, 0]))), ()
    if model.family == "vit":
        return _dense(w, "classes", _norm(w, "norm", x)[:, 0]), ()
    return _logits(model, w, _norm(w, "norm", x[:, -1])), tuple(caches)


def _logits(model: Architecture, w: Weights, x: Any) -> Any:
    return x @ w["tokens"].T if model.tied else _dense(w, "classes", x)


def _recurrent(model: Architecture, w: Weights, inputs: Any, state: State) -> tuple[Any, State]:
    """Logits of the last token."""
    x = w["tokens"][inputs]
    step = _lstm_step if model.family == "lstm" else _gru_step
    states = []
    for number in range(model.layers):
        layer = f"layers/{number}"
        entered = _dense(w, f"{layer}/input", x)
        before = state[number] if state else (jnp.zeros_like(x[:, 0]),) * (1 if model.family == "gru" else 2)
        run = partial(step, w, f"{layer}/state")
        if x.shape[1] == 1:
            after, y = run(before, entered[:, 0])
            x = y[:, None]
        else:
            after, y = lax.scan(run, before, entered.swapaxes(0, 1))
            x = y.swapaxes(0, 1)
        states.append(after)
    return _logits(model, w, x[:, -1]), tuple(states)


def _lstm_step(w: Weights, name: str, state: State, entered: Any) -> tuple[State, Any]:
    h, c = state
    i, f, g, o = jnp.split(entered + _dense(w, name, h), 4, -1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    h = nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def _gru_step(w: Weights, name: str, state: State, entered: Any) -> tuple[State, Any]:
    (h,) = state
    (a, b, c), (p, q, r) = jnp.split(entered, 3, -1), jnp.split(_dense(w, name, h), 3, -1)
    reset, update = nn.sigmoid(a + p), nn.sigmoid(b + q)
    h = (1 - update) * jnp.tanh(c + reset * r) + update * h
    return (h,), h


def _convolve(x: Any, filters: Any, stride: int, padding: str = "SAME") -> Any:
    return lax.conv_general_dilated(x, filters, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _pool(x: Any, window: int) -> Any:
    padding = "SAME" if window % 2 else "VALID"
    return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, (1, window, window, 1), (1, 2, 2, 1), padding)


def _convolutional(model: Architecture, w: Weights, x: Any, state: State) -> tuple[Any, State]:
    """Classes of images."""

    def convolve(name: str, x: Any, stride: int) -> Any:
        y = _convolve(x, w[name], stride)
        return (y * w[f"{name}/scale"] if f"{name}/scale" in w else y) + w[f"{name}/bias"]

    resnet = model.family == "resnet"
    if resnet:
        x = _pool(nn.relu(convolve("stem", x, 2)), 3)
    stage = ""
    for block, layers in blocks(model):
        if not resnet and stage not in ("", block.rpartition("/")[0]):
            x = _pool(x, 2)
        stage = block.rpartition("/")[0]
        y = x
        for each in layers:
            if each.name == "skip":
                x = convolve(f"{block}/skip", x, each.stride)
            else:
                y = convolve(f"{block}/{each.name}", nn.relu(y) if each.name in "bc" else y, each.stride)
        x = nn.relu(x + y if resnet else y)
    if not resnet:
        x = _pool(x, 2)
    x = x.reshape(len(x), -1) if model.intermediate else x.mean((1, 2))
    for number in range(2 if model.intermediate else 0):
        x = nn.relu(_dense(w, f"dense/{number}", x))
    return _dense(w, "classes", x), state
