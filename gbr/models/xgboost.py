"""XGBoost behind the backend protocol."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.models import labels
from gbr.models.base import REGRESSED, Rows, ValidTau, loading, refusals, reject
from gbr.models.batches import StreamedMatrix
from gbr.models.checks import Matrix
from gbr.models.forest import xgboost_json
from gbr.models.params import ROW_SHARE, Settings, column_share

with loading("XGBoost", "xgboost-cpu"):
    import xgboost as xgb

SUFFIX: Final = ".json"

#: Pairs per row and round.  XGBoost's default, the 32 best-placed rows, learns the top only and is the worst for tau.
PAIRS_PER_ROW: Final = 16

#: Parameters of the ranker under the names XGBoost knows them by, and what to use instead.
_TAKEN: Final = {
    "objective": "Ranker(objective=…)",
    "num_boost_round": "Ranker(n_estimators=…)",
    "n_estimators": "Ranker(n_estimators=…)",
    "max_leaves": "Ranker(num_leaves=…)",
    "learning_rate": "Ranker(learning_rate=…)",
    "eta": "Ranker(learning_rate=…)",
    "early_stopping_rounds": "Ranker(early_stopping_rounds=…)",
    "seed": "Ranker(random_state=…)",
    "random_state": "Ranker(random_state=…)",
    "nthread": "Ranker(n_jobs=…)",
    "n_jobs": "Ranker(n_jobs=…)",
    "monotone_constraints": "Ranker(monotone=…, costs=…)",
    "eval_metric": "the Kendall tau that early stopping uses",
}


class _Batches(xgb.DataIter):  # type: ignore[misc]
    """Some columns of a matrix, in batches.  A query lies within one: split over two it would count as two."""

    def __init__(
        self, X: StreamedMatrix, columns: NDArray[np.int64], label: NDArray[Any], query: NDArray[np.int64] | None
    ) -> None:
        super().__init__()
        self._X = X
        self._columns = columns
        self._label = label
        self._query = query
        self._next = 0

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over a batch; False after the last."""
        if self._next == self._X.n_batches:
            self._X.forget()
            return False
        rows = slice(int(self._X.starts[self._next]), int(self._X.starts[self._next + 1]))
        query = None if self._query is None else self._query[rows]
        # take() keeps rows together in memory, which XGBoost bins twice as fast as what X[:, columns] gives
        input_data(data=self._X.batch(self._next).take(self._columns, axis=1), label=self._label[rows], qid=query)
        self._next += 1
        return True

    def reset(self) -> None:
        """Go back to the first batch."""
        self._next = 0


class XGBoostModel:
    """A fitted ``xgboost.Booster``."""

    versions: Final = {"xgboost": str(xgb.__version__)}

    def __init__(self, booster: xgb.Booster, best_score: float | None) -> None:
        self.booster = booster
        self.n_iterations = int(booster.num_boosted_rounds())
        self.n_features = int(booster.num_features())
        self.best_score = best_score

    def predict(self, X: Matrix, n_jobs: int, indptr: NDArray[np.int64]) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        self.booster.set_param({"nthread": n_jobs})
        return np.asarray(self.booster.inplace_predict(X, predict_type="margin"), np.float64)

    def gains(self) -> NDArray[np.float64]:
        """Total gain per column, float64 (n_features,)."""
        gains = np.zeros(self.n_features)
        for name, gain in self.booster.get_score(importance_type="total_gain").items():
            gains[int(name.removeprefix("f"))] = gain
        return gains

    def stopped_at(self, rounds: int) -> XGBoostModel:
        """The model as it was after so many rounds."""
        return self if rounds >= self.n_iterations else XGBoostModel(self.booster[:rounds], self.best_score)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Difference of the rows' TreeSHAP values, float64 (n_features,); see :class:`gbr.models.base.Model`."""
        self.booster.set_param({"nthread": n_jobs})
        with refusals("XGBoost", xgb.core.XGBoostError):
            told = self.booster.predict(xgb.DMatrix(X[[first, second]], nthread=n_jobs), pred_contribs=True)
        found = np.asarray(told, np.float64)[:, :-1]  # the last is what all rows share
        return np.asarray(found[0] - found[1])

    def to_bytes(self) -> bytes:
        """Give the model as XGBoost's JSON."""
        return bytes(self.booster.save_raw("json"))


def fit(train: Rows, valid: Rows | None, settings: Settings) -> XGBoostModel:
    """Train a booster; see :class:`gbr.models.base.Backend`.

    Columns that are the same in all rows are kept from XGBoost.  It would bin them and add them up in every node though
    no split can be theirs, and they would take the place of others among those that a tree sees.
    """
    reject(settings.params, _TAKEN, lambda _: True, "XGBoost")
    columns = _varying(train.X)
    constraints = settings.constraints(train.X.shape[1])
    params: dict[str, Any] = {
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_depth": 0,
        "max_leaves": settings.num_leaves,
        "min_child_weight": 0,
        "learning_rate": settings.learning_rate,
        "monotone_constraints": tuple(constraints[column] for column in columns) if constraints else (),
        "subsample": ROW_SHARE,
        "colsample_bytree": column_share(len(columns)),
        "seed": settings.seed,
        "nthread": settings.n_jobs,
        "disable_default_eval_metric": True,
        "validate_parameters": True,
        "verbosity": 1,
    }
    query = np.repeat(np.arange(len(train.sizes)), train.sizes) if settings.objective not in REGRESSED else None
    if settings.objective in REGRESSED:
        params["objective"] = "reg:squarederror"
        params["min_child_weight"] = settings.min_child_samples
        label: NDArray[Any] = REGRESSED[settings.objective](train.target, train.indptr)
    else:
        params["objective"] = "rank:pairwise" if settings.objective == "pairwise" else "rank:ndcg"
        params |= {"lambdarank_pair_method": "mean", "lambdarank_num_pair_per_sample": PAIRS_PER_ROW}
        if settings.objective == "lambdarank":
            params["ndcg_exp_gain"] = False
        label = labels.ranks(train.target, train.indptr)
    batches = train.X if isinstance(train.X, StreamedMatrix) else _in_batches(train.X, train.indptr)
    data = xgb.QuantileDMatrix(_Batches(batches, columns, label, query), max_bin=settings.params.get("max_bin"))
    params |= settings.params
    with warnings.catch_warnings(record=True) as told, refusals("XGBoost", xgb.core.XGBoostError):
        warnings.simplefilter("always")
        if valid is None:
            booster, best_score = xgb.train(params, data, num_boost_round=settings.n_estimators), None
        else:
            booster, best_score = _train_until(params, data, valid, columns, settings)
    for warning in told:
        if "are not used" in str(warning.message):
            raise UsageError(f"params: XGBoost: {' '.join(str(warning.message).split())}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return XGBoostModel(_of_all(booster, columns, train.X.shape[1]), best_score)


def _in_batches(X: Matrix, indptr: NDArray[np.int64]) -> StreamedMatrix:
    """Rows that are in memory, as if they were not, so that no more than a batch of them is copied at once."""
    floats: NDArray[Any] = X
    return StreamedMatrix(lambda a, b: floats[indptr[a] : indptr[b]], indptr, np.arange(len(X)), X.shape[1], 0)


def _varying(X: Matrix | StreamedMatrix) -> NDArray[np.int64]:
    """Columns with two different values, a missing one among them; all where there are none.

    On a cluster all workers find the same, by the rows of all.
    """
    span = np.full((3, X.shape[1]), -np.inf, np.float32)  # the least, negated; the largest; whether one is missing
    for rows in (batch for _, batch in X.batches()) if isinstance(X, StreamedMatrix) else [X]:
        least, largest = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
        missing = np.isnan(np.minimum.reduce(rows, axis=0))
        np.fmax(span, [-least, largest, np.where(missing, 0, -np.inf)], out=span)
    least, largest, missing = xgb.collective.allreduce(span.ravel(), xgb.collective.Op.MAX).reshape(span.shape)
    found = np.flatnonzero((largest > -least) | ((missing == 0) & (largest == -least)))
    return found if len(found) else np.arange(X.shape[1])


def _of_all(booster: xgb.Booster, columns: NDArray[np.int64], n_columns: int) -> xgb.Booster:
    """Give the booster of some of ``n_columns`` columns as one of all of them."""
    whole = json.loads(bytes(booster.save_raw("json")))
    learner = whole["learner"]
    learner["learner_model_param"]["num_feature"] = str(n_columns)
    for tree in learner["gradient_booster"]["model"]["trees"]:
        tree["tree_param"]["num_feature"] = str(n_columns)
        # Leaves name column 0, whatever it is; no one asks them.
        tree["split_indices"] = columns[tree["split_indices"]].tolist()
    found = xgb.Booster()
    found.load_model(bytearray(json.dumps(whole).encode()))
    return found


def _train_until(
    params: dict[str, Any], data: xgb.QuantileDMatrix, valid: Rows, columns: NDArray[np.int64], settings: Settings
) -> tuple[xgb.Booster, float]:
    tau = ValidTau(valid, settings.seed)
    bins = settings.params.get("max_bin")
    held_out = xgb.QuantileDMatrix(tau.X.take(columns, axis=1), label=np.zeros(len(tau.X)), ref=data, max_bin=bins)
    history: list[float] = []  # XGBoost itself passes metrics on as text with six digits

    def metric(relevance: NDArray[Any], _: xgb.DMatrix) -> tuple[str, float]:
        history.append(tau(relevance))
        return "kendall_tau", history[-1]

    stop = xgb.callback.EarlyStopping(rounds=settings.early_stopping_rounds, maximize=True, save_best=True)
    booster = xgb.train(
        params,
        data,
        num_boost_round=settings.n_estimators,
        evals=[(held_out, "valid")],
        custom_metric=metric,
        callbacks=[stop],
        verbose_eval=False,
    )
    return booster, history[booster.best_iteration]


def load(data: bytes, settings: Settings) -> XGBoostModel:
    """Read XGBoost's JSON; ValueError for anything else."""
    checked = bytearray(xgboost_json(data))
    booster = xgb.Booster()
    try:
        booster.load_model(checked)
    except xgb.core.XGBoostError as fault:
        raise ValueError(str(fault)) from fault
    return XGBoostModel(booster, None)
