"""Another tool at work in an image layout that a store has open, and what the store tells of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from fastmirror.oci.digest import Digest
from fastmirror.store import Arrived, BlobStore, ContentEvent, Gone
from fastmirror.store.layout import LayoutStore
from tests.kit import content
from tests.kit.content import Image


class Foreign:
    """Another tool at work in the same layout: blobs and index.json appear by rename."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def add(self, whole: bytes, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(whole, algorithm)
        self.place(digest).parent.mkdir(parents=True, exist_ok=True)
        self.replace(self.place(digest), whole)
        return digest

    def add_image(self, made: Image) -> None:
        for whole in made.blobs.values():
            self.add(whole)

    def name(self, images: dict[str, Image], **annotation: str) -> None:
        """Say in index.json that these are all the images."""
        self.replace(self.root / "index.json", content.layout_files(images, **annotation)["index.json"])

    def replace(self, path: Path, whole: bytes) -> None:
        part = self.root / ".part"
        part.write_bytes(whole)
        part.rename(path)


class Listener:
    """Hears a store's events and lets a test wait for one."""

    def __init__(self, store: BlobStore) -> None:
        self.events: list[ContentEvent] = []
        self._told = asyncio.Event()
        store.subscribe(self._hear)

    def _hear(self, event: ContentEvent) -> None:
        self.events.append(event)
        self._told.set()

    async def until(self, event: ContentEvent) -> None:
        async with asyncio.timeout(10):
            while event not in self.events:
                self._told.clear()
                await self._told.wait()


@asynccontextmanager
async def running(store: LayoutStore) -> AsyncIterator[Listener]:
    listener = Listener(store)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.run())
        mark = Foreign(store.root).add(b"the watch is set")
        await listener.until(Arrived(mark))
        Foreign(store.root).place(mark).unlink()
        await listener.until(Gone(mark))
        listener.events.clear()
        yield listener
        task.cancel()


def warnings(records: Iterable[logging.LogRecord]) -> list[str | None]:
    """The event names of warnings and errors that were logged."""
    return [getattr(record, "event", None) for record in records if record.levelno >= logging.WARNING]
