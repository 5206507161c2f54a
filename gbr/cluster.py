"""A Dask cluster: workers build features, and fit models jointly, each on a disjoint set of graphs.

Workers reach the data and the store under the same paths as this machine; only names and models cross the network.  A
fit is that of a single machine, run on every worker over LightGBM's sockets or XGBoost's collective, as
``lightgbm.dask`` and ``xgboost.dask`` do, which support neither early stopping on Kendall's tau nor streamed matrices.
Every worker holds all validation rows, so that all of them stop at the same round.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from gbr import __version__
from gbr.data.build import schema_of
from gbr.data.collection import TABLE, Subset
from gbr.data.files import write_text
from gbr.data.store import FeatureStore
from gbr.errors import GbrError, MissingLibraryError, StoreError, UsageError
from gbr.models import training_set
from gbr.models.base import Model, backend, spreads
from gbr.models.ensemble import EnsembleModel, Member, mean_spread, member_settings, weighted
from gbr.models.params import Settings
from gbr.models.rows import Rows, even_parts

if TYPE_CHECKING:
    from gbr.ranker import Ranker

_CONNECT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 2.0
_RESTART_SECONDS: Final = 30.0
#: Connection attempts of XGBoost, whose pauses grow by two seconds each: a minute and a half.
_RETRIES: Final = 10

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@contextmanager
def connected(address: str | None, subset: Subset, data: Path, store: Path) -> Iterator[Workers | None]:
    """Connect to the Dask scheduler at ``tcp://HOST:PORT``; None without an address.

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
    if subset.kind == TABLE:
        raise UsageError(f"--cluster: {subset.name} is a table, which needs one machine only; leave it out")
    if not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d+", address):
        raise UsageError(f"--cluster {address}: expected the address of a Dask scheduler, tcp://HOST:PORT")
    start = f"`dask worker {address} --nworkers N --nthreads 1`"
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # Dask logs closed connections with tracebacks
    try:
        try:
            client = _distributed().Client(address, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise GbrError(
                f"--cluster {address}: no Dask scheduler answers; start one with `dask scheduler` and its workers with "
                f"{start}, or correct the address"
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
            except TimeoutError as error:
                raise GbrError(f"--cluster {address}: the scheduler has no workers; start them with {start}") from error
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
        with self._errors():
            return dict(self._client.nthreads())

    def check(self, subset: Subset, data: Path, store: Path) -> None:
        """Check that all workers reach the files and have the versions of this machine."""
        graph = next(iter(sorted(subset.folder(data).glob("*/*.npz"))), None)
        probe = store / f".cluster-{uuid.uuid4().hex}"  # a file that every worker must see
        write_text(probe, "", StoreError)
        try:
            found = self._client.run(
                _why_unusable, _versions(subset.kind), subset.kind, graph, probe, on_error="return"
            )
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

        ``work`` is a function at the top level of a module; its errors are raised.
        """
        futures = self._client.map(work, tasks, pure=False)
        task_of = {future.key: task for future, task in zip(futures, tasks, strict=True)}
        try:
            for future in _distributed().as_completed(futures):
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
            worker: self._client.submit(work, *values, workers=[worker], pure=False)
            for worker, values in arguments.items()
        }
        try:
            failed: list[Any] = []
            while not failed and (pending := [each for each in futures.values() if each.status == "pending"]):
                with suppress(TimeoutError):
                    _distributed().wait(pending, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
                if lost := futures.keys() - self.threads().keys():
                    raise GbrError(
                        f"--cluster {self._address}: worker {min(lost)} was lost during the fit, possibly for lack of "
                        "memory; repeat the command, the features are kept"
                    )
                failed = [future for future in futures.values() if future.status == "error"]
            with self._errors():
                return [future.result() for future in failed or futures.values()]
        except BaseException:
            with suppress(Exception):  # restarts need a nanny; other workers still wait for the failed one
                self._client.cancel(list(futures.values()))
                left = [worker for worker in self.threads() if worker in futures]
                self._client.restart_workers(left, timeout=_RESTART_SECONDS, raise_for_error=False)
            raise

    def run(self, function: Callable[..., _Result], *, workers: Sequence[str]) -> list[_Result]:
        """Results of a short function on some workers."""
        with self._errors():
            results = self._client.run(function, workers=list(workers))
        return [results[worker] for worker in workers]

    @contextmanager
    def _errors(self) -> Iterator[None]:
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
        except (CancelledError, OSError) as error:
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


# --- fits ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingSet:
    """Graphs that a model is trained on, by name; workers read their rows from the store.

    ``memory`` is bytes on each worker, ``sample`` applies to each graph.
    """

    store_root: Path
    subset: str
    train: tuple[str, ...]
    valid: tuple[str, ...]
    columns: tuple[str, ...]
    memory: int
    sample: int | None
    seed: int

    def training(self) -> Rows:
        """Training rows with their features."""
        store = FeatureStore(self.store_root, self.subset)
        groups = store.load("train", self.train, ())
        chosen = training_set.distinct(groups)
        chosen = training_set.fit_memory(chosen, len(self.columns), self.memory, self.sample, self.seed)
        X = training_set.features(store, "train", groups, chosen.rows, self.columns, self.memory)
        return Rows(X, chosen.target, chosen.indptr)

    def held_out(self) -> Rows | None:
        """Validation rows with their features."""
        if not self.valid:
            return None
        store = FeatureStore(self.store_root, self.subset)
        groups = store.load("valid", self.valid, ())
        return training_set.held_out(store, "valid", groups, self.columns, self.memory, self.seed)


def fit(workers: Workers, ranker: Ranker, known: TrainingSet, chosen: training_set.Selection) -> None:
    """Fit a ranker on a cluster; ``chosen`` are the training rows, whose number determines the settings.

    Raises
    ------
    UsageError
        For invalid parameters of the ranker.
    GbrError
        When a worker is lost.
    """
    shape = np.broadcast_to(np.float32(0), (len(chosen.rows), len(known.columns)))
    rows = Rows(shape, chosen.target, chosen.indptr)

    def fit_model(_train: Rows, _valid: Rows | None, settings: Settings) -> Any:
        if settings.backend != "ensemble":
            return _fit_member(workers, known, rows.sizes, settings)[0]
        chosen = member_settings(settings)
        members = [Member(each, *_fit_member(workers, known, rows.sizes, each), 1 / len(chosen)) for each in chosen]
        held_out = known.held_out()
        return EnsembleModel(members) if held_out is None else weighted(members, held_out, settings)

    ranker.fit_rows(rows, known.columns, fit=fit_model)


def _fit_member(
    workers: Workers, known: TrainingSet, sizes: NDArray[np.int64], settings: Settings
) -> tuple[Model, float]:
    """Fit one model; also returns its mean spread within a training group."""
    library = backend(settings.backend)
    if settings.backend == "costmodel":  # on this machine, as it takes seconds
        rows = known.training()
        prices = library.fit(rows, known.held_out(), settings)
        return prices, mean_spread(spreads(prices, rows, settings.n_jobs))
    threads = workers.threads()
    part_of = even_parts(sizes, len(threads), np.argsort(-sizes, kind="stable"))
    chosen = sorted(threads)[: int(part_of.max()) + 1]
    ports = workers.run(_free_port, workers=chosen)
    machines = [f"{urlsplit(worker).hostname}:{port}" for worker, port in zip(chosen, ports, strict=True)]
    arguments = {}
    for rank, worker in enumerate(chosen):
        part = replace(known, train=tuple(known.train[graph] for graph in np.flatnonzero(part_of == rank)))
        arguments[worker] = (part, replace(settings, n_jobs=settings.n_jobs or threads[worker]), machines, rank)
    results = workers.together(_fit_part, arguments)
    model = library.load(results[0][0])
    model.best_score = results[0][1]
    return model, mean_spread(np.concatenate([result[2] for result in results]))


def _free_port() -> int:
    """On a worker: a port that was free a moment ago."""
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _fit_part(
    part: TrainingSet, settings: Settings, machines: Sequence[str], rank: int
) -> tuple[bytes, float | None, NDArray[np.float64]]:
    """On a worker: fit a model on its part with the others; the model, its best score and the spreads of the part."""
    library: Any = backend(settings.backend)
    network: AbstractContextManager[object] = nullcontext()
    if len(machines) > 1 and settings.backend == "lightgbm":
        port = int(machines[rank].rpartition(":")[2])
        params = {"machines": ",".join(machines), "num_machines": len(machines), "local_listen_port": port}
        settings = replace(settings, params={**settings.params, **params, "tree_learner": "data"})
    elif len(machines) > 1:
        network = _collective(machines, rank)
    with network:
        rows = part.training()
        model = library.fit(rows, part.held_out(), settings)
    data = model.to_bytes()
    if settings.backend == "lightgbm":
        model.booster.free_network()
        data = re.sub(rb"(?m)^\[machines: .*\]$", b"[machines: ]", data)  # no addresses in the file
    return data, model.best_score, spreads(model, rows, settings.n_jobs)


@contextmanager
def _collective(machines: Sequence[str], rank: int) -> Iterator[None]:
    """XGBoost's collective of all workers; the first one runs the tracker, to which the others connect."""
    from xgboost.collective import CommunicatorContext
    from xgboost.tracker import RabitTracker

    host, _, port = machines[0].rpartition(":")
    if rank == 0:
        tracker = RabitTracker(len(machines), host, int(port), sortby="task")
        tracker.start()
    task = f"{rank:06d}"
    with CommunicatorContext(
        dmlc_tracker_uri=host, dmlc_tracker_port=int(port), dmlc_task_id=task, dmlc_retry=_RETRIES
    ):
        yield
    if rank == 0:
        tracker.wait_for()
