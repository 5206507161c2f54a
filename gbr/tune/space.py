"""Search spaces: a finite list of configurations, their feature columns, and duplicates among them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.graph import Graph, read_graph
from gbr.data.hardware import named
from gbr.errors import UsageError, one_line

if TYPE_CHECKING:
    from features.hardware import Hardware
    from features.schema import Schema
    from gbr.models.transfer import Transfer
    from gbr.ranker import Ranker

Columns = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Configuration = dict[str, Any]

#: Maximum number of configurations of a space, which are all kept in memory and scored at every step; a larger space is
#: sampled.
MOST: Final = 4096
#: The same of a table, whose model is fast.
MOST_ROWS: Final = 20_000
#: Maximum number of combinations of parameters; enumerating them takes up to a minute.
_COMBINATIONS: Final = 20_000_000


def loaded(model: Ranker | str | os.PathLike[str]) -> Ranker:
    """A model as it is, or read from its run directory."""
    from gbr.ranker import Ranker  # boosting libraries, not for --help

    return model if isinstance(model, Ranker) else Ranker.load(model)


class Space(ABC):
    """Configurations, numbered from 0.

    Attributes
    ----------
    name : str
    choices : (c, attributes)
        The choices of every configuration, as numbers; equal choices have equal numbers.
    duplicate_of : int64 (c,)
        Index of the first equal configuration, for the first one its own.
    default : int or None
        The baseline: the configuration without tuning.
    fingerprint : str
        Hash of the choices, in order, of the default and of ``identity``.
    """

    def __init__(self, name: str, choices: NDArray[Any], default: int | None, identity: bytes) -> None:
        self.name = name
        self.choices = choices
        _, first, inverse = np.unique(choices, axis=0, return_index=True, return_inverse=True)
        self.duplicate_of: IntArray = first[inverse.reshape(-1)].astype(np.int64)
        if default is not None and not 0 <= default < len(choices):
            raise UsageError(f"{name}: default: expected 0 to {len(choices) - 1}, got {default!r}")
        self.default = None if default is None else int(self.duplicate_of[default])
        digest = hashlib.sha256(identity + np.ascontiguousarray(choices).tobytes())
        digest.update(f"{choices.shape} {choices.dtype} {self.default}".encode())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.choices)

    @abstractmethod
    def columns(self, model: Ranker | None) -> Columns:
        """Feature columns, float32 (c, columns)."""

    @abstractmethod
    def scores(self, model: Ranker) -> FloatArray:
        """Scores of a model trained on other programs, float64 (c,): lower is faster."""

    @abstractmethod
    def describe(self, config: int) -> Configuration:
        """A configuration as a dict that can be written as JSON."""

    def transfer(self, model: Ranker | None, seed: int) -> Transfer | None:
        """What other groups tell of the runtimes, log2, if the space has such groups."""
        return None

    def estimate(self) -> Ranker | None:
        """The analytic estimate that stands in for a model, if there is one."""
        return None


class GraphSpace(Space):
    """The configurations of a graph in the format of TpuGraphs.

    Parameters
    ----------
    graph : Graph or path-like
        If it has more than :data:`MOST` configurations, the first and a fixed sample are searched.
    default : int or None
        Row of the graph.
    describe : callable, optional
        Maps the index of a configuration to its description; by default its row in the graph.
    hardware : Hardware or str, optional
        The machine that measures, such as ``"a100"``; by default that of the collection of the graph, or a generic CPU.

    Attributes
    ----------
    graph : Graph
        The program with the configurations of the space.
    """

    def __init__(
        self,
        graph: Graph | str | os.PathLike[str],
        *,
        default: int | None = 0,
        describe: Callable[[int], Configuration] | None = None,
        hardware: Hardware | str | None = None,
    ) -> None:
        from gbr.models.within import choices  # scikit-learn, not for --help

        self._rows, self.graph = _sampled(graph if isinstance(graph, Graph) else read_graph(Path(graph)))
        self._describe, self._hardware = describe, None if hardware is None else named(hardware)
        self._features: dict[str, tuple[Schema, Columns]] = {}
        configs = self.graph.configs(np.arange(self.graph.n_configs))
        program = self.graph.node_opcode, self.graph.node_feat, self.graph.edge_index
        identity = b"".join(array.tobytes() for array in program)
        super().__init__(self.graph.name, choices(self.graph.kind, configs), default, identity)

    def columns(self, model: Ranker | None) -> Columns:
        """Engineered features for the hardware of the model, or of the space, float32 (c, columns)."""
        return self._extracted(self._ranker(model))[1]

    def scores(self, model: Ranker) -> FloatArray:
        """Scores of a model trained by ``python -m gbr.train``, float64 (c,); others raise a ModelError."""
        model = self._ranker(model)
        schema, X = self._extracted(model)
        return np.asarray(model.predict_rows(X[:, model.columns_in(schema, self.graph.source)]))

    def describe(self, config: int) -> Configuration:
        """Row of the graph, or the description given at construction."""
        return {"row": int(self._rows[config])} if self._describe is None else self._describe(config)

    def estimate(self) -> Ranker:
        """The estimate for the hardware of the space."""
        from gbr.ranker import Ranker  # boosting libraries, not for --help

        return Ranker.physics(self._hardware)

    def _ranker(self, model: Ranker | None) -> Ranker:
        return (model or self.estimate()).resolved(self.graph.kind, self.graph.source)

    def _extracted(self, model: Ranker) -> tuple[Schema, Columns]:
        from gbr.data.build import extract  # numba, not for --help

        hardware = model.hardware
        if repr(hardware) not in self._features:
            schema, X, _ = extract(self.graph, hardware)
            self._features[repr(hardware)] = schema, X
        return self._features[repr(hardware)]


def _sampled(graph: Graph) -> tuple[IntArray, Graph]:
    """Rows of at most :data:`MOST` configurations, including the first, and the graph with these configurations."""
    if graph.n_configs <= MOST:
        return np.arange(graph.n_configs), graph
    drawn = np.random.default_rng(0).choice(np.arange(1, graph.n_configs), MOST - 1, replace=False)
    rows = np.concatenate([[0], np.sort(drawn)])
    runtimes = {name: getattr(graph, name) for name in ("runtime", "normalizer", "repeat")}
    kept = {name: values[rows] for name, values in runtimes.items() if values is not None}
    return rows, replace(graph.with_configs(graph.configs(rows)), **kept)


class TableSpace(Space):
    """Rows of one group of a table, or candidates that were not measured, for a model that was trained on a table.

    Parameters
    ----------
    rows : path-like, or polars, pandas or Arrow table
        Configurations, with the columns of groups and context of the training table, or the result of
        :func:`gbr.data.table.read_rows`.
    model : Ranker
        Trained by ``python -m gbr.train --subset table:NAME``.
    fixed : mapping, optional
        Values of columns that ``rows`` lacks, such as ``{"device": "H100"}``.
    default : int, optional
        Row of the baseline configuration.

    Attributes
    ----------
    rows : int64 (c,)
        Rows that are searched: all, or of more than :data:`MOST_ROWS` the most promising and a sample of the others.

    Raises
    ------
    ModelError
        When the model was not trained on a table.
    DataError
        When a column is missing, or the rows are of several groups.

    Examples
    --------
    ::

        model = gbr.Ranker.load("runs/gemm")
        space = TableSpace(candidates, model, fixed={"device": "NVIDIA H100"})
        tuner = Tuner(space, model)
        for _ in range(20):
            (config,) = tuner.ask()
            tuner.tell([config], [measure(**space.describe(config))])
    """

    def __init__(
        self, rows: Any, model: Ranker, *, fixed: Mapping[str, Any] | None = None, default: int | None = None
    ) -> None:
        from gbr.adapt import TableRows  # polars and scikit-learn, not for --help

        self._table = TableRows(rows, model, fixed, MOST_ROWS, default)
        self.rows = self._table.rows
        number = None if default is None else int(np.flatnonzero(self.rows == default)[0])
        configs = self._table.configs
        super().__init__(
            self._table.name, self._table.choices, number, repr([configs.columns, *configs.rows()]).encode()
        )

    def columns(self, model: Ranker | None) -> Columns:
        """Features of the table, float32 (c, columns)."""
        return self._table.X

    def scores(self, model: Ranker) -> FloatArray:
        """Scores of the model of the space, float64 (c,)."""
        return self._table.scores

    def describe(self, config: int) -> Configuration:
        """Value by parameter."""
        return self._table.configs.row(config, named=True)

    def transfer(self, model: Ranker | None, seed: int) -> Transfer:
        """Log2 runtimes in other groups, and those of the order of the model; neither without a model."""
        return self._table.transfer(seed, history=model is not None)


class ParameterSpace(Space):
    """All combinations of parameters that satisfy the constraints, as in Kernel Tuner or AutoTVM.

    Parameters
    ----------
    parameters : mapping of str to sequence
        Distinct values of each parameter: numbers, infinite ones included, strings or booleans, of Python or NumPy.
    constraints : iterable of callable
        Each takes a configuration, a dict of value by parameter, and returns whether it is allowed.
    default : mapping, optional
        The baseline configuration.
    features : callable, optional
        From a configuration to a sequence of numbers, always as many, that add to its parameters, such as the size of
        a tile in bytes; finite as float32.  A model must be fitted on the same numbers.
    name : str

    Notes
    -----
    If more than :data:`MOST` configurations are allowed, the default and a fixed sample are searched.  All combinations
    are enumerated once: some millions take some seconds.

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
        self.parameters = {key: _distinct(values, f"{name}: parameter {key!r}") for key, values in parameters.items()}
        self._features = features
        if (combinations := math.prod(map(len, self.parameters.values()))) > _COMBINATIONS:
            raise UsageError(
                f"{name}: expected at most {_COMBINATIONS:,} combinations, got {combinations:,}; give fewer values, or "
                "combine parameters that depend on each other into one"
            )
        rules = list(constraints)
        product = itertools.product(*(range(len(values)) for values in self.parameters.values()))
        codes = [code for code in product if not rules or _is_allowed(self._decode(code), rules, name)]
        if not codes:
            raise UsageError(f"{name}: no configuration satisfies the constraints; relax them")
        baseline = None if default is None else next((code for code in codes if self._decode(code) == default), None)
        if default is not None and baseline is None:
            raise UsageError(
                f"{name}: expected a default with an allowed value of each parameter, got {default}: it violates the "
                f"constraints or is not in {self.parameters}"
            )
        if len(codes) > MOST:
            drawn = np.random.default_rng(0).choice(len(codes), MOST, replace=False)
            kept = [codes[at] for at in np.sort(drawn).tolist()]
            codes = kept if baseline is None or baseline in kept else [baseline, *kept[1:]]
        identity = json.dumps([list(self.parameters), [list(map(repr, each)) for each in self.parameters.values()]])
        number = None if baseline is None else codes.index(baseline)
        super().__init__(name, np.array(codes, np.int64).reshape(len(codes), -1), number, identity.encode())

    def columns(self, model: Ranker | None) -> Columns:
        """Features if given, then the parameters: numbers by their logarithm, others by their index."""
        del model
        scales = [scaled(values, np.arange(len(values))) for values in self.parameters.values()]
        own = np.column_stack([scale[self.choices[:, at]] for at, scale in enumerate(scales)])
        return np.column_stack([self._table, own]).astype(np.float32)

    def scores(self, model: Ranker) -> FloatArray:
        """Scores of a ranker that was fitted on the features, float64 (c,)."""
        if self._features is None:
            raise UsageError(f"{self.name}: the model requires the features that it was fitted on; pass features=")
        return np.asarray(model.predict(self._table))

    def describe(self, config: int) -> Configuration:
        """Value by parameter."""
        return self._decode(self.choices[config].tolist())

    @cached_property
    def _table(self) -> FloatArray:
        if self._features is None:
            return np.zeros((len(self), 0))
        expected = f"{self.name}: features: expected the same number of finite numbers for every configuration"
        try:
            table = np.array([list(self._features(self.describe(at))) for at in range(len(self))], np.float64)
        except (TypeError, ValueError, OverflowError) as fault:
            raise UsageError(f"{expected} ({fault})") from fault
        if not (np.abs(table) <= np.finfo(np.float32).max).all():
            raise UsageError(expected)
        return table

    def _decode(self, code: Sequence[int]) -> Configuration:
        return {key: values[at] for (key, values), at in zip(self.parameters.items(), code, strict=True)}


def _is_allowed(config: Configuration, rules: Sequence[Callable[[Configuration], bool]], name: str) -> bool:
    try:
        return all(rule(config) for rule in rules)
    except Exception as fault:  # any exception of user code
        found = f"a constraint raised {type(fault).__name__}: {one_line(fault)}"
        raise UsageError(f"{name}: {found}, for {config}; fix the constraint") from fault


def _distinct(values: Any, where: str) -> list[Any]:
    """Values of a parameter as Python's, which have the same text under any version of NumPy."""
    try:
        found = [value.item() if isinstance(value, np.generic) else value for value in values]
        valid = bool(found) and all(value == value and value not in found[:at] for at, value in enumerate(found))
    except (TypeError, ValueError):  # not a sequence, or values that cannot be compared, such as arrays
        valid = False
    if not valid:
        raise UsageError(f"{where}: expected distinct values, got {reprlib.repr(values)}")
    return found


def scaled(values: Sequence[Any], codes: IntArray) -> FloatArray:
    """Map numbers to their signed logarithm, as most of them are sizes, and other values to their codes.

    An infinite number is one step beyond the others.
    """
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        most = sys.float_info.max
        limited = [value if abs(value) <= most else math.inf if value > 0 else -math.inf for value in values]
        numbers = np.array(limited, np.float64)
        logarithms = np.sign(numbers) * np.log2(1 + np.abs(numbers))
        beyond = 1 + np.abs(logarithms[np.isfinite(numbers)]).max(initial=0)
        return np.asarray(np.clip(logarithms, -beyond, beyond))
    return codes.astype(np.float64)
