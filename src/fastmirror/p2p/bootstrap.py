"""Where to find the first other node: a list of addresses, a name in DNS, or an HTTP endpoint."""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import socket
import urllib.parse
from collections.abc import Sequence
from typing import Final

import trio

log = logging.getLogger(__name__)

RESOLVE_SECONDS: Final = 5.0
MOST_BYTES: Final = 1 << 20
MOST_FOUND: Final = 1024
QUIET_SECONDS: Final = 60.0

Place = tuple[str, int]


class Bootstrap:
    """The places of ``--bootstrap``, looked up anew each time. A source that fails is told once a minute at most."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = list(sources)
        self.problem = ""
        self._told_at = -QUIET_SECONDS

    async def places(self) -> list[Place]:
        """All addresses that the sources give now, each once."""
        found: dict[Place, None] = {}
        problem = ""
        for source in self.sources:
            try:
                with trio.fail_after(RESOLVE_SECONDS):
                    found.update(dict.fromkeys(await _look_up(source)))
            except (OSError, ValueError, trio.TooSlowError, http.client.HTTPException) as error:
                why = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
                problem = f"bootstrap {source}: {why}"
        self.problem = problem
        if problem and trio.current_time() - self._told_at >= QUIET_SECONDS:
            self._told_at = trio.current_time()
            log.warning("other nodes cannot be looked up", extra={"event": "p2p.bootstrap_failed", "reason": problem})
        return list(found)[:MOST_FOUND]


async def _look_up(source: str) -> list[Place]:
    if source.startswith(("http://", "https://")):
        # the stubs that libp2p brings are older than trio
        body = await trio.to_thread.run_sync(_get, source, abandon_on_cancel=True)  # type: ignore[call-arg]
        places = []
        for text in _entries(body):
            places += await _resolve(text)
        return places
    return await _resolve(source.removeprefix("dns:"))


async def _resolve(text: str) -> list[Place]:
    """All addresses (A and AAAA) of HOST:PORT."""
    host, _, port = text.strip().rpartition(":")
    host = host.strip("[]")
    try:
        return [(str(ipaddress.ip_address(host)), int(port))]
    except ValueError:
        answers = await trio.socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        return [(str(answer[4][0]), int(port)) for answer in answers]


def _entries(body: str) -> list[str]:
    """HOST:PORT entries: a JSON list, or one a line."""
    if body.lstrip().startswith("["):
        entries = json.loads(body)
        if not all(isinstance(entry, str) for entry in entries):
            raise ValueError("expected a list of HOST:PORT texts")
        return list(entries)
    return [line.strip() for line in body.splitlines() if line.strip()]


def _get(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=RESOLVE_SECONDS)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        with connection.getresponse() as answer:
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            return answer.read(MOST_BYTES).decode("utf-8")
    finally:
        connection.close()
