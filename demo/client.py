"""A plain client that does what containerd does: the node's mirror first, then the origin; resume; verify; commit.

What it imitates (containerd, core/remotes/docker): each object is asked for at the first host again; 404, 5xx and
refused connections lead to the next host; a body cut by FIN is resumed with ``Range: bytes=N-``, starting again at the
first host, and the pull fails after three tries in a row without a new byte; a reset connection or a wrong digest fails
the pull. Layers are pulled three at a time. What is complete is written into the node's own store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from demo.images import Image
from demo.wire import MAX_HEAD, PIECE, Head, read_head
from fastmirror.errors import FastmirrorError
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.store import Ingest
from fastmirror.store.layout import LayoutStore, open_layout

LAYERS_AT_ONCE = 3  # containerd's max_concurrent_downloads
TRIES_WITHOUT_PROGRESS = 3
CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 20.0  # containerd has no such limit; the demo must end
MANIFESTS = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"


class PullFailed(Exception):
    """The pull ended without the image; the text says at which object and why."""


@dataclass(frozen=True)
class Host:
    """Where objects are asked for, in order. ``is_mirror``: gets ``ns=`` with the registry's name."""

    name: str
    address: tuple[str, int]
    is_mirror: bool


@dataclass
class Progress:
    """What a pull has got so far: body bytes by host, and by digest; the longest silence within an
    object, also between a cut body and what continues it, in seconds."""

    by_host: dict[str, int] = field(default_factory=dict)
    by_digest: dict[Digest, int] = field(default_factory=dict)
    longest_gap: float = 0.0
    resumed: int = 0
    changed: Callable[[], None] = lambda: None
    _last: dict[Digest, float] = field(default_factory=dict)

    def got(self, host: Host, digest: Digest, count: int, now: float) -> None:
        """Note a piece of a body."""
        self.by_host[host.name] = self.by_host.get(host.name, 0) + count
        self.by_digest[digest] = self.by_digest.get(digest, 0) + count
        self.longest_gap = max(self.longest_gap, now - self._last.get(digest, now))
        self._last[digest] = now
        self.changed()


class Client(Protocol):
    """Something that pulls an image onto a node."""

    async def pull(self, image: Image, store: Path, hosts: list[Host], progress: Progress) -> None:
        """Pull into the node's store. Raises PullFailed; cancelled: nothing of what was not complete is left."""


class PlainClient:
    """A Client without containerd. Made for one pull after the other; holds nothing in between."""

    async def pull(self, image: Image, store: Path, hosts: list[Host], progress: Progress) -> None:
        """Pull ``image.reference`` (its digests are learned from the hosts, not from ``image``). Raises PullFailed."""
        opened = open_layout(store)
        try:
            await _Pull(image.reference, opened, hosts, progress).run()
        except FastmirrorError as error:  # a wrong digest among them
            raise PullFailed(str(error)) from error
        except OSError as error:
            raise PullFailed(f"a connection broke: {error}") from error
        finally:
            opened.close()


class _Pull:
    """One image on its way into one store."""

    def __init__(self, reference: Reference, store: LayoutStore, hosts: list[Host], progress: Progress) -> None:
        self.reference = reference
        self.store = store
        self.hosts = hosts
        self.progress = progress
        self.committing = asyncio.Lock()

    async def run(self) -> None:
        target = await self._resolve()
        await self._object(target, "manifests")
        blob = self.store.open(target.digest)
        assert blob is not None
        with blob:
            manifest = parse_manifest(blob.read_span(0, target.size))
        if manifest is None:
            raise PullFailed(f"{target.digest} is not a manifest")
        slots = asyncio.Semaphore(LAYERS_AT_ONCE)

        async def limited(descriptor: Descriptor) -> None:
            async with slots:
                await self._object(descriptor, "blobs")

        try:
            async with asyncio.TaskGroup() as group:
                for child in manifest.children:
                    group.create_task(limited(child))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        self.store.tag(self.reference, target)

    async def _resolve(self) -> Descriptor:
        """What the tag means, by HEAD. Raises PullFailed."""
        for host in self.hosts:
            async with _asked(host, "HEAD", self._target(host, "manifests", self.reference.tag), 0) as answer:
                if answer is not None and answer.status == 200:
                    fields = answer.head.fields
                    digest = Digest.parse(fields["docker-content-digest"])
                    return Descriptor(fields["content-type"], digest, int(fields["content-length"]))
        raise PullFailed(f"no host knows {self.reference}")

    def _target(self, host: Host, kind: str, what: str) -> str:
        query = f"?ns={quote(self.reference.registry, safe='')}" if host.is_mirror else ""
        return f"/v2/{self.reference.repository}/{kind}/{what}{query}"

    async def _object(self, wanted: Descriptor, kind: str) -> None:
        """Get one object and commit it. Raises PullFailed, DigestMismatch, StoreError, OSError."""
        if self.store.size(wanted.digest) is not None:
            return
        ingest = self.store.ingest(wanted.digest, wanted.size)
        try:
            await self._fill(ingest, wanted, kind)
            async with self.committing:
                await asyncio.to_thread(ingest.commit)  # it waits for the disk
        finally:
            ingest.abort()

    async def _fill(self, ingest: Ingest, wanted: Descriptor, kind: str) -> None:
        """Bytes from the hosts in order, from where the last one left off. Raises PullFailed, OSError."""
        position = stuck = 0
        while position < wanted.size:
            if stuck == TRIES_WITHOUT_PROGRESS:
                raise PullFailed(f"{wanted.digest}: no new byte in {stuck} tries at {position} of {wanted.size}")
            self.progress.resumed += position > 0
            before = position
            for host in self.hosts:
                target = self._target(host, kind, wanted.digest)
                async with _asked(host, "GET", target, position) as answer:
                    if answer is not None and answer.status == (206 if position else 200):
                        position = await self._body(answer, ingest, wanted, position)
                        break
            else:
                raise PullFailed(f"no host has {wanted.digest} from byte {position} on")
            stuck = stuck + 1 if position == before else 0

    async def _body(self, answer: _Answer, ingest: Ingest, wanted: Descriptor, position: int) -> int:
        """Write a body until it ends, however early; returns how far it came. Raises OSError, PullFailed."""
        clock = asyncio.get_running_loop().time
        while piece := await answer.read():
            ingest.write(piece)
            position += len(piece)
            self.progress.got(answer.host, wanted.digest, len(piece), clock())
        return position


class _Answer:
    """The head of an answer and its body, to be read in pieces."""

    def __init__(self, host: Host, head: Head, reader: asyncio.StreamReader) -> None:
        self.host = host
        self.head = head
        self.status = int(head.line.split(" ")[1])
        self._reader = reader
        self._left = int(head.fields.get("content-length", "0"))

    async def read(self) -> bytes:
        """The next piece; empty at the end, or where the connection was ended early. Raises OSError, PullFailed."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                piece = await self._reader.read(min(self._left, PIECE))
        except TimeoutError:
            raise PullFailed(f"{self.host.name}: nothing came for {SILENCE_SECONDS:.0f} s within a body") from None
        self._left -= len(piece)
        return piece


@contextlib.asynccontextmanager
async def _asked(host: Host, method: str, target: str, start: int) -> AsyncIterator[_Answer | None]:
    """One request on a connection of its own, which is closed at the end; None where the host does not answer."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host.address[0]}:{host.address[1]}", f"Accept: {MANIFESTS}"]
    lines += ["User-Agent: fastmirror-demo", "Connection: close"]
    if start:
        lines.append(f"Range: bytes={start}-")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(*host.address, limit=MAX_HEAD)
    except (OSError, TimeoutError):
        yield None
        return
    try:
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        yield await _first_answer(host, reader)
    finally:
        writer.close()


async def _first_answer(host: Host, reader: asyncio.StreamReader) -> _Answer | None:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            head = await read_head(reader)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None
    return None if head is None else _Answer(host, head, reader)
