"""The network between two nodes: a port that leads to another one at a limited rate, and counts.

Each node reaches each other node through its own link, so what a link has passed is what that node got from that
other node, whatever either of them says.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Callable

from demo.wire import PIECE, Handlers, Pace, put
from fastmirror.oci.digest import Digest

_BLOB_REQUEST = re.compile(rb"GET \S+/blobs/(sha256:[0-9a-f]{64})[ ?]")
BUFFER = 128 * 1024  # of the sockets: what is in them when a node dies still arrives


class Link:
    """One direction between two nodes. ``passed`` counts all bytes, ``moved`` those after the request for a blob.

    ``changed`` is called whenever they are more. :meth:`up` and :meth:`refuse` open and close its port, which stays its
    own until :meth:`close`.
    """

    def __init__(self, rate: float) -> None:
        self._pace = Pace(rate)
        # Bound and never listening: keeps the port, and the kernel refuses who connects, socket(7) SO_REUSEADDR.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._reserved.getsockname()
        self._server: asyncio.Server | None = None
        self._target: tuple[str, int] = ("", 0)
        self._connections = Handlers(self._connected)
        self.passed = 0
        self.moved: Counter[Digest] = Counter()
        self.changed: Callable[[], None] = _nothing

    async def up(self, host: str, port: int) -> None:
        """Lead to this address from now on. Raises OSError."""
        self._target = (host, port)
        self._server = await asyncio.start_server(self._connections, *self.address, reuse_address=True)

    def refuse(self) -> None:
        """Refuse connections, as the machine of a dead process does; those there are go on. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def close(self) -> None:
        """Refuse connections, end those there are, and give the port up; idempotent."""
        self.refuse()
        await self._connections.end()
        self._reserved.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near: socket.socket = writer.get_extra_info("socket")
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        try:
            far_reader, far_writer = await self._reach()
        except OSError:
            return
        wanted: list[Digest] = []
        try:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(self._ask(reader, far_writer, wanted))
                await self._deliver(far_reader, writer, wanted)
                asking.cancel()
        except* OSError:
            pass  # one of the two went away: so does the other
        finally:
            far_writer.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            await loop.sock_connect(sock, self._target)
            return await asyncio.open_connection(sock=sock, limit=PIECE)
        except BaseException:
            sock.close()
            raise

    async def _ask(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, wanted: list[Digest]) -> None:
        """Pass requests on, and note which blob the last one wants."""
        while piece := await reader.read(PIECE):
            match = _BLOB_REQUEST.search(piece)
            wanted[:] = [] if match is None else [Digest.parse(match[1].decode())]
            await put(far, piece)
        far.close()

    async def _deliver(self, far: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: list[Digest]) -> None:
        """Pass answers on, no faster than the link is."""
        while piece := await far.read(PIECE):
            await self._pace.take(len(piece))
            await put(writer, piece)
            self.passed += len(piece)
            for digest in wanted:
                self.moved[digest] += len(piece)
            self.changed()


def _nothing() -> None:
    pass
