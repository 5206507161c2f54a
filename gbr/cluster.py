"""A Dask cluster: workers build features, and fit models jointly, each on a disjoint set of graphs.

Workers reach the data and the store under the same paths as this machine; only names, targets and models cross the
network.  A fit is that of a single machine, run on every worker over LightGBM's sockets or XGBoost's collective, as
``lightgbm.dask`` and ``xgboost.dask`` do; those support neither early stopping on Kendall's tau nor streamed
matrices.  Every worker holds all validation rows, so that all of them stop at the same round.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from gbr import __version__
from gbr.data.build import schema_of
from gbr.data.groups import QueryGroups
from gbr.data.store import FeatureStore
from gbr.errors import GbrError, MissingLibraryError, StoreError, UsageError
from gbr.models import cost_model, training_set
from gbr.models.base import Model, ValidTau, backend
from gbr.models.ensemble import EnsembleModel, Member, mean_spread, member_settings, spreads
from gbr.models.params import Settings
from gbr.models.rows import Rows, even_parts

if TYPE_CHECKING:
    from gbr.data.collection import Subset
    from gbr.ranker import Ranker

_CONNECT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 2.0
_RESTART_SECONDS: Final = 30.0

#: Parameters of a distributed fit in LightGBM's text -> their values on one machine.
_NETWORK: Final = {"machines": "", "local_listen_port": "12400", "num_machines": "1", "tree_learner": "serial"}

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@contextmanager
def connected(address: str | None, subset: Subset, data: Path, store: Path) -> Iterator[Workers | None]:
    """Connect to a cluster whose workers reach the data and the store; None without an address.

    Parameters
    ----------
    address : str or None
        Of the scheduler, ``tcp://HOST:PORT``.
    subset : Subset
    data, store : Path
        Roots of the graph files and of the store; the latter is created if missing.

    Raises
    ------
    UsageError
        For an invalid address.
    MissingLibraryError
        When Dask is not installed.
    GbrError
        When no scheduler answers, it has no workers, or a worker does not reach the folders or has other versions.
    StoreError
        When the store's folder cannot be written.
    """
    if address is None:
        yield None
        return
    if not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d+", address):
        raise UsageError(f"--cluster {address}: expected the address of a Dask scheduler, tcp://HOST:PORT")
    distributed = _distributed()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # Dask logs closed connections with tracebacks
    try:
        try:
            client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise GbrError(
                f"--cluster {address}: no Dask scheduler answers; start one with `dask scheduler` and its workers with "
                f"`dask worker {address} --nworkers N --nthreads 1`, or correct the address"
            ) from error
        with client:
            workers = Workers(client, address)
            workers.check(subset, data.absolute(), store.absolute())
            yield workers
    finally:
        logging.disable(before)


class Workers:
    """Worker processes of a cluster: a ``distributed.Client``, and the address of its scheduler for messages."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self._address = address

    def __len__(self) -> int:
        return len(self.threads())

    def threads(self) -> dict[str, int]:
        """Threads by worker."""
        with self._errors(RuntimeError):
            return dict(self._client.nthreads())

    def check(self, subset: Subset, data: Path, store: Path) -> None:
        """Refuse a cluster without workers, or with workers that lack the files or have other versions.

        Raises
        ------
        GbrError, StoreError
        """
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except (TimeoutError, _distributed().TimeoutError) as error:
            raise GbrError(
                f"--cluster {self._address}: the scheduler has no workers; start them with "
                f"`dask worker {self._address} --nworkers N --nthreads 1`"
            ) from error
        expected = _versions(subset.kind)
        graph = next(iter(sorted(subset.folder(data).glob("*/*.npz"))), None)
        probe = store / f".cluster-{uuid.uuid4().hex}"  # a file that every worker must see
        try:
            store.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError as error:
            raise StoreError(
                f"{store}: cannot be written ({error.strerror}); name another folder with --store"
            ) from error
        try:
            found = self._client.run(_why_unusable, expected, subset.kind, graph, probe, on_error="return")
        finally:
            probe.unlink(missing_ok=True)
        if unusable := {worker: reason for worker, reason in found.items() if reason}:
            worker, reason = min(unusable.items())
            if isinstance(reason, Exception):
                reason = f"cannot run gbr ({reason}); install the same version with `pip install 'gbr[cluster]'`"
            raise GbrError(
                f"--cluster {self._address}: worker {worker} {reason} ({len(unusable)} of {len(found)} workers)"
            )

    def each(self, work: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[tuple[_Task, _Result]]:
        """Yield each task with its result, in the order of completion; tasks of a lost worker are repeated by others.

        ``work`` is a function at the top level of a module.

        Raises
        ------
        GbrError
            When a task repeatedly kills its worker, or the scheduler is lost; also the errors of ``work``.
        """
        futures = self._client.map(partial(_with_worker_in_errors, work), tasks, pure=False)
        task_of = {future.key: task for future, task in zip(futures, tasks, strict=True)}
        try:
            for future in _distributed().as_completed(futures, loop=self._client.loop):
                with self._errors():
                    result = future.result()
                yield task_of[future.key], result
                future.release()
        finally:
            with suppress(Exception):  # of a lost scheduler
                self._client.cancel([future for future in futures if future.status == "pending"])

    def together(self, work: Callable[..., _Result], arguments: Mapping[str, Sequence[Any]]) -> list[_Result]:
        """Run ``work`` once per worker of ``arguments``; the calls communicate with each other.

        Raises
        ------
        GbrError
            When a worker is lost; also the errors of ``work``.
        """
        futures = {
            worker: self._client.submit(work, *values, workers=[worker], allow_other_workers=False, pure=False)
            for worker, values in arguments.items()
        }
        try:
            while pending := [future for future in futures.values() if future.status == "pending"]:
                with self._client.as_current(), suppress(TimeoutError, _distributed().TimeoutError):
                    _distributed().wait(pending, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
                if any(future.status == "error" for future in futures.values()) or self._lost(futures):
                    break
            if lost := self._lost(futures):
                raise GbrError(
                    f"--cluster {self._address}: worker {lost} was lost during the fit, possibly for lack of memory; "
                    "repeat the command, the features are kept"
                )
            with self._errors():
                failed = [future for future in futures.values() if future.status == "error"]
                return [future.result() for future in failed or futures.values()]
        except BaseException:
            with suppress(Exception):  # restarts need a nanny; other workers still wait for the failed one
                self._client.cancel(list(futures.values()))
                self._client.restart_workers(
                    [worker for worker in self.threads() if worker in futures],
                    timeout=_RESTART_SECONDS,
                    raise_for_error=False,
                )
            raise

    def run(self, function: Callable[..., _Result], *arguments: Any, workers: Sequence[str]) -> list[_Result]:
        """Results of a short function on some workers."""
        with self._errors():
            results = self._client.run(function, *arguments, workers=list(workers))
        return [results[worker] for worker in workers]

    def _lost(self, needed: Mapping[str, Any]) -> str | None:
        return min(needed.keys() - self.threads().keys(), default=None)

    @contextmanager
    def _errors(self, *lost: type[Exception]) -> Iterator[None]:
        """Errors of Dask as one-line errors."""
        try:
            yield
        except GbrError:
            raise
        except _distributed().scheduler.KilledWorker as error:
            raise GbrError(
                f"--cluster {self._address}: workers died repeatedly on one graph, possibly for lack of memory; use "
                "more memory or fewer threads per worker, and repeat the command to resume"
            ) from error
        except (*lost, CancelledError, OSError) as error:  # type: ignore[misc]
            raise GbrError(
                f"--cluster {self._address}: the scheduler was lost; start it and repeat the command to resume"
            ) from error


def _distributed() -> Any:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingLibraryError("Dask is not installed; pip install 'gbr[cluster]'") from error
    return distributed


def _versions(kind: str) -> dict[str, str]:
    """Versions that determine a result."""
    versions = {"gbr": __version__, "feature schema": schema_of(kind).hash}
    for name in ("lightgbm", "xgboost-cpu", "xgboost"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name.removesuffix("-cpu")] = importlib.metadata.version(name)
    return versions


def _why_unusable(expected: Mapping[str, str], kind: str, graph: Path | None, probe: Path) -> str | None:
    """On a worker: why it cannot be used, or None."""
    for option, path in (("--data", graph), ("--store", probe)):
        if path and not path.is_file():
            return f"cannot read {path}; mount it there under the same path, or name another folder with {option}"
    versions = _versions(kind)
    for name, version in expected.items():
        if versions.get(name) != version:
            return f"has {name} {versions.get(name, 'not installed')}, expected {version} as on this machine"
    return None


def _with_worker_in_errors(work: Callable[[_Task], _Result], task: _Task) -> _Result:
    try:
        return work(task)
    except GbrError as error:
        raise type(error)(f"worker {_distributed().get_worker().address}: {error}") from error


# --- fits ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Training rows of some graphs, without their features, which workers read from the store.

    ``rows`` of ``selection`` are indices of rows of ``graphs``, ``columns`` full names in the order of the store,
    ``memory`` bytes on each worker.
    """

    store_root: Path
    subset: str
    graphs: QueryGroups
    selection: training_set.Selection
    valid: QueryGroups | None
    columns: tuple[str, ...]
    memory: int
    seed: int

    def take(self, numbers: NDArray[np.int64]) -> TrainingSet:
        """Some of the graphs, by number."""
        few, whole = self.graphs.take(numbers), self.selection
        indptr = np.concatenate(([0], np.cumsum(np.diff(whole.indptr)[numbers]))).astype(np.int64)
        positions = np.concatenate([np.arange(*whole.indptr[number : number + 2]) for number in numbers])
        shift = np.repeat(few.indptr[:-1] - self.graphs.indptr[numbers], np.diff(indptr))
        part = training_set.Selection(whole.rows[positions] + shift, whole.target[positions], indptr)
        return replace(self, graphs=few, selection=part)

    def training(self) -> Rows:
        """Training rows with their features."""
        store = FeatureStore(self.store_root, self.subset)
        X = training_set.features(store, "train", self.graphs, self.selection.rows, self.columns, self.memory)
        return Rows(X, self.selection.target, self.selection.indptr)

    def held_out(self) -> Rows | None:
        """Validation rows with their features."""
        if self.valid is None:
            return None
        store = FeatureStore(self.store_root, self.subset)
        return training_set.held_out(store, "valid", self.valid, self.columns, self.memory, self.seed)


def fit(
    workers: Workers,
    ranker: Ranker,
    store: FeatureStore,
    graphs: QueryGroups,
    selection: training_set.Selection,
    valid: QueryGroups | None,
    columns: tuple[str, ...],
    memory: int,
    seed: int,
) -> None:
    """Fit a ranker on a cluster; parameters are those of :class:`TrainingSet`.

    Raises
    ------
    UsageError
        For invalid parameters of the ranker.
    GbrError
        When a worker is lost.
    """
    graphs = replace(graphs, columns=(), X=graphs.X[:, :0], runtime=None, normalizer=None, repeat=None)
    valid = valid and replace(valid, columns=(), X=valid.X[:, :0], repeat=None)
    known = TrainingSet(store.root.absolute(), store.subset, graphs, selection, valid, columns, memory, seed)
    shape = np.broadcast_to(np.float32(0), (len(selection.rows), len(columns)))
    rows = Rows(shape, selection.target, selection.indptr)
    ranker._fit_rows(rows, columns, fit=lambda _train, _valid, settings: _fit_model(workers, known, settings))


def _fit_model(workers: Workers, known: TrainingSet, settings: Settings) -> Model:
    members = member_settings(settings) if settings.backend == "ensemble" else [settings]
    trees = [member for member in members if member.backend != "costmodel"]
    fitted = iter(_fit_trees(workers, known, trees) if trees else ())
    models = [_fit_prices(known, each) if each.backend == "costmodel" else next(fitted) for each in members]
    if settings.backend != "ensemble":
        return models[0][0]
    pairs = zip(members, models, strict=True)
    model = EnsembleModel([Member(member, model, spread) for member, (model, spread) in pairs], None)
    if (held_out := known.held_out()) is not None:
        model.best_score = ValidTau(held_out, settings.seed).of(model, settings.n_jobs)
    return cast(Model, model)


def _fit_prices(known: TrainingSet, settings: Settings) -> tuple[Model, float]:
    """Fit the cost model on this machine: it reads few columns."""
    few = replace(known, columns=tuple(known.columns[column] for column in settings.costs))
    rows = few.training()
    narrow = cost_model.fit(rows, few.held_out(), replace(settings, costs=tuple(range(len(settings.costs)))))
    model = cost_model.CostModel(np.asarray(settings.costs), narrow.prices, len(known.columns), narrow.best_score)
    return cast(Model, model), mean_spread(spreads(cast(Model, narrow), rows, settings.n_jobs))


def _fit_trees(workers: Workers, known: TrainingSet, members: Sequence[Settings]) -> list[tuple[Model, float]]:
    """Models trained by the workers, and their mean spread within a training group."""
    threads = workers.threads()
    sizes = np.diff(known.selection.indptr)
    part_of = even_parts(sizes, len(threads), np.argsort(-sizes, kind="stable"))
    chosen = sorted(threads)[: int(part_of.max()) + 1]
    hosts = [str(urlsplit(worker).hostname) for worker in chosen]
    networks: list[list[Mapping[str, Any]]] = [[{} for _ in chosen] for _ in members]
    if len(chosen) > 1:
        ports = workers.run(_free_ports, len(members), workers=chosen)
        n_trackers = sum(member.backend == "xgboost" for member in members)
        (trackers,) = workers.run(_start_trackers, n_trackers, len(chosen), hosts[0], workers=chosen[:1])
        for number, member in enumerate(members):
            if member.backend == "lightgbm":
                machines = ",".join(f"{host}:{port[number]}" for host, port in zip(hosts, ports, strict=True))
                shared = {"machines": machines, "num_machines": len(chosen), "tree_learner": "data"}
                networks[number] = [{**shared, "local_listen_port": port[number]} for port in ports]
            else:
                tracker = trackers.pop()
                networks[number] = [{**tracker, "dmlc_task_id": f"{rank:06d}"} for rank in range(len(chosen))]
    arguments = {}
    for rank, worker in enumerate(chosen):
        resolved = [replace(settings, n_jobs=settings.n_jobs or threads[worker]) for settings in members]
        arguments[worker] = (known.take(np.flatnonzero(part_of == rank)), resolved, [each[rank] for each in networks])
    results = workers.together(_fit_part, arguments)
    models = []
    for settings, shares in zip(members, zip(*results, strict=True), strict=True):
        data, n_iterations, best_score, _ = shares[0]
        model = backend(settings.backend).load(data, settings)
        model.n_iterations, model.best_score = n_iterations, best_score
        models.append((model, mean_spread(np.concatenate([share[3] for share in shares]))))
    return models


#: On a worker: trackers of the latest fit, which must outlive the call that starts them.
_trackers: list[Any] = []


def _free_ports(count: int) -> list[int]:
    """On a worker: ports that were free a moment ago."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _start_trackers(count: int, n_workers: int, host: str) -> list[dict[str, Any]]:
    """On a worker: arguments of the rendezvous of XGBoost's workers, for each of ``count`` fits."""
    from xgboost.tracker import RabitTracker

    _trackers[:] = [RabitTracker(n_workers=n_workers, host_ip=host, sortby="task") for _ in range(count)]
    for tracker in _trackers:
        tracker.start()
    return [dict(tracker.worker_args()) for tracker in _trackers]


def _fit_part(
    part: TrainingSet, members: Sequence[Settings], networks: Sequence[Mapping[str, Any]]
) -> list[tuple[bytes, int, float | None, NDArray[np.float64]]]:
    """On a worker: fit models on its part with the others; bytes, rounds, best score and spreads of each."""
    rows, held_out = part.training(), part.held_out()
    results = []
    for settings, network in zip(members, networks, strict=True):
        library: Any = backend(settings.backend)
        if settings.backend == "lightgbm":
            model = library.fit(rows, held_out, replace(settings, params={**settings.params, **network}))
            model.booster.free_network()
        else:
            from xgboost.collective import CommunicatorContext

            with CommunicatorContext(**network) if network else nullcontext():
                model = library.fit(rows, held_out, settings)
        data = model.to_bytes()
        for name, value in _NETWORK.items() if settings.backend == "lightgbm" else ():  # no addresses in the file
            data = re.sub(rf"^\[{name}: .*\]$".encode(), f"[{name}: {value}]".encode(), data, flags=re.MULTILINE)
        results.append((data, model.n_iterations, model.best_score, spreads(model, rows, settings.n_jobs)))
    return results
