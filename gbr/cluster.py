"""Workers of a Dask cluster, which reach the data and the store under the same paths as this machine.

What crosses the network are names of graphs, targets and entries of the manifest; features go through the store.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from gbr import __version__
from gbr.data.collection import Subset
from gbr.errors import GbrError, MissingLibraryError, StoreError, UsageError

_CONNECT_SECONDS: Final = 10.0
#: A scheduler without workers is given this long: they may be starting, or starting again.
_WORKERLESS_SECONDS: Final = 60.0
_RESTART_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.05

#: What to do when a fit is lost.
REPEAT: Final = "repeat the command, the features are kept"

_ADDRESS: Final = re.compile(r"(tcp|tls)://[^\s/]+:\d+")

#: Those that Dask gives a level of its own.
_LOGGERS: Final = ("distributed", "distributed.client", "tornado", "tornado.application")

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@contextmanager
def connected(address: str | None, subset: Subset, data: Path, store: Path) -> Iterator[Workers | None]:
    """Join a cluster whose workers reach the data and the store; None without an address.

    Parameters
    ----------
    address : str or None
        Of the scheduler, ``tcp://HOST:PORT``.
    subset : Subset
    data, store : Path
        Roots of the graph files and of the store; the store's is made when missing.

    Raises
    ------
    UsageError
        For an address that is none.
    MissingLibraryError
        When Dask is not installed.
    GbrError
        When no scheduler answers, it has no workers, or one of them does not reach the folders or has other versions
        than this machine: says what to do.
    StoreError
        When the store's folder cannot be written.
    """
    if address is None:
        yield None
        return
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"--cluster {address}: want the address of a Dask scheduler, tcp://HOST:PORT")
    distributed = _distributed()
    with _unlogged():
        try:
            client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as fault:
            raise GbrError(
                f"--cluster {address}: no Dask scheduler answers; start one with `dask scheduler` and its workers with "
                f"`dask worker {address} --nworkers N --nthreads 1`, or mend the address"
            ) from fault
        with client:
            workers = Workers(client, address)
            workers.check(subset, data.absolute(), store.absolute())
            yield workers


class Workers:
    """Worker processes of a cluster.

    Parameters
    ----------
    client : distributed.Client
    address : str
        Of its scheduler, for messages.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self._address = address

    def __len__(self) -> int:
        return len(self.threads())

    def check(self, subset: Subset, data: Path, store: Path) -> None:
        """Refuse a cluster without workers, and one whose workers differ from this machine in what decides the result.

        Raises
        ------
        GbrError, StoreError
        """
        distributed = _distributed()
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except (TimeoutError, distributed.TimeoutError) as fault:
            raise GbrError(
                f"--cluster {self._address}: the scheduler has no workers; start them with "
                f"`dask worker {self._address} --nworkers N --nthreads 1`"
            ) from fault
        sample = next(iter(sorted(subset.folder(data).glob("*/*.npz"))), None)
        size = sample.stat().st_size if sample else 0
        token = uuid.uuid4().hex
        probe = store / f".cluster-{token}"
        try:
            store.mkdir(parents=True, exist_ok=True)
            probe.write_text(token)
        except OSError as fault:
            raise StoreError(
                f"{store}: cannot be written ({fault.strerror}); name a folder you may write to with --store"
            ) from fault
        try:
            told = self._client.run(
                _obstacle, _versions(subset.kind), subset.kind, sample, size, probe, on_error="return"
            )
        finally:
            probe.unlink(missing_ok=True)
        found = {worker: _unimported(what) if isinstance(what, Exception) else what for worker, what in told.items()}
        if wrong := {worker: what for worker, what in found.items() if what}:
            worker, what = min(wrong.items())
            more = f" ({len(wrong)} of {len(found)} workers are unfit)" if len(wrong) > 1 else ""
            raise GbrError(f"--cluster {self._address}: worker {worker} {what}{more}")

    def each(self, work: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[tuple[_Task, _Result]]:
        """Work on tasks, in the order in which they are done; those of a worker that is lost are done by others.

        Parameters
        ----------
        work : callable
            Of a module's top level.
        tasks : sequence

        Yields
        ------
        task, result

        Raises
        ------
        GbrError
            When a task costs one worker after the other, or workers or scheduler are gone; also what ``work`` raises.
        """
        futures = self._client.map(partial(_named, work), tasks, pure=False)
        place = {future.key: task for future, task in zip(futures, tasks, strict=True)}
        try:
            for future in self._done(futures):
                yield place[future.key], self._result(future)
                future.release()
        finally:
            self._cancel(futures)

    def together(self, work: Callable[..., _Result], arguments: Mapping[str, Sequence[Any]]) -> list[_Result]:
        """Work on one task per worker, none of which can do without the others.

        Parameters
        ----------
        work : callable
            Of a module's top level.
        arguments : mapping
            By worker.

        Raises
        ------
        GbrError
            When a worker is lost; also whatever ``work`` raises.
        """
        futures = {
            worker: self._client.submit(work, *given, workers=[worker], allow_other_workers=False, pure=False)
            for worker, given in arguments.items()
        }
        try:
            for future in self._done(list(futures.values()), set(futures)):
                self._result(future)
            return [self._result(future) for future in futures.values()]
        except BaseException as fault:
            self._free(futures)
            if isinstance(fault, GbrError):  # a library tells only that a peer hung up
                self._all_there(set(futures), fault)
            raise

    def _free(self, futures: Mapping[str, Any]) -> None:
        """Restart workers that wait, deaf in a library, for one that will not come."""
        until = time.monotonic() + _LOOK_SECONDS
        while time.monotonic() < until and any(future.status == "pending" for future in futures.values()):
            time.sleep(_PAUSE_SECONDS)
        waiting = [worker for worker, future in futures.items() if future.status == "pending"]
        self._cancel(list(futures.values()))
        with suppress(Exception):  # without a nanny a worker cannot be restarted from here
            there = self.threads()
            if waiting := [worker for worker in waiting if worker in there]:
                self._client.restart_workers(waiting, timeout=_RESTART_SECONDS, raise_for_error=False)

    def _done(self, futures: Sequence[Any], needed: set[str] | None = None) -> Iterator[Any]:
        """Futures as they finish, while there are workers to do them: those ``needed``, or any."""
        queue = _distributed().as_completed(futures, loop=self._client.loop)
        looked = seen = time.monotonic()
        while not queue.is_empty():
            if batch := queue.next_batch(block=False):
                yield from batch
                continue
            time.sleep(_PAUSE_SECONDS)
            if (now := time.monotonic()) - looked < _LOOK_SECONDS:
                continue
            looked = now
            if needed is not None:
                self._all_there(needed)
            elif self.threads():
                seen = now
            elif now - seen > _WORKERLESS_SECONDS:
                raise GbrError(
                    f"--cluster {self._address}: all workers are gone; start some, the same command goes on from there"
                )

    def _all_there(self, needed: set[str], cause: Exception | None = None) -> None:
        if gone := sorted(needed - set(self.threads())):
            raise GbrError(
                f"--cluster {self._address}: worker {gone[0]} was lost during the fit, perhaps for want of memory; "
                f"{REPEAT}"
            ) from cause

    def ask(self, question: Callable[..., _Result], *given: Any, workers: Sequence[str]) -> list[_Result]:
        """Answers of workers to what takes no time."""
        told = self._client.run(question, *given, workers=list(workers))
        return [told[worker] for worker in workers]

    def threads(self) -> dict[str, int]:
        """Threads by worker."""
        try:
            return dict(self._client.nthreads())
        except (OSError, RuntimeError) as fault:
            raise self._lost() from fault

    def _result(self, future: Any) -> Any:
        distributed = _distributed()
        try:
            return future.result()
        except GbrError:
            raise
        except distributed.scheduler.KilledWorker as fault:
            raise GbrError(
                f"--cluster {self._address}: one graph after the other cost a worker its life, perhaps for want of "
                "memory; give the workers more of it, or fewer threads each; the same command goes on from there"
            ) from fault
        except ImportError as fault:
            raise GbrError(f"--cluster {self._address}: a worker {_unimported(fault)}") from fault
        except (CancelledError, OSError) as fault:
            raise self._lost() from fault

    def _lost(self) -> GbrError:
        return GbrError(
            f"--cluster {self._address}: the scheduler is gone; start it again, the same command goes on from there"
        )

    def _cancel(self, futures: Sequence[Any]) -> None:
        with suppress(Exception):  # a scheduler that is gone has nothing to cancel
            self._client.cancel([future for future in futures if future.status == "pending"])


def _distributed() -> Any:
    try:
        import distributed
    except ModuleNotFoundError as fault:
        raise MissingLibraryError("Dask is not installed; pip install 'gbr[cluster]'") from fault
    return distributed


@contextmanager
def _unlogged() -> Iterator[None]:
    """Leave the telling to the errors raised here: Dask logs connections that end, with tracebacks."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _versions(kind: str) -> dict[str, str]:
    """What decides a result besides the data."""
    from gbr.data.build import schema_of

    found = {"gbr": __version__, "feature schema": schema_of(kind).hash}
    for name in ("lightgbm", "xgboost-cpu", "xgboost"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name.removesuffix("-cpu")] = importlib.metadata.version(name)
    return found


def _unimported(fault: Exception) -> str:
    if isinstance(fault, ImportError):
        return f"cannot import gbr ({fault}); pip install 'gbr[cluster]' there, the same version as here"
    return f"cannot take part ({type(fault).__name__}: {' '.join(str(fault).split())}); restart it"


# What runs on the workers.


def _obstacle(wanted: Mapping[str, str], kind: str, sample: Path | None, size: int, probe: Path) -> str | None:
    """What keeps this worker from taking part; None for nothing."""
    shared = "mount it there under the same path, or name a folder that all workers share"
    if sample and not (sample.is_file() and sample.stat().st_size == size):
        return f"does not see {sample}; {shared} with --data"
    try:
        seen = probe.read_text() == probe.name.removeprefix(".cluster-")
    except OSError:
        seen = False
    if not seen:
        return f"does not see what is written to {probe.parent}; {shared} with --store"
    own = probe.with_name(f"{probe.name}-{uuid.uuid4().hex}")
    try:
        own.touch()
        own.unlink()
    except OSError as fault:
        return f"cannot write to {probe.parent} ({fault.strerror}); let it, or name another folder with --store"
    found = _versions(kind)
    for name, version in wanted.items():
        if found.get(name) != version:
            return f"has {name} {found.get(name, 'not installed')}, this machine {version}; install the same there"
    return None


def _named(work: Callable[[_Task], _Result], task: _Task) -> _Result:
    try:
        return work(task)
    except GbrError as fault:
        raise type(fault)(f"worker {_distributed().get_worker().address}: {fault}") from fault
