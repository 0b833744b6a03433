"""Heads of peers' answers: read within a byte budget, then checked before a byte of the body is used. Pure.

Source: RFC 9112 section 2, RFC 9110 sections 14.4 (Content-Range) and 15.2 (1xx).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import httptools

from fastmirror.http.outcome import PeerOutcome
from fastmirror.oci.span import Span

MAX_HEAD: Final = 16 * 1024  # httptools has no limits, and takes quadratic time for a long field: count before
MAX_FIELDS: Final = 100
_END: Final = b"\r\n\r\n"
_CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", re.ASCII)
_NO_RANGE: Final = re.compile(rb"bytes \*/([0-9]{1,15})", re.ASCII)
_LENGTH: Final = re.compile(rb"[0-9]{1,15}", re.ASCII)
_LACKS: Final = frozenset({401, 403, 404})  # a challenge is never followed: it could name any place
_BUSY: Final = frozenset({429, 503})


class Head(NamedTuple):
    """A response head: status, fields by lower-case name, and whether the connection may be used again."""

    status: int
    fields: dict[bytes, bytes]
    keep_alive: bool

    @property
    def length(self) -> int | None:
        """The value of Content-Length, or None if there is none."""
        value = self.fields.get(b"content-length")
        return int(value) if value is not None and _LENGTH.fullmatch(value) else None


class Ask(NamedTuple):
    """What is asked of a peer.

    ``span`` None means all of it, asked without a Range. ``size`` is the size of the whole in bytes, where known.
    """

    target: str
    span: Span | None = None
    size: int | None = None


class Part(NamedTuple):
    """What a body is: this span of content of this size in bytes."""

    span: Span
    size: int


_ONCE: Final = frozenset(
    {b"content-length", b"content-range", b"content-encoding", b"transfer-encoding", b"docker-content-digest"}
)


class _Fields:
    """httptools' callbacks for one head. A field that means something here and comes twice leaves ``repeated`` set."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.repeated = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.repeated = self.repeated or (name in _ONCE and name in self.fields)
        self.fields[name] = value


class HeadReader:
    """Collects bytes until a final response head is whole; ``rest`` is then what came after it.

    ``begun`` is set by the first byte. At most ``MAX_HEAD`` bytes for the final head and interim (1xx) ones together,
    and ``MAX_FIELDS`` fields in each.
    """

    def __init__(self) -> None:
        self.rest = b""
        self.begun = False
        self._spent = 0

    def feed(self, data: bytes) -> Head | PeerOutcome | None:
        """The head; None while more bytes are needed; GARBLED if this is no head that we accept."""
        self.begun = True
        self.rest += data
        while True:
            end = self.rest.find(_END, 0, MAX_HEAD - self._spent)
            if end < 0:
                return PeerOutcome.GARBLED if len(self.rest) + self._spent >= MAX_HEAD else None
            raw, self.rest = self.rest[: end + 4], self.rest[end + 4 :]
            self._spent += len(raw)
            head = _parse(raw)
            if head is None or head.status == 101:  # nothing was offered to be switched to
                return PeerOutcome.GARBLED
            if head.status >= 200:
                return head


def _parse(raw: bytes) -> Head | None:
    if raw.count(b"\r\n") > MAX_FIELDS + 2:
        return None
    fields = _Fields()
    parser = httptools.HttpResponseParser(fields)
    try:
        parser.feed_data(raw)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if parser.get_http_version() not in ("1.1", "1.0") or fields.repeated:
        return None
    return Head(parser.get_status_code(), fields.fields, parser.should_keep_alive())


def refusal(head: Head) -> PeerOutcome:
    """What a status other than the one that was hoped for means."""
    if head.status in _LACKS:
        return PeerOutcome.LACKS
    return PeerOutcome.BUSY if head.status in _BUSY else PeerOutcome.GARBLED


def part_of(head: Head, ask: Ask) -> Part | PeerOutcome:
    """Which bytes the body of this answer is, if it is exactly what was asked for; else how the request ended.

    No coding, no redirect, no length that is not told, no other range than the asked one; DIFFERS if all of this is
    well and the size is not the known one.
    """
    if head.status != (200 if ask.span is None else 206):
        if head.status == 416 and ask.size is not None and _beyond(ask.size, head):
            return PeerOutcome.DIFFERS
        # 200 and 206 at the wrong time are no refusals: they would be taken for the other bytes
        return PeerOutcome.GARBLED if head.status in (200, 206) else refusal(head)
    length = head.length
    if length is None or b"transfer-encoding" in head.fields or b"content-encoding" in head.fields:
        return PeerOutcome.GARBLED
    content_range = head.fields.get(b"content-range")
    part = _whole(length, content_range) if ask.span is None else _ranged(ask.span, length, content_range)
    if part is None:
        return PeerOutcome.GARBLED
    return part if ask.size in (None, part.size) else PeerOutcome.DIFFERS


def _beyond(size: int, head: Head) -> bool:
    """Whether a 416 says that its content ends elsewhere."""
    match = _NO_RANGE.fullmatch(head.fields.get(b"content-range", b""))
    return match is not None and int(match[1]) != size


def _whole(length: int, content_range: bytes | None) -> Part | None:
    return Part(Span(0, length), length) if content_range is None else None


def _ranged(asked: Span, length: int, content_range: bytes | None) -> Part | None:
    match = _CONTENT_RANGE.fullmatch(content_range or b"")
    if match is None:
        return None
    first, last, size = map(int, match.groups())
    if first != asked.start or last + 1 != min(asked.stop, size) or length != last + 1 - first:
        return None
    return Part(Span(first, last + 1), size)
