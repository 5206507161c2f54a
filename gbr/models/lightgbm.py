"""LightGBM as a backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from gbr.models import openmp
from gbr.models.base import Model, OnRound, check_params, library_errors, loading
from gbr.models.params import ROW_SHARE, Settings, column_share
from gbr.models.rows import REGRESSION_LABELS, IntArray, Matrix, Rows, StreamedMatrix, ranks
from gbr.models.stopping import Stopper

with loading("LightGBM", "lightgbm"):
    import lightgbm as lgb

SUFFIX: Final = ".txt"

#: For ``lambdarank``, groups are split into random parts of at most this many rows: the library limits groups to 10,000
#: rows, and its time grows with rows times rows per part.  For two groups of 10,000 rows and 60 rounds, it took 43 s of
#: CPU time without parts, 3.9 s with parts of 1000 and 1.1 s with parts of 250; tau on other groups changed by at most
#: .002.
ROWS_PER_PART: Final = 1000

#: Bins per column: half of the library's default; on validation groups it ranks as well in less time.
MAX_BIN: Final = 127

#: LightGBM's default of rows per bin.  Bins are not larger than leaves may be, so that few rows can be split.
MIN_DATA_IN_BIN: Final = 3

#: Number of rows from which bins are chosen: LightGBM's default, the minimum for a streamed matrix, and bytes per
#: value, as LightGBM keeps up to four copies in double precision.
_DEFAULT_BIN_ROWS: Final = 200_000
_LEAST_BIN_ROWS: Final = 20_000
_BYTES_PER_BIN_VALUE: Final = 32

#: As :mod:`gbr.models.openmp` limits them.
_ANY_THREADS: Final = {"num_threads": 0}

#: Replacements of parameters that the ranker sets.
_RESERVED: Final = {
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
    "label_gain": "nothing: it is derived from the ranks",
}


class _Batch(lgb.Sequence):  # type: ignore[misc]
    """A batch of a streamed matrix, which LightGBM reads twice: to choose bins, and to bin all rows."""

    def __init__(self, X: StreamedMatrix, number: int) -> None:
        self._X = X
        self._number = number
        self.batch_size = int(X.starts[number + 1] - X.starts[number])

    def __len__(self) -> int:
        return self.batch_size

    def __getitem__(self, index: Any) -> NDArray[Any]:
        rows: NDArray[np.float32] = self._X.batch(self._number)[index]
        if isinstance(index, Integral):  # to choose bins, rows are read one by one in double precision
            return rows.astype(np.float64)
        self._X.clear_cache()
        return rows


class _Streamed(lgb.Dataset):  # type: ignore[misc]
    """A dataset of batches.  Without its parameters, LightGBM drops columns by the default of ``min_data_in_leaf``."""

    def get_params(self) -> dict[str, Any]:
        """All parameters, as for a dataset of one matrix."""
        return dict(self.params)


class LightGBMModel(Model):
    """A fitted ``lightgbm.Booster``."""

    versions: Mapping[str, str] = {"lightgbm": str(lgb.__version__)}

    def __init__(self, booster: lgb.Booster, n_iterations: int, best_score: float | None) -> None:
        self.booster = booster
        self.n_iterations = n_iterations
        self.n_features = int(booster.num_feature())
        self.best_score = best_score
        self._used = np.flatnonzero(booster.feature_importance(iteration=n_iterations)).astype(np.int32)

    def predict(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        if 2 * len(self._used) < self.n_features:  # LightGBM copies all values of a dense row before the first tree
            bounds = np.arange(len(X) + 1) * len(self._used)
            X = csr_matrix((X.take(self._used, axis=1).ravel(), np.tile(self._used, len(X)), bounds), X.shape)
        raw = self._call(n_jobs, X, raw_score=True)
        return np.asarray(raw, np.float64)

    def _call(self, n_jobs: int, X: Any, **kind: bool) -> Any:
        return openmp.call(n_jobs, self.booster.predict, X, num_iteration=self.n_iterations, **_ANY_THREADS, **kind)

    def gains(self) -> NDArray[np.float64]:
        """Total gain per column, float64 (n_features,)."""
        return np.asarray(self.booster.feature_importance("gain", iteration=self.n_iterations), np.float64)

    def stopped_at(self, rounds: int) -> LightGBMModel:
        """The model after its first ``rounds`` rounds."""
        return LightGBMModel(self.booster, min(rounds, self.n_iterations), self.best_score)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Difference of the rows' TreeSHAP values (Lundberg et al., 2020), float64 (n_features,)."""
        with library_errors("LightGBM", lgb.basic.LightGBMError):
            values = self._call(n_jobs, X[[first, second]], pred_contrib=True)
        contributions = np.asarray(values, np.float64)[:, :-1]  # the last column is the expected value
        return np.asarray(contributions[0] - contributions[1])

    def to_bytes(self) -> bytes:
        """Serialise in the text format of LightGBM."""
        return str(openmp.call(1, self.booster.model_to_string, num_iteration=self.n_iterations)).encode()


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels, weights and start of a fit, for an objective of LightGBM."""

    label: NDArray[np.float64]  # (rows,)
    objective: str
    weight: NDArray[np.float64] | None = None  # (rows,)
    start: Callable[[Matrix], NDArray[np.float64]] | None = None  # output before the first tree, of rows of features


def fit(
    train: Rows,
    valid: Rows | None,
    settings: Settings,
    on_round: OnRound | None = None,
    labels: Labels | None = None,
) -> LightGBMModel:
    """Train a booster, on ``labels`` instead of the objective of the settings if they are given."""
    # Workers of a cluster wait for one another.
    with nullcontext() if "machines" in settings.params else openmp.fitting:
        return openmp.call(settings.n_jobs, _fit, train, valid, settings, on_round, labels)


def _fit(
    train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None, labels: Labels | None
) -> LightGBMModel:
    by_group = labels is None and settings.objective == "lambdarank"
    if by_group and train.sizes.max() > ROWS_PER_PART:
        train = train.take(*random_parts(train.indptr, ROWS_PER_PART, settings.seed))
    params = _parameters(settings, train)
    begin = weight = None
    if labels is None:
        label, objective = _objective(train, settings)
    else:
        label, objective, weight, begin = labels.label, labels.objective, labels.weight, labels.start
    if by_group:
        params |= {
            "label_gain": list(range(int(label.max()) + 1)),
            "lambdarank_truncation_level": int(train.sizes.max()),
        }
    kind: Any = lgb.Dataset
    source: Any = train.X
    if isinstance(train.X, StreamedMatrix):
        kind, source = _Streamed, [_Batch(train.X, number) for number in range(train.X.n_batches)]
    data = kind(
        source,
        label=label,
        weight=weight,
        group=train.sizes if by_group or settings.params.get("bagging_by_query") else None,
        init_score=begin and np.concatenate([begin(X) for _, X in train.batches()]),
        params=params,
    )
    stopper = Stopper(valid, settings, on_round)
    held_out = []
    if (tau := stopper.tau) is not None:
        sizes = tau.rows.sizes if settings.objective == "lambdarank" else None
        zeros = np.zeros(len(tau.X))
        start = begin and begin(tau.X)
        held_out = [kind(tau.X, label=zeros, group=sizes, init_score=start, reference=data, params=params)]

    def end_of_round(env: lgb.callback.CallbackEnv) -> None:
        if stopper.over(env.iteration + 1):
            raise lgb.callback.EarlyStopException(env.iteration, [])

    with library_errors("LightGBM", lgb.basic.LightGBMError):
        # LightGBM refuses a custom loss if no column can be split.  Not checked on a cluster, as the dataset cannot be
        # constructed before the network is set up.
        if callable(objective) and "machines" not in params:
            data.construct()
            if all(data.feature_num_bin(column) < 2 for column in range(data.num_feature())):
                objective = "regression"
        booster = lgb.train(
            params | {"objective": objective},
            data,
            settings.n_estimators,
            valid_sets=held_out,
            feval=lambda relevance, _data: ("kendall_tau", stopper.validate(relevance), True),
            callbacks=[end_of_round],
        )
    return LightGBMModel(booster, stopper.best_round, stopper.best_tau)


def _objective(train: Rows, settings: Settings) -> tuple[NDArray[Any], str | Callable[..., Any]]:
    """Labels (rows,), and an objective of LightGBM or a function that returns gradients."""
    if settings.objective in REGRESSION_LABELS:
        return REGRESSION_LABELS[settings.objective](train.target, train.indptr), "regression"
    label = ranks(train.target, train.indptr)
    if settings.objective == "lambdarank":
        return label, "lambdarank"
    from gbr.models import losses  # imports Numba, which prediction does not need

    return label, losses.objective(label, train.indptr, settings.seed)


def _parameters(settings: Settings, train: Rows) -> dict[str, Any]:
    """Parameters of LightGBM, without the objective; a UsageError for an invalid name."""
    aliases = lgb.basic._ConfigAliases._get_all_param_aliases()
    known = {*aliases, *(alias for names in aliases.values() for alias in names)}
    reserved = {alias: instead for name, instead in _RESERVED.items() for alias in (name, *aliases[name])}
    check_params(settings.params, reserved, known, "LightGBM")
    leaf, n_columns = settings.min_child_samples, train.X.shape[1]
    defaults: dict[str, Any] = {
        "max_bin": MAX_BIN,
        "feature_fraction": column_share(n_columns),
        "min_data_in_bin": min(MIN_DATA_IN_BIN, leaf),
    }
    # LightGBM refuses bagging with GOSS; and of few rows, a sample could not be split.
    if "goss" not in settings.params.values() and ROW_SHARE * len(train.X) >= 2 * leaf:
        defaults |= {"bagging_fraction": ROW_SHARE, "bagging_freq": 1}
    if isinstance(train.X, StreamedMatrix):
        bin_rows = max(_LEAST_BIN_ROWS, train.X.memory // (_BYTES_PER_BIN_VALUE * n_columns))
        if bin_rows < min(len(train.X), _DEFAULT_BIN_ROWS):
            defaults["bin_construct_sample_cnt"] = bin_rows
    return {
        "num_leaves": settings.num_leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": leaf,
        "seed": settings.seed,
        **_ANY_THREADS,
        "monotone_constraints": settings.constraints(n_columns),
        "deterministic": True,
        # Reproducible, as row-wise would be, but without a second copy of the bins.
        "force_col_wise": not settings.params.get("force_row_wise", False),
        "metric": "None",
        "verbosity": -1,
        # The user may set these under any alias.
        **{
            name: value for name, value in defaults.items() if settings.params.keys().isdisjoint([name, *aliases[name]])
        },
        **settings.params,
    }


def load(data: bytes) -> LightGBMModel:
    """Read the text format of LightGBM; ValueError for anything else."""
    text = data.decode()
    if not text.startswith("tree\n") or "\nend of trees\n" not in text:  # the library crashes on some other texts
        raise ValueError("not a LightGBM model")
    try:
        booster = openmp.call(1, lgb.Booster, model_str=text)
    except lgb.basic.LightGBMError as error:
        raise ValueError(str(error)) from error
    return LightGBMModel(booster, int(booster.num_trees()), None)


def random_parts(indptr: IntArray, limit: int, seed: int) -> tuple[IntArray, IntArray]:
    """Split groups above ``limit`` rows into equal parts of random rows, whose pairs are an unbiased sample.

    Returns the row indices, part by part, ascending within a part, and the bounds of the parts.
    """
    rng = np.random.default_rng(seed)
    rows: list[IntArray] = []
    for start, stop in pairwise(indptr.tolist()):
        n_parts = max(1, -(-(stop - start) // limit))
        shuffled = start + (rng.permutation(stop - start) if n_parts > 1 else np.arange(stop - start))
        rows.extend(np.sort(shuffled[part::n_parts]) for part in range(n_parts))
    return np.concatenate(rows), np.cumsum([0, *map(len, rows)], dtype=np.int64)
