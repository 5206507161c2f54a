"""Ranker: learns from the configurations of some queries to order those of others."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # scikit-learn brings its own OpenMP runtime, which reads it once

from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gbr import __version__
from gbr.errors import ModelError, UsageError
from gbr.evaluation.metrics import kendall_tau
from gbr.models import io, labels
from gbr.models.base import Model, Rows, backend, keep_rounds
from gbr.models.checks import as_indptr, as_matrix, as_names, as_places, as_target, reordered
from gbr.models.params import CAPACITY, SEEDS, Settings, reread, resolve, threads

if TYPE_CHECKING:
    from features.hardware import Hardware
    from features.schema import Schema
    from gbr.adapt import Adapted
    from gbr.data.graph import Graph
    from gbr.scorer import Scorer

#: Constructor parameters that are settings under the same name.
_SHARED: Final = ("objective", *CAPACITY, "early_stopping_rounds")


class Ranker(BaseEstimator):  # type: ignore[misc]
    """Gradient-boosted trees that order the configurations (rows) of a program (query) by predicted runtime.

    Parameters
    ----------
    backend : str
        ``ensemble`` (the mean of unlike members from both libraries), ``lightgbm``, ``xgboost``, or ``costmodel``
        (non-negative prices on ``costs``).
    objective : str or None
        ``pairwise`` (both; all pairs count alike, as in Kendall's tau), ``lambdarank`` (both; ranks as linear gains,
        pairs at the top count more), ``l2`` and ``speed`` (both; least squares on the rank within the slate, and on the
        speed over its fastest) or ``difference`` (lightgbm; a classifier of pairs); ``mixed``, ``mixed-few`` (with the
        cost model, too) or ``mixed-top`` (ensemble); ``nnls`` (costmodel).  None: what suits the goal.
    goal : str
        ``tau``: order the whole slate.  ``topk``: have a fast one among the first few.  Chooses the objective where
        none is given: for ``tau`` ``pairwise`` and ``mixed`` (ensemble; with ``costs`` and fewer than 60 slates to
        learn from ``mixed-few``), for ``topk`` ``speed`` and ``mixed-top``.
    n_estimators, num_leaves, learning_rate, min_child_samples : int, int, float, int or None
        Rounds, leaves per tree, shrinkage, rows per leaf.  None: :func:`gbr.models.params.default_capacity` of the
        training set.  XGBoost counts rows per leaf for ``l2`` only.
    early_stopping_rounds : int
        With an ``eval_set``, stop after so many rounds without a better mean Kendall tau; the best one is kept.
    params : mapping or None
        Further parameters of the library, by its own names.
    costs : sequence of str or int, or None
        Columns that are log2(1 + amount) of amounts whose sum, each at a price, is time: names or places.  What the
        cost model learns from.
    monotone : bool
        Forbid trees that rank a row higher for a larger cost.
    random_state : int, RandomState or None
        With an int, the same rows, library and machine give the same trees and scores, bit for bit, on any threads.
    n_jobs : int or None
        Threads; None or -1 leaves the choice to OpenMP (all cores, or ``OMP_NUM_THREADS``).

    Attributes
    ----------
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when ``X`` named its columns.
    settings_ : Settings
        What the defaults resolved to.
    best_iteration_ : int
        Rounds kept.
    best_score_ : float or None
        Mean tau of the eval_set after them (slates above 1000 rows sampled); None without eval_set.
    model_ : Model
        The library's booster behind a small protocol.
    trained_on_ : dict or None
        Collection, feature schema and data, for a model trained by ``python -m gbr.train``.

    Examples
    --------
    >>> import numpy as np
    >>> from gbr import Ranker
    >>> X = np.random.default_rng(0).random((80, 3))
    >>> ranker = Ranker().fit(X, runtime=X[:, 0], qid=np.repeat(np.arange(8), 10))
    >>> ranker.predict(X).shape
    (80,)
    """

    def __init__(
        self,
        backend: str = "ensemble",
        objective: str | None = None,
        *,
        goal: str = "tau",
        n_estimators: int | None = None,
        num_leaves: int | None = None,
        learning_rate: float | None = None,
        min_child_samples: int | None = None,
        early_stopping_rounds: int = 100,
        params: Mapping[str, Any] | None = None,
        costs: Sequence[str | int] | None = None,
        monotone: bool = False,
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
        self.params = params
        self.costs = costs
        self.monotone = monotone
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, runtime: Any, *, qid: Any, eval_set: tuple[Any, Any, Any] | None = None) -> Self:
        """Learn to order rows within queries.

        Parameters
        ----------
        X : array-like or data frame (rows, columns)
            Features; NaN means missing.
        runtime : array-like (rows,)
            Any number, lower is better.  Only the order within a query matters; to ``speed`` also the ratios.
        qid : array-like (rows,)
            Query of each row, integers or strings; the rows of a query stand together.
        eval_set : (X, runtime, qid) or None
            Other queries to stop early on.

        Returns
        -------
        Ranker
            Itself.

        Raises
        ------
        UsageError
            For input or parameters that cannot be right; names the first offending row, column or parameter.
        MissingLibraryError
            When the backend's library cannot be loaded.
        """
        backend(self.backend)  # a library that is missing is told before a large table is looked through
        matrix, names = as_matrix(X)
        train = Rows(matrix, as_target(runtime, len(matrix)), as_indptr(qid, len(matrix)))
        valid = None
        if eval_set is not None:
            X_valid, runtime_valid, qid_valid = eval_set
            other, other_names = as_matrix(X_valid)
            other = reordered(other, other_names, names, matrix.shape[1])
            valid = Rows(other, as_target(runtime_valid, len(other)), as_indptr(qid_valid, len(other)))
        return self.fit_rows(train, names, valid)

    def fit_rows(
        self,
        train: Rows,
        names: tuple[str, ...] | None,
        valid: Rows | None = None,
        fit: Callable[[Rows, Rows | None, Settings], Model] | None = None,
    ) -> Self:
        """Learn as :meth:`fit` does, from rows that are as they should be and need not lie in memory.

        Parameters
        ----------
        train : Rows
        names : tuple of str or None
            Of the columns.
        valid : Rows or None
            To stop on; of the same columns.
        fit : callable, optional
            What trains instead of the backend's library.

        Raises
        ------
        UsageError
            When there is no order to learn, or for parameters that cannot be right.
        MissingLibraryError
            As :meth:`fit`.
        """
        library = backend(self.backend)
        if not train.n_rankable:
            raise UsageError("runtime: no query has two different runtimes; there is no order to learn")
        settings = self._settings(train, names)
        self.model_ = (fit or library.fit)(train, valid, settings)
        self.settings_ = settings
        self.trained_on_: dict[str, Any] | None = None
        self._set_features(names, train.X.shape[1])
        return self

    def predict(self, X: Any, *, qid: Any = None) -> NDArray[np.float64]:
        """Scores that read like runtimes: lower is predicted faster.  Only their order within a query has meaning.

        Parameters
        ----------
        X : array-like or data frame (rows, columns)
            Columns are matched by name where both sides have names, in any order.
        qid : array-like (rows,) or None
            Query of each row.  Asked for by the objective ``difference`` alone, which compares the rows of a query;
            without it all rows are one.

        Returns
        -------
        float64 (rows,)

        Raises
        ------
        UsageError
            When the columns are not those of ``fit``.
        """
        check_is_fitted(self, "model_")
        matrix, names = as_matrix(X)
        fitted = tuple(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None
        matrix = reordered(matrix, names, fitted, self.n_features_in_)
        if not len(matrix):
            return np.zeros(0)
        indptr = np.array([0, len(matrix)], np.int64) if qid is None else as_indptr(qid, len(matrix))
        return labels.as_runtime(self.model_.predict(matrix, threads(self.n_jobs), indptr))

    @property
    def best_iteration_(self) -> int:
        """Rounds kept."""
        check_is_fitted(self, "model_")
        return self.model_.n_iterations

    @property
    def best_score_(self) -> float | None:
        """Mean tau of the eval_set after those rounds."""
        check_is_fitted(self, "model_")
        return self.model_.best_score

    def score(self, X: Any, runtime: Any, *, qid: Any) -> float:
        """Mean Kendall tau of the predicted order over the queries with two different runtimes, in [-1, 1].

        Raises
        ------
        UsageError
            For input that cannot be right, or without such a query.
        """
        scores = self.predict(X, qid=qid)
        target, indptr = as_target(runtime, len(scores)).astype(np.float64), as_indptr(qid, len(scores))
        parts = [slice(a, b) for a, b in pairwise(indptr) if np.ptp(target[a:b])]
        if not parts:
            raise UsageError("runtime: no query has two different runtimes; there is no order to score")
        return float(np.mean([kendall_tau(scores[part], target[part]) for part in parts]))

    def predict_graph(self, path: str | os.PathLike[str]) -> NDArray[np.float64]:
        """Scores of all configurations of a graph file, float64 (configurations,), lower is predicted faster.

        Parameters
        ----------
        path : path-like
            An ``.npz`` of the model's kind of collection.

        Raises
        ------
        ModelError
            When the model was not trained by ``python -m gbr.train``, or on other features.
        DataError
            When the file is missing, torn or breaks its format.
        """
        check_is_fitted(self, "model_")
        if self.trained_on_ is None:
            raise ModelError(
                "this model was fitted on a plain table and knows no graphs; train one with `python -m gbr.train`"
            )
        from gbr.data.build import extract
        from gbr.data.graph import read_graph

        schema, X, _ = extract(read_graph(Path(path)), self.hardware(str(path)))
        return self.predict(X[:, self.places(schema, str(path))])

    def rank(self, path: str | os.PathLike[str]) -> NDArray[np.int64]:
        """Configurations of a graph file by predicted runtime, int64 (configurations,), best first; ties as in file.

        Raises
        ------
        ModelError, DataError
            As :meth:`predict_graph`.
        """
        return np.argsort(self.predict_graph(path), kind="stable").astype(np.int64)

    def scorer(self, graph: Graph | str | os.PathLike[str]) -> Scorer:
        """Make ready to score configurations of one graph again and again; see :class:`gbr.scorer.Scorer`."""
        check_is_fitted(self, "model_")
        from gbr.scorer import Scorer

        return Scorer(self, graph)

    def adapt(self, graph: Graph | str | os.PathLike[str], configs: Any, runtimes: Any) -> Adapted:
        """Score the configurations of a graph by this model and by some of them that were measured.

        Parameters
        ----------
        graph : Graph or path-like
        configs : array-like of int (m,)
            Rows of the measured configurations.
        runtimes : array-like (m,)
            What was measured, lower is faster.

        Returns
        -------
        Adapted
            ``predict()`` gives scores of all configurations, ``rank()`` their order.

        Raises
        ------
        UsageError, ModelError, DataError
            As :func:`gbr.adapt.fit_with`.
        """
        from gbr.adapt import fit_with

        return fit_with(self, graph, configs, runtimes)

    def places(self, schema: Schema, what: str) -> NDArray[np.int64]:
        """Places among a schema's columns of those that the model asks for, int64 (n_features_in_,).

        Raises
        ------
        ModelError
            As :meth:`check_schema`.
        """
        self.check_schema(schema.kind, schema.hash, what)
        place = {name: number for number, name in enumerate(schema.names)}
        try:
            return np.array([place[name] for name in self.feature_names_in_], np.int64)
        except (KeyError, AttributeError) as fault:  # no model of ours, as the schema is the same
            raise ModelError(f"{what}: the model asks for columns that are none of the schema's ({fault})") from fault

    def check_schema(self, kind: str, schema_hash: str, what: str) -> None:
        """Refuse features the model was not trained on.

        Raises
        ------
        ModelError
            When kind or hash differ from those of training: says how to train a model that fits.
        """
        trained_on = self.trained_on_ or {}
        if trained_on.get("kind") != kind:
            raise ModelError(f"{what}: holds a {kind} collection, the model ranks {trained_on.get('kind')}")
        if trained_on.get("schema_hash") != schema_hash:
            raise ModelError(
                f"{what}: features of schema {schema_hash}, the model was trained on {trained_on.get('schema_hash')}; "
                f"train again: python -m gbr.train --subset {trained_on.get('subset')}"
            )

    def hardware(self, what: str) -> Hardware:
        """The machine that the model was trained for; features of what it ranks are computed for it.

        Parameters
        ----------
        what : str
            What is to be ranked, for messages.

        Raises
        ------
        ModelError
            When the model was trained before there were profiles, or its manifest was edited.
        """
        from gbr.data.hardware import parse

        trained_on = self.trained_on_ or {}
        if "hardware" not in trained_on:
            raise ModelError(
                f"{what}: the model's manifest names no hardware; "
                f"train again: python -m gbr.train --subset {trained_on.get('subset')}"
            )
        return parse(trained_on["hardware"], "manifest.json: trained_on.hardware", ModelError)

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
        """Write the model in its library's own format, beside a ``manifest.json``: whole or not at all.

        Parameters
        ----------
        folder : path-like
            Made when missing; a model already there is replaced.

        Raises
        ------
        ModelError
            When the folder cannot be written.
        """
        check_is_fitted(self, "model_")
        about = {
            "backend": self.backend,
            "settings": asdict(self.settings_),
            "seed": self.settings_.seed,
            "features": {
                "count": self.n_features_in_,
                "names": list(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None,
            },
            "best_iteration": self.best_iteration_,
            "best_score": self.best_score_,
            "trained_on": self.trained_on_,
            "versions": {
                "gbr": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                **self.model_.versions,
            },
        }
        io.write(Path(folder), self.model_.to_bytes(), backend(self.backend).SUFFIX, about)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote; parses data, runs no code.

        Raises
        ------
        ModelError
            When there is no model, or it is foreign, torn, edited or of a newer format.
        MissingLibraryError
            When the backend's library cannot be loaded.
        """
        data, about = io.read(Path(folder))
        try:
            settings = reread(about["settings"])
            names, count = as_names(about["features"]["names"], about["features"]["count"])
            ranker = cls(
                about["backend"],
                **{name: getattr(settings, name) for name in _SHARED},
                params=dict(settings.params) or None,
                costs=[names[place] if names else place for place in settings.costs] or None,
                monotone=settings.monotone,
                random_state=settings.seed,
            )
            ranker.model_ = backend(ranker.backend).load(data, settings)
            keep_rounds(ranker.model_, about["best_iteration"])
            ranker.model_.best_score = about["best_score"]
            ranker.trained_on_ = about["trained_on"]
            if ranker.model_.n_features != count:
                raise ValueError(f"{ranker.model_.n_features} features in the model, {count} in the manifest")
        except (LookupError, TypeError, ValueError) as fault:
            told = " ".join(str(fault).split())
            raise ModelError(f"{folder}: manifest and model do not fit ({told}); train again or restore it") from fault
        ranker.settings_ = settings
        ranker._set_features(names, count)
        return ranker

    def _settings(self, train: Rows, names: tuple[str, ...] | None) -> Settings:
        return resolve(
            self.backend,
            self.objective,
            goal=self.goal,
            capacity={name: getattr(self, name) for name in CAPACITY},
            early_stopping_rounds=self.early_stopping_rounds,
            seed=_seed(self.random_state),
            n_jobs=self.n_jobs,
            params=self.params,
            n_slates=train.n_rankable,
            n_rows=len(train.X),
            costs=as_places(self.costs, names, train.X.shape[1]),
            monotone=self.monotone,
        )

    def _set_features(self, names: tuple[str, ...] | None, count: int) -> None:
        self.n_features_in_ = count
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_


def _seed(random_state: Any) -> Any:
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(SEEDS))
    return random_state
