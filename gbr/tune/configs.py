"""Explicit lists of configurations, such as those of ``triton.autotune``, and their search."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gbr.data.configs import codes, in_slots, listed, names_of, parameters, slots_for
from gbr.data.hardware import measured_on, named
from gbr.errors import ModelError, UsageError, warn_once
from gbr.tune.runner import Found, shown_search
from gbr.tune.space import MOST, Columns, Configuration, FloatArray, GraphSpace, Space, loaded, scaled
from gbr.tune.tuner import Tuner

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.data.graph import Graph
    from gbr.ranker import Ranker


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
        self._names = names_of(self.configs)
        super().__init__(name, codes(self.configs), default, json.dumps(self.configs, default=repr).encode())

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
    hardware : Hardware or str
        The machine that measures, such as ``"a100"``.  If it names slots of a tile configuration, parameters of the
        same meaning are put there, case ignored; else all parameters get slots of their names.
    """

    def __init__(
        self,
        configs: Sequence[Any],
        graph: Graph | str | os.PathLike[str],
        hardware: Hardware | str,
        *,
        default: int | None = 0,
    ) -> None:
        from gbr.data.graph import Graph, read_graph

        self.configs = _checked(configs, default)
        graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        hardware = named(hardware)
        if not hardware.config:
            hardware = replace(hardware, config=slots_for(names_of(self.configs)))
        encoded = graph.with_configs(in_slots(self.configs, hardware.config))
        super().__init__(encoded, default=default, describe=self.configs.__getitem__, hardware=hardware)
        # Parameters without a slot are choices as well.
        Space.__init__(self, graph.name, codes(self.configs), default, json.dumps(self.configs, default=repr).encode())

    def _ranker(self, model: Ranker | None) -> Ranker:
        if model is None or model.is_estimate:
            return super()._ranker(None)
        model.check_parameters(names_of(self.configs))
        if self._hardware is None or model.hardware.config != self._hardware.config:
            raise UsageError("model: it has other slots than the space; pass model.hardware as the hardware")
        return model


def _checked(configs: Sequence[Any], default: int | None) -> list[Configuration]:
    found = [parameters(config) for config in listed(configs)]
    if not 0 < len(found) <= MOST:
        raise UsageError(f"configs: expected 1 to {MOST} configurations, got {len(found)}")
    if default is not None and not 0 <= default < len(found):
        raise UsageError(f"default: expected 0 to {len(found) - 1}, got {default}")
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
    given = listed(configs)
    model = None if model is None else loaded(model)
    if graph is None:
        for name, value in (("model", model), ("hardware", hardware)):
            if value is not None:
                raise UsageError(f"{name}: expected the program of the kernel as well; pass graph=")
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
    """The machine that measures; that of a trained model, which has the slots of its configurations."""
    asked = None if hardware is None else named(hardware)
    if model is not None and not model.is_estimate:
        own = model.hardware
        if asked is not None and replace(asked, config=()) != replace(own, config=()):
            warn_once(f"the model was trained for {own.name!r}, not {asked.name!r}; expect little of its order")
        return own
    if asked is not None:
        return asked
    if model is not None:
        with suppress(ModelError):  # an estimate for any machine
            return model.hardware
    if found := measured_on(Path(getattr(graph, "source", graph))):
        return found[1]
    raise UsageError('hardware: expected the machine that measures, such as "a100"')
