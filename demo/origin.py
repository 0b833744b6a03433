"""The origin registry: the pull side of the distribution API over an image layout. It counts, and it can be off."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from demo.images import Image, blob_file
from demo.wire import MAX_HEAD, PIECE, Handlers, Head, Pace, put, read_head
from fastmirror.errors import DigestInvalid
from fastmirror.oci.digest import Digest

_TARGET = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<what>[^/?]+)(?:\?.*)?")
_RANGE = re.compile(r"bytes=(\d+)-")


class Origin:
    """Serves one image; ``served`` counts the body bytes that left. Close with :meth:`turn_off`.

    With ``wrong_byte`` one byte of the largest layer is not what it should be.
    """

    def __init__(self, image: Image, rate: float, *, wrong_byte: bool = False, host: str = "127.0.0.1") -> None:
        self._image = image
        self._pace = Pace(rate)
        self._wrong_at = image.largest.size // 2 if wrong_byte else -1
        self._server: asyncio.Server | None = None
        self._connections = Handlers(self._connected)
        self.served = 0
        self.address = (host, 0)

    async def turn_on(self) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_server(self._connections, *self.address, limit=MAX_HEAD)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def turn_off(self) -> None:
        """Refuse connections and end those there are; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._connections.end()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await read_head(reader)) is not None:
                await self._answer(head, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, or speaks something else

    async def _answer(self, head: Head, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.line.split(" ")
        digest = self._find(target)
        file = None if digest is None else blob_file(self._image.layout, digest)
        if target == "/v2/":
            await self._send_head(writer, "200 OK", 0, {})
        elif digest is None or file is None or not file.exists():
            await self._send_head(writer, "404 Not Found", 0, {})
        else:
            await self._send_content(method, head, digest, writer)

    def _find(self, target: str) -> Digest | None:
        match = _TARGET.fullmatch(target)
        if match is None or match["name"] != self._image.reference.repository:
            return None
        if match["kind"] == "manifests" and match["what"] == self._image.reference.tag:
            return self._image.manifest.digest
        try:
            return Digest.parse(match["what"])
        except DigestInvalid:
            return None

    async def _send_content(self, method: str, head: Head, digest: Digest, writer: asyncio.StreamWriter) -> None:
        file = blob_file(self._image.layout, digest)
        size = file.stat().st_size
        is_manifest = digest == self._image.manifest.digest
        media_type = self._image.manifest.media_type if is_manifest else "application/octet-stream"
        fields = {"Content-Type": media_type, "Docker-Content-Digest": str(digest)}
        start, status = 0, "200 OK"
        wanted = _RANGE.fullmatch(head.fields.get("range", ""))
        if wanted is not None:
            start, status = min(int(wanted[1]), size), "206 Partial Content"
            fields["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        await self._send_head(writer, status, size - start, fields)
        if method == "GET":
            await self._send_file(file, start, writer, wrong=digest == self._image.largest.digest)

    async def _send_head(self, writer: asyncio.StreamWriter, status: str, length: int, fields: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {length}", *(f"{name}: {fields[name]}" for name in fields)]
        await put(writer, ("\r\n".join(lines) + "\r\n\r\n").encode())

    async def _send_file(self, file: Path, start: int, writer: asyncio.StreamWriter, *, wrong: bool) -> None:
        with file.open("rb") as stream:
            position = stream.seek(start)
            while piece := stream.read(PIECE):
                if wrong and position <= self._wrong_at < position + len(piece):
                    at = self._wrong_at - position
                    piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
                await self._pace.take(len(piece))
                await put(writer, piece)
                position += len(piece)
                self.served += len(piece)
