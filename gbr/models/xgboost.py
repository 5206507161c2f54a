"""XGBoost as a backend."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError, one_line
from gbr.models import openmp
from gbr.models.base import Model, OnRound, check_params, library_errors, loading, unknown_param
from gbr.models.params import ROW_SHARE, Settings, column_share
from gbr.models.rows import REGRESSION_LABELS, Matrix, Rows, StreamedMatrix, ranks
from gbr.models.stopping import Stopper

with loading("XGBoost", "xgboost-cpu"):
    import xgboost as xgb

SUFFIX: Final = ".json"

#: Pairs per row and round of ``lambdarank``.  XGBoost's default, pairs with the 32 best rows, gives the lowest tau.
PAIRS_PER_ROW: Final = 16

#: Replacements of parameters that the ranker sets.
_RESERVED: Final = {
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


#: Parameters that are suggested for a misspelled one.
_FREQUENT: Final = (
    *("max_bin", "max_depth", "gamma", "subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode"),
    *("lambda", "reg_lambda", "alpha", "reg_alpha", "min_child_weight", "max_delta_step", "grow_policy", "tree_method"),
    *("lambdarank_pair_method", "lambdarank_num_pair_per_sample", "sampling_method", "num_parallel_tree"),
)


#: Held while warnings of the process are recorded.
_CHECKING: Final = Lock()

#: XGBoost 3.1 and later write the constant of a model as a list, for which 3.0 would take another constant.
_LIST_OF_ONE: Final = re.compile(rb'(?<="base_score":")\[([^],]*)\](?=")')


class _Batches(xgb.DataIter):  # type: ignore[misc]
    """Some columns of a matrix, in batches of whole groups, as XGBoost treats a split group as two groups."""

    def __init__(
        self, X: StreamedMatrix, columns: NDArray[np.int64], label: NDArray[Any], group: NDArray[np.int64] | None
    ) -> None:
        super().__init__()
        self._X, self._columns, self._label, self._group = X, columns, label, group
        self._next = 0

    def next(self, input_data: Callable[..., None]) -> bool:
        """Pass the next batch to ``input_data``; False after the last one."""
        if self._next == self._X.n_batches:
            self._X.clear_cache()
            return False
        rows = slice(int(self._X.starts[self._next]), int(self._X.starts[self._next + 1]))
        group = None if self._group is None else self._group[rows]
        # take() returns C order, which XGBoost bins twice as fast as the result of X[:, columns]
        input_data(data=self._X.batch(self._next).take(self._columns, axis=1), label=self._label[rows], qid=group)
        self._next += 1
        return True

    def reset(self) -> None:
        """Return to the first batch."""
        self._next = 0


class _EndOfRound(xgb.callback.TrainingCallback):  # type: ignore[misc]
    """Asks a stopper after every round."""

    def __init__(self, stopper: Stopper) -> None:
        super().__init__()
        self._stopper = stopper

    def after_iteration(self, model: xgb.Booster, epoch: int, evals_log: Any) -> bool:
        """Whether to stop."""
        return self._stopper.over(epoch + 1)


class XGBoostModel(Model):
    """A fitted ``xgboost.Booster``."""

    versions: Mapping[str, str] = {"xgboost": str(xgb.__version__)}

    def __init__(self, booster: xgb.Booster, best_score: float | None) -> None:
        self.booster = booster
        self.n_iterations = int(openmp.call(1, booster.num_boosted_rounds))  # completes the booster
        self.n_features = int(booster.num_features())
        self.best_score = best_score

    def predict(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        relevance = openmp.call(n_jobs, self.booster.inplace_predict, X, predict_type="margin")
        return np.asarray(relevance, np.float64)

    def gains(self) -> NDArray[np.float64]:
        """Total gain per column, float64 (n_features,)."""
        gains = np.zeros(self.n_features)
        for name, gain in self.booster.get_score(importance_type="total_gain").items():
            gains[int(name.removeprefix("f"))] = gain
        return gains

    def stopped_at(self, rounds: int) -> XGBoostModel:
        """The model after its first ``rounds`` rounds."""
        if rounds >= self.n_iterations:
            return self
        return XGBoostModel(openmp.call(1, self.booster.__getitem__, slice(rounds)), self.best_score)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Difference of the rows' TreeSHAP values, float64 (n_features,)."""
        with library_errors("XGBoost", xgb.core.XGBoostError):
            values = openmp.call(
                n_jobs, lambda: self.booster.predict(xgb.DMatrix(X[[first, second]]), pred_contribs=True)
            )
        contributions = np.asarray(values, np.float64)[:, :-1]  # the last column is the expected value
        return np.asarray(contributions[0] - contributions[1])

    def to_bytes(self) -> bytes:
        """Serialise in the JSON format of XGBoost."""
        return bytes(openmp.call(1, self.booster.save_raw, "json"))


def fit(train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None = None) -> XGBoostModel:
    """Train a booster."""
    # Workers of a cluster wait for one another.
    alone = nullcontext() if xgb.collective.is_distributed() else openmp.fitting
    with alone, library_errors("XGBoost", xgb.core.XGBoostError):
        return openmp.call(settings.n_jobs, _fit, train, valid, settings, on_round)


def _fit(train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None) -> XGBoostModel:
    """Train a booster.

    Constant columns are not passed to XGBoost, which would bin them, include them in histograms and sample them for
    trees, although they cannot be split.
    """
    check_params(settings.params, _RESERVED, (), "XGBoost")
    chosen = dict(settings.params)
    if (groups := chosen.get("interaction_constraints")) is None:
        columns = _varying(train)
    else:  # their indices are those of all columns; XGBoost takes lists of names only
        columns = np.arange(train.X.shape[1])
        chosen["interaction_constraints"] = groups if isinstance(groups, str) else json.dumps(groups)
    constraints = settings.constraints(train.X.shape[1])
    label, loss, objective = _objective(train, settings)
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
        "disable_default_eval_metric": True,
        "validate_parameters": True,
        "verbosity": 1,
        **objective,
        **chosen,
    }
    group = np.repeat(np.arange(len(train.sizes)), train.sizes) if settings.objective == "lambdarank" else None
    max_bin = settings.params.get("max_bin")
    streamed, indptr = train.X, train.indptr
    if not isinstance(streamed, StreamedMatrix):  # so that only one batch is copied at a time
        X: NDArray[Any] = streamed
        streamed = StreamedMatrix(lambda a, b: X[indptr[a] : indptr[b]], indptr, np.arange(len(X)), X.shape[1], 0)
    data = xgb.QuantileDMatrix(_Batches(streamed, columns, label, group), max_bin=max_bin)
    stopper = Stopper(valid, settings, on_round)
    held_out = []
    if (tau := stopper.tau) is not None:
        X_valid = tau.X.take(columns, axis=1)
        zeros = np.zeros(len(X_valid))
        held_out = [(xgb.QuantileDMatrix(X_valid, label=zeros, ref=data, max_bin=max_bin), "valid")]
    _check(params, data, chosen)
    booster = xgb.train(
        params | {"validate_parameters": False},
        data,
        num_boost_round=settings.n_estimators,
        evals=held_out,
        obj=loss,
        custom_metric=(lambda relevance, _: ("kendall_tau", stopper.validate(relevance))) if held_out else None,
        callbacks=[_EndOfRound(stopper)],
        verbose_eval=False,
    )
    booster = booster[: stopper.best_round]
    return XGBoostModel(_with_all_columns(booster, columns, train.X.shape[1]), stopper.best_tau)


def _objective(train: Rows, settings: Settings) -> tuple[NDArray[Any], Callable[..., Any] | None, dict[str, Any]]:
    """Labels (rows,), the gradients of a loss of ours, and parameters of XGBoost for the objective."""
    if settings.objective in REGRESSION_LABELS:
        params = {"objective": "reg:squarederror", "min_child_weight": settings.min_child_samples}
        return REGRESSION_LABELS[settings.objective](train.target, train.indptr), None, params
    label = ranks(train.target, train.indptr)
    if settings.objective == "lambdarank":
        return label, None, {
            "objective": "rank:ndcg",
            "ndcg_exp_gain": False,
            "lambdarank_pair_method": "mean",
            "lambdarank_num_pair_per_sample": PAIRS_PER_ROW,
        }  # fmt: skip
    from gbr.models import losses  # imports Numba, which prediction does not need

    derivatives = losses.objective(label, train.indptr, settings.seed)
    return label, lambda relevance, data: derivatives(relevance.astype(np.float64), data), {"base_score": 0.0}


def _check(params: dict[str, Any], data: xgb.DMatrix, chosen: Mapping[str, Any]) -> None:
    """A UsageError for a parameter of the user that XGBoost does not know or use."""
    with _CHECKING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        xgb.Booster(params, [data]).num_boosted_rounds()  # checks the parameters
    for warning in caught:
        unused = re.findall(r'"(\w+)"(?=.*are not used)', one_line(warning.message))
        if wrong := [name for name in unused if name in chosen]:  # boosters other than trees use few of the ranker's
            raise UsageError(unknown_param(wrong[0], _RESERVED, _FREQUENT, "XGBoost"))


def load(data: bytes) -> XGBoostModel:
    """Read the JSON format of XGBoost; ValueError for anything else."""
    json.loads(data)  # the library also reads other formats
    data = _LIST_OF_ONE.sub(rb"\1", data)
    booster = xgb.Booster()
    try:
        openmp.call(1, booster.load_model, bytearray(data))
    except xgb.core.XGBoostError as error:
        raise ValueError(str(error).split("Stack trace")[0]) from error
    return XGBoostModel(booster, None)


def _varying(train: Rows) -> NDArray[np.int64]:
    """Columns with two different values, missing counting as one; all columns if every one is constant.

    The workers of a cluster reduce over the rows of all.
    """
    span = np.full((3, train.X.shape[1]), -np.inf, np.float32)  # -minimum, maximum, and 0 where a value is missing
    for _, rows in train.batches():
        least, largest = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
        missing = np.isnan(np.minimum.reduce(rows, axis=0))
        np.fmax(span, [-least, largest, np.where(missing, 0, -np.inf)], out=span)
    least, largest, missing = xgb.collective.allreduce(span.ravel(), xgb.collective.Op.MAX).reshape(span.shape)
    varying = np.flatnonzero((largest > -least) | ((missing == 0) & (largest == -least)))
    return varying if len(varying) else np.arange(train.X.shape[1])


def _with_all_columns(booster: xgb.Booster, columns: NDArray[np.int64], n_columns: int) -> xgb.Booster:
    """Renumber the columns of a booster that was trained on ``columns`` out of ``n_columns``."""
    whole = json.loads(bytes(booster.save_raw("json")))
    learner = whole["learner"]
    learner["learner_model_param"]["num_feature"] = str(n_columns)
    trees = learner["gradient_booster"]
    for tree in trees.get("gbtree", trees)["model"]["trees"]:  # inside "gbtree" for the booster dart
        tree["tree_param"]["num_feature"] = str(n_columns)
        tree["split_indices"] = columns[tree["split_indices"]].tolist()  # leaves have index 0, which is never read
    renumbered = xgb.Booster()
    renumbered.load_model(bytearray(json.dumps(whole).encode()))
    return renumbered
