"""What origin, link and client share: heads of HTTP messages, and a limit on the rate of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import NamedTuple

PIECE = 64 * 1024
MAX_HEAD = 32 * 1024


class Head(NamedTuple):
    """The first line of a message and its fields, names in lower case."""

    line: str
    fields: dict[str, str]


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message's head, or None if the connection ended before one. Raises OSError, IncompleteReadError."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    line, *lines = text[:-4].split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(line, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def put(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send, as fast as the other end reads. Raises OSError, also for an end that is closed: uvloop has RuntimeError."""
    if writer.is_closing():
        raise ConnectionResetError("the other end is gone")
    writer.write(piece)
    await writer.drain()


class Handlers:
    """One task per connection that ``handle`` serves; a callback for ``asyncio.start_server``. :meth:`end` ends all."""

    def __init__(
        self, handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]
    ) -> None:
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin to serve a connection."""
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handle(reader, writer)
        finally:
            writer.close()

    async def end(self) -> None:
        """End every connection; idempotent."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


class Pace:
    """Lets ``rate`` bytes per second through, shared by all who wait for it."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may pass. Cancelled: they count as passed."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._free_at = max(self._free_at, now) + count / self._rate
        if self._free_at - now > 0.002:
            await asyncio.sleep(self._free_at - now)
