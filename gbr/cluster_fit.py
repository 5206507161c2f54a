"""Fits on the workers of a cluster, each over whole graphs of its own.

LightGBM's socket network and XGBoost's collective, on which ``lightgbm.dask`` and ``xgboost.dask`` stand too, make one
model of them.  Used without those two a fit is the one of a single machine, its objective and its labels included, and
every worker holds the validation rows whole: all see the same tau after a round and stop at the same one.
"""

from __future__ import annotations

import gc
import re
import socket
import traceback
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from gbr.cluster import REPEAT, Workers
from gbr.data.groups import QueryGroups
from gbr.data.store import FeatureStore
from gbr.errors import GbrError
from gbr.models import cost_model, training_set
from gbr.models.base import Model, ValidTau, backend
from gbr.models.ensemble import EnsembleModel, Member, mean_spread, member_settings, spreads
from gbr.models.params import Settings
from gbr.models.rows import Rows, even_parts
from gbr.ranker import Ranker

#: What a LightGBM model remembers of the network that it was fitted over, and what it is on one machine.
_OF_NETWORK: Final = {"machines": "", "local_listen_port": "12400", "num_machines": "1", "tree_learner": "serial"}

#: What LightGBM says when another worker does not answer.
_CUT_OFF: Final = re.compile("socket|network|connect", re.IGNORECASE)

#: How a worker meets the others, in the words of the library.
Network = Mapping[str, Any]

#: On a worker: what is kept between the tasks of one fit, by the fit's token.
_kept: dict[str, list[Any]] = {}


@dataclass(frozen=True, eq=False)
class Learnt:
    """What is learnt from, as it crosses to a worker: which rows, and what they are to be; features lie in the store.

    Parameters
    ----------
    store_root, subset
        Where.
    train : QueryGroups
        Training graphs; their features are not looked at.
    rows : int64 (rows,)
        Ascending numbers among the rows of ``train``.
    target : float64 (rows,)
    indptr : int64 (graphs + 1,)
    valid : QueryGroups or None
        Graphs to stop on, with their runtimes.
    columns : tuple of str
        Full names, in the order of the store.
    memory : int
        Bytes, on each worker.
    seed : int
    """

    store_root: Path
    subset: str
    train: QueryGroups
    rows: NDArray[np.int64]
    target: NDArray[np.float64]
    indptr: NDArray[np.int64]
    valid: QueryGroups | None
    columns: tuple[str, ...]
    memory: int
    seed: int

    @classmethod
    def of(
        cls,
        store: FeatureStore,
        train: QueryGroups,
        chosen: training_set.Chosen,
        valid: QueryGroups | None,
        columns: tuple[str, ...],
        memory: int,
        seed: int,
    ) -> Learnt:
        """Put together what a worker needs, and nothing that it does not read."""
        bare = replace(train, columns=(), X=train.X[:, :0], runtime=None, normalizer=None, repeat=None)
        held_out = valid and replace(valid, columns=(), X=valid.X[:, :0], repeat=None)
        return cls(
            store.root.absolute(), store.subset, bare, chosen.rows, chosen.target, chosen.indptr, held_out, columns,
            memory, seed,
        )  # fmt: skip

    def take(self, graphs: NDArray[np.int64]) -> Learnt:
        """Learn from some of the graphs, by number."""
        few = self.train.take(graphs)
        indptr = np.concatenate(([0], np.cumsum(np.diff(self.indptr)[graphs]))).astype(np.int64)
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[graphs] - indptr[:-1], np.diff(indptr))
        moved = np.repeat(few.indptr[:-1] - self.train.indptr[graphs], np.diff(indptr))
        return replace(self, train=few, rows=self.rows[places] + moved, target=self.target[places], indptr=indptr)

    def training(self, columns: tuple[str, ...] | None = None) -> Rows:
        """Rows to learn from; of ``columns`` alone where they are given."""
        store = FeatureStore(self.store_root, self.subset)
        X = training_set.features(store, "train", self.train, self.rows, columns or self.columns, self.memory)
        return Rows(X, self.target, self.indptr)

    def held_out(self, columns: tuple[str, ...] | None = None) -> Rows | None:
        """Rows to stop on, if any."""
        if self.valid is None:
            return None
        store = FeatureStore(self.store_root, self.subset)
        return training_set.held_out(store, "valid", self.valid, columns or self.columns, self.memory, self.seed)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What a worker has of a model: the first one the model, all of them its spread within each of their slates."""

    data: bytes
    n_iterations: int
    best_score: float | None
    spreads: NDArray[np.float64]


def fit(workers: Workers, ranker: Ranker, learnt: Learnt) -> None:
    """Fit a ranker, whole graphs on every worker; it stops early as on one machine.

    Parameters
    ----------
    workers : Workers
    ranker : Ranker
    learnt : Learnt

    Raises
    ------
    UsageError
        For parameters that cannot be right.
    GbrError
        When a worker is lost.
    """
    # Only the shape of the features is looked at here.
    shape = np.broadcast_to(np.float32(0), (len(learnt.rows), len(learnt.columns)))

    def fitted(_train: Rows, _valid: Rows | None, settings: Settings) -> Model:
        return _fit(workers, learnt, settings)

    ranker._fit_rows(Rows(shape, learnt.target, learnt.indptr), learnt.columns, fit=fitted)


def balanced(sizes: NDArray[np.int64], n_parts: int) -> list[NDArray[np.int64]]:
    """Spread slates over parts of about as many rows: the largest first, each to the part that has the fewest.

    Parameters
    ----------
    sizes : int64 (slates,)
        Rows.
    n_parts : int

    Returns
    -------
    list of int64
        QueryGroups of each part, ascending; no part is empty, so there may be fewer.
    """
    part_of = even_parts(sizes, n_parts, np.argsort(-sizes, kind="stable"))
    return [np.flatnonzero(part_of == part) for part in range(min(n_parts, len(sizes)))]


def _fit(workers: Workers, learnt: Learnt, settings: Settings) -> Model:
    if settings.backend != "ensemble":
        ((model, _spread),) = _models(workers, learnt, [settings])
        return model
    own = member_settings(settings)
    fitted = zip(own, _models(workers, learnt, own), strict=True)
    found = EnsembleModel([Member(settings, model, spread) for settings, (model, spread) in fitted], None)
    if (held_out := learnt.held_out()) is not None:
        found.best_score = ValidTau(held_out, settings.seed).of(found, settings.n_jobs)
    return cast(Model, found)


def _models(workers: Workers, learnt: Learnt, wanted: Sequence[Settings]) -> list[tuple[Model, float]]:
    """Models and their mean spread within a training slate: trees by the workers, prices by this process."""
    boosted = iter(_boosted(workers, learnt, [own for own in wanted if own.backend != "costmodel"]))
    return [_priced(learnt, own) if own.backend == "costmodel" else next(boosted) for own in wanted]


def _boosted(workers: Workers, learnt: Learnt, wanted: Sequence[Settings]) -> list[tuple[Model, float]]:
    if not wanted:
        return []
    threads = workers.threads()
    parts = balanced(np.diff(learnt.indptr), len(threads))
    chosen = sorted(threads)[: len(parts)]
    token = uuid.uuid4().hex
    try:
        networks = _networks(workers, chosen, [own.backend for own in wanted], token)
        arguments = {}
        for worker, part in zip(chosen, parts, strict=True):
            own = [replace(settings, n_jobs=settings.n_jobs or threads[worker]) for settings in wanted]
            met = zip(own, networks[worker], strict=True)
            arguments[worker] = (learnt.take(part), list(met), token, worker == chosen[0])
        told = workers.together(_fit_part, arguments)
    finally:
        with suppress(Exception):  # the error that is under way says more
            there = workers.threads()
            workers.ask(_forget, token, workers=[worker for worker in chosen if worker in there])
    found: list[tuple[Model, float]] = []
    for settings, shares in zip(wanted, zip(*told, strict=True), strict=True):
        model = backend(settings.backend).load(shares[0].data, settings)
        model.n_iterations, model.best_score = shares[0].n_iterations, shares[0].best_score
        found.append((model, mean_spread(np.concatenate([share.spreads for share in shares]))))
    return found


def _networks(
    workers: Workers, chosen: Sequence[str], libraries: Sequence[str], token: str
) -> dict[str, list[Network]]:
    """By worker, for every model, how it meets the others; nothing where it is alone."""
    found: dict[str, list[Network]] = {worker: [] for worker in chosen}
    hosts = [str(urlsplit(worker).hostname) for worker in chosen]
    for library in libraries:
        own: list[Network] = [{} for _ in chosen]
        if library == "lightgbm" and len(chosen) > 1:
            ports = workers.ask(_listen, token, workers=chosen)
            machines = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
            shared = {"machines": machines, "num_machines": len(chosen), "tree_learner": "data"}
            own = [{**shared, "local_listen_port": port} for port in ports]
        elif len(chosen) > 1:
            (told,) = workers.ask(_track, token, len(chosen), hosts[0], workers=chosen[:1])
            own = [{**told, "dmlc_task_id": f"{number:06d}"} for number in range(len(chosen))]
        for worker, network in zip(chosen, own, strict=True):
            found[worker].append(network)
    return found


def _priced(learnt: Learnt, settings: Settings) -> tuple[Model, float]:
    """Fit the cost model here: it reads few columns."""
    columns = tuple(learnt.columns[place] for place in settings.costs)
    rows = learnt.training(columns)
    own = replace(settings, costs=tuple(range(len(columns))))
    narrow = cost_model.fit(rows, learnt.held_out(columns), own)
    places = np.asarray(settings.costs, np.int64)
    model = cost_model.CostModel(places, narrow.prices, len(learnt.columns), narrow.best_score)
    return cast(Model, model), mean_spread(spreads(cast(Model, narrow), rows, settings.n_jobs))


# What runs on the workers.


class _Port:
    """A port that is free, and stays so until LightGBM takes it."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("", 0))
        self.number = int(self._socket.getsockname()[1])

    def free(self) -> None:
        """Let it go."""
        self._socket.close()


def _listen(token: str) -> int:
    port = _Port()
    _kept.setdefault(token, []).append(port)
    return port.number


def _track(token: str, n_workers: int, host: str) -> Network:
    """Start what introduces XGBoost's workers to each other; returns how to reach it."""
    from xgboost.tracker import RabitTracker

    tracker = RabitTracker(n_workers=n_workers, host_ip=host, sortby="task")
    tracker.start()
    _kept.setdefault(token, []).append(tracker)
    return dict(tracker.worker_args())


def _forget(token: str) -> None:
    for held in _kept.pop(token, ()):
        if isinstance(held, _Port):
            held.free()


def _fit_part(learnt: Learnt, fits: Sequence[tuple[Settings, Network]], token: str, first: bool) -> list[_Fitted]:
    """Fit every model over this worker's graphs, together with the other workers."""
    rows, held_out = learnt.training(), learnt.held_out()
    found = []
    for settings, network in fits:
        fit_one = _fit_lightgbm if settings.backend == "lightgbm" else _fit_xgboost
        model = fit_one(rows, held_out, settings, network, token)
        data = _bytes(model) if first else b""
        found.append(_Fitted(data, model.n_iterations, model.best_score, spreads(model, rows, settings.n_jobs)))
    return found


def _fit_lightgbm(rows: Rows, held_out: Rows | None, settings: Settings, network: Network, token: str) -> Model:
    for held in _kept.get(token, ()):
        if isinstance(held, _Port) and held.number == network.get("local_listen_port"):
            held.free()
    try:
        model: Any = backend("lightgbm").fit(rows, held_out, replace(settings, params={**settings.params, **network}))
    except GbrError as fault:
        _let_go(fault)
        if network and _CUT_OFF.search(str(fault)):  # no setting of the user's
            raise GbrError(f"a worker lost the others during the fit ({fault}); {REPEAT}") from None
        raise
    model.booster.free_network()
    return model  # type: ignore[no-any-return]


def _let_go(fault: BaseException) -> None:
    """Free what the frames of an error hold: a booster that is collected later closes the network of that time."""
    seen: BaseException | None = fault
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    gc.collect()


def _fit_xgboost(rows: Rows, held_out: Rows | None, settings: Settings, network: Network, token: str) -> Model:
    if not network:
        return backend("xgboost").fit(rows, held_out, settings)
    from xgboost.collective import CommunicatorContext

    with CommunicatorContext(**network):
        return backend("xgboost").fit(rows, held_out, settings)


def _bytes(model: Model) -> bytes:
    """Give a model as if it had been fitted on one machine: nobody's addresses, the same bytes whatever the ports."""
    data = model.to_bytes()
    if data.startswith(b"tree\n"):  # LightGBM's text
        for name, alone in _OF_NETWORK.items():
            data = re.sub(rf"^\[{name}: .*\]$".encode(), f"[{name}: {alone}]".encode(), data, flags=re.MULTILINE)
    return data
