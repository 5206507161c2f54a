"""Tile configurations as people write them: parameters by name, objects of Triton, bounds by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.hardware import SlotNames
from features.hlo import MAX_RANK, TILE_CONFIG
from features.tile.names import BLOCKS, meaning_of
from gbr.errors import UsageError

Configuration = dict[str, Any]

#: Tensors of a tile configuration; each has six bounds, their sum and their product.
STEMS: Final = tuple(dict.fromkeys(name.rpartition("_")[0] for name in TILE_CONFIG))
#: Attributes of a ``triton.Config`` besides its ``kwargs``, with the values that say nothing.
_ATTRIBUTES: Final[Mapping[str, Any]] = {"num_warps": None, "num_stages": None, "num_ctas": 1, "maxnreg": None}


def parameters(config: Any) -> Configuration:
    """Value by parameter of a configuration: a mapping, with or without ``kwargs``, or a ``triton.Config``."""
    if isinstance(config, Mapping):
        own = {name: value for name, value in config.items() if name != "kwargs"}
        return {**config.get("kwargs", {}), **own}
    if not isinstance(getattr(config, "kwargs", None), Mapping):
        raise UsageError(f"configs: expected dictionaries or triton.Config objects, got a {type(config).__name__}")
    own = {name: getattr(config, name, empty) for name, empty in _ATTRIBUTES.items()}
    return {**config.kwargs, **{name: value for name, value in own.items() if value != _ATTRIBUTES[name]}}


def listed(configs: Any) -> list[Any]:
    """Configurations as a list; UsageError for what is none."""
    try:
        return list(configs)
    except TypeError as fault:
        raise UsageError(f"configs: expected a list of configurations, got a {type(configs).__name__}") from fault


def names_of(configs: Sequence[Configuration]) -> list[str]:
    """Names of all parameters, in order of appearance."""
    return list(dict.fromkeys(name for config in configs for name in config))


def codes(configs: Sequence[Configuration]) -> NDArray[np.int64]:
    """Choices by :func:`names_of`, int64 (c, parameters): equal values have equal codes, -1 where one is missing."""
    names = names_of(configs)
    found = np.full((len(configs), len(names)), -1)
    for column, name in enumerate(names):
        known: dict[str, int] = {}
        for row, config in enumerate(configs):
            if name in config:
                found[row, column] = known.setdefault(repr(config[name]), len(known))
    return found


def slots_for(names: Sequence[str]) -> SlotNames:
    """Slots for parameters: blocks at the output, others after them."""
    blocks = [name for name in names if meaning_of(name) in BLOCKS]
    ordered = [*blocks, *(name for name in names if name not in blocks)]
    stems = ("output_bounds", "kernel_bounds", "input_bounds")
    if len(ordered) > len(stems) * MAX_RANK:
        raise UsageError(f"configs: expected at most {len(stems) * MAX_RANK} parameters, got {len(ordered)}")
    parts = [tuple(ordered[first : first + MAX_RANK]) for first in range(0, len(stems) * MAX_RANK, MAX_RANK)]
    return tuple((stem, part) for stem, part in zip(stems, parts, strict=True) if part)


def without_slot(names: Sequence[str], slots: SlotNames) -> list[str]:
    """Parameters that have no slot, by name or meaning."""
    known = {_key(name) for _, own in slots for name in own if name}
    return [name for name in names if _key(name) not in known]


def in_slots(configs: Sequence[Configuration], slots: SlotNames) -> NDArray[np.float32]:
    """Parameters in their slots, float32 (c, 24); numbers as they are, other values by their number from 1.

    Names match by meaning, case ignored.  Sums and products are 0, as they would mix parameters.
    """
    names, own_codes = names_of(configs), codes(configs)
    column_of = {_key(name): column for column, name in enumerate(names)}
    found = np.zeros((len(configs), len(TILE_CONFIG)), np.float32)
    for stem, own in slots:
        for slot, name in enumerate(own):
            if not name or _key(name) not in column_of:
                continue
            column = column_of[_key(name)]
            given = [0 if (value := config.get(names[column])) is None else value for config in configs]
            plain = all(isinstance(value, int | float | np.number) for value in given)
            if plain and meaning_of(name) and min(given, default=0) < 0:
                raise UsageError(f"configs: {names[column]}: expected a number of 0 or more, got {min(given)!r}")
            found[:, TILE_CONFIG.index(f"{stem}_{slot}")] = given if plain else own_codes[:, column] + 1
    return found


def are_bounds(configs: Sequence[Any]) -> bool:
    """Whether configurations are sizes by tensor, as :func:`from_bounds` takes them."""
    return any(stem in config for config in configs if isinstance(config, Mapping) for stem in STEMS)


def from_bounds(configs: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Sizes by tensor, ``{"output_bounds": [64, 128]}``, with their sums and products, float32 (c, 24)."""
    found = np.zeros((len(configs), len(STEMS), MAX_RANK + 2), np.float32)
    for row, config in enumerate(configs):
        if not isinstance(config, Mapping) or not set(config) <= set(STEMS):
            got = list(config) if isinstance(config, Mapping) else type(config).__name__
            raise UsageError(
                f"configs: expected dictionaries with {', '.join(STEMS)}, got {got} at {row}; parameters by name are "
                "for Ranker.rank(graph, configs)"
            )
        for part, stem in enumerate(STEMS):
            bounds = np.asarray(config.get(stem, ()))
            valid = bounds.ndim == 1 and len(bounds) <= MAX_RANK and (not len(bounds) or bounds.dtype.kind in "iuf")
            if not valid or not (bounds >= 0).all():
                got = config[stem]
                raise UsageError(f"configs: {stem}: expected up to {MAX_RANK} sizes of 0 or more, got {got!r} at {row}")
            if len(bounds):
                found[row, part, : len(bounds)] = bounds
                found[row, part, MAX_RANK:] = bounds.sum(), bounds.prod()
    return found.reshape(len(configs), -1)


def _key(name: str) -> str:
    return meaning_of(name) or name.casefold()
