"""An origin registry: serves an image layout as a plain, correct registry would, and writes down every request.

It is a process of its own, so that it can live in a network namespace and be switched off.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from tests.kit.layout import Layout
from tests.kit.waiting import eventually

_ROUTE = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/?]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE = 1 << 18


class Asked:
    """One request as the origin saw it: method, repository, kind, reference, first byte asked for, body bytes sent."""

    def __init__(self, line: dict[str, Any]) -> None:
        self.method: str = line["method"]
        self.repository: str = line["repository"]
        self.kind: str = line["kind"]
        self.reference: str = line["reference"]
        self.start: int = line["start"]
        self.sent: int = line["sent"]

    def __repr__(self) -> str:
        return f"{self.method} {self.repository} {self.reference[:19]} from {self.start}: {self.sent} bytes"


@dataclass
class Origin:
    """A running origin over ``layout``. Owned by :func:`origin`; ``off`` stops it, ``on`` starts it again."""

    layout: Layout
    host: str
    port: int
    log: Path
    prefix: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = None
    _answers: bool = False

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def on(self) -> Self:
        """Start answering; returns when it does. Nothing happens if it answers."""
        if self._process is None:
            command = [*self.prefix, sys.executable, "-m", "tests.kit.origin"]
            command += [str(self.layout.directory), self.host, str(self.port), str(self.log)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
        if not self._answers:
            self._order(b"on\n")
        return self

    def off(self) -> None:
        """Stop answering: connections that are open end, and new ones are refused. Nothing happens if it does not."""
        if self._answers:
            self._order(b"off\n")

    def _order(self, order: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order)
        self._process.stdin.flush()
        done = self._process.stdout.readline()
        assert done == order, f"the origin is not {order!r}: {done!r}"
        self._answers = order == b"on\n"

    def close(self) -> None:
        """End its process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process, self._answers = None, False

    def asked(self) -> list[Asked]:
        """Every request so far, in the order in which they ended."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [Asked(json.loads(line)) for line in lines]

    def body_bytes(self) -> int:
        """All body bytes sent so far."""
        return sum(asked.sent for asked in self.asked())

    def forget(self) -> None:
        """Begin to count anew."""
        self.log.unlink(missing_ok=True)


_ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def origin(layout: Layout, host: str, port: int, log: Path, prefix: tuple[str, ...] = ()) -> Iterator[Origin]:
    """An origin that answers until the block ends. ``prefix`` goes before its command (a namespace)."""
    running = Origin(layout, host, port, log, prefix)
    try:
        yield running.on()
    finally:
        running.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path
    log: Path

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        match = _ROUTE.match(self.path)
        if match is None:
            self._refuse(200 if self.path in ("/v2", "/v2/") else 404)
            return
        repository, kind, reference = match.groups()
        media_type = "application/octet-stream"
        if kind == "manifests":
            found = self._manifest(repository, reference)
            if found is None:
                self._refuse(404)
                return
            reference, media_type = found
        path = self.directory / "blobs" / reference.replace(":", "/", 1)
        if not path.is_file():
            self._refuse(404)
            return
        self._send(path, reference, media_type, (repository, kind))

    def _manifest(self, repository: str, reference: str) -> tuple[str, str] | None:
        if ":" not in reference:
            for entry in json.loads((self.directory / "index.json").read_text())["manifests"]:
                name = entry["annotations"]["org.opencontainers.image.ref.name"]
                if name.partition("/")[2] == f"{repository}:{reference}":
                    return entry["digest"], entry["mediaType"]
            return None
        path = self.directory / "blobs" / reference.replace(":", "/", 1)
        return (reference, json.loads(path.read_bytes())["mediaType"]) if path.is_file() else None

    def _send(self, path: Path, digest: str, media_type: str, place: tuple[str, str]) -> None:
        size, start = path.stat().st_size, 0
        match = _RANGE.match(self.headers.get("Range", ""))
        status = HTTPStatus.OK
        if match:
            start, status = int(match[1]), HTTPStatus.PARTIAL_CONTENT
        stop = min(int(match[2]) + 1, size) if match and match[2] else size
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Docker-Content-Digest", digest)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        sent = 0
        if self.command == "GET":
            with open(path, "rb") as file, contextlib.suppress(OSError):
                file.seek(start)
                while sent < stop - start:
                    piece = file.read(min(_PIECE, stop - start - sent))
                    self.wfile.write(piece)
                    sent += len(piece)
        self._note(place, digest, start, sent)

    def _note(self, place: tuple[str, str], digest: str, start: int, sent: int) -> None:
        line = {"method": self.command, "repository": place[0], "kind": place[1]}
        with open(self.log, "a") as file:
            file.write(json.dumps({**line, "reference": digest, "start": start, "sent": sent}) + "\n")

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    """Knows its open connections, so that they can be ended."""

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side has left."""

    def end(self) -> None:
        """Refuse connections from now on, and end those that are open."""
        self.shutdown()
        self.socket.close()
        for request in tuple(self.open):
            with contextlib.suppress(OSError):  # it has just ended
                request.shutdown(socket.SHUT_RDWR)


def _serve(directory: str, host: str, port: str, log: str) -> None:
    class Handler(_Handler):
        pass

    Handler.directory, Handler.log = Path(directory), Path(log)

    def bind() -> _Server | None:
        with contextlib.suppress(OSError):  # the port of a killed predecessor
            return _Server((host, int(port)), Handler)
        return None

    server: _Server | None = None
    for order in sys.stdin:
        if order == "on\n":
            server = eventually(bind, f"port {port} is free")
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        elif server is not None:
            server.end()
        print(order, end="", flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
