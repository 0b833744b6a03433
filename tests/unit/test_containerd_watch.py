"""The helper's account of a namespace: what it asks containerd, and what it tells the data plane."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.containerd import watch as watching
from fastmirror.containerd.frames import (
    Changed,
    Connected,
    ContentRecord,
    Event,
    Foreign,
    Frame,
    FrameReader,
    ImageRecord,
    Look,
    Lost,
    encode,
)
from fastmirror.containerd.sources import label_sources
from fastmirror.containerd.watch import Watch
from fastmirror.errors import StoreUnavailable

ONE, TWO, THREE = (ContentRecord(f"sha256:{name * 64}", 1, ("registry.test/t/app",)) for name in "123")
IMAGE = ImageRecord("registry.test/t/app:1", "type", ONE.digest, 1)


class FakeContainerd:
    """A Source with content, names and events of the test's making; each session is one ``async with``."""

    def __init__(self) -> None:
        self.records = {ONE.digest: ONE}
        self.names = {IMAGE.name: IMAGE}
        self.answers = asyncio.Event()
        self.answers.set()
        self.refusal: str | None = None
        self.sessions = 0
        self.asked: list[str] = []
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self.sessions += 1
        self.queue = asyncio.Queue()
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def _answer(self) -> None:
        if self.refusal is not None:
            raise StoreUnavailable(self.refusal)
        try:
            async with asyncio.timeout(0.05):
                await self.answers.wait()
        except TimeoutError:
            raise StoreUnavailable("no answer in time") from None

    async def version(self) -> str:
        await self._answer()
        return "1.7.24"

    async def content_root(self) -> str | None:
        await self._answer()
        return "/content"

    async def images(self) -> list[ImageRecord]:
        await self._answer()
        return list(self.names.values())

    async def content(self) -> list[ContentRecord]:
        await self._answer()
        return list(self.records.values())

    async def info(self, digest: str) -> ContentRecord | None:
        await self._answer()
        self.asked.append(digest)
        return self.records.get(digest)

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self.queue.get()) is not None:
            yield event
        raise StoreUnavailable("the stream was lost")


class Heard(list[Frame]):
    """The frames so far, and a wait for what they come to."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def append(self, frame: Frame) -> None:
        super().append(frame)
        self.news.set()

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self.news.clear()
                await self.news.wait()

    @property
    def changes(self) -> list[Changed]:
        return [frame for frame in self if isinstance(frame, Changed)]

    def state(self) -> tuple[set[str], set[str]]:
        """Content and names, as the differences add up to."""
        content: set[str] = set()
        names: set[str] = set()
        for frame in self.changes:
            if frame.complete:
                content, names = set(), set()
            content = (content | {record.digest for record in frame.content}) - set(frame.no_content)
            names = (names | {image.name for image in frame.images}) - set(frame.no_images)
        return content, names


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BEAT_SECONDS": 0.05, "LEAST_PAUSE_SECONDS": 0.01, "SETTLE_SECONDS": 0.05}.items():
        monkeypatch.setattr(watching, name, value)
    monkeypatch.setattr(watching, "RETRY_SECONDS", (0.01,))


@contextlib.asynccontextmanager
async def running(source: FakeContainerd) -> AsyncIterator[tuple[Watch, Heard]]:
    heard = Heard()
    watch = Watch(lambda: source, heard.append)
    task = asyncio.get_running_loop().create_task(watch.run())
    try:
        yield watch, heard
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.usefixtures("fast")
class TestWatch:
    async def test_it_says_who_answers_and_then_everything(self) -> None:
        async with running(FakeContainerd()) as (_, heard):
            await heard.until(lambda: heard.changes)
            assert heard[0] == Connected("1.7.24", "/content")
            assert heard[1] == Changed(True, [IMAGE], [], [ONE], [])

    async def test_after_an_event_it_says_what_has_changed(self) -> None:
        source = FakeContainerd()
        async with running(source) as (_, heard):
            await heard.until(lambda: heard.changes)
            source.records[TWO.digest] = TWO
            source.names = {}
            source.queue.put_nowait(Event("/images/delete", ""))
            await heard.until(lambda: heard.state() == ({ONE.digest, TWO.digest}, set()))
            assert not any(frame.complete for frame in heard.changes[1:])

    async def test_what_happened_while_it_subscribed_is_found_soon(self) -> None:
        source = FakeContainerd()
        async with running(source) as (_, heard):
            await heard.until(lambda: heard.changes)
            source.records.clear()
            await heard.until(lambda: heard.state()[0] == set())

    async def test_new_content_is_told_by_its_event(self) -> None:
        source = FakeContainerd()
        async with running(source) as (_, heard):
            await heard.until(lambda: heard.changes)
            source.records[TWO.digest] = TWO
            source.queue.put_nowait(Event("/content/create", TWO.digest))
            await heard.until(lambda: TWO.digest in heard.state()[0])

    async def test_a_look_waits_for_the_record_and_for_its_names(self) -> None:
        source = FakeContainerd()
        async with running(source) as (watch, heard):
            await heard.until(lambda: heard.changes)
            watch.look([TWO.digest])
            while source.asked.count(TWO.digest) < 2:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            source.records[TWO.digest] = ContentRecord(TWO.digest, 1, ())
            await heard.until(lambda: TWO.digest in heard.state()[0])
            source.records[TWO.digest] = TWO
            await heard.until(lambda: any(TWO in frame.content for frame in heard.changes))
            assert not any(isinstance(frame, Foreign) for frame in heard)

    async def test_a_look_at_what_the_namespace_does_not_have_ends(self) -> None:
        async with running(FakeContainerd()) as (watch, heard):
            await heard.until(lambda: heard.changes)
            watch.look([TWO.digest, ONE.digest])
            await heard.until(lambda: Foreign([TWO.digest]) in heard)
            assert not any(ONE.digest in frame.digests for frame in heard if isinstance(frame, Foreign))

    async def test_what_is_looked_up_before_the_first_list_is_in_it(self) -> None:
        source = FakeContainerd()
        held = asyncio.Event()
        listing = source.content

        async def slow() -> list[ContentRecord]:
            await held.wait()
            return await listing()

        source.content = slow  # type: ignore[method-assign]
        async with running(source) as (watch, heard):
            watch.look([ONE.digest])
            while not source.asked:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            held.set()
            await heard.until(lambda: heard.changes)
            assert heard.changes[0] == Changed(True, [IMAGE], [], [ONE], [])

    async def test_what_was_said_before_containerd_stopped_answering_is_not_lost(self) -> None:
        source = FakeContainerd()
        answer = source.info

        async def half(digest: str) -> ContentRecord | None:
            if digest == THREE.digest:
                raise StoreUnavailable("gone halfway")
            return await answer(digest)

        async with running(source) as (watch, heard):
            await heard.until(lambda: heard.changes)
            source.info = half  # type: ignore[method-assign]
            source.records |= {TWO.digest: TWO, THREE.digest: THREE}
            watch.look([TWO.digest, THREE.digest])
            await heard.until(lambda: Lost("gone halfway") in heard)
            source.info = answer  # type: ignore[method-assign]
            await heard.until(lambda: heard.state()[0] == {ONE.digest, TWO.digest, THREE.digest})

    async def test_content_that_was_looked_up_survives_an_older_list(self) -> None:
        source = FakeContainerd()
        held = asyncio.Event()
        listing = source.content

        async def slow() -> list[ContentRecord]:
            found = await listing()
            await held.wait()
            return found

        async with running(source) as (watch, heard):
            await heard.until(lambda: heard.changes)
            source.content = slow  # type: ignore[method-assign]
            source.queue.put_nowait(Event("/images/update", ""))
            await heard.until(lambda: len(heard.changes) > 1)
            source.records[TWO.digest] = TWO
            watch.look([TWO.digest])
            await heard.until(lambda: TWO.digest in heard.state()[0])
            before = len(heard.changes)
            held.set()
            await heard.until(lambda: len(heard.changes) > before)
            assert TWO.digest in heard.state()[0]

    async def test_a_lost_stream_is_told_once_and_everything_is_compared_again(self) -> None:
        source = FakeContainerd()
        async with running(source) as (_, heard):
            await heard.until(lambda: heard.changes)
            source.refusal = "gone"
            source.queue.put_nowait(None)
            await heard.until(lambda: any(isinstance(frame, Lost) for frame in heard))
            lost = sum(isinstance(frame, Lost) for frame in heard)
            sessions = source.sessions
            while source.sessions < sessions + 3:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            assert sum(isinstance(frame, Lost) for frame in heard) <= lost + 1  # the reason changed at most
            source.names = {}
            source.records[THREE.digest] = THREE
            source.refusal = None
            await heard.until(lambda: heard.state() == ({ONE.digest, THREE.digest}, set()))
            assert sum(frame.complete for frame in heard.changes) == 1

    async def test_a_silent_containerd_is_noticed_and_its_return_too(self) -> None:
        source = FakeContainerd()
        async with running(source) as (_, heard):
            await heard.until(lambda: heard.changes)
            source.answers.clear()
            await heard.until(lambda: Lost("no answer in time") in heard)
            source.answers.set()
            connected = heard.count(Connected("1.7.24", "/content"))
            await heard.until(lambda: heard.count(Connected("1.7.24", "/content")) > connected)


_texts = st.text(max_size=30)
_images = st.builds(ImageRecord, _texts, _texts, _texts, st.integers(0, 1 << 53))
_contents = st.builds(ContentRecord, _texts, st.integers(0, 1 << 53), st.lists(_texts, max_size=3).map(tuple))
_frames = st.one_of(
    st.builds(Connected, _texts, _texts),
    st.builds(Lost, _texts),
    st.builds(Look, st.lists(_texts)),
    st.builds(Foreign, st.lists(_texts)),
    st.builds(Changed, st.booleans(), st.lists(_images), st.lists(_texts), st.lists(_contents), st.lists(_texts)),
)


@given(st.lists(_frames, max_size=5), st.integers(1, 50))
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames: list[Frame], piece: int) -> None:
    data = b"".join(map(encode, frames))
    reader = FrameReader()
    found: list[Any] = []
    for position in range(0, len(data), piece):
        found.extend(reader.feed(data[position : position + piece]))
    assert found == frames


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x01"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"frame|expected|type|Expected|malformed"):
        list(FrameReader().feed(data))


def test_names_come_from_labels() -> None:
    labels = {
        "containerd.io/distribution.source.registry.test": "t/app,t/other",
        "containerd.io/distribution.source.docker.io": "library/debian",
        "containerd.io/distribution.source.bad host": "x",
        "containerd.io/uncompressed": "sha256:1",
        "containerd.io/distribution.source.empty.test": "",
    }
    assert label_sources(labels) == ("docker.io/library/debian", "registry.test/t/app", "registry.test/t/other")
