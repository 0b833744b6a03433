"""What kubelet does, over CRI, by a process of its own: gRPC's threads and descriptors do not live in the tests'.

``python -m tests.kit.cri LISTEN SOCKET`` serves requests until its stdin ends. A request is one connection to LISTEN
and one line ``pull|remove IMAGE SECONDS``; the answer is one line of JSON ``[exit code, what was said]``. Hanging up
ends what was asked for, as the end of kubelet would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.kit.process import environment
from tests.kit.waiting import eventually

_ROOT = Path(__file__).parents[2]


class Agent:
    """Speaks CRI to one containerd. :meth:`close` ends it; it starts beside what its owner does."""

    def __init__(self, listen: Path, containerd: Path) -> None:
        self._listen = listen
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.cri", str(listen), str(containerd)],
            stdin=subprocess.PIPE,
            cwd=_ROOT,
            env={**environment(), "PYTHONWARNINGS": "ignore"},
        )

    def ask(self, verb: str, image: str, seconds: float) -> Request:
        """Begin a request."""
        sock = socket.socket(socket.AF_UNIX)
        eventually(lambda: sock.connect_ex(str(self._listen)) == 0, "the CRI agent answers", 20)
        sock.sendall(f"{verb} {image} {seconds}\n".encode())
        return Request(sock)

    def close(self) -> None:
        """End the process, and with it everything it was asked for."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


class Request:
    """One request that may still run."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._began = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not select.select([self._socket], [], [], 0)[0]

    def wait(self, seconds: float) -> tuple[int, str, float]:
        """Exit code, what was said and how long it took; -1 if it does not end in time."""
        self._socket.settimeout(seconds)
        data = b""
        with contextlib.suppress(TimeoutError):
            while piece := self._socket.recv(65536):
                data += piece
        code, said = json.loads(data) if data else (-1, "(did not end)")
        return code, said, time.monotonic() - self._began

    def end(self) -> None:
        """Hang up; idempotent."""
        self._socket.close()


async def _serve(listen: str, containerd: str) -> None:
    from fastmirror.containerd.client import Client
    from fastmirror.errors import StoreError

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        verb, image, seconds = (await reader.readline()).decode().split()
        try:
            async with Client(containerd, "k8s.io") as client:
                call = client.pull if verb == "pull" else client.remove
                work = asyncio.ensure_future(call(image, float(seconds)))
                left = asyncio.ensure_future(reader.read())
                await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
                left.cancel()
                if not work.done():
                    work.cancel()
                code, said = 0, str(await work)
        except StoreError as error:
            code, said = 1, str(error)
        except asyncio.CancelledError:
            code, said = -1, "(hung up)"
        with contextlib.suppress(OSError):
            writer.write(json.dumps([code, said]).encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, listen)
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
