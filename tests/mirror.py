"""A server of files on this machine that can be told to misbehave, and archives for it to serve."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch


@dataclass
class Mirror:
    """What it serves, how, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    #: Answers of the next GET requests: a status that is no success, or after how many bytes the connection drops.
    status: list[int] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)
    ranges: bool = True
    #: Honour a range whatever If-Range says.
    careless: bool = False
    #: Where an answer to a range begins, off what was asked.
    shift: int = 0
    validators: tuple[str, ...] = ("ETag", "Last-Modified")
    weak: bool = False
    #: What Content-Length says too much; None leaves it out.
    surplus: int | None = 0
    head_status: int = 200
    #: HEAD requests that get no answer before one does.
    head_drops: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    #: Seconds before each piece of 16 kB.
    pause: float = 0.0
    asked: list[tuple[str, str, Message]] = field(default_factory=list)
    url: str = ""

    def gets(self, name: str | None = None) -> list[Message]:
        """Headers of the GET requests so far."""
        return [headers for method, path, headers in self.asked if method == "GET" and name in (None, path[1:])]

    def said(self, body: bytes) -> dict[str, str]:
        digest = sha256(body).hexdigest()[:16]
        day = int(digest, 16) % 28 + 1
        values = {
            "ETag": f'{"W/" if self.weak else ""}"{digest}"',
            "Last-Modified": f"Sun, {day:02} Jan 2023 00:00:00 GMT",
        }
        return {name: values[name] for name in self.validators}


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body_too=False)

    def do_GET(self) -> None:
        self._answer(body_too=True)

    def _answer(self, *, body_too: bool) -> None:
        mirror = self.mirror
        mirror.asked.append((self.command, self.path, self.headers))
        if not body_too and mirror.head_drops:
            mirror.head_drops -= 1
            self.close_connection = True
            return
        body = mirror.files.get(self.path[1:])
        status = mirror.status.pop(0) if body_too and mirror.status else 200
        if not body_too and mirror.head_status != 200:
            status = mirror.head_status
        if status != 200 or body is None:
            self.send_response(status if status != 200 else 404)
            for name, value in mirror.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        said = mirror.said(body)
        first = self._first(said)
        if first is not None and first >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(200 if first is None else 206)
        if first is not None:
            first = max(0, first + mirror.shift)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        rest = body[first or 0 :]
        if mirror.surplus is not None:
            self.send_header("Content-Length", str(len(rest) + mirror.surplus))
        for name, value in (said | mirror.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body_too:
            self._send(rest)

    def _first(self, said: Mapping[str, str]) -> int | None:
        wanted = self.headers.get("Range")
        if not wanted or not self.mirror.ranges:
            return None
        if not self.mirror.careless and self.headers.get("If-Range") not in said.values():
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def _send(self, rest: bytes) -> None:
        if self.mirror.drop:
            rest = rest[: self.mirror.drop.pop(0)]
        step = 1 << 14
        try:
            for at in range(0, len(rest), step):
                time.sleep(self.mirror.pause)
                self.wfile.write(rest[at : at + step])
                self.wfile.flush()
        except OSError:  # the client went away
            pass


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Mirror]:
    """Serve ``files`` on a port of this machine."""
    mirror = Mirror(dict(files))
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    # Whatever proxy the environment names, it is not for this machine.
    direct = patch.dict(os.environ, {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"})
    direct.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield mirror
    finally:
        direct.stop()
        server.shutdown()
        thread.join()
        server.server_close()


def npz(size: int, seed: int = 0) -> bytes:
    """A zip archive with one member of about ``size`` bytes, which is all that unpacking looks at."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("node_feat.npy"), bytes((seed + place) % 251 for place in range(size)))
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
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
