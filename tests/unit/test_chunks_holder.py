"""Which lists a node gives, to whom, and what it computes for that. The hashing is done by hand here, step by step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from blake3 import blake3

from fastmirror._native.endpoint import Reply
from fastmirror._native.requests import Request
from fastmirror.chunks import holder
from fastmirror.chunks.chunklist import ALGORITHMS, DEFAULT, HEADER_BYTES, PIECE, Algorithm, Shape, encode
from fastmirror.chunks.holder import ListServer, list_target
from fastmirror.errors import BlobUnknown, DigestInvalid, NameInvalid, NotOffered, StoreUnavailable
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from fastmirror.store import Blob
from fastmirror.store.memory import MemoryStore

CONTENT = os.urandom(7 * PIECE + 100)


class Work:
    """A sum that ends when the test says so."""

    def __init__(self, fd: int, span: Span, told: Callable[[Any], object]) -> None:
        self.fd, self.span, self.told = fd, span, told
        self.outcome = "running"
        self.hashes = b""
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Hands:
    """What ``Checks`` does, by hand."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.fails = False

    def sum(self, fd: int, span: Span, algorithm: Algorithm, told: Callable[[Any], object]) -> Work:
        if self.fails:
            raise OSError(9, "not open")
        self.works.append(Work(fd, span, told))
        return self.works[-1]

    def step(self) -> None:
        """End the oldest work."""
        work = self.works.pop(0)
        if work.cancelled:
            work.outcome = "cancelled"
        else:
            data = os.pread(work.fd, len(work.span), work.span.start)
            work.outcome = "complete" if len(data) == len(work.span) else "short"
            work.hashes = b"".join(blake3(data[at : at + PIECE]).digest() for at in range(0, len(data), PIECE))
        work.told(work)

    def finish(self) -> None:
        while self.works:
            self.step()


class Node:
    def __init__(self, allowed: Callable[[Digest], bool] = lambda _: True, early: int | None = None) -> None:
        self.store = MemoryStore()
        self.hands = Hands()
        self.server = ListServer(self.store, allowed, self.hands, early=early)  # type: ignore[arg-type]

    def ask(self, target: str, method: str = "GET") -> Reply:
        return self.server(Request(method, target.encode(), None, None, True, "192.0.2.1"))

    def ask_list(self, digest: Digest) -> Reply:
        return self.ask(list_target(digest, DEFAULT))

    def close(self) -> None:
        self.server.close()
        self.hands.finish()


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


def whole(content: bytes) -> bytes:
    pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
    return encode(Shape(len(content)), [blake3(piece).digest() for piece in pieces])


def ready(reply: Reply) -> int:
    """Bytes of the list that can be sent now; -1 if there will be no more."""
    return reply.body.available(HEADER_BYTES) if not reply.content else len(reply.content) - HEADER_BYTES


def length(reply: Reply) -> int:
    fields = dict(line.split(b": ") for line in reply.head.split(b"\r\n")[1:] if line)
    return int(fields[b"Content-Length"])


def test_a_list_can_be_sent_while_it_is_computed(node: Node) -> None:
    reply = node.ask_list(node.store.put(CONTENT))
    assert reply.head.startswith(b"HTTP/1.1 200 ")
    assert length(reply) == reply.stop == len(whole(CONTENT))
    assert (reply.body.available(0), ready(reply)) == (HEADER_BYTES, 0)
    woken: list[int] = []
    reply.body.wait(HEADER_BYTES, lambda: woken.append(ready(reply)))
    node.hands.step()
    assert woken == [32]
    node.hands.finish()
    assert ready(reply) == 8 * 32
    assert os.pread(reply.body.fileno(), 9999, 0) == whole(CONTENT)
    reply.body.close()
    reply.body.close()


def test_it_is_computed_once_and_kept(node: Node) -> None:
    digest = node.store.put(CONTENT)
    first, second = node.ask_list(digest), node.ask_list(digest)
    assert len(node.hands.works) == 1
    node.hands.finish()
    assert os.pread(second.body.fileno(), 9999, 0) == whole(CONTENT)
    for reply in (first, second):
        reply.body.close()
    kept = node.ask(f"/fastmirror/v1/chunks/{digest}")
    assert (kept.content, kept.body, node.hands.works, node.server.made_lists) == (whole(CONTENT), None, [], 1)


def test_pieces_are_hashed_in_larger_lots_while_that_is_quick(node: Node) -> None:
    reply = node.ask_list(node.store.put(CONTENT))
    lots = []
    while node.hands.works:
        lots.append(len(node.hands.works[0].span) // PIECE)
        node.hands.step()
    assert lots[0] == 1
    assert max(lots) > 1
    reply.body.close()


def test_nobody_waits_for_it_any_more_and_it_is_given_up(node: Node) -> None:
    digest = node.store.put(CONTENT)
    first, second = node.ask_list(digest), node.ask_list(digest)
    first.body.close()
    assert not node.hands.works[0].cancelled
    second.body.wait(HEADER_BYTES, lambda: pytest.fail("a body that was closed is woken"))
    second.body.close()
    assert node.hands.works[0].cancelled
    third = node.ask_list(digest)  # does not join the one that ends
    node.hands.finish()
    assert ready(third) == 8 * 32
    third.body.close()
    assert node.server.made_lists == 1


def test_what_is_gone_is_forgotten_and_computed_anew_when_it_comes_back(node: Node) -> None:
    digest = node.store.put(CONTENT)
    node.ask_list(digest).body.close()
    node.hands.finish()
    reply = node.ask_list(digest)
    node.store.remove(digest)
    node.hands.finish()  # for the reader it goes on
    assert ready(reply) == 8 * 32
    reply.body.close()
    with pytest.raises(BlobUnknown):
        node.ask_list(digest)
    node.store.put(CONTENT)
    reply = node.ask_list(digest)
    node.hands.finish()
    reply.body.close()
    assert node.ask_list(digest).content == whole(CONTENT)
    node.store.remove(digest)
    with pytest.raises(BlobUnknown):
        node.ask_list(digest)


def test_a_file_that_was_cut_ends_the_body_early(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = node.store.put(CONTENT)
    opened: list[Blob] = []

    def cut(digest: Digest) -> Blob:
        blob = MemoryStore.open(node.store, digest)
        assert blob is not None
        os.ftruncate(blob.fd, 2 * PIECE)
        opened.append(blob)
        return blob

    monkeypatch.setattr(node.store, "open", cut)
    reply = node.ask_list(digest)
    node.hands.finish()
    assert reply.body.available(HEADER_BYTES) in (32, 64)
    assert reply.body.available(HEADER_BYTES + ready(reply)) == -1
    reply.body.close()
    assert (opened[0].fd, node.server.made_lists) == (-1, 0)


def test_a_file_that_cannot_be_hashed_ends_the_body_at_once(node: Node) -> None:
    digest = node.store.put(CONTENT)
    node.hands.fails = True
    reply = node.ask_list(digest)
    assert ready(reply) == -1
    reply.body.close()


def test_empty_content_has_an_empty_list(node: Node) -> None:
    reply = node.ask_list(node.store.put(b""))
    assert (length(reply), reply.body.available(0)) == (HEADER_BYTES, HEADER_BYTES)
    assert os.pread(reply.body.fileno(), 99, 0) == whole(b"")
    reply.body.close()


def test_head_computes_nothing(node: Node) -> None:
    digest = node.store.put(CONTENT)
    reply = node.ask(list_target(digest, ALGORITHMS["xxh3-128"]), "HEAD")
    assert (length(reply), reply.body, reply.content) == (HEADER_BYTES + 8 * 16, None, b"")
    assert node.hands.works == []
    with pytest.raises(BlobUnknown):
        node.ask(list_target(Digest.of(b"other"), DEFAULT), "HEAD")


def test_what_may_not_be_served_has_no_list() -> None:
    node = Node(allowed=lambda digest: digest == Digest.of(b"public"))
    node.store.put(CONTENT)
    public = node.ask_list(node.store.put(b"public"))
    public.body.close()
    for method in ("GET", "HEAD"):
        with pytest.raises(BlobUnknown):
            node.ask(list_target(Digest.of(CONTENT), DEFAULT), method)
    node.close()


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("/fastmirror/v1/", NotOffered),
        ("/fastmirror/v1/chunks", NotOffered),
        ("/fastmirror/v1/chunks/{0}/more", NotOffered),
        ("/fastmirror/v1/chunks/{0}?", NotOffered),
        ("/fastmirror/v1/chunks/{0}?algorithm=", NotOffered),
        ("/fastmirror/v1/chunks/{0}?algorithm=blake3&algorithm=sha256", NotOffered),
        ("/fastmirror/v1/chunks/{0}?algorithm=BLAKE3", NotOffered),
        ("/fastmirror/v1/chunks/{0}?algorithm=md5", NameInvalid),
        ("/fastmirror/v1/chunks/", DigestInvalid),
        ("/fastmirror/v1/chunks/sha256:00", DigestInvalid),
        ("/fastmirror/v1/chunks/sha256%3A" + 64 * "0", DigestInvalid),
        ("/fastmirror/v1/chunks/sha256:" + 64 * "0", BlobUnknown),
    ],
)
def test_what_is_no_list_is_refused(node: Node, target: str, error: type[Exception]) -> None:
    digest = node.store.put(b"here")
    with pytest.raises(error):
        node.ask(target.format(digest))
    assert node.hands.works == []


def test_a_store_that_does_not_answer_has_no_list(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> None:
        raise StoreUnavailable("not now")

    for name in ("open", "size"):
        monkeypatch.setattr(node.store, name, unavailable)
    for method in ("GET", "HEAD"):
        with pytest.raises(BlobUnknown):
            node.ask(list_target(Digest.of(CONTENT), DEFAULT), method)


def test_too_large_content_has_no_list(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Blob] = []

    def huge(digest: Digest) -> Blob:
        opened.append(Blob(os.memfd_create("huge"), (64 << 30) + 1, digest))
        return opened[-1]

    monkeypatch.setattr(node.store, "open", huge)
    monkeypatch.setattr(node.store, "size", lambda digest: (64 << 30) + 1)
    for method in ("GET", "HEAD"):
        with pytest.raises(BlobUnknown, match="too large"):
            node.ask(list_target(Digest.of(CONTENT), DEFAULT), method)
    assert [blob.fd for blob in opened] == [-1]


def test_only_so_many_lists_are_computed_at_once(node: Node) -> None:
    replies = [node.ask_list(node.store.put(b"%d" % number)) for number in range(holder.AT_ONCE)]
    late = node.store.put(b"late")
    with pytest.raises(BlobUnknown, match="as many lists"):
        node.ask_list(late)
    assert node.server.refused == 1
    joined = node.ask_list(Digest.of(b"0"))
    node.hands.step()
    replies.append(node.ask_list(late))
    for reply in (*replies, joined):
        reply.body.close()


def test_the_lists_that_were_asked_for_longest_ago_are_forgotten(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "KEPT_BYTES", 2 * len(whole(CONTENT)))
    digests = [node.store.put(CONTENT[number:]) for number in (0, 1, 2)]
    for digest in digests[:2]:
        reply = node.ask_list(digest)
        node.hands.finish()
        reply.body.close()
    assert node.ask_list(digests[0]).content
    reply = node.ask_list(digests[2])
    node.hands.finish()
    reply.body.close()
    assert node.ask_list(digests[0]).content
    forgotten = node.ask_list(digests[1])
    assert forgotten.body is not None
    forgotten.body.close()


def test_lists_can_be_computed_as_content_arrives_one_after_the_other() -> None:
    node = Node(early=PIECE)
    contents = [CONTENT, b"too small", CONTENT[:PIECE], CONTENT[: 2 * PIECE]]
    digests = [node.store.put(content) for content in contents]
    assert len(node.hands.works) == 1
    node.store.remove(digests[3])
    node.hands.finish()
    assert [node.ask_list(digest).content for digest in (digests[0], digests[2])] == [
        whole(contents[0]),
        whole(contents[2]),
    ]
    assert node.server.made_lists == 2
    node.close()


def test_a_reader_may_join_and_leave_the_one_that_is_computed_early() -> None:
    node = Node(early=0)
    digest = node.store.put(CONTENT)
    reply = node.ask_list(digest)
    assert len(node.hands.works) == 1
    node.hands.finish()
    assert ready(reply) == 8 * 32
    reply.body.close()
    assert node.ask_list(digest).content == whole(CONTENT)
    node.close()


def test_closing_ends_what_is_being_computed() -> None:
    node = Node(early=0)
    reply = node.ask_list(node.store.put(CONTENT))
    node.store.put(b"next")
    node.server.close()
    node.server.close()
    assert all(work.cancelled for work in node.hands.works)
    node.hands.finish()
    assert ready(reply) == -1
    reply.body.close()
    node.store.put(b"after")
    assert node.hands.works == []
