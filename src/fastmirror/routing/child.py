"""The router process as seen from the data plane: started, listened to, started again when it dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final, cast

import msgspec

from fastmirror.inventory import bridge

log = logging.getLogger(__name__)

ALIVE_SECONDS: Final = 1.0
HUNG_SECONDS: Final = 5.0
START_SECONDS: Final = 30.0  # importing py-libp2p takes two seconds of CPU where its bytecode is not there yet
STEADY_SECONDS: Final = 60.0
DELAYS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LEAVE_SECONDS: Final = 1.0
MOST_UNSENT: Final = 64 << 20
RENEWED: Final = 75  # the exit code of a router that has a new identity


class Router(asyncio.Protocol):
    """One router process at a time, from :meth:`run`'s begin to its end.

    ``begin`` gives what a new one is told first; ``hear`` gets each of its messages, ``lost`` is called when one has
    ended. ``pid`` and ``problem`` are of now.
    """

    def __init__(
        self,
        begin: Callable[[], list[bridge.ToRouter]],
        hear: Callable[[bridge.FromRouter], None],
        lost: Callable[[], None],
    ) -> None:
        self.pid: int | None = None
        self.problem: str | None = "the router has not started yet"
        self.restarts = 0
        self._begin = begin
        self._hear = hear
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._splitter = bridge.Splitter()
        self._ended = asyncio.Event()
        self._gone = asyncio.Event()
        self._answered_at = 0.0
        self._ready = False
        self._steady = False

    # ---- what it is told

    def tell(self, message: bridge.ToRouter) -> None:
        """Send a message; dropped while no router runs (the next one is told everything)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(bridge.encode(message))
        if transport.get_write_buffer_size() > MOST_UNSENT:
            transport.abort()

    async def leave(self) -> None:
        """Let it say good-bye to the other nodes; returns once that is done, or after a second."""
        if self._transport is None or not self._ready:
            return
        self._gone.clear()
        self.tell(bridge.Leave())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._gone.wait()

    # ---- its life

    async def run(self) -> None:
        """Keep a router running until cancelled. Cancel: the process is killed and waited for."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            code = await self._run_one()
            self.restarts += 1
            self._lost()
            if asyncio.get_running_loop().time() - began > STEADY_SECONDS:
                failures = 0
            delay = DELAYS[min(failures, len(DELAYS) - 1)]
            failures += 0 if code == RENEWED else 1
            if code != RENEWED:
                extra = {"event": "router.died", "code": code, "restart_seconds": delay}
                log.warning("the router process ended: it is started again", extra=extra)
            self.problem = f"the router process ended with code {code}"
            await asyncio.sleep(delay)

    async def _run_one(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            process = _start(theirs)
            theirs.close()
            try:
                return await self._attend(process, ours)
            finally:
                process.kill()
                process.wait()  # at once: it was killed
                self.pid = None

    async def _attend(self, process: subprocess.Popen[bytes], ours: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self._splitter, self._ready = bridge.Splitter(), False
        self._ended.clear()
        self._answered_at = loop.time() + START_SECONDS - HUNG_SECONDS
        ours.setblocking(False)
        await loop.create_unix_connection(lambda: self, sock=ours.dup())
        try:
            for message in self._begin():
                self.tell(message)
            await self._watch()
            return await _exit_code(process)
        finally:
            if self._transport is not None:
                self._transport.abort()
                self._transport = None

    async def _watch(self) -> None:
        """Until the router is gone or does not answer any more."""
        loop = asyncio.get_running_loop()
        number = 0
        while not self._ended.is_set():
            number += 1
            self.tell(bridge.Alive(number))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_SECONDS):
                    await self._ended.wait()
            if loop.time() - self._answered_at > HUNG_SECONDS and not self._ended.is_set():
                log.error("the router process hangs: it is killed", extra={"event": "router.hung"})
                return

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._answered_at = max(self._answered_at, asyncio.get_running_loop().time())
        try:
            for body in self._splitter.feed(data):
                self._receive(bridge.from_router(body))
        except (ValueError, msgspec.DecodeError) as error:
            log.error("the router process says what it must not", exc_info=error, extra={"event": "router.garbled"})
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._transport = None
        self._ended.set()
        self._gone.set()

    def _receive(self, message: bridge.FromRouter) -> None:
        match message:
            case bridge.Ready():
                self._ready = True
                self.problem = None
                self._answered_at = asyncio.get_running_loop().time()
            case bridge.Gone():
                self._gone.set()
                return
            case bridge.Alive():
                return
        self._hear(message)


def _environment() -> dict[str, str]:
    """What the router gets: not the sockets of our own supervisor, nor settings it does not read."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("FASTMIRROR_", "NOTIFY_", "WATCHDOG_"))
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A router process with its end of the socket. Not asyncio's way: that leaves it behind when it is cancelled."""
    command = [sys.executable, "-P", "-m", "fastmirror.p2p", str(theirs.fileno())]
    nothing, keep = subprocess.DEVNULL, (theirs.fileno(),)
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, pass_fds=keep, env=_environment())


async def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that has closed its socket; it is killed if it does not end within a second."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    fd = os.pidfd_open(process.pid)
    loop.add_reader(fd, ended.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ALIVE_SECONDS):
                await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    if process.poll() is None:
        process.kill()
    return process.wait()
