"""Keeps a difference-by-difference account of what one namespace of containerd has. Runs in the helper process.

It subscribes before it lists. After an event it lists the names at once and the content as often as a tenth of its time
allows; it lists everything after every lost stream and once a minute, for containerd says nothing about garbage
collection and replays no events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, Protocol

from fastmirror.containerd.frames import Changed, Connected, ContentRecord, Event, Foreign, Frame, ImageRecord, Lost
from fastmirror.errors import StoreError

SETTLE_SECONDS: Final = 1.0  # a subscription is not confirmed: what happened while it began is found by this list
RELIST_SECONDS: Final = 60.0
BEAT_SECONDS: Final = 2.0
LEAST_PAUSE_SECONDS: Final = 0.1
NAMES_PAUSE_SECONDS: Final = 0.02
RETRY_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
# A file is renamed into place before containerd's record of it is committed, and its labels follow up to 12 ms later.
# On a busy disk that commit takes its time: asked densely at first, for two seconds in all.
LOOK_SECONDS: Final = (0.01, 0.02, 0.03, 0.05, 0.05, 0.05, 0.1, 0.1, 0.2, 0.4, 1.0)


class Source(Protocol):
    """What is asked; ``client.Client`` is it. Raises StoreError."""

    async def version(self) -> str:
        """containerd's version."""

    async def content_root(self) -> str | None:
        """Where its content is, if it says so."""

    async def images(self) -> list[ImageRecord]:
        """All names."""

    async def content(self) -> list[ContentRecord]:
        """All content."""

    async def info(self, digest: str) -> ContentRecord | None:
        """One piece of content, or None."""

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on."""


class Watch:
    """One namespace. ``connect`` makes a Source to be used in ``async with``; ``send`` gets the frames in order."""

    def __init__(
        self, connect: Callable[[], contextlib.AbstractAsyncContextManager[Source]], send: Callable[[Frame], None]
    ) -> None:
        self._connect = connect
        self._send = send
        self._images: dict[str, ImageRecord] = {}
        self._content: dict[str, ContentRecord] = {}
        self._complete = False  # whether the whole state was ever sent
        self._lost: str | None = None
        self._dirty = asyncio.Event()
        self._names_dirty = asyncio.Event()
        self._names_lock = asyncio.Lock()
        self._looks: dict[str, tuple[float, int]] = {}  # digest: when to ask, how often it was asked
        self._new_look = asyncio.Event()
        self._looked_up: set[str] = set()  # since the list that is under way began

    def look(self, digests: Iterable[str]) -> None:
        """Ask for these as soon as may be; the answer is a Changed or a Foreign."""
        now = asyncio.get_running_loop().time()
        for digest in digests:
            self._looks[digest] = (now, 0)
        self._new_look.set()

    async def run(self) -> None:
        """Connect, follow, and connect again, until cancelled."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                async with self._connect() as source:
                    await self._session(source)
            except* StoreError as group:
                reason = str(_first(group))
                if reason != self._lost:
                    self._lost = reason
                    self._send(Lost(reason))
            if asyncio.get_running_loop().time() - began > 10:
                failures = 0
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1

    async def _session(self, source: Source) -> None:
        version = await source.version()
        root = await source.content_root()
        self._send(Connected(version, root or ""))
        self._lost = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(source), name="containerd events")
            group.create_task(self._relist(source), name="containerd lists")
            group.create_task(self._rename(source), name="containerd names")
            group.create_task(self._answer(source), name="containerd looks")
            group.create_task(self._beat(source), name="containerd heartbeat")

    async def _follow(self, source: Source) -> None:
        async for event in source.events():
            if event.digest:
                self.look([event.digest])
            else:
                self._names_dirty.set()
                self._dirty.set()
        raise StoreError("containerd ended the stream of events")

    async def _beat(self, source: Source) -> None:
        """A frozen containerd keeps its sockets open: only a question with a deadline finds out."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await source.version()

    async def _relist(self, source: Source) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + SETTLE_SECONDS
        while True:
            self._dirty.clear()
            began = loop.time()
            async with self._names_lock:
                self._looked_up.clear()
                content = await source.content()
                images = await source.images()
                self._compare({record.digest: record for record in content}, {image.name: image for image in images})
            await asyncio.sleep(max(LEAST_PAUSE_SECONDS, 10 * (loop.time() - began)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._dirty.wait()
            if loop.time() >= due:
                due = loop.time() + RELIST_SECONDS

    async def _rename(self, source: Source) -> None:
        while True:
            await self._names_dirty.wait()
            self._names_dirty.clear()
            async with self._names_lock:
                images = {image.name: image for image in await source.images()}
                content = dict(self._content)
                if any(name not in self._images for name in images):  # its content is told of with it, not after it
                    self._looked_up.clear()
                    content = {record.digest: record for record in await source.content()}
                if self._complete:
                    self._compare(content, images)
            await asyncio.sleep(NAMES_PAUSE_SECONDS)

    def _compare(self, content: dict[str, ContentRecord], images: dict[str, ImageRecord]) -> None:
        for digest in self._looked_up:  # newer than the list
            if digest in self._content:
                content[digest] = self._content[digest]
        known, names = (self._content, self._images) if self._complete else ({}, {})
        self._send(
            Changed(
                complete=not self._complete,
                images=[image for name, image in images.items() if names.get(name) != image],
                no_images=[name for name in names if name not in images],
                content=[record for digest, record in content.items() if known.get(digest) != record],
                no_content=[digest for digest in known if digest not in content],
            )
        )
        self._complete = True
        self._content, self._images = content, images

    async def _answer(self, source: Source) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            due = [digest for digest, (when, _) in self._looks.items() if when <= now]
            if due:
                await self._ask(source, due)
                continue
            self._new_look.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min((when for when, _ in self._looks.values()), default=None)):
                    await self._new_look.wait()

    async def _ask(self, source: Source, digests: list[str]) -> None:
        found: list[ContentRecord] = []
        foreign: list[str] = []
        try:
            for digest in digests:
                record = await source.info(digest)
                if record is not None and self._content.get(digest) != record:
                    self._content[digest] = record
                    found.append(record)
                self._looked_up.add(digest)
                if record is not None and record.sources:
                    del self._looks[digest]
                elif not self._again(digest) and record is None:
                    foreign.append(digest)
        finally:  # containerd may stop answering halfway: what it had said was noted, so it must be told too
            self._tell(found, foreign)

    def _tell(self, found: list[ContentRecord], foreign: list[str]) -> None:
        gone = [digest for digest in foreign if self._content.pop(digest, None) is not None]
        if self._complete and (found or gone):
            self._send(Changed(complete=False, images=[], no_images=[], content=found, no_content=gone))
        if foreign:
            self._send(Foreign(foreign))

    def _again(self, digest: str) -> bool:
        """Ask once more, later; False when it was asked often enough."""
        when, asked = self._looks.pop(digest)
        if asked == len(LOOK_SECONDS):
            return False
        self._looks[digest] = (when + LOOK_SECONDS[asked], asked + 1)
        return True


def _first(group: BaseExceptionGroup[StoreError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
