"""A local file server that can be made to misbehave, and archives for it to serve."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest


@dataclass
class Mirror:
    """What it serves, how, and the requests it received."""

    files: dict[str, bytes] = field(default_factory=dict)
    #: Status codes of the next GET requests.
    status: list[int] = field(default_factory=list)
    #: Bytes after which the connections of the next GET requests drop.
    drop: list[int] = field(default_factory=list)
    ranges: bool = True
    #: Send the range regardless of If-Range.
    ignore_validator: bool = False
    validators: tuple[str, ...] = ("ETag", "Last-Modified")
    #: Send Content-Length.
    sized: bool = True
    #: Seconds before each piece of 16 KiB.
    pause: float = 0.0
    requests: list[tuple[str, str, Message]] = field(default_factory=list)
    url: str = ""

    def gets(self) -> list[Message]:
        """Headers of the GET requests so far."""
        return [headers for method, _, headers in self.requests if method == "GET"]

    def validators_of(self, body: bytes) -> dict[str, str]:
        digest = sha256(body).hexdigest()[:16]
        day = int(digest, 16) % 28 + 1
        values = {"ETag": f'"{digest}"', "Last-Modified": f"Sun, {day:02} Jan 2023 00:00:00 GMT"}
        return {name: values[name] for name in self.validators}


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_GET(self) -> None:
        self._answer(self.mirror.status.pop(0) if self.mirror.status else 200)

    def _answer(self, status: int) -> None:
        mirror, body = self.mirror, self.mirror.files.get(self.path[1:])
        mirror.requests.append((self.command, self.path, self.headers))
        if status != 200 or body is None:
            self._begin(status if status != 200 else 404, {"Content-Length": "0"})
            return
        headers = mirror.validators_of(body)
        first = self._first_byte(headers)
        if first is not None and first >= len(body):
            self._begin(416, {"Content-Range": f"bytes */{len(body)}"})
            return
        if first is not None:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        rest = body[first or 0 :]
        if mirror.sized:
            headers["Content-Length"] = str(len(rest))
        self._begin(200 if first is None else 206, headers)
        if self.command == "GET":
            self._send(rest)

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _first_byte(self, headers: Mapping[str, str]) -> int | None:
        requested = self.headers.get("Range")
        if not requested or not self.mirror.ranges:
            return None
        if not self.mirror.ignore_validator and self.headers.get("If-Range") not in headers.values():
            return None
        return int(requested.removeprefix("bytes=").removesuffix("-"))

    def _send(self, rest: bytes) -> None:
        if self.mirror.drop:
            rest = rest[: self.mirror.drop.pop(0)]
        with suppress(OSError):  # the client went away
            for first in range(0, len(rest), 1 << 14):
                time.sleep(self.mirror.pause)
                self.wfile.write(rest[first : first + (1 << 14)])
                self.wfile.flush()


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Mirror]:
    """Serve ``files`` on a local port."""
    mirror = Mirror(dict(files))
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    try:
        # A proxy in the environment must not be used for this machine.
        with patch.dict(os.environ, {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}):
            yield mirror
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond ``size`` bytes fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def npz(size: int, seed: int = 0) -> bytes:
    """An ``.npz`` with one member of about ``size`` bytes, which is all that unpacking reads."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("node_feat.npy"), bytes((seed + index) % 251 for index in range(size)))
    return stream.getvalue()


def tar(members: Mapping[str, bytes], mode: str = "w", **options: Any) -> bytes:
    """A tar archive; ``mode`` as of ``tarfile.open``."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return stream.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
