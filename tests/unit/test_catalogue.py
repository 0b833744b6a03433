"""The catalogue's own runner: what it must notice."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.catalogue.cases import Case, load
from tests.catalogue.exchange import exchange, methods_in
from tests.catalogue.fixture import fixture
from tests.catalogue.judge import judge
from tests.catalogue.runner import Runner, Verdict, report
from tests.catalogue.scenarios import Server
from tests.kit.wire import Address, End

FIXTURE = fixture()
PING = b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def server(*answers: bytes, end: End = End.FIN) -> Iterator[Address]:
    """Gives each connection all the answers at once, waits for the client's bytes, and ends as told."""

    def serve(sock: socket.socket) -> None:
        with sock:
            sock.recv(1 << 20)
            sock.sendall(b"".join(answers))
            if end is End.KEPT:
                while sock.recv(1 << 20):
                    sock.sendall(OK)
            elif end is End.RST:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    sock.recv(1)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
    for thread in threads:
        thread.join()


def problems(case: Case, *answers: bytes, end: End = End.FIN) -> list[str]:
    with server(*answers, end=end) as address:
        outcome = exchange(case, address, case.payload(FIXTURE) or PING)
    return judge(case, outcome, FIXTURE, default_registry=False, slack=1.0)


def case(**fields: object) -> Case:
    return Case("x", "g", must="", **{"status": (200,), "send": (PING.decode(),), **fields})  # type: ignore[arg-type]


def test_a_right_answer_has_no_problems() -> None:
    assert problems(case(closes=True), OK) == []
    assert problems(case(usable=True), OK, end=End.KEPT) == []


def test_an_end_by_rst_is_a_failure_even_after_a_right_answer() -> None:
    assert problems(case(closes=True), OK, end=End.RST) == ["the connection ended by RST"]


def test_a_connection_that_must_end_and_goes_on_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.catalogue.exchange.LATEST", 0.5)
    assert "the connection was not ended" in problems(case(closes=True), OK, end=End.KEPT)


def test_silence_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.catalogue.exchange.LATEST", 0.5)
    assert "neither an answer nor an end in time" in problems(case(status=(0,)), end=End.KEPT)


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (b"HTTP/1.1 429 X\r\nContent-Length: 0", "status 429 is never given"),
        (b"HTTP/1.1 307 X\r\nContent-Length: 0\r\nLocation: /", "field location must not be there"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 0\r\nContent-Encoding: gzip", "field content-encoding must not be there"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 0\r\nContent-Length: 0", "a header field comes twice"),
        (b"HTTP/1.1 200 X\r\nX: 1", "no Content-Length"),
        (b"HTTP/1.1 405 X\r\nContent-Length: 0", "405 without Allow: GET, HEAD"),
        (b"HTTP/1.1 416 X\r\nContent-Length: 0\r\nContent-Range: bytes */1", "416 with Content-Range bytes */1"),
        (b"HTTP/1.1 206 X\r\nContent-Length: 0", "206 without a Content-Range"),
    ],
)
def test_what_no_answer_may_be_is_noticed(head: bytes, complaint: str) -> None:
    allowed = case(status=(200, 206, 307, 405, 416, 429))
    assert any(complaint in text for text in problems(allowed, head + b"\r\n\r\n"))


def test_a_body_that_is_too_short_too_long_or_wrong_is_noticed() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    assert any("shorter than its Content-Length" in text for text in problems(case(), head + b"ab"))
    assert any("bytes that are no answer" in text for text in problems(case(), head + b"abcdef"))
    assert problems(case(digest="{BD}"), head + b"abcd") == ["the body does not have its digest"]
    wrong = b"HTTP/1.1 206 X\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/2048\r\n\r\n" + bytes(
        [FIXTURE.blob[0] ^ 1]
    )
    assert any("is not what" in text for text in problems(case(status=(206,)), wrong))


def test_statuses_codes_fields_and_counts_are_compared() -> None:
    missing = b'{"errors":[{"code":"BLOB_UNKNOWN","message":"m"}]}'
    answer = b"HTTP/1.1 404 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(missing),
        missing,
    )
    assert problems(case(status=(404,), codes=("BLOB_UNKNOWN",)), answer) == []
    assert any("code BLOB_UNKNOWN" in text for text in problems(case(status=(404,), codes=("DENIED",)), answer))
    assert any("is what we chose" in text for text in problems(case(status=(400, 404), prefer=400), answer))
    assert any("status 404, allowed" in text for text in problems(case(), answer))
    assert any("2 answers instead of 1" in text for text in problems(case(answers=1), OK, OK))
    assert any("1 answers instead of 2" in text for text in problems(case(answers=2), OK))
    assert any("etag: None" in text for text in problems(case(headers={"200": {"etag": "*"}}), OK))
    assert any("contains" in text for text in problems(case(absent=("{}",)), OK))
    assert any("not the OCI error" in text for text in problems(case(status=(400,)), OK.replace(b"200", b"400")))


def test_time_and_memory_limits_are_kept() -> None:
    with server(OK) as address:
        outcome = exchange(case(), address, PING)
    outcome.first_byte_ms, outcome.rss_growth_kib = 51.0, 3000
    found = judge(case(max_ms=50, max_rss_mib=2), outcome, FIXTURE, default_registry=False, slack=1.0)
    assert [text.split()[0] for text in found] == ["first", "memory"]


def test_a_scenario_against_a_server_that_resets_is_a_failure() -> None:
    chosen = next(item for item in load() if item.id == "hd-crlf-missing-end")
    with server(end=End.RST) as address:
        verdict = Runner(Server(address, None, 10.0, 75.0), FIXTURE).scenario(chosen)
    assert "the connection ended by RST" in verdict.problems


def test_an_unreachable_server_fails_every_case() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        runner = Runner(Server(unused.getsockname(), None, 10.0, 75.0), FIXTURE)
        verdicts = runner.run([item for item in load() if item.group == "01-baseline"])
    assert len(verdicts) == 15
    assert all(verdict.problems for verdict in verdicts)


def test_the_report_says_what_failed_and_whether_all_is_well() -> None:
    lines: list[str] = []
    assert not report([Verdict(case(), ["bad"]), Verdict(case(), [])], lines.append)
    assert lines == ["FAIL x: bad\n", "1 passed, 1 failed\n"]
    assert report([Verdict(case(), [])], lines.append)


def test_methods_are_read_from_pipelined_requests() -> None:
    assert methods_in(PING + b"HEAD /v2/ HTTP/1.1\r\n\r\n") == ["GET", "HEAD"]
