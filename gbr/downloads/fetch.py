"""Files over HTTP: an interrupted transfer goes on from its byte, and a file is whole before it has its name.

While a file is on its way it is ``<name>.part``, with what the server said of it in ``<name>.part.json``.  A transfer
goes on only where the server confirms that its file is still the same one (``If-Range`` with the entity tag, or else
the date of its last change, RFC 9110 section 13.1.5); otherwise it starts over.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from gbr.data.files import Report, parse_json, require_space, write_json
from gbr.errors import DownloadError

#: Requests in a row that bring nothing new before a transfer is given up.
TRIES: Final = 7

_CHUNK: Final = 1 << 18
_TIMEOUT: Final = 60.0
_LONGEST_PAUSE: Final = 30.0
#: Besides all of 500 and above: what a server means to be temporary.
_TEMPORARY: Final = frozenset({408, 425, 429})
_OK: Final = 200
_PARTIAL: Final = 206
_UNSATISFIABLE: Final = 416
_SERVER_FAULT: Final = 500

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Remote:
    """What a server says of a file.

    Parameters
    ----------
    url : str
    size : int or None
        Bytes; None where the server does not say.
    validator : str or None
        Strong entity tag or date of the last change: whether a later answer is of the same file.
    md5 : str or None
        Base64, as Google's storage sends it in ``x-goog-hash``.
    """

    url: str
    size: int | None
    validator: str | None = None
    md5: str | None = None


class _PassingError(Exception):
    """A failure that the next request may not meet."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


def ask(url: str, timeout: float = 10.0) -> Remote:
    """Ask what a server says of a file, without fetching it.

    Raises
    ------
    DownloadError
        When the server is out of reach or has no such file.  A server that does not answer the question, or not just
        now, is no error: the size is then unknown.
    """
    try:
        try:
            return _head(url, timeout)
        except (TimeoutError, ConnectionResetError, http.client.HTTPException):
            return _head(url, timeout)  # a connection that drops once is none that is out of reach
    except urllib.error.HTTPError as fault:
        fault.close()
        if fault.code in (404, 410):
            raise DownloadError(_refusal(url, fault)) from fault
        return Remote(url, None)
    except (OSError, http.client.HTTPException) as fault:
        raise DownloadError(
            f"{url}: no connection ({_why(fault)}); look at your network and proxy, or fetch the file elsewhere and "
            "name its folder with --from"
        ) from fault


def _head(url: str, timeout: float) -> Remote:
    with _answer(url, {}, timeout, "HEAD") as response:
        return _remote(url, response)


def fetch(url: str, path: Path, report: Report = lambda done, total: None, tell: Tell = lambda text: None) -> None:
    """Fetch a file; one that was begun before goes on where it stopped.

    Parameters
    ----------
    url : str
        ``http`` or ``https``.
    path : Path
        Appears once the file is whole: as long as the server says, with its MD5 where the server names one.
    report : callable
        Given the bytes that are there and the size, or None where it is unknown.
    tell : callable
        Given a sentence about what was survived.

    Raises
    ------
    DownloadError
        When the server refuses, does not send the whole file in :data:`TRIES` requests that bring nothing new, sends
        another one than it names, or the disk is full.  Where going on makes sense the bytes stay.
    """
    with _Part(path) as part:
        furthest, failures = part.size, 0
        while True:
            try:
                _request(url, part, report, tell)
                break
            except _PassingError as fault:
                failures = 0 if part.size > furthest else failures + 1
                furthest = max(furthest, part.size)
                if failures == TRIES:
                    kept = f"its first {part.size} bytes stay in {part.path}; " if part.size else ""
                    raise DownloadError(
                        f"{url}: {fault}; gave up after {TRIES} tries in a row without progress; {kept}the same "
                        "command goes on from there"
                    ) from fault
                pause = min(fault.pause or 2.0 ** max(failures - 1, 0), _LONGEST_PAUSE)
                tell(f"{path.name}: {fault} at byte {part.size}; trying again in {pause:.0f} s")
                time.sleep(pause)
        part.finish(url)


def _request(url: str, part: _Part, report: Report, tell: Tell) -> None:
    """Bring the part as far as one answer of the server does."""
    known = part.resumable(url)
    if known and known.size == part.size:
        return
    headers = {"Range": f"bytes={part.size}-", "If-Range": str(known.validator)} if known else {}
    try:
        with _answer(url, headers, _TIMEOUT) as response:
            said = _remote(url, response)
            if response.status == _OK:
                if known:
                    tell(f"{part.path.name}: the server has another file now or cannot go on; starting over")
                part.start(said)
            elif not known or response.status != _PARTIAL or not _continues(known, part.size, said, response):
                part.discard()
                raise _PassingError(f"the server answers with another part of the file (status {response.status})")
            _receive(response, part, report)
    except urllib.error.HTTPError as fault:
        fault.close()
        if fault.code == _UNSATISFIABLE and known:
            part.discard()
            raise _PassingError("the server's file is shorter now; starting over") from fault
        if fault.code in _TEMPORARY or fault.code >= _SERVER_FAULT:
            raise _PassingError(f"the server says {fault.code} {fault.reason}", _retry_after(fault)) from fault
        raise DownloadError(_refusal(url, fault)) from fault
    except (OSError, http.client.HTTPException) as fault:
        raise _PassingError(_why(fault)) from fault


def _receive(response: Any, part: _Part, report: Report) -> None:
    total = part.remote.size
    require_space(part.path.parent, (total or 0) - part.size, part.path.name, DownloadError)
    report(part.size, total)
    # read1: what has come, at once; read() would throw away what a dropped connection had already brought.
    while (total is None or part.size < total) and (chunk := response.read1(_CHUNK)):
        part.write(chunk[: None if total is None else total - part.size])
        report(part.size, total)
    if total is not None and part.size < total:
        raise _PassingError("the connection ended early")


def _continues(known: Remote, size: int, said: Remote, response: Any) -> bool:
    """Whether an answer 206 begins at byte ``size`` of the file that was begun."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return (
        span is not None
        and int(span[1]) == size
        and said.validator in (None, known.validator)
        and (span[2] == "*" or known.size in (None, int(span[2])))
    )


def _answer(url: str, headers: Mapping[str, str], timeout: float, method: str = "GET") -> Any:
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: want an address that begins with http:// or https://")
    agent = {"User-Agent": "gbr", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(url, headers={**agent, **headers}, method=method)
        response = urllib.request.urlopen(request, timeout=timeout)
    except (ValueError, http.client.InvalidURL) as fault:
        raise DownloadError(f"{url}: no address of a file ({fault})") from fault
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise DownloadError(f"{url}: the server sends it {response.headers['Content-Encoding']}-coded; name a mirror")
    return response


def _remote(url: str, response: Any) -> Remote:
    headers = response.headers
    size = headers.get("Content-Length", "")
    tag = headers.get("ETag", "")
    md5 = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", ",".join(headers.get_all("x-goog-hash", [])))
    return Remote(
        url,
        int(size) if size.isdecimal() else None,
        tag if tag.startswith('"') else headers.get("Last-Modified"),
        md5[1] if md5 else None,
    )


def _refusal(url: str, fault: urllib.error.HTTPError) -> str:
    advice = {
        401: "it wants a login; fetch it with your browser and name its folder with --from",
        403: "it is not for everyone, or not from here; name a mirror with --base-url, or a folder with --from",
        404: "name another server with --base-url, or a folder with --from",
    }
    return f"{url}: the server says {fault.code} {fault.reason}; {advice.get(fault.code, advice[404])}"


def _retry_after(fault: urllib.error.HTTPError) -> float | None:
    wanted = fault.headers.get("Retry-After", "") if fault.headers else ""
    return float(wanted) if wanted.isdecimal() else None


def _why(fault: Exception) -> str:
    inner = getattr(fault, "reason", fault)
    if isinstance(inner, TimeoutError | socket.timeout):
        return "the server does not answer"
    if isinstance(inner, http.client.IncompleteRead):
        return "the connection ended early"
    return " ".join(str(getattr(inner, "strerror", None) or inner or type(inner).__name__).split())


class _Part:
    """The file on its way and what the server said of it; one process at a time."""

    def __init__(self, path: Path) -> None:
        self._whole = path
        self.path = path.with_name(f"{path.name}.part")
        self._said = path.with_name(f"{path.name}.part.json")
        self.remote = Remote("", None)

    def __enter__(self) -> _Part:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: BinaryIO = self.path.open("ab")
        except OSError as fault:
            raise self._unwritten(fault) from fault
        try:
            self._lock()
            self._recall()
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream.closed:
            return
        size = self.size
        with suppress(OSError):
            self._stream.close()
        if not size:
            self._forget()

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self._stream.tell()

    def resumable(self, url: str) -> Remote | None:
        """What the server said, where the part can be gone on with."""
        return self.remote if self.size and self.remote.url == url and self.remote.validator else None

    def start(self, said: Remote) -> None:
        """Begin anew with the file that the server has now."""
        self.discard()
        # Before the first byte: no byte may ever be taken for one of another file.
        write_json(self._said, asdict(said), DownloadError)
        self.remote = said

    def discard(self) -> None:
        """Drop all bytes."""
        self.remote = Remote("", None)
        try:
            self._stream.seek(0)
            self._stream.truncate()
        except OSError as fault:
            raise self._unwritten(fault) from fault

    def write(self, chunk: bytes) -> None:
        try:
            self._stream.write(chunk)
            self._stream.flush()
        except OSError as fault:
            raise self._unwritten(fault) from fault

    def finish(self, url: str) -> None:
        """Give the file its name."""
        if self.remote.md5 and self._md5() != self.remote.md5:
            self.discard()
            raise DownloadError(
                f"{url}: what came does not have the MD5 that the server names, and is removed; run the command again"
            )
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            os.replace(self.path, self._whole)
            self._said.unlink(missing_ok=True)
        except OSError as fault:
            raise self._unwritten(fault) from fault

    def _md5(self) -> str:
        self._stream.flush()
        with self.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).digest()
        return base64.b64encode(digest).decode("ascii")

    def _recall(self) -> None:
        with suppress(OSError, ValueError, TypeError):
            said = Remote(**parse_json(self._said.read_bytes()))
            if said.size is None or self.size <= said.size:
                self.remote = said

    def _forget(self) -> None:
        for path in (self.path, self._said):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not POSIX
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise DownloadError(f"{self.path}: another gbr.download is writing it; let that one finish") from fault
        except OSError:  # a file system without locks
            return

    def _unwritten(self, fault: OSError) -> DownloadError:
        return DownloadError(
            f"{self.path}: cannot be written ({fault.strerror or fault}); make room or name another folder with "
            "--data; the same command goes on from there"
        )
