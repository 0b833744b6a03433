"""A running containerd store whose events are kept, with the time of each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fastmirror.containerd.store import ContainerdStore, Place
from fastmirror.oci.digest import Digest
from fastmirror.store import ContentEvent
from tests.kit.containerd import Containerd, write_hosts
from tests.kit.images import Image
from tests.kit.origin import Origin


class Heard:
    """The events of a running store with the time of each, and a wait for what they lead to."""

    def __init__(self, store: ContainerdStore) -> None:
        self.store = store
        self.events: list[ContentEvent] = []
        self.times: dict[ContentEvent, float] = {}
        store.subscribe(self._note)

    def _note(self, event: ContentEvent) -> None:
        self.events.append(event)
        self.times.setdefault(event, time.monotonic())

    async def until(self, true: Callable[[], object], what: str, seconds: float = 10.0) -> None:
        """Wait until something is so; AssertionError naming it otherwise."""
        try:
            async with asyncio.timeout(seconds):
                while not true():  # noqa: ASYNC110 - what is waited for is not all told by events
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what}; problem: {self.store.problem()}") from None


@contextlib.asynccontextmanager
async def running(place: Place) -> AsyncIterator[Heard]:
    """A store that runs, and is stopped and closed with the block."""
    store = ContainerdStore(place)
    heard = Heard(store)
    task = asyncio.create_task(store.run())
    try:
        yield heard
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        store.close()


def place(node: Containerd, **more: object) -> Place:
    return Place(socket=str(node.socket), **more)  # type: ignore[arg-type]


def served(store: ContainerdStore, image: Image) -> bool:
    """Whether all of an image is served, with the right bytes."""
    for digest, content in image.blobs.items():
        blob = store.open(Digest.parse(digest))
        if blob is None:
            return False
        with blob:
            assert blob.read_span(0, blob.size) == content
    return True


def offer(node: Containerd, source: Origin, image: Image) -> None:
    """Let containerd pull an image straight from the origin."""
    image.write(source.layout)
    write_hosts(node, "registry.test", [], source.url)


async def pull(node: Containerd, image: Image, client: str = "ctr") -> None:
    """Pull beside the running loop."""
    pulled = await asyncio.to_thread(node.pull, client, image.name)
    assert pulled, pulled
