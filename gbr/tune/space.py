"""Spaces to search: a finite list of configurations, the columns they are learned from, and which are alike."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.graph import DTYPES, Graph, graph_from_arrays, read_graph
from gbr.errors import ModelError, UsageError

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.ranker import Ranker

Columns = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Configuration = dict[str, Any]

#: Configurations of a space; of more a sample is searched, as all of them are held in memory and scored at every step.
MOST: Final = 4096
#: Combinations of parameters that are gone through: about as many as can be within a minute.
_COMBINATIONS: Final = 20_000_000


class Space(ABC):
    """Configurations, numbered from 0.

    Parameters
    ----------
    name : str
        For people and messages.
    choices : (c, attributes)
        What every configuration chooses, as numbers that are equal where the choices are.
    default : int or None
        The configuration to beat: what is used when nothing is tuned.
    identity : bytes
        What makes it this space and no other; enters the fingerprint.

    Attributes
    ----------
    duplicate_of : int64 (c,)
        Number of the first equal configuration; its own where it is the first.
    """

    def __init__(self, name: str, choices: NDArray[Any], default: int | None, identity: bytes) -> None:
        self.name = name
        self.choices = choices
        _, first, inverse = np.unique(choices, axis=0, return_index=True, return_inverse=True)
        self.duplicate_of: IntArray = first[inverse.reshape(-1)].astype(np.int64)
        self.default = None if default is None else int(self.duplicate_of[default])
        self._identity = identity

    def __len__(self) -> int:
        return len(self.choices)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that a configuration's number stands for."""
        held = hashlib.sha256(self._identity)
        held.update(np.ascontiguousarray(self.choices).tobytes())
        held.update(f"{self.choices.shape} {self.choices.dtype} {self.default}".encode())
        return held.hexdigest()[:16]

    @abstractmethod
    def columns(self, model: Ranker | None) -> Columns:
        """Numbers that tell configurations apart, float32 (c, columns)."""

    @abstractmethod
    def scores(self, model: Ranker) -> FloatArray:
        """What a model trained on other programs expects, float64 (c,): lower is faster."""

    @abstractmethod
    def describe(self, config: int) -> Configuration:
        """The configuration in words and numbers that JSON holds."""


class GraphSpace(Space):
    """The configurations of a graph, in the format of TpuGraphs.

    Parameters
    ----------
    graph : Graph or path-like
        Of more than :data:`MOST` configurations a sample, always the same, and the first are searched.
    hardware : Hardware, optional
        The machine that measures, for the columns; that of the model where there is one, else a generic CPU.
    default : int or None
        Row of the graph.
    told : callable, optional
        From the number of a configuration to what is told of it; by default its row in the graph.

    Attributes
    ----------
    rows : int64 (c,)
        Row of the graph, by number of configuration.

    Raises
    ------
    DataError
        When the file is missing, torn or breaks its format.
    """

    def __init__(
        self,
        graph: Graph | str | os.PathLike[str],
        *,
        hardware: Hardware | None = None,
        default: int | None = 0,
        told: Callable[[int], Configuration] | None = None,
    ) -> None:
        from gbr.models.within import choices

        whole = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        self.rows, self.graph = sampled(whole)
        self._hardware = hardware
        self._told = told
        self._features: dict[str, tuple[Any, Columns]] = {}
        configs = self.graph.configs(np.arange(self.graph.n_configs))
        program = self.graph.node_opcode, self.graph.node_feat, self.graph.edge_index
        super().__init__(
            whole.name, choices(self.graph.kind, configs), default, b"".join(each.tobytes() for each in program)
        )

    def columns(self, model: Ranker | None) -> Columns:
        """Engineered features, float32 (c, columns)."""
        return self._extracted(model)[1]

    def scores(self, model: Ranker) -> FloatArray:
        """Scores of a model that ``python -m gbr.train`` trained, float64 (c,).

        Raises
        ------
        ModelError
            When it was trained on a plain table, or on other features.
        """
        schema, X = self._extracted(model)
        return np.asarray(model._predict(X[:, model._columns_in(schema, self.graph.source)]))

    def describe(self, config: int) -> Configuration:
        """Where it stands in the graph."""
        return {"row": int(self.rows[config])} if self._told is None else self._told(config)

    def _extracted(self, model: Ranker | None) -> tuple[Any, Columns]:
        from gbr.data.build import extract

        if model is not None and getattr(model, "trained_on_", None) is None:
            raise ModelError("this model knows no graphs; train one with `python -m gbr.train`")
        hardware = self._hardware if model is None else model._hardware(self.graph.source)
        name = repr(hardware)
        if name not in self._features:
            schema, X, _ = extract(self.graph, hardware)
            self._features[name] = schema, X
        return self._features[name]


def sampled(graph: Graph) -> tuple[IntArray, Graph]:
    """Rows of at most :data:`MOST` configurations, the first among them, and the graph with these alone."""
    if graph.n_configs <= MOST:
        return np.arange(graph.n_configs), graph
    drawn = np.random.default_rng(0).choice(np.arange(1, graph.n_configs), MOST - 1, replace=False)
    rows = np.concatenate([[0], np.sort(drawn)])
    key = "config_feat" if graph.kind == "tile" else "node_config_feat"
    arrays: dict[str, NDArray[Any] | None] = {
        "node_feat": graph.node_feat,
        "node_opcode": graph.node_opcode,
        "edge_index": graph.edge_index,
        "node_config_ids": graph.node_config_ids,
        key: graph.configs(rows).astype(DTYPES[key]),
    }
    measured = {
        "config_runtime": graph.runtime,
        "config_runtime_normalizers": graph.normalizer,
        "config_runtime_repeat": graph.repeat,
    }
    arrays |= {key: None if values is None else values[rows] for key, values in measured.items()}
    present = {key: value for key, value in arrays.items() if value is not None}
    return rows, graph_from_arrays(graph.name, present, graph.source)


class ParameterSpace(Space):
    """Every combination of parameters that the constraints allow: the spaces of Kernel Tuner, AutoTVM and their like.

    Parameters
    ----------
    parameters : mapping of str to sequence
        Values that each parameter may take: numbers, texts or truth values.
    constraints : iterable of callable
        Each takes a configuration, a dict of value by parameter, and says whether it is allowed.
    default : mapping, optional
        The configuration to beat.
    features : callable, optional
        From a configuration to a sequence of numbers that tell more than its parameters do, such as the size of a
        tile in bytes; always as many.  They are what a model is asked about, so it is fitted on the same numbers.
    name : str

    Raises
    ------
    UsageError
        When a parameter has no or equal values, nothing is allowed, the default is not among what is, or features are
        no finite numbers.

    Notes
    -----
    Of more than :data:`MOST` configurations a sample, always the same, and the default are searched.  All combinations
    are looked at once: some millions take some seconds.

    Examples
    --------
    >>> space = ParameterSpace({"block": [32, 64, 128], "unroll": [1, 2]}, [lambda c: c["block"] * c["unroll"] <= 128])
    >>> len(space), space.describe(0)
    (5, {'block': 32, 'unroll': 1})
    """

    def __init__(
        self,
        parameters: Mapping[str, Sequence[Any]],
        constraints: Iterable[Callable[[Configuration], bool]] = (),
        *,
        default: Configuration | None = None,
        features: Callable[[Configuration], Sequence[float]] | None = None,
        name: str = "parameters",
    ) -> None:
        self.parameters = {key: list(values) for key, values in parameters.items()}
        for key, values in self.parameters.items():
            if not values or any(value in values[:place] for place, value in enumerate(values)):
                raise UsageError(f"{name}: parameter {key!r} has {values}, want one value or several distinct ones")
        if (combinations := math.prod(map(len, self.parameters.values()))) > _COMBINATIONS:
            raise UsageError(
                f"{name}: {combinations:,} combinations, want at most {_COMBINATIONS:,}; give fewer values, or several "
                "parameters that go together as one"
            )
        rules = list(constraints)
        codes = [
            code
            for code in itertools.product(*(range(len(values)) for values in self.parameters.values()))
            if all(rule(self._decoded(code)) for rule in rules)
        ]
        first = None if default is None else self._code(default, set(codes), name)
        if not codes:
            raise UsageError(f"{name}: no configuration is left; loosen the constraints")
        if len(codes) > MOST:
            drawn = np.random.default_rng(0).choice(len(codes), MOST, replace=False)
            kept = [codes[place] for place in np.sort(drawn).tolist()]
            codes = kept if first is None or first in kept else [first, *kept[1:]]
        self._features = features
        identity = json.dumps([list(self.parameters), [list(map(repr, each)) for each in self.parameters.values()]])
        place = None if first is None else codes.index(first)
        super().__init__(name, np.array(codes, np.int64).reshape(len(codes), -1), place, identity.encode())

    def columns(self, model: Ranker | None) -> Columns:
        """Features where there are some, then the parameters: numbers by their logarithm, others by their place."""
        del model
        own = np.column_stack([_scale(values)[self.choices[:, at]] for at, values in enumerate(self._values)])
        return np.column_stack([self._table, own]).astype(np.float32)

    def scores(self, model: Ranker) -> FloatArray:
        """Scores of a ranker that was fitted on the features, float64 (c,).

        Raises
        ------
        UsageError
            When there are no features, or not as many as the model was fitted on.
        """
        if self._features is None:
            raise UsageError(f"{self.name}: a model is given, but no features to ask it about; give features=")
        return np.asarray(model.predict(self._table))

    def describe(self, config: int) -> Configuration:
        """Value by parameter."""
        return self._decoded(self.choices[config].tolist())

    def number(self, configuration: Configuration) -> int:
        """Number of a configuration given as a dict.

        Raises
        ------
        UsageError
            When it is not in the space.
        """
        code = self._code(configuration, None, self.name)
        found = np.flatnonzero((self.choices == code).all(axis=1))
        if not len(found):
            raise UsageError(f"{self.name}: {configuration} is not allowed by the constraints")
        return int(found[0])

    @property
    def _values(self) -> list[list[Any]]:
        return list(self.parameters.values())

    @cached_property
    def _table(self) -> FloatArray:
        if self._features is None:
            return np.zeros((len(self), 0))
        try:
            table = np.array([list(self._features(self.describe(at))) for at in range(len(self))], np.float64)
        except (TypeError, ValueError) as fault:
            raise UsageError(f"{self.name}: features: {fault}; want as many numbers for every configuration") from fault
        if table.ndim != 2 or not np.isfinite(table).all():
            raise UsageError(f"{self.name}: features: want as many finite numbers for every configuration")
        return table

    def _decoded(self, code: Sequence[int]) -> Configuration:
        return {key: values[at] for (key, values), at in zip(self.parameters.items(), code, strict=True)}

    def _code(self, configuration: Configuration, allowed: set[tuple[int, ...]] | None, name: str) -> tuple[int, ...]:
        try:
            if set(configuration) != set(self.parameters):
                raise ValueError
            code = tuple(values.index(configuration[key]) for key, values in self.parameters.items())
        except ValueError:
            raise UsageError(f"{name}: {configuration} is no configuration; parameters: {self.parameters}") from None
        if allowed is not None and code not in allowed:
            raise UsageError(f"{name}: the default {configuration} is not allowed by the constraints")
        return code


def _scale(values: Sequence[Any]) -> FloatArray:
    """Values of a parameter on a scale: numbers by signed logarithm, as most of them are sizes; others by place."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, np.float64)
        return np.asarray(np.sign(numbers) * np.log2(1 + np.abs(numbers)))
    return np.arange(len(values), dtype=np.float64)
