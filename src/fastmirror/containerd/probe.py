"""Who answers at a mirror's address: fastmirror, somebody else, nobody, or something that is stuck.

By hand, not with http.client: that loads ssl, and the sidecar that asks has 3 MiB less without.
"""

from __future__ import annotations

import re
import socket
import time
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

HEADER: Final = "Fastmirror-Version"
TIMEOUT_SECONDS: Final = 2.0
_HEAD_BYTES: Final = 1 << 16
_STATUS: Final = re.compile(r"HTTP/1\.[01] ([0-9]{3})(?: |$)")


class Kind(Enum):
    """What the answer means for containerd."""

    OURS = "fastmirror answers"
    FOREIGN = "something else answers"
    SILENT = "it takes connections and does not answer"
    ABSENT = "nothing listens there"


class Answer(NamedTuple):
    """Who answers, and what was seen: a version of fastmirror, a status, an error."""

    kind: Kind
    detail: str
    status: int = 0

    def __str__(self) -> str:
        return f"{self.kind.value} ({self.detail})"


def probe(url: str, timeout: float = TIMEOUT_SECONDS) -> Answer:
    """Ask ``URL/v2/``. Never raises for what the other side does; takes ``timeout`` seconds twice at most."""
    parts = urlsplit(url)
    try:
        connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout)
    except OSError as error:
        return Answer(Kind.ABSENT, error.strerror or str(error))
    with connection:
        try:
            asked = f"GET /v2/ HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
            connection.sendall(asked.encode())
            head = _head(connection, time.monotonic() + timeout)
        except TimeoutError:
            return Answer(Kind.SILENT, f"no answer within {timeout:g} s")
        except OSError as error:
            return Answer(Kind.FOREIGN, error.strerror or str(error))
    return _judge(head)


def _head(connection: socket.socket, end: float) -> bytes:
    """What comes before the empty line, or the first 64 KiB, or all if it ends before."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
        connection.settimeout(max(0.001, end - time.monotonic()))
        if not (more := connection.recv(8192)):
            break
        head += more
    return head.partition(b"\r\n\r\n")[0]


def _judge(head: bytes) -> Answer:
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _STATUS.match(first)
    if match is None:
        return Answer(Kind.FOREIGN, f"it does not speak HTTP: {first[:40]!r}" if first else "it hung up")
    status = int(match[1])
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if version := fields.get(HEADER.lower()):
        return Answer(Kind.OURS, version, status)
    return Answer(Kind.FOREIGN, f"status {status}, {fields.get('server') or 'no Server header'}", status)
