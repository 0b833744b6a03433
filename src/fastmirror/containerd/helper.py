"""The helper process: reads a namespace of containerd over gRPC and tells the data plane over a socket.

Started by ``containerd.link`` as ``python -m fastmirror.containerd.helper FD SOCKET NAMESPACE``; it ends when the data
plane does, for whatever reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from typing import Final

from fastmirror.containerd.client import Client
from fastmirror.containerd.frames import FrameReader, Look, encode
from fastmirror.containerd.watch import Watch
from fastmirror.observe import log as logs

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_READ_BYTES: Final = 1 << 16
_NICE: Final = 5  # pulls come before the names of images


async def follow(fd: int, socket_path: str, namespace: str) -> None:
    """Serve the data plane at the other end of the socket ``fd`` until it closes it."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    watch = Watch(lambda: Client(socket_path, namespace), lambda frame: writer.write(encode(frame)))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(watch.run(), name="containerd watch")
        with contextlib.suppress(ConnectionError):  # it was killed with words of ours unread
            await _listen(reader, watch)
        running.cancel()
    writer.close()


async def _listen(reader: asyncio.StreamReader, watch: Watch) -> None:
    frames = FrameReader()
    while data := await reader.read(_READ_BYTES):
        for frame in frames.feed(data):
            if isinstance(frame, Look):
                watch.look(frame.digests)


def main() -> None:
    """Read the arguments, tie this process's life to its parent's, and go."""
    fd, socket_path, namespace = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # prctl(2): also when the parent was killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent says when to end
    os.nice(_NICE)
    logs.setup("warning")
    try:
        asyncio.run(follow(int(fd), socket_path, namespace))
    except Exception as error:
        details = {"event": "containerd.helper_failed"}
        log.error("a defect in the helper process: it ends, another one is started", exc_info=error, extra=details)
        sys.exit(1)


if __name__ == "__main__":
    main()
