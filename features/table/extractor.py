"""The extractor of measured tables: rows of configurations in, feature vectors out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final, NamedTuple

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


class _Rows(NamedTuple):
    """Rows to describe, and what several blocks need of them."""

    parameters: Sequence[Parameter]
    context: Context
    indptr: IntArray
    own: Sequence[int | None]
    seen: Sequence[int]
    values: FloatArray  # (rows, parameters), and their logarithms
    logs: FloatArray
    group: IntArray  # (rows,)


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
        numbers = [at for at, each in enumerate(parameters) if not each.levels]
        positive = [at for at in numbers if (values := _known(parameters[at])).size and values.min() > 0]
        #: Positive numbers with several values, which are multiplied, divided and compared.
        self._several = [at for at in positive if len(np.unique(_known(parameters[at]))) > _PAIRED_VALUES]
        self._pairs = np.array([*combinations(self._several[:_MOST_PAIRED], 2)], np.int64).reshape(-1, 2)
        scales = [
            at
            for at in range(len(context.names))
            if (known := _finite(context.numbers[:, at])).size and known.min() > 0
        ]
        ratios = [(at, scale) for at in self._several for scale in scales][:_MOST_RATIOS]
        self._ratios = np.array(ratios, np.int64).reshape(-1, 2)
        self._one_hot = [
            (at, level)
            for at, each in enumerate(parameters)
            if 2 < len(each.levels) <= MOST_LEVELS
            for level in range(len(each.levels))
        ]
        names = tuple(each.name for each in parameters)
        self._meanings = gpu.recognised(names)
        self._extents = gpu.recognised(context.names, gpu.EXTENTS)
        levels = [sorted({*found}) for found in context.categories]
        self._kinds = [(at, level) for at, each in enumerate(levels) if 1 < len(each) <= MOST_LEVELS for level in each]
        self._amounts = amounts.recognised(names)
        self._dtype = next(
            (at for at, name in enumerate(context.category_names) if name.casefold() in amounts.DTYPES), None
        )
        self._dtypes = () if self._dtype is None else tuple(levels[self._dtype])
        self._rates = [_median(rate) for rate in _rates(context)]
        self._numbers_scale = _spread(_signed_log(context.numbers))
        self._scales = [1.0 if each.levels else _spread(_signed_log(_known(each))[:, None])[0] for each in parameters]
        self._history = history.History(self._positions(parameters), cost, indptr, self._distances(context), n_train)
        blocks = self._blocks(parameters, context, of_runtimes)
        self._parts = [(block, values) for block, values in blocks if len(block)]
        digest = hashlib.sha256()
        for array in (*(each.values for each in parameters), context.numbers, context.figures, cost, indptr):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr((context.categories, context.vendors)).encode())
        self.schema = Schema("table", tuple(block for block, _ in self._parts), digest.hexdigest()[:16])

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
        with np.errstate(all="ignore"):
            rows = _Rows(parameters, context, indptr, own, seen, values, np.log2(values), group)
            found = np.column_stack([values(rows) for _, values in self._parts]).astype(np.float32)
        return np.where(np.isfinite(found), found, np.float32(np.nan))

    def by_group(self, parameters: Sequence[Parameter], context: Context) -> FloatArray:
        """Ranks and log2 slowdowns of the rows of one group in those of the fit, float64 (2, groups, rows)."""
        return self._history.by_group(self._positions(parameters), self._distances(context)[0])

    def _blocks(
        self, parameters: Sequence[Parameter], context: Context, of_runtimes: bool
    ) -> Iterator[tuple[Block, Callable[[_Rows], NDArray[Any]]]]:
        """Each block with the method that returns its values, (rows, len(block)); blocks without columns are none."""
        names = [each.name for each in parameters]

        def block(name: str, doc: str, columns: Iterable[Column]) -> Block:
            return Block(name, 1, doc, tuple(columns), True)

        own = [Column(each.name, "index" if each.levels else "value", "value of the parameter") for each in parameters]
        own += [
            Column(f"{names[at]}={parameters[at].levels[level]}", "flag", "whether the parameter has this value")
            for at, level in self._one_hot
        ]
        yield block("config", "values of the parameters", own), self._config
        pairs = [Column(f"{names[a]}*{names[b]}", "log2", "product of two parameters") for a, b in self._pairs]
        pairs += [Column(f"{names[a]}/{names[b]}", "log2", "ratio of two parameters") for a, b in self._pairs]
        yield block("pairs", "products and ratios of parameters", pairs), self._paired
        ratios = (
            Column(f"{names[at]}/{context.names[scale]}", "log2", "parameter over a number of the context")
            for at, scale in self._ratios
        )
        yield block("ratios", "parameters over numbers of the context", ratios), self._over_context
        relative = (
            Column(names[at], "share", "rows of the group with a smaller value, equal ones half")
            for at in self._several
        )
        yield block("relative", "where the value stands within the group", relative), self._within_group
        if gpu.applies(self._meanings):
            yield gpu.BLOCK, self._on_gpu
        if of_runtimes:
            kinds = (
                Column(f"{context.category_names[at]}={level}", "flag", "whether the group has this value")
                for at, level in self._kinds
            )
            yield block("kinds", "categories of the group", kinds), self._categories
            work = amounts.columns(names, self._amounts, self._dtypes) if self._amounts else ()
            yield block("amounts", "work over the rates of the device", work), self._work
        about = (Column(name, "value", "number of the context") for name in context.names)
        yield block("context", "what describes the program", about), self._numbers
        figures = context.figure_columns
        yield block("device", "public figures of the device", figures), self._figures
        yield history.BLOCK, self._past

    def _config(self, rows: _Rows) -> FloatArray:
        return np.column_stack([rows.values, *(rows.values[:, at] == level for at, level in self._one_hot)])

    def _paired(self, rows: _Rows) -> FloatArray:
        first, second = rows.logs[:, self._pairs[:, 0]], rows.logs[:, self._pairs[:, 1]]
        return np.column_stack([first + second, first - second])

    def _over_context(self, rows: _Rows) -> FloatArray:
        at, scale = self._ratios.T
        return np.asarray(rows.logs[:, at] - np.log2(rows.context.numbers)[rows.group][:, scale])

    def _within_group(self, rows: _Rows) -> FloatArray:
        found = np.full((len(rows.values), len(self._several)), np.nan)
        for start, stop in pairwise(rows.indptr.tolist()):
            for number, at in enumerate(self._several):
                column = rows.values[start:stop, at]
                _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
                found[start:stop, number] = ((np.cumsum(counts) - counts / 2) / len(column))[inverse]
        return np.where(np.isnan(rows.values[:, self._several]), np.nan, found)

    def _on_gpu(self, rows: _Rows) -> FloatArray:
        config = {meaning: rows.values[:, at] for meaning, at in self._meanings.items()}
        extents = {meaning: rows.context.numbers[rows.group, at] for meaning, at in self._extents.items()}
        figures = np.column_stack([rows.context.figure(name) for name in gpu.FIGURES])
        return gpu.columns(config, extents, figures[rows.group])

    def _categories(self, rows: _Rows) -> NDArray[np.bool_]:
        categories = rows.context.categories
        return np.column_stack([np.array(categories[at]) == level for at, level in self._kinds])[rows.group]

    def _work(self, rows: _Rows) -> FloatArray:
        context = rows.context
        known = [np.where(rate > 0, rate, other) for rate, other in zip(_rates(context), self._rates, strict=True)]
        level = np.zeros(len(context.vendors), np.int64)
        if self._dtype is not None:  # an unknown type counts as the first one
            level = np.array([max(0, _index(self._dtypes, each)) for each in context.categories[self._dtype]])
        gflops, bandwidth, level = (each[rows.group] for each in (*known, level))
        return amounts.logs(rows.values, self._amounts, gflops, bandwidth, level, len(self._dtypes))

    def _numbers(self, rows: _Rows) -> FloatArray:
        return rows.context.numbers[rows.group]

    def _figures(self, rows: _Rows) -> FloatArray:
        return rows.context.figures[rows.group]

    def _past(self, rows: _Rows) -> FloatArray:
        found = np.empty((len(rows.values), len(history.BLOCK)))
        positions, distances = self._positions(rows.parameters), self._distances(rows.context)
        for number, (start, stop) in enumerate(pairwise(rows.indptr.tolist())):
            near = distances[number, : rows.seen[number]]
            found[start:stop] = self._history(positions[start:stop], near, rows.own[number])
        return found

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
