"""Optuna's TPE on configurations that were measured: the outside peer of a search."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import optuna
from numpy.typing import NDArray

from gbr.tune import Replay

#: As many random ones first as the tuner takes to fill the space; optuna's own default is 10.
STARTUP: Final = 5


def tpe(replay: Replay, seed: int, most: int) -> list[int]:
    """multivariate, 5 random ones first, runtimes by their logarithm"""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values, codes = _parameters(replay)
    scale = np.column_stack([_scaled(each)[codes[:, at]] for at, each in enumerate(values)])
    ordinal = replay.space.graph.kind == "tile"
    offered: dict[str, Any] = {
        f"p{at}": optuna.distributions.IntDistribution(0, len(each) - 1)
        if ordinal
        else optuna.distributions.CategoricalDistribution(tuple(range(len(each))))
        for at, each in enumerate(values)
    }
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True)
    study = optuna.create_study(sampler=sampler)
    left = np.ones(len(codes), bool)
    left &= replay.space.duplicate_of == np.arange(len(codes))
    order: list[int] = []
    while len(order) < most and left.any():
        trial = study.ask(offered)
        wanted = np.array([trial.params[name] for name in offered])
        row = _nearest(wanted, codes, scale if ordinal else None, left, values)
        # What it suggested was not measured; the configuration taken instead is what it is to learn from.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(zip(offered, codes[row].tolist(), strict=True)),
                distributions=offered,
                value=float(np.log(replay(row))),
            )
        )
        left[row] = False
        order.append(row)
        if replay(row) <= replay.runtime.min():
            break
    return order


def _parameters(replay: Replay) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Values and codes of what configurations choose: of parameters that always change together one."""
    choices = replay.space.choices
    if replay.space.graph.kind == "layout":
        # The layouts of every tensor; after them stand the rows that these make up.
        choices = choices[:, : choices.shape[1] * 3 // 4]
    found: dict[bytes, tuple[NDArray[Any], NDArray[np.int64]]] = {}
    for column in choices.T:
        values, codes = np.unique(column, return_inverse=True)
        if len(values) > 1:
            found.setdefault(codes.astype(np.int64).tobytes(), (values, codes.astype(np.int64)))
    values, codes = zip(*found.values(), strict=True)
    return list(values), np.column_stack(codes)


def _scaled(values: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms over their range: a step from 2 to 4 is as far as one from 64 to 128."""
    logs = np.log2(np.maximum(values.astype(np.float64), 1))
    return np.asarray((logs - logs[0]) / (np.ptp(logs) or 1.0))


def _nearest(
    wanted: NDArray[Any], codes: NDArray[np.int64], scale: NDArray[np.float64] | None, left: NDArray[np.bool_],
    values: list[NDArray[Any]],
) -> int:  # fmt: skip
    if scale is None:
        distance = (codes != wanted).sum(axis=1).astype(np.float64)
    else:
        point = np.array([_scaled(each)[code] for each, code in zip(values, wanted, strict=True)])
        distance = ((scale - point) ** 2).sum(axis=1)
    return int(np.where(left, distance, np.inf).argmin())
