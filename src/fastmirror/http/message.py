"""What the HTTP server and the code that answers it tell each other. Source: RFC 9110, RFC 9112."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from fastmirror._native.endpoint import Reply
from fastmirror._native.requests import Request

REASONS: Final = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    403: "Forbidden",
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


Answer = Callable[[Request], Reply | Awaitable[Reply]]
"""Answers a request: at once where it can (a hit makes no task), else through an awaitable that the server runs."""


__all__ = ["REASONS", "Answer", "FileBody", "Reply", "Request", "head"]


def head(status: int, *fields: str) -> bytes:
    """Status line and fields as ``Reply.head`` wants them. The fields must be checked ASCII: they are not escaped."""
    return "\r\n".join((f"HTTP/1.1 {status} {REASONS[status]}", *fields, "")).encode("ascii")
