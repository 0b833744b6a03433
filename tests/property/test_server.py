"""The real server against bytes that hypothesis makes: it always answers well or ends, and goes on serving."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.catalogue.fixture import fixture, write
from tests.kit import proc
from tests.kit.process import Node, start

FIXTURE = fixture()
TARGETS = [
    FIXTURE.fill(text)
    for text in (
        "/v2/",
        "/v2/{NAME}/blobs/{BD}?ns={NS}",
        "/v2/{NAME}/manifests/{TAG}?ns={NS}",
        "/v2/{NAME}/blobs/{XD}",
        "/",
    )
]
FIELDS = st.sampled_from(
    """Range: bytes=0-9|Range: bytes=9-0|Range: x|Connection: close|Connection: keep-alive|Accept: */*|Content-Length: 0
Content-Length: 5|Transfer-Encoding: chunked|Expect: 100-continue|X: long|Host: again|If-Range: "x"|Upgrade: h2c|
""".replace("\n", "|")
    .replace("long", "a" * 300)
    .split("|")
)
REQUEST = st.builds(
    lambda method, target, version, fields: "\r\n".join(
        [f"{method} {target} {version}", "Host: m", *filter(None, fields), "", ""]
    ).encode("latin-1"),
    st.sampled_from(["GET", "HEAD", "GET", "HEAD", "PUT", "OPTIONS", "get", "BREW"]),
    st.sampled_from(TARGETS),
    st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.1 "]),
    st.lists(FIELDS, max_size=3),
)
PIPELINE = st.lists(REQUEST, min_size=1, max_size=5).map(b"".join)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory: Path = tmp_path_factory.mktemp("noise")
    write(directory)
    with start(directory) as started:
        yield started


def talk(node: Node, pieces: list[bytes]) -> bytes:
    """Send the pieces, say that no more will come, and read to the end. A RST is an error."""
    received = bytearray()
    with socket.create_connection(node.registry, timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended the connection before we were done: reading says how
        while piece := sock.recv(1 << 18):
            received += piece
    return bytes(received)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places (taken modulo its length)."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def undated(answers: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*", b"", answers)


@settings(max_examples=500)
@given(st.binary(min_size=1, max_size=2000))
@example(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
@example(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n")
@example(b"\r\n" * 1000)
@example(b"\x00")
def test_any_bytes_get_an_error_or_nothing(node: Node, data: bytes) -> None:
    answers = talk(node, [data])
    assert answers == b"" or answers.startswith(b"HTTP/1.1 ")
    assert node.alive


@settings(max_examples=500)
@given(PIPELINE, st.lists(st.integers(0, 10_000), max_size=6))
def test_how_requests_are_cut_into_packets_makes_no_difference(node: Node, data: bytes, places: list[int]) -> None:
    assert undated(talk(node, cut(data, places))) == undated(talk(node, [data]))


@settings(max_examples=500)
@given(REQUEST, st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_request_is_answered_or_refused(node: Node, request_: bytes, at: int, put: bytes, drop: int) -> None:
    place = at % len(request_)
    damaged = request_[:place] + put + request_[place + drop :]
    answers = talk(node, [damaged])
    assert answers == b"" or re.match(rb"HTTP/1\.1 (200|206|400|404|405|414|416|431|505) ", answers)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(TARGETS), min_size=1, max_size=40))
def test_pipelined_requests_are_answered_each_and_in_order(node: Node, targets: list[str]) -> None:
    data = "".join(f"HEAD {target} HTTP/1.1\r\nHost: m\r\n\r\n" for target in targets).encode()
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", talk(node, [data]))]
    assert statuses == [404 if target in (TARGETS[3], TARGETS[4]) else 200 for target in targets]


def test_after_all_of_that_it_serves_and_holds_nothing(node: Node) -> None:
    assert node.ask("GET", TARGETS[1]).body == FIXTURE.blob
    assert proc.fd_count(node.pid) < 40
    assert node.log.problems() == []
