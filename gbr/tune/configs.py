"""Explicit lists of configurations, such as those of ``triton.autotune``, and their search."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.tune.runner import Found, shown_search
from gbr.tune.space import MOST, Columns, Configuration, FloatArray, GraphSpace, Space, loaded, scaled
from gbr.tune.tuner import Tuner

if TYPE_CHECKING:
    from features.hardware import Hardware, SlotNames
    from gbr.data.graph import Graph
    from gbr.ranker import Ranker

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


def _codes(configs: Sequence[Configuration]) -> tuple[list[str], NDArray[np.int64]]:
    """Names of all parameters, and the choices, int64 (c, parameters), -1 where one is missing."""
    names = list(dict.fromkeys(name for config in configs for name in config))
    codes = np.full((len(configs), len(names)), -1)
    for column, name in enumerate(names):
        known: dict[str, int] = {}
        for row, config in enumerate(configs):
            if name in config:
                codes[row, column] = known.setdefault(repr(config[name]), len(known))
    return names, codes


class ConfigSpace(Space):
    """An explicit list of configurations without a program.

    Parameters
    ----------
    configs : sequence
        Dictionaries of value by parameter, or ``triton.Config`` objects.  Equal ones are measured once.
    default : int or None
        Index of the baseline.
    name : str

    Examples
    --------
    >>> space = ConfigSpace([{"BLOCK_M": 64, "num_warps": 4}, {"BLOCK_M": 128, "num_warps": 8}])
    >>> space.describe(1)
    {'BLOCK_M': 128, 'num_warps': 8}
    """

    def __init__(self, configs: Sequence[Any], *, default: int | None = 0, name: str = "configurations") -> None:
        self.configs = _checked(configs, default)
        names, codes = _codes(self.configs)
        self._names = names
        super().__init__(name, codes, default, json.dumps(self.configs, default=repr).encode())

    def columns(self, model: Ranker | None) -> Columns:
        """The parameters: numbers by their logarithm, others by their index, -1 where one is missing."""
        del model
        found = np.full(self.choices.shape, -1.0)
        for column, name in enumerate(self._names):
            rows = [row for row, config in enumerate(self.configs) if name in config]
            found[rows, column] = scaled([self.configs[row][name] for row in rows], self.choices[rows, column])
        return found.astype(np.float32)

    def scores(self, model: Ranker) -> FloatArray:
        """A UsageError, as a model ranks the configurations of a program."""
        raise UsageError(f"{self.name}: a model needs the program of the kernel; pass graph=")

    def describe(self, config: int) -> Configuration:
        """Value by parameter."""
        return self.configs[config]


class KernelSpace(GraphSpace):
    """An explicit list of configurations of a kernel, whose features and models are those of its graph.

    Parameters
    ----------
    configs, default
        As for :class:`ConfigSpace`.
    graph : Graph or path-like
        The program of the kernel; configurations stored with it are ignored.
    hardware : Hardware
        The machine that measures.  If it names slots of a tile configuration, parameters of the same meaning are put
        there, case ignored; else all parameters get slots of their names.
    """

    def __init__(
        self,
        configs: Sequence[Any],
        graph: Graph | str | os.PathLike[str],
        hardware: Hardware,
        *,
        default: int | None = 0,
    ) -> None:
        from gbr.data.graph import Graph, read_graph

        self.configs = _checked(configs, default)
        graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        names, codes = _codes(self.configs)
        if not hardware.config:
            hardware = replace(hardware, config=_slots(names))
        encoded = graph.with_configs(_encoded(self.configs, names, codes, hardware.config))
        super().__init__(encoded, default=default, describe=self.configs.__getitem__, hardware=hardware)
        # Parameters without a slot are choices as well.
        Space.__init__(self, graph.name, codes, default, json.dumps(self.configs, default=repr).encode())


def _checked(configs: Sequence[Any], default: int | None) -> list[Configuration]:
    found = [parameters(config) for config in configs]
    if not 0 < len(found) <= MOST:
        raise UsageError(f"configs: expected 1 to {MOST} configurations, got {len(found)}")
    if default is not None and not 0 <= default < len(found):
        raise UsageError(f"default: expected 0 to {len(found) - 1}, got {default}")
    return found


def _slots(names: Sequence[str]) -> SlotNames:
    """Slots for parameters: blocks at the output, others after them."""
    from features.hlo import MAX_RANK
    from features.tile.names import BLOCKS, meaning_of

    blocks = [name for name in names if meaning_of(name) in BLOCKS]
    ordered = [*blocks, *(name for name in names if name not in blocks)]
    stems = ("output_bounds", "kernel_bounds", "input_bounds")
    parts = [tuple(ordered[first : first + MAX_RANK]) for first in range(0, len(stems) * MAX_RANK, MAX_RANK)]
    return tuple((stem, part) for stem, part in zip(stems, parts, strict=True) if part)


def _encoded(
    configs: Sequence[Configuration], names: Sequence[str], codes: NDArray[np.int64], slots: SlotNames
) -> NDArray[np.float32]:
    """Configurations in their slots, float32 (c, 24); numbers as they are, other values by their number from 1."""
    from features.hlo import TILE_CONFIG
    from features.tile.names import meaning_of

    def key(name: str) -> str:
        return meaning_of(name) or name.casefold()

    column_of = {key(name): column for column, name in enumerate(names)}
    found = np.zeros((len(configs), len(TILE_CONFIG)), np.float32)
    for stem, own in slots:
        for slot, name in enumerate(own):
            if not name or key(name) not in column_of:
                continue
            column = column_of[key(name)]
            given = [config.get(names[column], 0) for config in configs]
            plain = all(isinstance(value, int | float) for value in given)
            found[:, TILE_CONFIG.index(f"{stem}_{slot}")] = given if plain else codes[:, column] + 1
    return found


@dataclass(frozen=True)
class TunedConfig:
    """The result of tuning a list of configurations."""

    found: Found
    config: Any  # the configuration to use, as it was given

    def __str__(self) -> str:
        """One line with the speedup."""
        return str(self.found)


def tune_configs(
    configs: Sequence[Any],
    measure: Callable[[Any], float],
    *,
    budget: int = 40,
    seconds: float | None = None,
    graph: Graph | str | os.PathLike[str] | None = None,
    hardware: Hardware | str | None = None,
    model: Ranker | Path | str | None = None,
    journal: Path | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TunedConfig:
    """Search a list of configurations, such as those of ``triton.autotune``, for a fast one.

    Parameters
    ----------
    configs : sequence
        Dictionaries such as ``{"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 4}``, or ``triton.Config`` objects; the
        best one is compared with the first.
    measure : callable
        Maps one of them, as given, to its runtime in a fixed unit; raises if it fails.
    budget, seconds, journal
        As for :func:`gbr.tune.search`.
    graph : Graph or path-like, optional
        The program of the kernel, for features of the hardware, for a model or the estimate that stands in for one.
    hardware : Hardware or str, optional
        The machine that measures, such as ``"a100"``; by default that of the model or of the collection of the graph.
    model : Ranker or path, optional
        Trained on other shapes; needs ``graph``.
    seed : int
    progress : bool
        Show the progress on stderr.

    Raises
    ------
    GbrError
        For invalid arguments, and for the reasons of :func:`gbr.tune.search`.
    """
    given = list(configs)
    model = None if model is None else loaded(model)
    if graph is None:
        if model is not None:
            raise UsageError("model: expected the program of the kernel as well; pass graph=")
        space: ConfigSpace | KernelSpace = ConfigSpace(given)
    else:
        space = KernelSpace(given, graph, _hardware(graph, hardware, model))
    tuner = Tuner(space, model, seed=seed)
    found = shown_search(
        tuner, lambda config: measure(given[config]), f"measuring {space.name}" if progress else None,
        budget=budget, seconds=seconds, journal=journal,
    )  # fmt: skip
    return TunedConfig(found, given[found.config])


def _hardware(graph: Any, hardware: Hardware | str | None, model: Ranker | None) -> Hardware:
    from features.hardware import Hardware
    from gbr.data.hardware import measured_on, named

    if isinstance(hardware, Hardware):
        return hardware
    if hardware is not None:
        return named(hardware)
    if model is not None and model.trained_on_ is not None:
        return model.hardware
    if found := measured_on(Path(getattr(graph, "source", graph))):
        return found[1]
    raise UsageError('hardware: expected the machine that measures, such as "a100"')
