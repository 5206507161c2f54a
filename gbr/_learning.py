"""How the order gets better with every round of boosting: whether a model stopped too early, or learns noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from gbr._backend import Model, Rows, ValidTau
from gbr._checks import as_matrix
from gbr._ensemble import Member
from gbr._settings import threads
from gbr.ranker import Ranker
from gbr.store import FeatureStore

#: Rows that a curve is taken over.
MOST_ROWS: Final = 20_000
#: Each point of a curve has about this many times the rounds of the one before.
_STEP: Final = 1.45


def rounds_of(last: int) -> list[int]:
    """Numbers of rounds to look at, ever further apart, the last one included."""
    found = [1]
    while found[-1] < last:
        found.append(min(last, max(found[-1] + 1, round(found[-1] * _STEP))))
    return found


def sampled(store: FeatureStore, split: str, names: Sequence[str], ranker: Ranker) -> tuple[Rows, int]:
    """Rows of a split to take a curve over: whole graphs, evenly chosen by name where there are more rows than that.

    Parameters
    ----------
    store : FeatureStore
    split : str
    names : sequence of str
        Graphs with runtimes.
    ranker : Ranker
        Whose columns are read.

    Returns
    -------
    Rows, int
        And the number of graphs among ``names`` that they are of, at least one.
    """
    entries = store.entries(split)
    share = min(1.0, MOST_ROWS / max(1, sum(entries[name]["rows"] for name in names)))
    count = max(1, int(share * len(names)))
    chosen = [names[place] for place in np.linspace(0, len(names) - 1, count).round().astype(int)]
    slates = store.load(split, chosen, [str(name) for name in ranker.feature_names_in_])
    place = {name: number for number, name in enumerate(slates.columns)}
    X = slates.X[:, [place[str(name)] for name in ranker.feature_names_in_]]
    return Rows(as_matrix(X)[0], slates.target, slates.indptr), count


def curves(ranker: Ranker, rows: Rows) -> list[dict[str, Any]]:
    """Mean tau after so many rounds, of the model and, for an ensemble, of each member.

    Parameters
    ----------
    ranker : Ranker
    rows : Rows
        With the columns of the model, in its order.

    Returns
    -------
    list of dict
        ``name``, ``rounds``, ``tau``; the whole model first.  Equal scores count as in random order, and slates above
        1000 rows are sampled, as early stopping does it (:class:`gbr._backend.ValidTau`).

    Raises
    ------
    UsageError
        When no slate has two different runtimes.
    """
    tau = ValidTau(rows, ranker.settings_.seed)
    jobs = threads(ranker.n_jobs)

    def curve(name: str, model: Model, last: int) -> dict[str, Any]:
        points = rounds_of(last)
        taus = [tau(model.stopped_at(count).predict(tau.X, jobs, tau.rows.indptr)) for count in points]
        return {"name": name, "rounds": points, "tau": taus}

    members: tuple[Member, ...] = getattr(ranker.model_, "members", ())
    if not members:
        return [curve(f"{ranker.backend}, {ranker.settings_.objective}", ranker.model_, ranker.best_iteration_)]
    last = max(member.model.n_iterations for member in members)
    return [
        curve("ensemble", ranker.model_, last),
        *(
            curve(f"{member.settings.backend}, {member.settings.objective}", member.model, member.model.n_iterations)
            for member in members
        ),
    ]
