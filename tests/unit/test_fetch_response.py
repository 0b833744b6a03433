"""Heads of peers' answers: what is accepted, and that nothing else is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.response import MAX_FIELDS, MAX_HEAD, Ask, Head, HeadReader, Part, part_of
from fastmirror.oci.span import Span

WHOLE = Ask("/v2/a/blobs/x")
RANGED = Ask("/v2/a/blobs/x", Span(100, 1000), 1000)
GARBLED = PeerOutcome.GARBLED


def read(raw: bytes) -> Head | PeerOutcome | None:
    return HeadReader().feed(raw)


def head(status: int, *fields: str) -> Head:
    found = read("\r\n".join((f"HTTP/1.1 {status} X", *fields, "", "")).encode())
    assert isinstance(found, Head)
    return found


def test_a_head_is_read_and_what_follows_it_is_kept():
    reader = HeadReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nContent-Le") is None
    found = reader.feed(b"ngth: 5\r\n\r\nhel")
    assert isinstance(found, Head)
    assert (found.status, found.length, found.keep_alive, reader.rest) == (200, 5, True, b"hel")


@given(st.lists(st.integers(0, 60), max_size=6))
def test_where_a_head_is_divided_makes_no_difference(cuts):
    raw = b'HTTP/1.1 206 Partial Content\r\nContent-Length: 7\r\nETag: "x"\r\n\r\nthe body'
    points = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    reader = HeadReader()
    found = None
    rest = b""
    for start, stop in itertools.pairwise(points):
        if found is None:
            found = reader.feed(raw[start:stop])
        else:
            rest += raw[start:stop]
    assert isinstance(found, Head)
    assert found.status == 206
    assert reader.rest + rest == b"the body"


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(junk):
    for raw in (junk, b"HTTP/1.1 200 OK\r\n" + junk, b"HTTP/1.1 200 OK\r\n" + junk + b"\r\n\r\n"):
        assert isinstance(read(raw), Head | PeerOutcome | None)


def test_interim_answers_are_skipped_within_the_budget():
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    found = read(interim * 3 + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
    assert isinstance(found, Head)
    assert found.status == 200
    assert read(interim * (MAX_HEAD // len(interim) + 1)) is GARBLED


def test_a_head_beyond_the_budget_is_refused_before_it_is_parsed():
    assert read(b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD) is GARBLED
    assert read(b"HTTP/1.1 200 OK\r\nX: " + b"a" * (MAX_HEAD - 100)) is None
    many = b"".join(b"X-%d: a\r\n" % n for n in range(MAX_FIELDS + 1))
    assert read(b"HTTP/1.1 200 OK\r\n" + many + b"\r\n") is GARBLED


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-1/2\r\nContent-Range: bytes 1-1/2\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_clean_answer_is_garbled(raw):
    found = read(raw)
    assert found is GARBLED or (isinstance(found, Head) and part_of(found, WHOLE) is GARBLED)


def test_fields_that_mean_nothing_here_may_come_twice():
    assert part_of(head(200, "Content-Length: 7", "Via: a", "Via: b"), WHOLE) == Part(Span(0, 7), 7)


def test_a_whole_answer_tells_its_size():
    assert part_of(head(200, "Content-Length: 7"), WHOLE) == Part(Span(0, 7), 7)
    assert part_of(head(200, "Content-Length: 7"), WHOLE._replace(size=7)) == Part(Span(0, 7), 7)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, ()),
        (200, ("Transfer-Encoding: chunked",)),
        (200, ("Content-Length: 7", "Content-Encoding: gzip")),
        (200, ("Content-Length: 7", "Content-Encoding: identity")),
        (200, ("Content-Length: 7", "Content-Range: bytes 0-6/7")),
        (200, ("Content-Length: +7",)),
        (206, ("Content-Length: 7", "Content-Range: bytes 0-6/7")),
        (204, ()),
        (302, ("Location: http://127.0.0.1/", "Content-Length: 0")),
        (304, ()),
        (400, ("Content-Length: 0",)),
        (500, ("Content-Length: 0",)),
    ],
)
def test_a_whole_answer_that_is_not_exactly_that_is_garbled(status, fields):
    raw = "\r\n".join((f"HTTP/1.1 {status} X", *fields, "", "")).encode()
    found = read(raw)
    assert found is GARBLED or (isinstance(found, Head) and part_of(found, WHOLE._replace(size=7)) is GARBLED)


def test_a_range_answer_must_be_the_range_that_was_asked():
    good = ("Content-Length: 900", "Content-Range: bytes 100-999/1000")
    assert part_of(head(206, *good), RANGED) == Part(Span(100, 1000), 1000)
    assert part_of(head(206, *good), RANGED._replace(size=None)) == Part(Span(100, 1000), 1000)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, ("Content-Length: 1000",)),
        (206, ("Content-Length: 900",)),
        (206, ("Content-Length: 900", "Content-Range: bytes 101-1000/1001")),
        (206, ("Content-Length: 899", "Content-Range: bytes 101-999/1000")),
        (206, ("Content-Length: 899", "Content-Range: bytes 100-998/1000")),
        (206, ("Content-Length: 901", "Content-Range: bytes 100-999/1000")),
        (206, ("Content-Length: 900", "Content-Range: bytes 100-999/*")),
        (206, ("Content-Length: 900", "Content-Range: bytes */1000")),
        (206, ("Content-Length: 900", "Content-Range: items 100-999/1000")),
        (206, ("Content-Length: 900", "Content-Range: bytes 100-999/1000", "Content-Encoding: gzip")),
        (206, ("Transfer-Encoding: chunked", "Content-Range: bytes 100-999/1000")),
        (416, ("Content-Range: bytes */1000", "Content-Length: 0")),
    ],
)
def test_another_range_than_the_asked_one_is_garbled(status, fields):
    assert part_of(head(status, *fields), RANGED) is GARBLED


@pytest.mark.parametrize(
    ("ask", "status", "fields"),
    [
        (WHOLE._replace(size=7), 200, ("Content-Length: 8",)),
        (RANGED, 206, ("Content-Length: 900", "Content-Range: bytes 100-999/1001")),
        (RANGED, 206, ("Content-Length: 800", "Content-Range: bytes 100-899/900")),
        (RANGED, 416, ("Content-Length: 0", "Content-Range: bytes */90")),
    ],
)
def test_another_size_than_the_one_asked_for_is_no_garbled_answer(ask, status, fields):
    assert part_of(head(status, *fields), ask) is PeerOutcome.DIFFERS


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (404, PeerOutcome.LACKS),
        (401, PeerOutcome.LACKS),
        (403, PeerOutcome.LACKS),
        (503, PeerOutcome.BUSY),
        (429, PeerOutcome.BUSY),
    ],
)
def test_a_refusal_is_told_by_its_status(status, outcome):
    for ask in (WHOLE, RANGED):
        assert part_of(head(status, "Content-Length: 0"), ask) is outcome


@given(st.integers(0, 1100), st.integers(0, 1100), st.integers(0, 1100), st.integers(0, 1100))
def test_only_one_content_range_is_the_right_one(first, last, size, length):
    fields = (f"Content-Length: {length}", f"Content-Range: bytes {first}-{last}/{size}")
    right = (first, last, size, length) == (100, 999, 1000, 900)
    assert isinstance(part_of(head(206, *fields), RANGED), Part) == right
