"""What the HTTP server and the code that answers it tell each other. Source: RFC 9110, RFC 9112."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

REASONS: Final = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class FileBody(Protocol):
    """Bytes of a file that become sendable over time: a local blob at once, a spool as it is verified.

    Owned by the Reply that carries it; the connection calls :meth:`close` exactly once, also when it never sent any
    of it. Offsets are absolute in the file.
    """

    def fileno(self) -> int:
        """The descriptor that sendfile reads from; borrowed, valid until :meth:`close`."""

    def available(self, position: int) -> int:
        """How many bytes from ``position`` on may be sent now; 0: none yet; -1: there will never be more."""

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        """Call ``wake`` once, from the loop, when ``available(position)`` is no longer 0. One waiter at a time."""

    def close(self) -> None:
        """Give the bytes up; a pending ``wake`` is dropped."""


class Request:
    """One parsed request without a body. ``method`` is GET or HEAD: others are refused before this exists.

    ``target`` is the request target as sent (ASCII); header values are bytes as sent, None where absent.
    """

    __slots__ = ("client", "if_range", "keep_alive", "method", "range", "target")

    def __init__(
        self, method: str, target: str, range: bytes | None, if_range: bytes | None, keep_alive: bool, client: str
    ) -> None:
        self.method = method
        self.target = target
        self.range = range
        self.if_range = if_range
        self.keep_alive = keep_alive
        self.client = client


class Reply:
    """One response. Exactly one of ``content`` and ``body`` carries what follows the head (neither for HEAD).

    head        status line and header fields, each ended by CRLF, without Date, Connection and the empty line
    content     a small body, sent together with the head
    body        a FileBody, of which ``[start, stop)`` is sent; the reply owns it
    close       end the connection (by FIN) after this reply
    cacheable   the connection may answer an equal GET or HEAD with it until the answer cache is cleared
    done        called once when the reply is over: bytes of body sent, and whether that was all of it
    """

    __slots__ = ("body", "cacheable", "close", "content", "done", "head", "start", "stop")

    def __init__(
        self,
        head: bytes,
        content: bytes = b"",
        *,
        body: FileBody | None = None,
        start: int = 0,
        stop: int = 0,
        close: bool = False,
        cacheable: bool = False,
        done: Callable[[int, bool], None] | None = None,
    ) -> None:
        self.head = head
        self.content = content
        self.body = body
        self.start = start
        self.stop = stop
        self.close = close
        self.cacheable = cacheable
        self.done = done


Answer = Callable[[Request], "Reply | Awaitable[Reply]"]
"""Answers a request: at once where it can (a hit makes no task), else through an awaitable that the server runs."""


def head(status: int, *fields: str) -> bytes:
    """Status line and fields as ``Reply.head`` wants them. The fields must be checked ASCII: they are not escaped."""
    return "\r\n".join((f"HTTP/1.1 {status} {REASONS[status]}", *fields, "")).encode("ascii")
