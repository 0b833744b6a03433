"""Names of peers into addresses, off the path of a request where possible."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0  # after a look-up that found nothing
Sockaddr = tuple[str, int] | tuple[str, int, int, int]


class Place(NamedTuple):
    """Where to connect to: a socket family and an address for it."""

    family: socket.AddressFamily
    address: Sockaddr


class Resolver:
    """Looks names up once, and again in the background when what is known is old. Numeric addresses cost nothing.

    Bounded by the number of peers that were ever asked for.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._known: dict[tuple[str, int], tuple[list[Place], float]] = {}
        self._warned: set[str] = set()
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def places(self, host: str, port: int) -> list[Place]:
        """All addresses, empty if there is none. Cancel: the look-up goes on for the next one who asks."""
        key = (host, port)
        if key not in self._known:
            literal = _literal(host, port)
            if literal is not None:
                return [literal]
            await asyncio.wait((self._look_up(key),))
        places, since = self._known.get(key, ([], self._loop.time()))
        if self._loop.time() - since > (FRESH_SECONDS if places else RETRY_SECONDS):
            self._look_up(key)
        return places

    def _look_up(self, key: tuple[str, int]) -> asyncio.Task[None]:
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = self._loop.create_task(self._resolve(key), name=f"resolve {key[0]}")
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def _resolve(self, key: tuple[str, int]) -> None:
        try:
            found = await self._loop.getaddrinfo(*key, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that no name can have
            found = []  # no such name, or no answer
            self._warn(key[0], error)
        else:
            self._warned.discard(key[0])
        places = [Place(family, address) for family, _, _, _, address in found if isinstance(address[1], int)]
        if places or key not in self._known:  # a name server that fails takes nothing away from what is known
            self._known[key] = (places, self._loop.time())

    def _warn(self, host: str, error: Exception) -> None:
        if host not in self._warned:
            self._warned.add(host)
            text = "the name of a peer cannot be resolved (%s): it is tried again; look at --peers and the name server"
            log.warning(text, error, extra={"event": "http.name_unresolved", "host": host})

    async def close(self) -> None:
        """End the look-ups that run; idempotent."""
        for task in (running := list(self._running.values())):
            task.cancel()
        if running:
            await asyncio.wait(running)


def _literal(host: str, port: int) -> Place | None:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return Place(socket.AF_INET, (host, port)) if version == 4 else Place(socket.AF_INET6, (host, port, 0, 0))
