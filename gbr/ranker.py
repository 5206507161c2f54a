"""Ranker: a scikit-learn estimator that orders the configurations of programs by runtime."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

# Before the import of scikit-learn, whose OpenMP runtime reads the variable once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d, validate_data

from gbr import __version__, check_features
from gbr.data.collection import TABLE
from gbr.errors import DataError, GbrWarning, ModelError, UsageError, one_line, warn_once
from gbr.evaluation.metrics import taus_b
from gbr.models import io
from gbr.models.arrays import check_numeric, check_range, numbers, present, table
from gbr.models.base import Model, OnRound, backend
from gbr.models.io import PHYSICS
from gbr.models.params import CAPACITY, COVERAGE, SEEDS, Settings, resolve, settings_from, threads
from gbr.models.rows import Rows, rankable

if TYPE_CHECKING:
    import polars as pl
    from sklearn.utils import Tags

    from features.hardware import Hardware
    from features.schema import Schema
    from gbr.adapt import Adapted
    from gbr.data.graph import Graph
    from gbr.data.table import Table
    from gbr.data.table_features import TableFeatures
    from gbr.scorer import Scorer

#: Constructor parameters that are settings under the same name.
_SHARED: Final = ("objective", *CAPACITY, "early_stopping_rounds", "time_limit")
#: Matrices stay float32 or become float64; NaN means missing, and infinity is refused by :func:`check_range`.
_FLOATS: Final = {"dtype": (np.float64, np.float32), "ensure_all_finite": False}
#: Rows without a qid that are hardly the configurations of one program.
_LARGE_GROUP: Final = 100


class Ranker(BaseEstimator):  # type: ignore[misc]
    """Gradient-boosted trees that order the configurations (rows) of a program (query group) by predicted runtime.

    Parameters
    ----------
    backend : {"auto", "lightgbm", "xgboost", "ensemble", "costmodel", "prior", "runtime"}, default="auto"
        ``auto`` is LightGBM; where ``costs`` are named and the goal is ``tau``, its weighted mean with the cost model.
        ``ensemble`` is a weighted mean of different models of both libraries.  Weights are chosen on the ``eval_set``,
        or on held-out training groups; members that do not improve the ranking are dropped.  ``costmodel`` is a sum
        of ``costs`` with non-negative prices.
    objective : str or None, default=None
        For lightgbm and xgboost: ``pairwise`` (all pairs count alike, as in Kendall's tau), ``lambdarank`` (ranks as
        linear gains, pairs at the top count more), ``l2`` and ``speed`` (least squares on the rank within the group,
        and on the speed relative to its fastest row).  For the ensemble, a set of members: ``mixed``, ``mixed-top``
        or ``costed``.  For the cost model: ``nnls``.  None chooses by ``goal``.  ``runtime`` predicts log2 runtimes,
        not only their order: see :meth:`predict_runtime`.
    goal : {"tau", "topk"}, default="tau"
        ``tau``: order the whole group.  ``topk``: have a fast configuration among the first few.  Chooses the
        objective if it is None: for ``tau`` ``pairwise`` and ``mixed`` (ensemble), for ``topk`` ``speed`` and
        ``mixed-top``.
    n_estimators : int or None, default=None
        Rounds at most.  None, here and below: :func:`gbr.models.params.default_capacity` of the training set.
    num_leaves : int or None, default=None
        Leaves per tree.
    learning_rate : float or None, default=None
        Shrinkage of each round.
    min_child_samples : int or None, default=None
        Rows per leaf at least.  XGBoost uses it for ``l2`` and ``speed`` only.
    early_stopping_rounds : int, default=50
        With an ``eval_set``, stop after this many rounds without a better mean Kendall tau; the best round is kept.
    time_limit : float or None, default=None
        Seconds after which the fit ends and keeps its best round so far.  Results then depend on the machine's speed.
    params : mapping or None, default=None
        Further parameters of the library, named as in its documentation.
    costs : sequence of str or int, or None, default=None
        Columns, by name or index, that are log2(1 + amount) of amounts whose sum, each times a price, is time.  The
        cost model is trained on them.
    monotone : bool, default=False
        Forbid trees to rank a row higher for a larger cost.
    prior : str, int or None, default=None
        Column, by name or index, with the expected rank of each row in its group, from 0 (fastest) to 1; NaN where
        it is unknown.  ``auto`` then is the backend ``prior``: boosting starts from the order of this column.
    random_state : int, RandomState or None, default=0
        With an int, equal rows, libraries and machines give the same trees and scores for any number of threads.
    n_jobs : int or None, default=None
        Threads; None or -1 leaves the choice to OpenMP (all cores, or ``OMP_NUM_THREADS``).  Saved with the model.

    Attributes
    ----------
    n_features_in_ : int
        Columns of ``X``.
    largest_group_ : int
        Rows of the largest query group of :meth:`fit`; not kept by :meth:`save`.
    feature_names_in_ : ndarray of str
        Only when ``X`` has column names; labels other than 0, 1, 2 … become strings.
    settings_ : Settings
        All settings of the fit, with defaults resolved.
    best_iteration_ : int
        Rounds kept.
    best_score_ : float or None
        Mean tau of the ``eval_set`` (groups above 1000 rows are sampled); None without it.
    feature_importances_ : ndarray of float64 (n_features_in_,)
        Share of each column in the total gain.
    model_ : Model
        The library's booster; see :class:`gbr.models.base.Model`.
    trained_on_ : dict or None
        Collection, feature schema and data of a model trained by ``python -m gbr.train``.

    Notes
    -----
    Any number of threads may fit different rankers and predict with the same one at a time.  Fits and predictions also
    work in forked processes.  If the parent had imported polars, these refuse its data frames, tables of Arrow and the
    feature store, as polars would wait forever.

    ``qid`` is scikit-learn metadata.  With ``sklearn.set_config(enable_metadata_routing=True)``, request it by
    ``Ranker().set_fit_request(qid=True).set_score_request(qid=True)`` and pass it to ``cross_val_score`` or
    ``GridSearchCV.fit`` as ``params={"qid": qid}`` or ``qid=qid``; a pipeline passes it on (since scikit-learn 1.8).
    Without routing these pass ``qid`` to ``fit`` only, and ``score`` takes each fold for one group.

    Examples
    --------
    >>> import numpy as np
    >>> from gbr import Ranker
    >>> X = np.random.default_rng(0).random((80, 3))
    >>> ranker = Ranker().fit(X, X[:, 0], qid=np.repeat(np.arange(8), 10))
    >>> ranker.predict(X).shape
    (80,)
    """

    def __init__(
        self,
        backend: str = "auto",
        objective: str | None = None,
        *,
        goal: str = "tau",
        n_estimators: int | None = None,
        num_leaves: int | None = None,
        learning_rate: float | None = None,
        min_child_samples: int | None = None,
        early_stopping_rounds: int = 50,
        time_limit: float | None = None,
        params: Mapping[str, Any] | None = None,
        costs: Sequence[str | int] | None = None,
        monotone: bool = False,
        prior: str | int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.backend = backend
        self.objective = objective
        self.goal = goal
        self.n_estimators = n_estimators
        self.num_leaves = num_leaves
        self.learning_rate = learning_rate
        self.min_child_samples = min_child_samples
        self.early_stopping_rounds = early_stopping_rounds
        self.time_limit = time_limit
        self.params = params
        self.costs = costs
        self.monotone = monotone
        self.prior = prior
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, *, qid: Any = None, eval_set: Any = None) -> Self:
        """Fit the order of the rows within query groups.

        Parameters
        ----------
        X : array-like, data frame or Arrow table (rows, columns)
            Features in the range of float32; NaN, None, nulls and masked values mean missing.
        y : array-like (rows,)
            Runtimes in any unit, lower is better, none missing.  Only their order within a group matters; for ``speed``
            also ratios.
        qid : array-like (rows,) or None, default=None
            Query group of each row, integers or strings; rows of a group are contiguous.  None: one group, with a
            GbrWarning for 100 rows or more.
        eval_set : (X, y), (X, y, qid), a list of one of these, or None, default=None
            Other groups for early stopping.

        Raises
        ------
        ValueError
            For invalid input or (:class:`gbr.errors.UsageError`, a ValueError) invalid parameters.
        MissingLibraryError
            When the backend's library cannot be loaded.
        """
        backend(self.backend)  # report a missing library before a large table is checked
        train = self._validated(X, y, qid, reset=True)
        if qid is None and len(train.X) >= _LARGE_GROUP:
            _warn_of_one_group("fit", len(train.X))
        self.largest_group_ = int(np.diff(train.indptr).max())
        valid = None
        if eval_set is not None:
            try:
                valid = self._validated(*_one_set(eval_set), reset=False)
            except UsageError as error:
                raise UsageError(f"eval_set: {error}") from error
            if len(_one_set(eval_set)) < 3 and len(valid.X) > self.largest_group_:
                _warn_of_one_group("eval_set", len(valid.X))
        return self.fit_rows(train, self._names, valid)

    def _validated(self, X: Any, y: Any, qid: Any = None, *, reset: bool) -> Rows:
        y = y if y is None else numbers(y, "y")
        X, y = self._matrix(X, reset, y=y, y_numeric=True)
        return Rows(X, y, group_bounds(qid, len(X)))

    def _matrix(self, X: Any, reset: bool = False, **options: Any) -> Any:
        """Validated float matrix, with columns as in the fit; and y, if it is an option."""
        fitted = None if reset else self._names or range(self.n_features_in_)
        found = table(X, fitted)
        try:
            X = validate_data(self, found, reset=reset, **_FLOATS, **options)
        except OverflowError as error:
            raise UsageError(f"X: expected numbers in the range of float32 ({error})") from error
        except ValueError as error:
            check_numeric(found)
            raise error
        check_range(X[0] if options else X, self._names)
        return X

    @property
    def _names(self) -> tuple[str, ...] | None:
        """Column names of the fit, if it had any."""
        return tuple(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None

    def fit_rows(
        self,
        train: Rows,
        names: tuple[str, ...] | None,
        valid: Rows | None = None,
        fit: Callable[[Rows, Rows | None, Settings], Model] | None = None,
        on_round: OnRound | None = None,
    ) -> Self:
        """Fit on rows with these column names that need no validation and may be streamed.

        ``valid`` is for early stopping; ``fit`` replaces that of the backend; ``on_round`` is called after every round.
        Infinite targets are configurations that failed: see :meth:`predict_both`.
        """
        if not train.n_rankable:
            raise UsageError(f"y: expected a query group with two different runtimes, got {len(train.X)} sample(s)")
        n_columns = train.X.shape[1]
        seed = self.random_state
        if seed is None or isinstance(seed, np.random.RandomState):
            seed = int(check_random_state(seed).randint(SEEDS))
        settings = resolve(
            self.backend,
            self.objective,
            goal=self.goal,
            capacity={name: getattr(self, name) for name in CAPACITY},
            early_stopping_rounds=self.early_stopping_rounds,
            seed=seed,
            n_jobs=self.n_jobs,
            params=self.params,
            n_groups=train.n_rankable,
            n_rows=len(train.X),
            costs=_column_indices("costs", self.costs, names, n_columns),
            monotone=self.monotone,
            prior=next(iter(_column_indices("prior", self.prior, names, n_columns)), None),
            time_limit=self.time_limit,
        )
        fit = fit or partial(backend(settings.backend).fit, on_round=on_round)
        model = fit(train, valid, settings)
        if not model.gains().any():
            message = f"no split of {len(train.X)} rows improves the order: all scores are equal; fit on more rows"
            warnings.warn(message, GbrWarning, stacklevel=3)
        if np.isinf(train.target).any():
            from gbr.models import failures  # imports scikit-learn's linear models, which few rankers need

            model = failures.fit(model, train, settings)
        return self._set_fitted(model, settings, names, None)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Scores that read like runtimes, float64 (rows,): lower is faster; only their order in a group has meaning.

        Columns of a data frame or Arrow table are matched by name, in any order; ValueError where they are not those of
        ``fit``.
        """
        check_is_fitted(self, "model_")
        return self.predict_rows(self._matrix(X))

    def predict_rows(self, X: Any) -> NDArray[np.float64]:
        """Scores of a float matrix with the columns of the model, without validation."""
        return -self.model_.predict(X, threads(self.n_jobs))

    def predict_both(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """:meth:`predict_rows`, and the calibrated chance to fail, float64 (rows,); 0 if no training row failed."""
        relevance, chance = self.model_.predict_both(X, threads(self.n_jobs))
        return -relevance, chance

    def predict_runtime(self, X: Any, coverage: float = COVERAGE) -> NDArray[np.float64]:
        """Runtimes in the unit of the fit, and the bounds of their intervals, float64 (3, rows).

        Intervals are calibrated to hold ``coverage`` of the runtimes of held-out folds, see
        :mod:`gbr.models.runtime`.  ModelError if the objective is not ``runtime``.
        """
        check_is_fitted(self, "model_")
        return self.runtime_rows(self._matrix(X), coverage)

    def runtime_rows(self, X: Any, coverage: float = COVERAGE) -> NDArray[np.float64]:
        """:meth:`predict_runtime` of a float matrix with the columns of the model, without validation."""
        model: Any = getattr(self.model_, "order", self.model_)
        if not hasattr(model, "factor"):
            raise ModelError("this model predicts an order, no runtimes; train with the objective runtime")
        runtime, factor = np.exp2(-model.predict(X, threads(self.n_jobs))), model.factor(coverage)
        return np.stack([runtime, runtime / factor, runtime * factor])

    @property
    def predicts_runtimes(self) -> bool:
        """Whether the objective is ``runtime``."""
        return bool(self.settings_.objective == "runtime")

    def score(self, X: Any, y: Any, *, qid: Any = None, sample_weight: Any = None) -> float:
        """Mean Kendall tau of the predicted order, over the groups with two different runtimes.

        ``X``, ``y`` and ``qid`` are as for :meth:`fit`; ``sample_weight``, array-like (rows,), weights a group by the
        mean of its rows.  ValueError for invalid input, or without a group that can be ranked; GbrWarning for more rows
        than the largest group of :meth:`fit` without ``qid``, as by scikit-learn without metadata routing.
        """
        scores = self.predict(X)
        if qid is None and len(scores) > getattr(self, "largest_group_", len(scores)):
            _warn_of_one_group("score", len(scores))
        weights = np.ones(len(scores)) if sample_weight is None else sample_weight
        target, weight = (
            column_or_1d(check_array(numbers(values, name), ensure_2d=False, dtype=None, input_name=name))
            for name, values in (("y", y), ("sample_weight", weights))
        )
        check_consistent_length(scores, target, weight)
        indptr = group_bounds(qid, len(target))
        groups = rankable(target, indptr)
        if not groups:
            raise UsageError("y: expected a query group with two different runtimes; there is no order to score")
        by_group = [weight[group].mean() for group in groups]
        if min(by_group) < 0 or not any(by_group):
            raise UsageError("sample_weight: expected positive numbers, or 0 for rows that do not count")
        return float(np.average(taus_b(scores, target, groups), weights=by_group))

    def predict_graph(self, graph: Graph | str | os.PathLike[str], configs: Any = None) -> NDArray[np.float64]:
        """Scores of all configurations of a graph, float64 (configurations,): lower is predicted faster.

        Parameters
        ----------
        graph : Graph or path-like
            A graph, or an ``.npz`` file, of the same kind as the model's collection; with ``configs`` also an HLO
            module.
        configs : sequence or array, optional
            Configurations to score instead of those of the graph.  Dictionaries of value by parameter, such as
            ``{"BLOCK_M": 64, "num_warps": 4}``, or ``triton.Config`` objects, for an estimate or a model whose
            hardware names the slots; or what :meth:`gbr.Graph.with_configs` takes.

        Raises
        ------
        ModelError
            When the model was not trained by ``python -m gbr.train``, or on other features.
        DataError
            When the file is missing, damaged or violates its format, or has no configurations.
        UsageError
            For invalid ``configs``, or parameters that the model does not know.
        """
        graph, ranker = self.for_graph(graph, configs)
        from gbr.data.build import extract

        schema, X, _ = extract(graph, ranker.hardware)
        return ranker.predict_rows(X[:, ranker.columns_in(schema, graph.source)])

    @classmethod
    def physics(cls, hardware: Hardware | str | None = None, kind: str | None = None) -> Self:
        """A ranker without training: one analytic estimate per kind and target, see :mod:`gbr.models.physics`.

        Parameters
        ----------
        hardware : Hardware or str, optional
            The target, a profile or what ``--hardware`` takes; by default that of the collection of each graph.
        kind : {"tile", "layout"}, optional
            Kind of the graphs; by default that of each graph.

        Examples
        --------
        >>> graph = gbr.Graph.from_jax(matmul, a, b)  # doctest: +SKIP
        >>> Ranker.physics("a100").rank(graph, [{"BLOCK_M": 32}, {"BLOCK_M": 64}])  # doctest: +SKIP
        array([1, 0])
        """
        check_features()
        from gbr.data.hardware import named

        hardware = None if hardware is None else named(hardware)
        ranker = cls()
        if hardware is not None and kind is not None:
            return ranker._set_estimate(kind, hardware)
        ranker._open, ranker.trained_on_ = (hardware, kind), None
        return ranker

    def _set_estimate(self, kind: str, hardware: Hardware) -> Self:
        from gbr.data.hardware import as_dict
        from gbr.data.store import schema_of
        from gbr.models import physics

        prices = physics.prices(kind, hardware)
        schema = schema_of(kind, hardware)
        names = tuple(name for name in schema.names if name in prices)
        model = physics.estimate(kind, hardware, names)
        settings = resolve(
            "costmodel", None, capacity={}, early_stopping_rounds=self.early_stopping_rounds, seed=0,
            n_jobs=self.n_jobs, params=None, n_groups=1, n_rows=1, costs=range(len(prices)),
        )  # fmt: skip
        about = {"subset": PHYSICS, "kind": kind, "schema_hash": schema.hash, "hardware": as_dict(hardware)}
        return self._set_fitted(model, settings, names, about)

    @property
    def is_estimate(self) -> bool:
        """Whether this is :meth:`physics`, which is not trained."""
        return self._open is not None or (self.trained_on_ or {}).get("subset") == PHYSICS

    def resolved(self, kind: str, path: str | os.PathLike[str]) -> Self:
        """The estimate for a kind and the collection of a path, where they were left open; else the ranker itself."""
        if self._open is None or hasattr(self, "model_"):
            return self
        from features.hardware import CPU
        from gbr.data.hardware import measured_on

        hardware, own_kind = self._open
        found = measured_on(Path(path))
        measured = found[1] if found else CPU
        if hardware is None:
            hardware = measured
        elif not hardware.config and measured.config:  # the names of slots are those of the collection
            hardware = replace(hardware, config=measured.config)
        return type(self)(n_jobs=self.n_jobs)._set_estimate(own_kind or kind, hardware)

    def for_graph(self, graph: Graph | str | os.PathLike[str], configs: Any = None) -> tuple[Graph, Self]:
        """Read a graph, and choose the ranker for it, as :meth:`resolved` does; ``configs`` as :meth:`predict_graph`.

        ModelError if the model was not trained on graphs, DataError if the file is missing or damaged.
        """
        if self._open is None:
            _ = self.hardware  # an unsuitable model is reported before the graph is read
        from gbr.data.graph import Graph, read_graph

        graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
        if configs is not None:
            return self._with_configs(graph, configs)
        graph.require_configs()
        return graph, self.resolved(graph.kind, graph.source)

    def _with_configs(self, graph: Graph, configs: Any) -> tuple[Graph, Self]:
        """The graph with other configurations, and the ranker for it."""
        from gbr.data.configs import are_bounds, in_slots, listed, names_of, parameters, slots_for

        if isinstance(configs, np.ndarray) or are_bounds(configs := listed(configs)):
            graph = graph.with_configs(configs)
            return graph, self.resolved(graph.kind, graph.source)
        ranker = self.resolved("tile", graph.source)
        given = [parameters(config) for config in configs]
        if ranker.is_estimate and not ranker.hardware.config:
            ranker = self.physics(replace(ranker.hardware, config=slots_for(names_of(given))), "tile")
        ranker.check_parameters(names_of(given))
        return graph.with_configs(in_slots(given, ranker.hardware.config)), ranker

    def check_parameters(self, names: Sequence[str]) -> None:
        """Warn of parameters without a slot in the model's configurations; UsageError if there are only such."""
        from gbr.data.configs import STEMS, without_slot

        slots = self.hardware.config
        if not (unknown := without_slot(names, slots)):
            return
        known = ", ".join(name for _, own in slots for name in own if name)
        if len(unknown) == len(names):
            expected = known or f"bounds without names, {', '.join(STEMS)}"
            raise UsageError(f"configs: the model ranks configurations with {expected}; got {', '.join(names)}")
        warn_once(f"parameters that the model does not know are ignored: {', '.join(unknown)}; it knows {known}")

    def rank(self, graph: Graph | str | os.PathLike[str], configs: Any = None) -> NDArray[np.int64]:
        """Configurations of a graph by predicted runtime, int64 (configurations,), best first; ties in file order.

        Parameters and errors are those of :meth:`predict_graph`.
        """
        return np.argsort(self.predict_graph(graph, configs), kind="stable").astype(np.int64)

    def scorer(self, graph: Graph | str | os.PathLike[str]) -> Scorer:
        """Prepare to score configurations of one graph many times; see :class:`gbr.scorer.Scorer`."""
        check_features()
        from gbr.scorer import Scorer

        return Scorer(self, graph)

    def adapt(self, graph: Any, configs: Any, runtimes: Any) -> Adapted:
        """Score the configurations of a graph by this model and some measured configurations.

        ``configs``, int (m,), are the indices of these and ``runtimes``, (m,), their runtimes; errors are those of
        :func:`gbr.adapt.fit_within`.  For a model of a table, ``graph`` is a file or data frame with all rows of one
        group or :class:`gbr.adapt.TableRows`, as for :func:`gbr.adapt.adapt_rows`.  ``predict()`` of the result returns
        scores, ``rank()`` their order.
        """
        check_features()
        from gbr.adapt import adapt_rows, fit_within

        fit = adapt_rows if (self.trained_on_ or {}).get("kind") == TABLE else fit_within
        return fit(graph, configs, runtimes, ranker=self)

    def predict_table(self, rows: Any, *, adapt: bool = False, coverage: float = COVERAGE) -> pl.DataFrame:
        """Scores of the rows of a table, for a model that was trained on one.

        Parameters
        ----------
        rows : path-like, or polars, pandas or Arrow table
            A Parquet, CSV or TSV file, or a table in memory, with the columns that describe groups, configurations and
            context in the training table; others are ignored.  Or the result of :func:`gbr.data.table.read_rows`.
        adapt : bool
            Learn from the rows of each group that have a value of the target, in the unit and direction of the training
            table; marks of failures are those of the training table, and empty cells were not measured.  Groups with
            too few such rows keep the scores of the model, with a warning.
        coverage : float
            Share of the runtimes that the intervals of the objective ``runtime`` should hold, as for
            :meth:`predict_runtime`.

        Returns
        -------
        polars.DataFrame
            In the order of ``rows``: ``group`` (str), ``score`` (float64: lower is predicted faster, only the order in
            a group has meaning) and ``failure`` (float64: chance to fail).  With the objective ``runtime`` also
            ``predicted``, ``low`` and ``high`` (float64: the target, in its unit, and its interval); with ``adapt``
            instead ``measured`` (bool).

        Raises
        ------
        ModelError
            When the model was not trained on a table.
        DataError
            When a column is missing, or the file cannot be read; with ``adapt`` also when no group has enough measured
            rows.
        """
        import polars as pl

        table, X = self.table_rows(rows, measured=adapt)
        values = dict(zip(("score", "failure"), self.predict_both(X), strict=True))
        if adapt:
            from gbr.adapt import adapt_groups

            values["score"] = adapt_groups(table, self, values["score"])
            values["measured"] = ~np.isnan(table.cost)
            values["failure"] = np.where(values["measured"], np.isinf(table.cost), values["failure"])
        elif self.predicts_runtimes:
            runtime, low, high = self.runtime_rows(X, coverage)
            if self.table.roles.direction == "higher":  # costs are inverse throughputs
                runtime, low, high = 1 / runtime, 1 / high, 1 / low
            values |= {"predicted": runtime, "low": low, "high": high}
        names = pl.Series("group", [group.name for group in table.groups], pl.String)
        sizes = [group.stop - group.start for group in table.groups]
        found = pl.DataFrame([names.gather(np.repeat(np.arange(len(sizes)), sizes))]).with_columns(**values)
        return found[np.argsort(table.row)]

    def rank_table(self, rows: Any, *, adapt: bool = False, coverage: float = COVERAGE) -> pl.DataFrame:
        """Rows of a table by group and predicted order, best first; ties in their order.

        The columns are ``group``, ``rank`` (from 1 in each group), ``row`` (index in ``rows``), and the others of
        :meth:`predict_table`; parameters and errors are those of :meth:`predict_table`.
        """
        import polars as pl

        found = self.predict_table(rows, adapt=adapt, coverage=coverage).with_row_index("row")
        found = found.sort("group", "score", maintain_order=True)
        rank = pl.int_range(1, pl.len() + 1).over("group").alias("rank")
        return found.select("group", rank, pl.col("row").cast(pl.Int64), pl.exclude("group", "row"))

    def table_rows(self, rows: Any, *, measured: bool = False) -> tuple[Table, NDArray[np.float32]]:
        """Rows of a table by group, and the model's columns of their features.

        Parameters and errors are those of :meth:`predict_table`.
        """
        features = self.table
        from gbr.data.table import Table, read_rows

        table = rows if isinstance(rows, Table) else read_rows(rows, features.roles, measured=measured)
        for message in features.unseen(table.frame):
            warnings.warn(f"{table.name}: {message}", GbrWarning, stacklevel=3)
        return table, features(table.frame, table.groups)[:, self.columns_in(features.schema, table.name)]

    @property
    def table(self) -> TableFeatures:
        """Features of the table that the model was trained on; ModelError if there is none, or it is damaged."""
        check_is_fitted(self, "model_")
        if (self.trained_on_ or {}).get("kind") != TABLE:
            raise ModelError("this model was not trained on a table; train one with `gbr train --subset table:NAME`")
        if self._table is None:
            check_features()
            from gbr.data.table_features import known_features

            assert self._folder is not None
            try:
                self._table = known_features(self._folder / TABLE, self.predicts_runtimes)
            except DataError as error:
                raise ModelError(f"training rows of the model: {error}; train again or restore the folder") from error
        return self._table

    @table.setter
    def table(self, features: TableFeatures) -> None:
        self._table = features

    @property
    def hardware(self) -> Hardware:
        """Target that the model was trained for; ModelError if it was not trained on graphs, or takes that of each."""
        if self._open is not None and not hasattr(self, "model_"):
            if self._open[0] is None:
                raise ModelError("this estimate takes the machine of each graph; see Ranker.physics")
            return self._open[0]
        check_is_fitted(self, "model_")
        if self.trained_on_ is None:
            raise ModelError(
                "this model was fitted on a plain table, not on graphs; train one with `python -m gbr.train`"
            )
        check_features()  # here as tables do not need the package, and a user may have another one of this name
        from gbr.data.hardware import parse

        return parse(self.trained_on_.get("hardware"), "manifest.json: trained_on.hardware", ModelError)

    def columns_in(self, schema: Schema, source: str) -> NDArray[np.int64]:
        """Indices of the model's columns in a schema of ``source``, int64 (n_features_in_,).

        Raises
        ------
        ModelError
            When the model was trained on other features.
        """
        hardware, trained_on = self.hardware, self.trained_on_ or {}
        from gbr.data.hardware import measured_on, report_unnamed_slots

        if trained_on.get("kind") != schema.kind:
            raise ModelError(f"{source}: a {schema.kind} collection, but the model ranks {trained_on.get('kind')}")
        if trained_on.get("schema_hash") != schema.hash:
            raise ModelError(
                f"{source}: feature schema {schema.hash}, but the model was trained on "
                f"{trained_on.get('schema_hash')}; train again: python -m gbr.train --subset {trained_on.get('subset')}"
            )
        found = measured_on(Path(source))
        if found:
            collection, measured, known = found
            differs = replace(measured, config=()) != replace(hardware, config=())  # other names are other columns
            if differs and (known or collection != trained_on.get("subset")):
                subset = trained_on.get("subset")
                basis = "is an estimate" if subset == PHYSICS else f"was trained on {subset}"
                warn_once(
                    f"{collection} was measured on {measured.name!r}{'' if known else ' (assumed: no hardware.toml)'}, "
                    f"but the model {basis} for {hardware.name!r}; expect little of its order"
                )
        if not (found and found[1].gpu is None):
            report_unnamed_slots(schema.kind, hardware)
        number = {name: index for index, name in enumerate(schema.names)}
        try:
            return np.array([number[name] for name in self.feature_names_in_], np.int64)
        except (KeyError, AttributeError) as error:
            raise ModelError(f"{source}: columns of the model are missing from the schema ({error})") from error

    @property
    def feature_importances_(self) -> NDArray[np.float64]:
        """Share of each column in the total gain of all splits, float64 (columns,), summing to 1."""
        check_is_fitted(self, "model_")
        gains = self.model_.gains()
        return gains / (gains.sum() or 1.0)

    @property
    def block_importances_(self) -> dict[str, float]:
        """Importance per block of columns (``<block>.<column>``), the largest first."""
        if not hasattr(self, "feature_names_in_"):
            raise AttributeError("block_importances_ needs named columns; fit on a data frame")
        shares: dict[str, float] = {}
        for name, share in zip(self.feature_names_in_, self.feature_importances_, strict=True):
            block = str(name).split(".", 1)[0]
            shares[block] = shares.get(block, 0.0) + float(share)
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model in its library's format and a ``manifest.json``, atomically.

        The folder is created if missing and an existing model is replaced; ModelError if it cannot be written, or has a
        model of ``gbr train`` and this one is not.
        """
        about = self.manifest()
        if self.trained_on_ is None and io.has_run(Path(folder)):
            raise ModelError(f"{folder}: has a model of gbr train with its figures; save this one in another folder")
        has_table = (self.trained_on_ or {}).get("kind") == TABLE
        known = self.table.known if has_table else None  # read before the model in the folder is replaced
        io.write(Path(folder), self.model_.to_bytes(), backend(self.settings_.backend).SUFFIX, about)
        if known is not None:
            from gbr.data.table_features import save_known_rows

            save_known_rows(Path(folder) / TABLE, known)

    def manifest(self) -> dict[str, Any]:
        """Content of ``manifest.json``, without the model file."""
        check_is_fitted(self, "model_")
        names = list(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None
        versions = {"gbr": __version__, "python": platform.python_version(), "numpy": np.__version__}
        return {
            "backend": self.settings_.backend,
            "settings": asdict(self.settings_),
            "seed": self.settings_.seed,
            "features": {"count": self.n_features_in_, "names": names},
            "best_iteration": self.best_iteration_,
            "best_score": self.best_score_,
            "trained_on": self.trained_on_,
            "versions": {**versions, **self.model_.versions},
            "failures": self.model_.foresees_failures,
        }

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a model written by :meth:`save`.

        Load only models that you trust, as LightGBM and XGBoost advise: no code is executed and damaged files are
        detected by their SHA-256, but the libraries do not defend against a malicious model file.  Warns if an
        installed library is older than the one that trained the model.

        ``physics`` and ``physics:<hardware>``, where they are no folders, are :meth:`physics`.

        Raises
        ------
        ModelError
            When there is no model, or it is foreign, damaged or of another format version.
        MissingLibraryError
            When the backend's library cannot be loaded.
        """
        if (target := io.physics_target(folder)) is not None:
            return cls.physics(target or None)
        data, about = io.read(Path(folder))
        try:
            settings = settings_from(about["settings"])
            names, count = about["features"]["names"], about["features"]["count"]
            if about.get("failures"):
                from gbr.models import failures

                model: Model = failures.load(data)
            else:
                model = backend(about["backend"]).load(data)
            model.best_score = about["best_score"]
            named = names is None or (len(names) == count and [str(name) for name in names] == names)
            if count != model.n_features or not named:
                raise ValueError(f"{model.n_features} features in the model, {count} in the manifest")
            ranker = cls(
                about["backend"],
                **{name: getattr(settings, name) for name in _SHARED},
                params=dict(settings.params) or None,
                costs=[names[column] if names else column for column in settings.costs] or None,
                monotone=settings.monotone,
                prior=names[settings.prior] if names and settings.prior is not None else settings.prior,
                random_state=settings.seed,
                n_jobs=settings.n_jobs or None,
            )
        except (LookupError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder}: manifest and model do not match ({one_line(error)}); train again or restore the folder"
            ) from error
        if older := io.older(model.versions, about["versions"]):
            warnings.warn(f"{folder}: {older}", GbrWarning, stacklevel=2)
        ranker._set_fitted(model, settings, names, about["trained_on"])
        ranker._folder = Path(folder)
        return ranker

    #: Features of the training table, and the folder that holds its rows until they are needed.
    _table: TableFeatures | None = None
    _folder: Path | None = None
    #: Hardware and kind of an estimate that leaves one of them to the graphs.
    _open: tuple[Hardware | None, str | None] | None = None

    def _set_fitted(
        self, model: Model, settings: Settings, names: Sequence[str] | None, trained_on: dict[str, Any] | None
    ) -> Self:
        self.model_, self.settings_, self.trained_on_ = model, settings, trained_on
        self._table, self._folder = None, None
        self.best_iteration_, self.best_score_ = model.n_iterations, model.best_score
        self.n_features_in_ = model.n_features
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def __dir__(self) -> list[str]:
        # scikit-learn evaluates every name for HTML; these properties read files, and most models have no table.
        return [name for name in object.__dir__(self) if name not in ("table", "hardware")]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags


def group_bounds(qid: Any, n_rows: int) -> NDArray[np.int64]:
    """Bounds of the query groups, int64 (groups + 1,), from the id of each row; one group for None."""
    if qid is None:
        return np.array([0, n_rows], np.int64)
    ids = present(qid, "qid")
    if ids.shape != (n_rows,):
        raise UsageError(f"qid: expected shape ({n_rows},), one id per row of X, got {ids.shape}")
    codes = ids
    if ids.dtype.kind == "O":
        known: dict[Any, int] = {}
        try:
            codes = np.array([known.setdefault(value, len(known)) for value in ids])
        except TypeError as error:
            raise UsageError(f"qid: expected integers or strings ({error})") from error
    starts = np.concatenate(([0], np.flatnonzero(codes[1:] != codes[:-1]) + 1))
    seen: set[Any] = set()
    for start in starts.tolist():
        if codes[start] in seen:
            raise UsageError(
                f"qid: expected contiguous groups, got more rows of {ids[start]!s} at row {start}; sort the rows by qid"
            )
        seen.add(codes[start])
    return np.append(starts, n_rows).astype(np.int64)


def _warn_of_one_group(what: str, n_rows: int) -> None:
    message = f"{what}: no qid, so that all {n_rows:,} rows are one query group; pass qid, the program of each row"
    warnings.warn(message, GbrWarning, stacklevel=3)


def _column_indices(parameter: str, columns: Any, names: tuple[str, ...] | None, count: int) -> tuple[int, ...]:
    """Indices of columns specified by name or index; empty for None."""
    index = {name: number for number, name in enumerate(names or ())}
    is_several = hasattr(columns, "__iter__") and not isinstance(columns, str)
    found = []
    for column in () if columns is None else columns if is_several else [columns]:
        at = index.get(column, -1) if isinstance(column, str) else column
        if isinstance(at, bool) or not isinstance(at, int | np.integer) or not 0 <= at < count:
            raise UsageError(f"{parameter}: expected names of columns of X, or indices below {count}, got {column!r}")
        found.append(int(at))
    if len(set(found)) < len(found):
        raise UsageError(f"{parameter}: expected different columns, got {columns!r}")
    return tuple(found)


def _one_set(eval_set: Any) -> tuple[Any, ...]:
    """(X, y) or (X, y, qid), alone or in a sequence of one."""
    one = eval_set
    if isinstance(one, list | tuple) and len(one) == 1:
        one = one[0]
    # A list of several sets is no set: its X would be a tuple.
    if not isinstance(one, list | tuple) or len(one) not in (2, 3) or isinstance(one[0], tuple) or np.isscalar(one[0]):
        raise UsageError("expected one (X, y) or (X, y, qid)")
    return tuple(one)
