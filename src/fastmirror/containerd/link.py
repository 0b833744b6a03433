"""The data plane's end of the helper process: start it, hear it, start it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Final

from fastmirror.containerd.frames import Frame, FrameReader, Look, Lost, encode

_READ_BYTES: Final = 1 << 18
_RESTART_SECONDS: Final = (0.1, 1.0, 5.0)
_STEADY_SECONDS: Final = 30.0
_END_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class Helper:
    """The process that speaks gRPC with containerd, so that the data plane does not.

    ``listener`` gets its frames on the loop's thread; after it has died it gets a Lost, and after the next one's start
    a complete Changed. :meth:`run` owns the process and the socket.
    """

    def __init__(self, socket_path: str, namespace: str, listener: Callable[[Frame], None]) -> None:
        self._arguments = (socket_path, namespace)
        self._listener = listener
        self._writer: asyncio.StreamWriter | None = None
        self.pid: int | None = None

    def look(self, digests: Iterable[str]) -> None:
        """Ask about new files; nothing is asked while the process is away (its successor lists everything)."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(Look([str(digest) for digest in digests])))

    async def run(self) -> None:
        """Keep one process running until cancelled; then it is gone and waited for."""
        deaths = 0
        while True:
            began = asyncio.get_running_loop().time()
            code = await self._serve_one()
            if asyncio.get_running_loop().time() - began > _STEADY_SECONDS:
                deaths = 0
            log.warning(
                "the helper process died; names stay as they are until its successor has listed them",
                extra={"event": "containerd.helper_died", "code": code},
            )
            self._listener(Lost("the helper process died"))
            await asyncio.sleep(_RESTART_SECONDS[min(deaths, len(_RESTART_SECONDS) - 1)])
            deaths += 1

    async def _serve_one(self) -> int:
        """Start one process and hear it out; its exit code."""
        ours, theirs = socket.socketpair()
        try:
            # -P: the current directory is no place to import from.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "fastmirror.containerd.helper", str(theirs.fileno()), *self._arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = process.pid
        try:
            reader, self._writer = await asyncio.open_connection(sock=ours)
            await self._hear(reader)
        finally:
            self.pid = None
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            await _end(process)
        return process.returncode or 0

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                for frame in frames.feed(data):
                    self._listener(frame)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a process whose socket was closed, which ends it; kill it if it does not."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
