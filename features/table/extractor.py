"""The extractor of measured tables: rows of configurations in, feature vectors out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.schema import Block, Column, Schema
from features.table import amounts, gpu, history

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Parameters with more values than this, at most so many of them, the first, are multiplied and divided in pairs.
_PAIRED_VALUES: Final = 2
_MOST_PAIRED: Final = 10
_MOST_RATIOS: Final = 60
#: A category with more levels than this has no columns of its own: its history tells how it does.
MOST_LEVELS: Final = 32
#: Added to the distance of groups that differ in vendor, and per other category of the context that differs.
_OTHER_VENDOR: Final = 1.0
_OTHER_CATEGORY: Final = 1.0
#: Figures whose log2 or log2 ratio says how alike two devices run a configuration: per unit rather than per device.
_ALIKE: Final = (
    ("rate", "bandwidth_gbs"), ("bandwidth_gbs", "units"), ("l2_mb", "units"), ("shared_kb", None), ("threads", None),
    ("registers", None), ("warp", None), ("lanes", None), ("units", "root"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Parameter:
    """A column of configurations: numbers, or the codes of categories.

    Parameters
    ----------
    name : str
    values : float64 (rows,)
        Numbers or booleans, or indices of ``levels``; NaN for a missing value or an unknown level.
    levels : tuple of str
        Values of a category; empty for numbers.
    """

    name: str
    values: FloatArray
    levels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Context:
    """What describes the program and the device of each group.

    Parameters
    ----------
    names : tuple of str
        Names of the numbers.
    numbers : float64 (groups, len(names))
        NaN for a missing value.
    categories : tuple of tuple of str, (categories, groups)
        Kernel, program, phase ...
    figures : float64 (groups, len(figure_columns))
        Figures of the device of each group; no columns without devices.
    figure_columns : tuple of Column
        Names and units of the figures.
    vendors : tuple of str (groups,)
        Empty strings without devices.
    category_names : tuple of str (categories,)
    """

    names: tuple[str, ...]
    numbers: FloatArray
    categories: tuple[tuple[str, ...], ...]
    figures: FloatArray
    figure_columns: tuple[Column, ...]
    vendors: tuple[str, ...]
    category_names: tuple[str, ...] = ()

    def number(self, name: str) -> FloatArray:
        """One number of all groups; NaN without it."""
        at = self.names.index(name) if name in self.names else None
        return np.full(len(self.vendors), np.nan) if at is None else self.numbers[:, at]

    def figure(self, name: str) -> FloatArray:
        """One figure of all groups; NaN without it."""
        for index, column in enumerate(self.figure_columns):
            if column.name == name:
                return self.figures[:, index]
        return np.full(len(self.vendors), np.nan)


class TableExtractor:
    """Features of a measured table, fitted on its training and validation rows.

    Parameters
    ----------
    parameters : sequence of Parameter
        Configurations of the rows.
    context : Context
        Of the groups.
    cost : float64 (rows,)
        Lower is better, infinite for a failed configuration.
    indptr : int64 (groups + 1,)
        Group ``i`` is rows ``indptr[i]:indptr[i + 1]``.
    n_train : int
        Number of training groups, the first ones.
    of_runtimes : bool
        Whether there are columns that tell runtimes of groups apart: indicators of their categories, and amounts.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        context: Context,
        cost: FloatArray,
        indptr: IntArray,
        n_train: int,
        of_runtimes: bool = False,
    ) -> None:
        self._known_context = context
        names = tuple(each.name for each in parameters)
        self._kinds: list[tuple[int, str]] = []
        self._amounts: list[amounts.Amount] = []
        self._dtype: int | None = None
        self._dtypes: tuple[str, ...] = ()
        if of_runtimes:
            levels = [sorted({*found}) for found in context.categories]
            self._kinds = [
                (at, level) for at, each in enumerate(levels) if 1 < len(each) <= MOST_LEVELS for level in each
            ]
            self._amounts = amounts.recognised(names)
            named = [at for at, name in enumerate(context.category_names) if name.casefold() in amounts.DTYPES]
            if named:
                self._dtype, self._dtypes = named[0], tuple(levels[named[0]])
            self._rates = [_median(rate) for rate in _rates(context)]
        self._meanings = gpu.recognised(names)
        self._extents = gpu.recognised(context.names, gpu.EXTENTS)
        numbers = [at for at, each in enumerate(parameters) if not each.levels]
        positive = [at for at in numbers if (values := _known(parameters[at])).size and values.min() > 0]
        several = [at for at in positive if len(np.unique(_known(parameters[at]))) > _PAIRED_VALUES]
        self._pairs = list(combinations(several[:_MOST_PAIRED], 2))
        scales = [
            at
            for at in range(len(context.names))
            if (known := _finite(context.numbers[:, at])).size and known.min() > 0
        ]
        self._ratios = [(at, scale) for at in several for scale in scales][:_MOST_RATIOS]
        self._one_hot = [
            (at, level)
            for at, each in enumerate(parameters)
            if 2 < len(each.levels) <= MOST_LEVELS
            for level in range(len(each.levels))
        ]
        self._relative = several
        self._numbers_scale = _spread(_signed_log(context.numbers))
        self._scales = [1.0 if each.levels else _spread(_signed_log(_known(each))[:, None])[0] for each in parameters]
        self._history = history.History(self._positions(parameters), cost, indptr, self._distances(context), n_train)
        self.schema = self._schema(parameters, context, cost, indptr)

    def __call__(
        self,
        parameters: Sequence[Parameter],
        context: Context,
        indptr: IntArray,
        own: Sequence[int | None],
        seen: Sequence[int],
    ) -> NDArray[np.float32]:
        """Features, float32 (rows, len(schema)); NaN where a value is missing.

        ``own`` has the number of each group among those of the fit, or None; ``seen`` how many of these, the first
        ones, the history of each group may use, of which its own is left out.
        """
        values = np.column_stack([each.values for each in parameters])
        group = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        n_rows = len(values)
        with np.errstate(all="ignore"):
            logs, scales = np.log2(values), np.log2(context.numbers)
        parts = [values]
        parts += [np.column_stack([values[:, at] == level for at, level in self._one_hot])] if self._one_hot else []
        if self._pairs:
            first, second = np.array(self._pairs).T
            parts += [np.column_stack([logs[:, first] + logs[:, second], logs[:, first] - logs[:, second]])]
        if self._ratios:
            at, scale = np.array(self._ratios).T
            parts += [logs[:, at] - scales[group][:, scale]]
        if self._relative:
            parts += [self._positions_in_group(values, indptr)]
        if gpu.applies(self._meanings):
            config = {meaning: values[:, at] for meaning, at in self._meanings.items()}
            extents = {meaning: context.numbers[group, at] for meaning, at in self._extents.items()}
            figures = np.column_stack([context.figure(name) for name in gpu.FIGURES])
            parts += [gpu.columns(config, extents, figures[group])]
        if self._kinds:
            parts += [np.column_stack([np.array(context.categories[at]) == level for at, level in self._kinds])[group]]
        if self._amounts:
            known = [np.where(rate > 0, rate, other) for rate, other in zip(_rates(context), self._rates, strict=True)]
            level = np.zeros(len(context.vendors), np.int64)
            if self._dtype is not None:  # an unknown type counts as the first one
                level = np.array([max(0, _index(self._dtypes, each)) for each in context.categories[self._dtype]])
            parts += [
                amounts.logs(values, self._amounts, known[0][group], known[1][group], level[group], len(self._dtypes))
            ]
        parts += [context.numbers[group], context.figures[group]]
        past = np.empty((n_rows, len(history.BLOCK)))
        positions, distances = self._positions(parameters), self._distances(context)
        for number, (start, stop) in enumerate(pairwise(indptr.tolist())):
            near = distances[number, : seen[number]]
            past[start:stop] = self._history(positions[start:stop], near, own[number])
        with np.errstate(over="ignore"):
            found = np.column_stack([*parts, past]).astype(np.float32)
        return np.where(np.isfinite(found), found, np.float32(np.nan))

    def by_group(self, parameters: Sequence[Parameter], context: Context) -> FloatArray:
        """Ranks and log2 slowdowns of the rows of one group in those of the fit, float64 (2, groups, rows)."""
        return self._history.by_group(self._positions(parameters), self._distances(context)[0])

    def _schema(self, parameters: Sequence[Parameter], context: Context, cost: FloatArray, indptr: IntArray) -> Schema:
        names = [each.name for each in parameters]
        config = [
            Column(each.name, "index" if each.levels else "value", "value of the parameter") for each in parameters
        ]
        config += [
            Column(f"{names[at]}={parameters[at].levels[level]}", "flag", "whether the parameter has this value")
            for at, level in self._one_hot
        ]
        pairs = [Column(f"{names[a]}*{names[b]}", "log2", "product of two parameters") for a, b in self._pairs]
        pairs += [Column(f"{names[a]}/{names[b]}", "log2", "ratio of two parameters") for a, b in self._pairs]
        ratios = [
            Column(f"{names[at]}/{context.names[scale]}", "log2", "parameter over a number of the context")
            for at, scale in self._ratios
        ]
        relative = [
            Column(names[at], "share", "rows of the group with a smaller value, equal ones half")
            for at in self._relative
        ]
        blocks = [
            Block("config", 1, "values of the parameters", tuple(config), True),
            Block("pairs", 1, "products and ratios of parameters", tuple(pairs), True),
            Block("ratios", 1, "parameters over numbers of the context", tuple(ratios), True),
            Block("relative", 1, "where the value stands within the group", tuple(relative), True),
            *([gpu.BLOCK] if gpu.applies(self._meanings) else []),
            Block(
                "kinds", 1, "categories of the group",
                tuple(
                    Column(f"{context.category_names[at]}={level}", "flag", "whether the group has this value")
                    for at, level in self._kinds
                ), True,
            ),
            Block(
                "amounts", 1, "work over the rates of the device",
                amounts.columns(names, self._amounts, self._dtypes) if self._amounts else (), True,
            ),
            Block(
                "context", 1, "what describes the program",
                tuple(Column(name, "value", "number of the context") for name in context.names), True,
            ),
            Block("device", 1, "public figures of the device", context.figure_columns, True),
            history.BLOCK,
        ]  # fmt: skip
        digest = hashlib.sha256()
        for array in (*(each.values for each in parameters), context.numbers, context.figures, cost, indptr):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr((context.categories, context.vendors)).encode())
        return Schema("table", tuple(block for block in blocks if len(block)), digest.hexdigest()[:16])

    def _positions(self, parameters: Sequence[Parameter]) -> FloatArray:
        """Configurations as points: log-signed numbers over their spread, indicators of categories."""
        return np.column_stack(list(self._coordinates(parameters)))

    def _coordinates(self, parameters: Sequence[Parameter]) -> Iterator[FloatArray]:
        for each, scale in zip(parameters, self._scales, strict=True):
            missing = np.isnan(each.values)
            if each.levels:
                yield from (_indicator(each.values, level) for level in range(min(len(each.levels), MOST_LEVELS)))
                if len(each.levels) > MOST_LEVELS:  # equal or not
                    yield np.where(missing, -1.0, each.values * 1e3)
            else:
                yield np.where(missing, 0.0, _signed_log(each.values) / scale)
        # last, as most are equal and the search for the nearest rows ends early
        yield from (np.isnan(each.values).astype(np.float64) for each in parameters)

    def _distances(self, context: Context) -> FloatArray:
        """Distances between groups and those of the fit, float64 (groups, groups of the fit)."""
        known = self._known_context
        found = np.zeros((len(context.vendors), len(known.vendors)))
        if len(context.names):
            found += _mean_squares(
                _signed_log(context.numbers) / self._numbers_scale, _signed_log(known.numbers) / self._numbers_scale
            )
        found += _mean_squares(_alike(context), _alike(known))
        found = np.sqrt(found)
        found += _OTHER_VENDOR * (np.array(context.vendors)[:, None] != np.array(known.vendors))
        for mine, theirs in zip(context.categories, known.categories, strict=True):
            found += _OTHER_CATEGORY * (np.array(mine)[:, None] != np.array(theirs))
        return found

    def _positions_in_group(self, values: FloatArray, indptr: IntArray) -> FloatArray:
        found = np.full((len(values), len(self._relative)), np.nan)
        for start, stop in pairwise(indptr.tolist()):
            for number, at in enumerate(self._relative):
                column = values[start:stop, at]
                _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
                found[start:stop, number] = ((np.cumsum(counts) - counts / 2) / len(column))[inverse]
        return np.where(np.isnan(values[:, self._relative]), np.nan, found)


def _rates(context: Context) -> tuple[FloatArray, FloatArray]:
    """Peak rate in GFLOP/s and bandwidth in GB/s of each group: columns of the table, or figures of the device."""
    return (
        context.number("peak_gflops") if "peak_gflops" in context.names else 1e3 * context.figure("fp32"),
        context.number("bandwidth_gbs") if "bandwidth_gbs" in context.names else context.figure("bandwidth_gbs"),
    )


def _median(values: FloatArray) -> float:
    """Median of the positive values; 1 without any."""
    known = values[values > 0]
    return float(np.median(known)) if len(known) else 1.0


def _index(values: Sequence[str], value: str) -> int:
    return values.index(value) if value in values else -1


def _known(parameter: Parameter) -> FloatArray:
    return _finite(parameter.values)


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _indicator(values: FloatArray, level: int) -> FloatArray:
    return np.where(values == level, np.sqrt(0.5), 0.0)


def _signed_log(values: FloatArray) -> FloatArray:
    """log2(1 + |x|) with the sign of x."""
    return np.asarray(np.sign(values) * np.log2(1 + np.abs(values)))


def _spread(values: FloatArray) -> FloatArray:
    """Standard deviation of the distinct values of each column; 1 for a constant one."""
    spreads = [np.unique(_finite(column)).std() if _finite(column).size else 0.0 for column in values.T]
    return np.array([spread or 1.0 for spread in spreads])


def _mean_squares(first: FloatArray, second: FloatArray) -> FloatArray:
    """Mean of the squared differences of two sets of points, over the coordinates that both have; 0 without any."""
    total, counts = np.zeros((len(first), len(second))), np.zeros((len(first), len(second)))
    for one, other in zip(first.T, second.T, strict=True):
        squares = (one[:, None] - other) ** 2
        known = np.isfinite(squares)
        total += np.where(known, squares, 0.0)
        counts += known
    return np.asarray(total / np.maximum(counts, 1))


def _alike(context: Context) -> FloatArray:
    """Log2 figures by which devices are compared, float64 (groups, len(_ALIKE)); NaN where one is missing."""

    def log(name: str) -> FloatArray:
        with np.errstate(all="ignore"):
            if name == "rate":
                return np.log2(np.fmax(context.figure("fp32"), context.figure("bf16") / 8))
            return np.log2(context.figure(name))

    columns = []
    for name, over in _ALIKE:
        columns.append(log(name) / 2 if over == "root" else log(name) - (log(over) if over else 0.0))
    return np.column_stack(columns)
