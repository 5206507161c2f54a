"""Architectures of neural networks from metadata: descriptions, their weights, operations and bytes.

A description has the keys of a Hugging Face ``config.json``.  ``models.toml`` lists those that
``python -m gbr.collect models`` measures, a file of your own has the same form::

    [models]
    small-gpt = {model_type = "gpt2", n_embd = 256, n_layer = 4, n_head = 4, vocab_size = 8000, n_positions = 512}
    my-model = {config = "path/to/config.json"}
"""

from __future__ import annotations

import re
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

from gbr.data.files import parse_json, read_toml
from gbr.errors import DataError, UsageError, one_line

#: Bytes of a number by type.
DTYPES: Final = {"float32": 4, "bfloat16": 2}
#: Runs of a network: a whole input, a whole prompt that fills the cache, and one more token.
PHASES: Final = ("forward", "prefill", "decode")

#: The families, and the values of ``model_type`` that belong to them.
FAMILIES: Final = {
    "gpt": ("gpt2", "gpt_neox"),
    "llama": ("llama", "qwen2"),
    "mistral": ("mistral",),
    "bert": ("bert", "roberta"),
    "vit": ("vit", "deit"),
    "resnet": ("resnet",),
    "vgg": ("vgg",),
    "lstm": ("lstm",),
    "gru": ("gru",),
}
_TYPES: Final = {kind: family for family, kinds in FAMILIES.items() for kind in kinds}
#: Families that generate tokens.
GENERATIVE: Final = ("gpt", "llama", "mistral", "lstm", "gru")
IMAGES: Final = ("vit", "resnet", "vgg")
RECURRENT: Final = {"lstm": 4, "gru": 3}  # gates

#: Names of the same value in configurations, the first of them that is present.
_KEYS: Final = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv"),
    "head_width": ("head_dim",),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions", "n_ctx"),
    "segments": ("type_vocab_size",),
    "window": ("sliding_window",),
    "image": ("image_size",),
    "patch": ("patch_size",),
    "channels": ("num_channels",),
    "classes": ("num_labels",),
    "stem": ("embedding_size",),
}
_TRANSFORMER: Final = ("hidden", "layers", "heads")
_REQUIRED: Final = {
    **dict.fromkeys(("gpt", "bert"), (*_TRANSFORMER, "vocabulary")),
    **dict.fromkeys(("llama", "mistral"), (*_TRANSFORMER, "vocabulary", "intermediate")),
    "vit": (*_TRANSFORMER, "image", "patch"),
    **dict.fromkeys(RECURRENT, ("hidden", "layers", "vocabulary")),
    "resnet": (),
    "vgg": (),
}
_MAX: Final = 1 << 31
_MAX_LAYERS: Final = 10_000
#: Largest config.json, and seconds to wait for it.
_MAX_BYTES: Final = 1 << 20
_TIMEOUT: Final = 20
_HUB: Final = "https://huggingface.co/{}/resolve/main/config.json"


@dataclass(frozen=True)
class Architecture:
    """A network of one of :data:`FAMILIES`; what the family does not have is 0.

    Parameters
    ----------
    name, family : str
    hidden : int
        Width of the layers; of convolutional networks, channels of the last stage.
    layers : int
        Layers, or residual blocks or convolutions.
    heads, kv_heads, head_width : int
        Heads of queries, of keys and values, and the width of each.
    intermediate : int
        Width within the feed-forward layers; of vgg, of the two layers before the classifier.
    vocabulary, positions, segments : int
        Embeddings of tokens, of learned positions and of segments; no positions: rotary.
    window : int
        Length of sliding attention; 0: unlimited.
    tied, qkv_bias : bool
        Whether the classifier of tokens is their embedding, and whether queries, keys and values have a bias although
        other layers have none.
    image, patch, channels, classes, stem : int
        Side of images and patches, colours, results, and channels after the first convolution of a resnet.
    depths, widths : tuple of int
        Blocks and channels of each stage of a convolutional network.
    bottleneck : bool
        Whether the blocks of a resnet are bottlenecks.
    """

    name: str
    family: str
    hidden: int
    layers: int
    heads: int = 0
    kv_heads: int = 0
    head_width: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    positions: int = 0
    segments: int = 0
    window: int = 0
    tied: bool = False
    qkv_bias: bool = False
    image: int = 0
    patch: int = 0
    channels: int = 3
    classes: int = 1000
    stem: int = 0
    depths: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    bottleneck: bool = False

    @property
    def biased(self) -> bool:
        """Whether dense layers and normalizations have a bias."""
        return self.family in ("gpt", "bert", "vit")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers have a gate."""
        return self.family in ("llama", "mistral")

    @property
    def phases(self) -> tuple[str, ...]:
        """The runs that it has."""
        return PHASES[1:] if self.family in GENERATIVE else PHASES[:1]

    @property
    def longest(self) -> int:
        """Longest sequence; 1 for images, 0 for unlimited."""
        return 1 if self.family in IMAGES else self.positions


class Weight(NamedTuple):
    """An array of parameters, and how often a matrix or filter is applied.

    ``uses`` is per sequence or image: 0 for what is added or looked up, None for once per token.
    """

    shape: tuple[int, ...]
    uses: int | None = 0


# Descriptions ---------------------------------------------------------------------------------------------------------


def find_model(model: str | Path | Mapping[str, Any]) -> Architecture:
    """Find an architecture.

    Parameters
    ----------
    model : str, path or mapping
        Values of a ``config.json``; a file or a folder with one; a name of ``models.toml``; or a name of the Hugging
        Face hub, with a slash, which is read over the network.

    Raises
    ------
    UsageError
        For an unknown name, with the nearest ones.
    DataError
        If a description is incomplete or invalid, or cannot be read.
    """
    if isinstance(model, Mapping):
        return parse_config(model, str(model.get("name") or model.get("_name_or_path") or "model"), "model")
    path = Path(model)
    if path.is_dir():
        path /= "config.json"
    if path.is_file() or path.suffix == ".json":
        return parse_config(_read_json(path), path.parent.name or path.stem, str(path))
    name = str(model)
    if (known := models().get(name)) is not None:
        return known
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return parse_config(_from_hub(name), name, name)
    if near := get_close_matches(name.casefold(), {each.casefold(): each for each in models()}, 3, 0.7):
        raise UsageError(f"unknown model {name!r}; did you mean {' or '.join(near)}?")
    raise UsageError(
        f"unknown model {name!r}; expected a config.json, a folder with one, owner/name of the Hugging Face hub, or "
        f"one of {', '.join(models())}"
    )


@cache
def models() -> Mapping[str, Architecture]:
    """The architectures of ``models.toml`` by name."""
    content = tomllib.loads(files("gbr.data").joinpath("models.toml").read_text(encoding="utf-8"))
    return {name: parse_config(values, name, "models.toml") for name, values in content["models"].items()}


def read_models(path: Path) -> dict[str, Architecture]:
    """Read a file of descriptions, or a ``config.json``; a DataError if it is missing or invalid."""
    if path.is_dir() or path.suffix == ".json":
        single = find_model(path)
        return {single.name: single}
    content = read_toml(path, "descriptions of models")
    entries = content.get("models")
    if not isinstance(entries, dict) or not entries:
        raise DataError(
            f'{path}: no models; expected a section [models] with lines like name = {{model_type = "gpt2", …}}'
        )
    found = {}
    for name, values in entries.items():
        where = f"{path}: {name}"
        if not isinstance(values, dict):
            raise DataError(f"{where}: expected the keys of a config.json in braces, got {reprlib.repr(values)}")
        if "config" in values:
            values = {**_read_json(path.parent / str(values["config"])), **values}
        found[name] = parse_config(values, name, where)
    return found


def parse_config(values: Mapping[str, Any], name: str, where: str) -> Architecture:
    """The architecture that a ``config.json`` describes; ``where`` is the file, for a DataError."""
    family = _family(values, where)
    kind = values.get("model_type")
    found: dict[str, Any] = {}
    for field, keys in _KEYS.items():
        key = next((each for each in keys if values.get(each) is not None), None)
        if key is not None:
            found[field] = _positive(values[key], key, where, least=0 if field in ("window", "segments") else 1)
        elif field in _REQUIRED[family]:
            near = get_close_matches(keys[0], [each for each in values if values[each] is not None], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{where}: {keys[0]} is missing in the description of a {family} model{hint}")
    if found.get("layers", 0) > _MAX_LAYERS:
        raise DataError(f"{where}: {found['layers']} layers; expected at most {_MAX_LAYERS}")
    if isinstance(labels := values.get("id2label"), Mapping):
        found["classes"] = len(labels)
    if family in ("resnet", "vgg"):
        return _convolutional(values, name, family, found, where)
    found["tied"] = bool(values.get("tie_word_embeddings", kind == "gpt2"))
    if family in RECURRENT:
        return _made(name, family, found, "tied")

    hidden, heads = found["hidden"], found["heads"]
    found = {"kv_heads": heads, "intermediate": 4 * hidden, "segments": 1 if kind == "roberta" else 2, **found}
    if heads % found["kv_heads"]:
        raise DataError(f"{where}: {heads} heads are no multiple of {found['kv_heads']} key/value heads")
    if "head_width" not in found and hidden % heads:
        raise DataError(f"{where}: a width of {hidden} is no multiple of {heads} heads")
    found.setdefault("head_width", hidden // heads)
    found["qkv_bias"] = kind == "qwen2" or values.get("attention_bias") is True
    optional = ["kv_heads", "head_width", "intermediate", "tied", "qkv_bias"]
    if family == "vit":
        if found["image"] % found["patch"]:
            raise DataError(f"{where}: a side of {found['image']} is no multiple of patches of {found['patch']}")
        found["positions"] = (found["image"] // found["patch"]) ** 2 + 1
        optional += ["positions", "channels", "classes"]
    elif family == "bert" or (family == "gpt" and kind != "gpt_neox"):
        found.setdefault("positions", 1024 if family == "gpt" else 512)
        optional += ["positions", *(["segments"] if family == "bert" else [])]
    elif family == "mistral" and values.get("use_sliding_window") is not False:
        optional.append("window")
    return _made(name, family, found, *optional)


def _made(name: str, family: str, found: Mapping[str, Any], *optional: str) -> Architecture:
    """An architecture with the required values of its family, and optional ones that are present."""
    return Architecture(name, family, **{key: found[key] for key in (*_REQUIRED[family], *optional) if key in found})


def _convolutional(
    values: Mapping[str, Any], name: str, family: str, found: Mapping[str, int], where: str
) -> Architecture:
    depths, widths = (_integers(values.get(key), key, where) for key in ("depths", "hidden_sizes"))
    if len(depths) != len(widths):
        raise DataError(f"{where}: {len(depths)} depths and {len(widths)} hidden_sizes; expected one of each per stage")
    if sum(depths) > _MAX_LAYERS:
        raise DataError(f"{where}: {sum(depths)} blocks; expected at most {_MAX_LAYERS}")
    layer = values.get("layer_type", "bottleneck")
    if layer not in ("basic", "bottleneck"):
        raise DataError(f"{where}: layer_type: expected basic or bottleneck, got {reprlib.repr(layer)}")
    return Architecture(
        name,
        family,
        hidden=widths[-1],
        layers=sum(depths),
        intermediate=found.get("intermediate", 0),
        image=found.get("image", 224),
        channels=found.get("channels", 3),
        classes=found.get("classes", 1000),
        stem=found.get("stem", 64) if family == "resnet" else 0,
        depths=depths,
        widths=widths,
        bottleneck=family == "resnet" and layer == "bottleneck",
    )


def _family(values: Mapping[str, Any], where: str) -> str:
    kind = values.get("model_type")
    if kind is None and isinstance(classes := values.get("architectures"), list) and classes:
        lower = str(classes[0]).casefold()  # "LlamaForCausalLM"
        kind = next(
            (each for each in sorted(_TYPES, key=len, reverse=True) if lower.startswith(each.replace("_", ""))),
            classes[0],
        )
    if kind is None:
        raise DataError(f"{where}: model_type is missing; expected one of {', '.join(_TYPES)}")
    if not isinstance(kind, str) or kind not in _TYPES:
        near = get_close_matches(str(kind), _TYPES, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_TYPES)}"
        raise DataError(f"{where}: unknown model_type {reprlib.repr(kind)}; {hint}")
    return _TYPES[kind]


def _positive(value: Any, key: str, where: str, least: int = 1) -> int:
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        value = value[0]  # image_size = [224, 224]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value < _MAX:
        raise DataError(f"{where}: {key}: expected an integer from {least} on, got {reprlib.repr(value)}")
    return value


def _integers(value: Any, key: str, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: {key}: expected a list of integers, one per stage, got {reprlib.repr(value)}")
    return tuple(_positive(each, key, where) for each in value)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return _config(path.read_bytes(), str(path))
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror}); expected the config.json of a model") from fault


def _config(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        values = parse_json(data.decode("utf-8-sig"))
    except ValueError as fault:
        raise DataError(f"{where}: not JSON ({one_line(fault)}); expected a config.json") from fault
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected an object with model_type and sizes, got {reprlib.repr(values)}")
    # Models of text and images together describe the part for text under this key.
    return values["text_config"] if isinstance(values.get("text_config"), dict) else values


def _from_hub(name: str) -> Mapping[str, Any]:
    import requests  # only for names of the hub

    address = _HUB.format(name)
    try:
        with requests.get(address, timeout=_TIMEOUT, stream=True) as reply:
            reply.raise_for_status()
            data = reply.raw.read(_MAX_BYTES + 1, decode_content=True)
    except requests.RequestException as fault:
        code = getattr(fault.response, "status_code", None)
        state = f"HTTP status {code}" if code else f"no connection: {type(fault).__name__}"
        raise DataError(
            f"{address}: cannot be read ({state}); names of the Hugging Face hub need the network: save the "
            "config.json and give its path"
        ) from fault
    if len(data) > _MAX_BYTES:
        raise DataError(f"{address}: more than {_MAX_BYTES} bytes; expected a config.json")
    return _config(data, address)


# Weights --------------------------------------------------------------------------------------------------------------


@lru_cache
def weights(model: Architecture) -> Mapping[str, Weight]:
    """The arrays of parameters by name; matrices are (in, out), filters (height, width, in, out)."""
    if model.family in ("resnet", "vgg"):
        return dict(_convolutions(model))
    return dict(_recurrent(model) if model.family in RECURRENT else _transformer(model))


def _dense(name: str, wide: int, out: int, bias: bool, uses: int | None = None) -> Iterator[tuple[str, Weight]]:
    yield name, Weight((wide, out), uses)
    if bias:
        yield f"{name}/bias", Weight((out,))


def _norm(name: str, wide: int, bias: bool) -> Iterator[tuple[str, Weight]]:
    yield f"{name}/scale", Weight((wide,))
    if bias:
        yield f"{name}/bias", Weight((wide,))


def _transformer(model: Architecture) -> Iterator[tuple[str, Weight]]:
    wide, bias = model.hidden, model.biased
    each = None
    if model.family == "vit":
        patches, each = model.positions - 1, model.positions
        yield "patches", Weight((model.patch, model.patch, model.channels, wide), patches)
        yield "patches/bias", Weight((wide,))
        yield "first", Weight((wide,))
    else:
        yield "tokens", Weight((model.vocabulary, wide))
    if model.positions:
        yield "positions", Weight((model.positions, wide))
    if model.family == "bert":
        yield "segments", Weight((model.segments, wide))
        yield from _norm("norm", wide, bias)
    queries, keys = model.heads * model.head_width, 2 * model.kv_heads * model.head_width
    for number in range(model.layers):
        layer = f"layers/{number}"
        yield from _norm(f"{layer}/attention/norm", wide, bias)
        yield from _dense(f"{layer}/qkv", wide, queries + keys, bias or model.qkv_bias, each)
        yield from _dense(f"{layer}/out", queries, wide, bias, each)
        yield from _norm(f"{layer}/feed/norm", wide, bias)
        yield from _dense(f"{layer}/up", wide, model.intermediate, bias, each)
        if model.gated:
            yield from _dense(f"{layer}/gate", wide, model.intermediate, bias, each)
        yield from _dense(f"{layer}/down", model.intermediate, wide, bias, each)
    if model.family == "bert":
        yield from _dense("pooler", wide, wide, bias, 1)
        return
    yield from _norm("norm", wide, bias)
    if model.family == "vit":
        yield from _dense("classes", wide, model.classes, bias, 1)
    elif not model.tied:
        yield from _dense("classes", wide, model.vocabulary, False, 1)


def _recurrent(model: Architecture) -> Iterator[tuple[str, Weight]]:
    wide, gates = model.hidden, RECURRENT[model.family] * model.hidden
    yield "tokens", Weight((model.vocabulary, wide))
    for number in range(model.layers):
        yield f"layers/{number}/input", Weight((wide, gates), None)
        yield f"layers/{number}/input/bias", Weight((gates,))
        yield f"layers/{number}/state", Weight((wide, gates), None)
        yield f"layers/{number}/state/bias", Weight((gates,))
    if not model.tied:
        yield from _dense("classes", wide, model.vocabulary, True, 1)


class Convolution(NamedTuple):
    """One convolution of a block; ``side`` is that of its results."""

    name: str
    window: int
    channels: int
    out: int
    stride: int
    side: int


def blocks(model: Architecture) -> Iterator[tuple[str, tuple[Convolution, ...]]]:
    """Name and convolutions of each block of a convolutional network, after the stem of a resnet."""
    resnet = model.family == "resnet"
    wide, side = (model.stem, -(-model.image // 4)) if resnet else (model.channels, model.image)
    for stage, (depth, out) in enumerate(zip(model.depths, model.widths, strict=True)):
        for number in range(depth):
            stride = 2 if resnet and stage and not number else 1
            before, side = side, -(-side // stride)
            if not resnet:
                layers = [Convolution("conv", 3, wide, out, 1, side)]
            elif model.bottleneck:
                layers = [
                    Convolution("a", 1, wide, out // 4, 1, before),
                    Convolution("b", 3, out // 4, out // 4, stride, side),
                    Convolution("c", 1, out // 4, out, 1, side),
                ]
            else:
                layers = [Convolution("a", 3, wide, out, stride, side), Convolution("b", 3, out, out, 1, side)]
            if resnet and (stride > 1 or wide != out):
                layers.append(Convolution("skip", 1, wide, out, stride, side))
            yield f"stages/{stage}/{number}", tuple(layers)
            wide = out
        if not resnet:
            side //= 2  # pooling after each stage


def _convolutions(model: Architecture) -> Iterator[tuple[str, Weight]]:
    layers = [(f"{block}/{each.name}", each) for block, found in blocks(model) for each in found]
    if model.family == "resnet":
        layers.insert(0, ("stem", Convolution("stem", 7, model.channels, model.stem, 2, -(-model.image // 2))))
    for name, each in layers:
        yield name, Weight((each.window, each.window, each.channels, each.out), each.side**2)
        if model.family == "resnet":  # a batch normalization
            yield f"{name}/scale", Weight((each.out,))
        yield f"{name}/bias", Weight((each.out,))
    wide = model.hidden
    if model.intermediate:
        wide *= (model.image >> len(model.depths)) ** 2
        for number in range(2):
            yield from _dense(f"dense/{number}", wide, model.intermediate, True, 1)
            wide = model.intermediate
    yield from _dense("classes", wide, model.classes, True, 1)


# Figures --------------------------------------------------------------------------------------------------------------


def parameters(model: Architecture) -> int:
    """Number of parameters."""
    return sum(prod(weight.shape) for weight in weights(model).values())


def figures(model: Architecture, phase: str, batch: int, sequence: int, dtype: str) -> dict[str, int]:
    """Operations and bytes of a run, from the metadata alone.

    Parameters
    ----------
    phase : str
        One of the phases of the model.
    batch, sequence : int
        Sequences or images at once, and tokens of each; of ``decode``, tokens in the cache with the new one.
    dtype : str
        One of :data:`DTYPES`.

    Returns
    -------
    dict
        ``parameters``; ``flops`` of matrices, filters and attention, a multiply-add counts two; ``weight_bytes``;
        ``activation_bytes``, the results of all matrices, filters and attention scores; ``cache_bytes``, keys and
        values or states that a generating model keeps.
    """
    size = DTYPES[dtype]
    tokens = 1 if phase == "decode" or model.family in IMAGES else sequence
    total = operations = results = 0
    for weight in weights(model).values():
        count = prod(weight.shape)
        total += count
        uses = tokens if weight.uses is None else weight.uses
        operations += 2 * count * uses
        results += uses * weight.shape[-1]
    if model.tied:
        operations += 2 * model.vocabulary * model.hidden
        results += model.vocabulary
    cache = 0
    if model.heads:
        queries, keys = (model.positions, model.positions) if model.family == "vit" else (tokens, sequence)
        if model.window and phase == "decode":
            keys = min(keys, model.window)
        operations += 4 * model.layers * queries * keys * model.heads * model.head_width
        results += model.layers * queries * (keys * model.heads + model.heads * model.head_width)
        cache = 2 * model.layers * keys * model.kv_heads * model.head_width
    elif model.family in RECURRENT:
        cache = model.layers * model.hidden * (2 if model.family == "lstm" else 1)
    return {
        "parameters": total,
        "flops": batch * operations,
        "weight_bytes": size * total,
        "activation_bytes": size * batch * results,
        "cache_bytes": size * batch * cache if model.family in GENERATIVE else 0,
    }
