"""The admin listener's answers: is the process alive, may it get work and if not why, its metrics, and its fetches."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from fastmirror._native.requests import Refusal
from fastmirror.http.message import Reply, Request, head
from fastmirror.observe.exposition import CONTENT_TYPE, render
from fastmirror.observe.metrics import Metrics

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


class Readiness:
    """Whether this node may get work. It begins with the reason "starting", which :meth:`begin` takes away.

    A check says why its part cannot work now, or None; all are asked at each look, so they must be cheap.
    """

    def __init__(self) -> None:
        self._reason: str | None = "starting"
        self._checks: list[Callable[[], str | None]] = []

    def watch(self, check: Callable[[], str | None]) -> None:
        """Ask this check too from now on."""
        self._checks.append(check)

    def begin(self) -> None:
        """Everything is listening."""
        self._reason = None

    def end(self, reason: str) -> None:
        """No new work from now on."""
        self._reason = reason

    def reasons(self) -> list[str]:
        """Why not; empty when ready."""
        if self._reason is not None:
            return [self._reason]
        return [reason for check in self._checks if (reason := check()) is not None]


class Admin:
    """The Answer of the admin listener: GET and HEAD of /livez, /readyz, /metrics and /fetches, 404 for all else.

    ``fetches`` gives what /fetches tells: what this node gets, and has got lately, from which peers.
    """

    def __init__(self, readiness: Readiness, metrics: Metrics, fetches: Callable[[], dict[str, Any]]) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._fetches = fetches

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer one request; only /metrics takes more than one turn of the loop."""
        match request.target.partition("?")[0]:
            case "/livez":
                return _reply(200, _TEXT, b"ok\n")
            case "/readyz":
                return self._readyz()
            case "/metrics":
                return self._scrape()
            case "/fetches":
                return _reply(200, _JSON, msgspec.json.encode(self._fetches()) + b"\n")
        return _reply(404, _TEXT, b"not here; this port has /livez, /readyz, /metrics and /fetches\n")

    def _readyz(self) -> Reply:
        reasons = self._readiness.reasons()
        content = msgspec.json.encode({"ready": not reasons, "reasons": reasons})
        return _reply(503 if reasons else 200, _JSON, content + b"\n")

    async def _scrape(self) -> Reply:
        await asyncio.to_thread(importlib.import_module, "prometheus_client")
        pieces = []
        for piece in render(self._metrics):
            pieces.append(piece)
            await asyncio.sleep(0)
        return _reply(200, CONTENT_TYPE, b"".join(pieces))


def refuse(refusal: Refusal) -> Reply:
    """The answer to a request that is no request for this listener (malformed, too large, wrong method)."""
    text = refusal.message.encode("ascii", "replace") + b"\n"
    return _reply(refusal.status, _TEXT, text, close=refusal.close)


def _reply(status: int, content_type: str, content: bytes, *, close: bool = False) -> Reply:
    allow = ("Allow: GET, HEAD",) if status == 405 else ()
    fields = (f"Content-Type: {content_type}", f"Content-Length: {len(content)}", "Cache-Control: no-store", *allow)
    return Reply(head(status, *fields), content, close=close)
