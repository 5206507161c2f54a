"""How the order gets better with every round of boosting: whether a model stopped too early, or learns noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.store import FeatureStore
from gbr.models.base import Rows, ValidTau
from gbr.models.checks import as_matrix
from gbr.models.ensemble import Member
from gbr.models.params import threads
from gbr.ranker import Ranker

#: Rows that a curve is taken over.
MOST_ROWS: Final = 10_000
#: Each point of a curve has about this many times the rounds of the one before.
_STEP: Final = 1.6

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def silent(total: int) -> Iterator[Callable[[int], None]]:
    """Tell nobody how far it is."""
    yield lambda _: None


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


def curves(ranker: Ranker, rows: Rows, watch: Progress = silent) -> list[dict[str, Any]]:
    """Mean tau after so many rounds, of the model and, for an ensemble, of each member.

    Parameters
    ----------
    ranker : Ranker
    rows : Rows
        With the columns of the model, in its order.
    watch : callable
        Given the number of steps, makes a context that yields ``advance(steps)``.

    Returns
    -------
    list of dict
        ``name``, ``rounds``, ``tau``; the whole model first.  An ensemble after some rounds is its members after as
        many, or all they have.  Equal scores count as in random order, and slates above 1000 rows are sampled, as early
        stopping does it (:class:`gbr.models.base.ValidTau`).

    Raises
    ------
    UsageError
        When no slate has two different runtimes.
    """
    tau = ValidTau(rows, ranker.settings_.seed)
    jobs = threads(ranker.n_jobs)
    members: tuple[Member, ...] = getattr(ranker.model_, "members", ())
    models = [member.model for member in members] or [ranker.model_]
    last = max(model.n_iterations for model in models)
    points = [sorted({min(count, model.n_iterations) for count in rounds_of(last)}) for model in models]
    told: list[dict[int, NDArray[np.float64]]] = []
    with watch(sum(sum(counts) for counts in points)) as advance:
        for model, counts in zip(models, points, strict=True):
            told.append({})
            for count in counts:
                told[-1][count] = model.stopped_at(count).predict(tau.X, jobs, tau.rows.indptr)
                advance(count)
    found = [
        {
            "name": f"{settings.backend}, {settings.objective}",
            "rounds": list(own),
            "tau": [tau(relevance) for relevance in own.values()],
        }
        for settings, own in zip([member.settings for member in members] or [ranker.settings_], told, strict=True)
    ]
    if not members:
        return found
    whole = []
    for count in rounds_of(last):
        parts = [
            own[min(count, member.model.n_iterations)] / member.spread
            for member, own in zip(members, told, strict=True)
        ]
        whole.append(tau(np.sum(parts, axis=0)))
    return [{"name": ranker.backend, "rounds": rounds_of(last), "tau": whole}, *found]
