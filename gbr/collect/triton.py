"""Measure Triton kernels under block sizes, warps and stages, on a GPU: matmul, softmax, layer norm and attention.

The graph of a kernel is that of the same computation in JAX.  ``hardware.toml`` beside the splits names the GPU and the
slots of the configurations (:data:`SLOTS`).  Runtimes are of kernels whose operands are in L2 if they fit, as one
launch follows the other.  Configurations that do not fit the GPU are left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.hlo import TILE_CONFIG
from gbr.collect._jax import jax, jnp, nn, proto
from gbr.collect.tasks import Family, Settings, distinct, seed_of
from gbr.collect.timer import Clock, measure
from gbr.data.devices import find_device
from gbr.data.files import toml_text, write_text
from gbr.data.graph import Graph, graph_from_arrays
from gbr.data.hardware import FILE
from gbr.data.hlo import graph_arrays
from gbr.errors import CollectError, DataError, UsageError, one_line

Config = dict[str, int]
#: Prepares a kernel (group, sizes, type, seed): returns a function that compiles and checks a configuration and returns
#: a callable that runs it, or raises.
Prepare = Callable[[str, tuple[int, ...], str, int], Callable[[Config], Callable[[], object]]]

#: Names of the slots of a configuration.  ``block_k`` of attention counts keys times the size of a head.
SLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "output_bounds": ("block_m", "block_n"),
    "kernel_bounds": ("block_k",),
    "input_bounds": ("num_stages", "num_warps", "group_m"),
}
#: Values of each parameter by kernel; the first configuration is the default.
_ROWS: Final = {
    "block_m": (1, 2, 4, 8, 16),
    "block_k": (128, 256, 512, 1024, 2048, 4096),
    "num_warps": (1, 2, 4, 8, 16),
    "num_stages": (1, 2, 3, 4),
}
SPACES: Final[Mapping[str, Mapping[str, tuple[int, ...]]]] = {
    "matmul": {
        "block_m": (16, 32, 64, 128, 256),
        "block_n": (16, 32, 64, 128, 256),
        "block_k": (32, 64, 128),
        "group_m": (1, 8),
        "num_warps": (2, 4, 8),
        "num_stages": (2, 3, 4, 5),
    },
    "softmax": _ROWS,
    "layer_norm": _ROWS,
    "attention": {
        "block_m": (16, 32, 64, 128),
        "block_k": (16, 32, 64, 128),
        "num_warps": (2, 4, 8),
        "num_stages": (1, 2, 3, 4),
    },
}
DEFAULTS: Final[Mapping[str, Config]] = {
    "matmul": {"block_m": 128, "block_n": 128, "block_k": 32, "group_m": 8, "num_warps": 4, "num_stages": 3},
    "softmax": {"block_m": 1, "block_k": 1024, "num_warps": 4, "num_stages": 2},
    "layer_norm": {"block_m": 1, "block_k": 1024, "num_warps": 4, "num_stages": 2},
    "attention": {"block_m": 128, "block_k": 64, "num_warps": 4, "num_stages": 3},
}
#: Largest number of elements of a block, beyond which nothing fits a GPU.
_MOST_ELEMENTS: Final = 1 << 15
_WARP: Final = 32
_TYPES: Final = {"f16": jnp.float16, "bf16": jnp.bfloat16}


def _variants(first: Sequence[int], rest: Sequence[tuple[int, ...]]) -> str:
    """Shapes ``first x rest`` separated by spaces, in both types alternately."""
    shapes = ["x".join(map(str, (one, *more))) for more in rest for one in first]
    return " ".join(f"{shape}-{'bf16' if number % 2 else 'f16'}" for number, shape in enumerate(shapes))


#: Shapes by network: products are rows (tokens or pixels) x columns x reduced, attention is heads x length x head.
_BERT: Final = [(768, 768), (3072, 768), (768, 3072), (1024, 1024), (4096, 1024), (1024, 4096)]
_RESNET: Final = [(64, 64), (256, 64), (128, 512), (512, 1024), (2048, 512)]
_T5: Final = [(512, 512), (2048, 512), (512, 2048), (32128, 512)]
_LLAMA: Final = [(4096, 4096), (11008, 4096), (4096, 11008), (32000, 4096)]
_FAMILIES: Final = (
    Family("matmul", "matmul_bert", _variants((128, 512, 4096), _BERT)),
    Family("matmul", "matmul_resnet", _variants((3136, 12544), _RESNET)),
    Family("matmul", "matmul_t5", _variants((256, 2048), _T5), split="valid"),
    Family("matmul", "matmul_llama", _variants((16, 512, 2048), _LLAMA), split="test"),
    Family("softmax", "softmax_bert", _variants((1536, 6144, 24576), [(128,), (384,), (512,), (1024,)])),
    Family("softmax", "softmax_t5", _variants((4096, 16384), [(256,), (640,), (32128,)]), split="valid"),
    Family("softmax", "softmax_llama", _variants((512, 8192), [(2048,), (4096,), (8192,), (32000,)]), split="test"),
    Family("layer_norm", "layer_norm_bert", _variants((512, 4096, 16384), [(384,), (768,), (1024,), (1280,)])),
    Family("layer_norm", "layer_norm_t5", _variants((2048, 8192), [(512,), (1536,), (2816,)]), split="valid"),
    Family(
        "layer_norm", "layer_norm_llama", _variants((512, 2048), [(4096,), (5120,), (8192,), (9216,)]), split="test"
    ),
    Family("attention", "attention_bert", _variants((12, 96), [(128, 64), (384, 64), (512, 64), (1024, 64)])),
    Family("attention", "attention_vit", _variants((16, 128), [(197, 64), (577, 64), (256, 32)]), split="valid"),
    Family("attention", "attention_llama", _variants((32, 64), [(512, 128), (2048, 128), (1000, 128)]), split="test"),
)
FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _FAMILIES}


def _matmul(a: Any, b: Any) -> Any:
    return jnp.dot(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _softmax(x: Any) -> Any:
    return nn.softmax(x.astype(jnp.float32), -1).astype(x.dtype)


def _layer_norm(x: Any, w: Any, b: Any) -> Any:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
    return (centred * scale * w + b).astype(x.dtype)


def _attention(q: Any, k: Any, v: Any) -> Any:
    scores = jnp.einsum("hqd,hkd->hqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.einsum("hqk,hkd->hqd", nn.softmax(scores, -1).astype(v.dtype), v)


_PROGRAMS: Final[Mapping[str, Callable[..., Any]]] = {
    "matmul": _matmul, "softmax": _softmax, "layer_norm": _layer_norm, "attention": _attention
}  # fmt: skip


def _operands(group: str, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    match group:
        case "matmul":
            m, n, k = sizes
            return [(m, k), (k, n)]
        case "attention":
            return [sizes] * 3
        case "layer_norm":
            return [sizes, sizes[1:], sizes[1:]]
    return [sizes]


def parsed(variant: str) -> tuple[tuple[int, ...], str]:
    """Sizes and element type of a variant such as ``512x768x768-f16``."""
    shape, _, dtype = variant.partition("-")
    return tuple(map(int, shape.split("x"))), dtype


def program_graph(group: str, variant: str) -> dict[str, NDArray[Any]]:
    """Arrays of the graph of a kernel, named as in TpuGraphs."""
    sizes, dtype = parsed(variant)
    operands = [jax.ShapeDtypeStruct(shape, _TYPES[dtype]) for shape in _operands(group, sizes)]
    graph = graph_arrays(proto(jax.jit(_PROGRAMS[group]).lower(*operands)))
    return {key: graph[key] for key in ("node_feat", "node_opcode", "edge_index")}


def kernel_graph(group: str, variant: str) -> Graph:
    """Graph of a kernel without configurations: ``kernel_graph("matmul", "512x768x768-f16")``.

    Parameters
    ----------
    group : {"matmul", "softmax", "layer_norm", "attention"}
    variant : str
        Sizes and element type, ``f16`` or ``bf16``: rows, columns and reduced size of a product, rows and columns of
        a softmax or normalisation, heads, length and size of a head of attention.
    """
    n_sizes = {"matmul": 3, "attention": 3}.get(group, 2)
    pattern = rf"[1-9]\d*(x[1-9]\d*){{{n_sizes - 1}}}-({'|'.join(_TYPES)})"
    if group not in _PROGRAMS or not re.fullmatch(pattern, variant):
        example = {2: "512x768-f16", 3: "512x768x768-f16"}[n_sizes]
        raise UsageError(
            f"kernel_graph: expected {', '.join(_PROGRAMS)} and sizes such as {example}, got {group!r}, {variant!r}"
        )
    return graph_from_arrays(f"{group}_{variant}", program_graph(group, variant))


def sample_configs(group: str, n_configs: int, seed: int) -> list[Config]:
    """Distinct configurations of a kernel that may fit a GPU, the default first."""
    space, default = SPACES[group], DEFAULTS[group]
    rng = np.random.default_rng(seed)

    def draw(_attempt: int, _found: int) -> NDArray[np.int64] | None:
        config = {name: int(rng.choice(values)) for name, values in space.items()}
        elements = config["block_m"] * config.get("block_n", config["block_k"])
        fits = _WARP * config["num_warps"] <= elements <= _MOST_ELEMENTS
        return np.array(list(config.values())) if fits else None

    rows = distinct(np.array([default[name] for name in space]), draw, n_configs)
    return [dict(zip(space, row, strict=True)) for row in rows.tolist()]


def encoded(group: str, sizes: tuple[int, ...], configs: Sequence[Config]) -> NDArray[np.float32]:
    """Configurations in the slots of :data:`SLOTS`, float32 (c, 24); 0 for parameters that a kernel does not have."""
    found = np.zeros((len(configs), len(TILE_CONFIG)), np.float32)
    for stem, names in SLOTS.items():
        for slot, name in enumerate(names):
            found[:, TILE_CONFIG.index(f"{stem}_{slot}")] = [config.get(name, 0) for config in configs]
        own = found[:, [TILE_CONFIG.index(f"{stem}_{slot}") for slot in range(len(names))]]
        found[:, TILE_CONFIG.index(f"{stem}_sum")] = own.sum(axis=1)
        found[:, TILE_CONFIG.index(f"{stem}_product")] = np.where(own > 0, own, 1).prod(axis=1)
    if group == "attention":
        found[:, TILE_CONFIG.index("kernel_bounds_0")] *= sizes[-1]
    return found


def measure_variant(
    name: str, variant: str, settings: Settings, prepare: Prepare | None = None, clock: Clock = time.perf_counter_ns
) -> dict[str, NDArray[Any]]:
    """Measure one kernel; returns the arrays of its file, named as in TpuGraphs.

    ``prepare`` and its ``clock``, of nanoseconds, are those of the GPU by default.  The normalizer is the runtime of
    the first configuration that runs, mostly the default.  CollectError without a GPU, or if hardly any of them runs.
    """
    group, (sizes, dtype) = FAMILIES[name].group, parsed(variant)
    launches = 1
    if prepare is None:
        on_gpu = import_module("gbr.collect._triton")  # PyTorch and Triton, which no test needs
        prepare, clock, launches = (lambda *about: on_gpu.Kernel(*about).checked), on_gpu.clock, on_gpu.LAUNCHES
    seed = seed_of(f"{name}_{variant}", settings.seed)
    checked = prepare(group, sizes, dtype, seed)
    kept, runs, reasons = [], [], []
    for config in sample_configs(group, settings.configs, seed):
        try:
            runs.append(checked(config))
        except Exception as fault:  # Triton raises errors of many types: out of shared memory, registers …
            reasons.append(fault)
            continue
        kept.append(config)
    if len(kept) < 2:
        reason = one_line(reasons[0]) if reasons else "there is only one"
        raise CollectError(f"{name}_{variant}: expected two configurations that run, got {len(kept)} ({reason})")
    first, second = measure(runs, rounds=settings.rounds, seed=seed, clock=clock)
    first, second = (np.maximum(1, each // launches) for each in (first, second))
    return {
        **program_graph(group, variant),
        "config_feat": encoded(group, sizes, kept),
        "config_runtime": first,
        "config_runtime_normalizers": np.full(len(kept), first[0], np.int64),
        "config_runtime_repeat": second,
    }


def device_name() -> str:
    """Name of the GPU; CollectError if there is none, MissingLibraryError without PyTorch and Triton."""
    return str(import_module("gbr.collect._triton").device_name())


def folder_of(device: str) -> str:
    """Name of the folder of a device's collection: ``nvidia-a100-sxm4-40gb`` for ``NVIDIA A100-SXM4-40GB``."""
    return re.sub(r"[^a-z0-9]+", "-", device.casefold()).strip("-")


def note_device(folder: Path, device: str) -> str | None:
    """Write the ``hardware.toml`` of a collection that has none: the device, and the names of the slots.

    Returns a message if the device is unknown.
    """
    if not (folder / FILE).exists():
        write_text(folder / FILE, toml_text(("", {"device": device}), ("config", SLOTS)), DataError)
    try:
        find_device(device)
    except UsageError as fault:
        return f"{fault}: give its figures in {folder / FILE}"
    return None
