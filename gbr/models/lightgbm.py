"""LightGBM behind the backend protocol."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.models import labels
from gbr.models.base import REGRESSED, Rows, ValidTau, loading, refusals, reject, sub_slates
from gbr.models.batches import StreamedMatrix
from gbr.models.checks import Matrix
from gbr.models.differences import anchors_of, beside, differences, wins
from gbr.models.forest import lightgbm_text
from gbr.models.params import ROW_SHARE, Settings, column_share

with loading("LightGBM", "lightgbm"):
    import lightgbm as lgb

SUFFIX: Final = ".txt"

#: For ``lambdarank`` slates are cut into parts of at most this many random rows: its own limit is 10,000, and its time
#: grows with rows times rows per part.  Measured on two slates of 10,000 rows, 60 rounds: 43 s of CPU time whole, 3.9 s
#: in parts of 1000, 1.1 s in parts of 250; tau on other slates stayed within .002 down to parts of 250.
SUB_SLATE_ROWS: Final = 1000

#: Rows that LightGBM chooses bins by: the parameter, the number by default, the least that a matrix outside memory is
#: binned by, and the bytes that one of their values takes, which LightGBM holds up to four times in double precision.
_BINNED_BY: Final = "bin_construct_sample_cnt"
_LIBRARY_BINS_BY: Final = 200_000
_LEAST_BINNED_BY: Final = 20_000
_BYTES_BINNED_BY: Final = 32

#: Log odds closer than this are equal but for rounding.
_EQUAL_ODDS: Final = 1e-9

#: Parameters of the ranker under the names LightGBM knows them by, and what to use instead.
_TAKEN: Final = {
    "objective": "Ranker(objective=…)",
    "num_iterations": "Ranker(n_estimators=…)",
    "num_leaves": "Ranker(num_leaves=…)",
    "learning_rate": "Ranker(learning_rate=…)",
    "min_data_in_leaf": "Ranker(min_child_samples=…)",
    "early_stopping_round": "Ranker(early_stopping_rounds=…)",
    "seed": "Ranker(random_state=…)",
    "num_threads": "Ranker(n_jobs=…)",
    "metric": "the Kendall tau that early stopping uses",
    "monotone_constraints": "Ranker(monotone=…, costs=…)",
    "label_gain": "nothing: it follows from the ranks",
}


class _Batch(lgb.Sequence):  # type: ignore[misc]
    """A batch of a matrix outside memory.  Read twice: for the sample that bins are chosen by, and to be binned."""

    def __init__(self, X: StreamedMatrix, number: int) -> None:
        self._X = X
        self._number = number
        self._size = int(X.starts[number + 1] - X.starts[number])
        self.batch_size = self._size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> NDArray[Any]:
        found: NDArray[np.float32] = self._X.batch(self._number)[index]
        if isinstance(index, Integral):  # the sample is asked for row by row, and wanted in double precision
            return found.astype(np.float64)
        self._X.forget()
        return found


class _Streamed(lgb.Dataset):  # type: ignore[misc]
    """A dataset of batches.  LightGBM would leave columns out by its own least rows per leaf, not by what is asked."""

    def get_params(self) -> dict[str, Any]:
        """All parameters, as a dataset of one matrix sees them."""
        return dict(self.params)


class LightGBMModel:
    """A fitted ``lightgbm.Booster``."""

    versions: Final = {"lightgbm": str(lgb.__version__)}

    def __init__(self, booster: lgb.Booster, n_iterations: int, best_score: float | None) -> None:
        self.booster = booster
        self.n_iterations = n_iterations
        self.n_features = int(booster.num_feature())
        self.best_score = best_score

    def predict(self, X: Matrix, n_jobs: int, indptr: NDArray[np.int64]) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        raw = self.booster.predict(X, num_iteration=self.n_iterations, raw_score=True, num_threads=n_jobs)
        return np.asarray(raw, np.float64)

    def gains(self) -> NDArray[np.float64]:
        """Total gain per column, float64 (n_features,)."""
        gains = self.booster.feature_importance("gain", iteration=self.n_iterations)
        return np.asarray(gains, np.float64)

    def stopped_at(self, rounds: int) -> LightGBMModel:
        """The model as it was after so many rounds."""
        return type(self)(self.booster, min(rounds, self.n_iterations), self.best_score)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Difference of the rows' TreeSHAP values, float64 (n_features,); see :class:`gbr.models.base.Model`."""
        told = self.contributions(X[[first, second]], n_jobs)
        return np.asarray(told[0] - told[1])

    def contributions(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """TreeSHAP values (Lundberg and others, 2020) of the booster's columns, float64 (rows, columns)."""
        with refusals("LightGBM", lgb.basic.LightGBMError):
            told = self.booster.predict(X, num_iteration=self.n_iterations, pred_contrib=True, num_threads=n_jobs)
        return np.asarray(told, np.float64)[:, :-1]  # the last is what all rows share

    def to_bytes(self) -> bytes:
        """Give the model as LightGBM's text."""
        return str(self.booster.model_to_string(num_iteration=self.n_iterations)).encode()


class DifferenceModel(LightGBMModel):
    """A classifier of pairs; a row's relevance is how often it beats the anchors of its slate."""

    def __init__(self, booster: lgb.Booster, n_iterations: int, best_score: float | None) -> None:
        super().__init__(booster, n_iterations, best_score)
        self.n_features //= 2  # a row, and how it differs from another

    def predict(self, X: Matrix, n_jobs: int, indptr: NDArray[np.int64]) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""

        def beats(pairs: NDArray[np.float32]) -> NDArray[np.float64]:
            told = self.booster.predict(pairs, num_iteration=self.n_iterations, num_threads=n_jobs)
            return np.asarray(told, np.float64)

        return wins(beats, X, indptr)

    def gains(self) -> NDArray[np.float64]:
        """Total gain per column and of its difference, float64 (n_features,)."""
        gains = super().gains()
        return gains[: self.n_features] + gains[self.n_features :]

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """What each column adds, float64 (n_features,); see :class:`gbr.models.base.Model`.

        The classifier adds up log odds, the relevance is a mean of chances.  Each anchor's part of the difference is
        shared out as the log odds are (the rescale rule of Shrikumar, Greenside and Kundaje, "Learning important
        features through propagating activation differences", 2017).
        """
        anchors = X[anchors_of(0, len(X))]
        pairs = [beside(X[np.full(len(anchors), row)], anchors) for row in (first, second)]
        told, other = (self.contributions(each, n_jobs) for each in pairs)
        odds, chance = (
            [
                np.asarray(self.booster.predict(each, num_iteration=self.n_iterations, raw_score=raw), np.float64)
                for each in pairs
            ]
            for raw in (True, False)
        )
        apart, gained = odds[0] - odds[1], chance[0] - chance[1]
        steep = chance[0] * (1 - chance[0])  # of a chance in its log odds, where both are as good as equal
        rate = np.divide(gained, apart, out=steep, where=np.abs(apart) > _EQUAL_ODDS)
        found = ((told - other) * rate[:, None]).mean(axis=0)
        return np.asarray(found[: self.n_features] + found[self.n_features :])


def fit(train: Rows, valid: Rows | None, settings: Settings) -> LightGBMModel:
    """Train a booster; see :class:`gbr.models.base.Backend`."""
    reject(settings.params, _taken(), _known, "LightGBM")
    params: dict[str, Any] = {
        "num_leaves": settings.num_leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.min_child_samples,
        "seed": settings.seed,
        "num_threads": settings.n_jobs,
        "monotone_constraints": settings.constraints(train.X.shape[1]),
        "deterministic": True,
        "force_col_wise": True,  # one of the two makes it reproducible; row-wise keeps a second copy of the bins
        "metric": "None",
        "verbosity": -1,
    }
    if settings.objective == "difference":
        return _fit_differences(params, train, valid, settings)
    group = None
    objective: str | Callable[..., Any] = "regression"
    if settings.objective in REGRESSED:
        label: NDArray[Any] = REGRESSED[settings.objective](train.target, train.indptr)
    elif settings.objective == "pairwise":
        from gbr.models import losses  # Numba: not for a model that is only loaded

        label = labels.ranks(train.target, train.indptr)
        objective = losses.objective(label, train.indptr, settings.seed)
    else:
        parts = sub_slates(train.indptr, SUB_SLATE_ROWS, settings.seed)
        if parts:
            train = train.take(*parts)
        label = labels.ranks(train.target, train.indptr)
        group = train.sizes
        objective = "lambdarank"
        params |= {
            "label_gain": list(range(int(label.max()) + 1)),
            "lambdarank_truncation_level": int(group.max()),
        }
    params = _sampled(params, train.X.shape[1], settings)
    if isinstance(train.X, StreamedMatrix):
        batches = [_Batch(train.X, number) for number in range(train.X.n_batches)]
        params |= _few_to_bin_by(params, train.X)
        data = _Streamed(batches, label=label, group=group, params=params, free_raw_data=True)
    else:
        data = lgb.Dataset(train.X, label=label, group=group, params=params, free_raw_data=True)
    with refusals("LightGBM", lgb.basic.LightGBMError):
        # A loss that is not its own LightGBM will not begin without any split.  On a network, which is not there yet,
        # bins are not chosen by these rows alone and cannot be looked at before.
        if callable(objective) and "machines" not in params and not _tells_apart(data):
            objective = "regression"
        if valid is None:
            booster = lgb.train(params | {"objective": objective}, data, num_boost_round=settings.n_estimators)
            return LightGBMModel(booster, int(booster.num_trees()), None)
        return _train_until(params, objective, data, valid, settings)


def _fit_differences(params: dict[str, Any], train: Rows, valid: Rows | None, settings: Settings) -> DifferenceModel:
    """Train on pairs; all rounds are kept, because a round's tau would cost as much as many rounds."""
    pairs, faster = differences(train, settings.seed)
    bounds = {"monotone_constraints": 2 * settings.constraints(train.X.shape[1])}
    params = _sampled(params | bounds | {"objective": "binary"}, pairs.shape[1], settings)
    with refusals("LightGBM", lgb.basic.LightGBMError):
        booster = lgb.train(params, lgb.Dataset(pairs, label=faster, params=params), settings.n_estimators)
    model = DifferenceModel(booster, int(booster.num_trees()), None)
    if valid is not None:
        model.best_score = ValidTau(valid, settings.seed).of(model, settings.n_jobs)
    return model


def _sampled(params: dict[str, Any], n_columns: int, settings: Settings) -> dict[str, Any]:
    """Parameters with the sampling of rows and columns, and last those of the user."""
    sampling = {"feature_fraction": column_share(n_columns), "bagging_fraction": ROW_SHARE, "bagging_freq": 1}
    aliases = _aliases()
    unset = {name: value for name, value in sampling.items() if settings.params.keys().isdisjoint(aliases[name])}
    return params | unset | dict(settings.params)


def _few_to_bin_by(params: dict[str, Any], X: StreamedMatrix) -> dict[str, int]:
    """Parameter that lets bins be chosen by as many rows as fit into memory, where the default is more."""
    rows = max(_LEAST_BINNED_BY, X.memory // (_BYTES_BINNED_BY * X.shape[1]))
    few = rows < min(len(X), _LIBRARY_BINS_BY)
    return {_BINNED_BY: rows} if few and params.keys().isdisjoint([_BINNED_BY, *_aliases()[_BINNED_BY]]) else {}


def _tells_apart(data: lgb.Dataset) -> bool:
    """Whether any column has two bins."""
    data.construct()
    return any(data.feature_num_bin(column) > 1 for column in range(data.num_feature()))


def _train_until(
    params: dict[str, Any], objective: str | Callable[..., Any], data: lgb.Dataset, valid: Rows, settings: Settings
) -> LightGBMModel:
    tau = ValidTau(valid, settings.seed)
    sizes = tau.rows.sizes if settings.objective == "lambdarank" else None
    held_out = type(data)(tau.X, label=np.zeros(len(tau.X)), group=sizes, reference=data, params=params)
    booster = lgb.train(
        params | {"objective": objective},
        data,
        num_boost_round=settings.n_estimators,
        valid_sets=[held_out],
        feval=lambda relevance, _: ("kendall_tau", tau(relevance), True),
        callbacks=[lgb.early_stopping(settings.early_stopping_rounds, verbose=False)],
    )
    return LightGBMModel(booster, int(booster.best_iteration), float(booster.best_score["valid_0"]["kendall_tau"]))


def load(data: bytes, settings: Settings) -> LightGBMModel:
    """Read LightGBM's text; ValueError for anything else."""
    return parse(lightgbm_text(data.decode()), settings)  # what does not decode is a ValueError, too


def parse(text: str, settings: Settings) -> LightGBMModel:
    """Read LightGBM's text of a model that was checked before, or was trained here; ValueError for anything else."""
    try:
        booster = lgb.Booster(model_str=text)
    except lgb.basic.LightGBMError as fault:
        raise ValueError(str(fault)) from fault
    kind = DifferenceModel if settings.objective == "difference" else LightGBMModel
    return kind(booster, int(booster.num_trees()), None)


def _aliases() -> dict[str, list[str]]:
    return dict(lgb.basic._ConfigAliases._get_all_param_aliases())


def _taken() -> dict[str, str]:
    aliases = _aliases()
    return {alias: instead for name, instead in _TAKEN.items() for alias in (name, *aliases[name])}


def _known(name: str) -> bool:
    aliases = _aliases()
    return name in aliases or any(name in others for others in aliases.values())
