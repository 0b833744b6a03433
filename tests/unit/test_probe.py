"""Who answers at a mirror's address."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from fastmirror.containerd.probe import Answer, Kind, probe


@contextlib.contextmanager
def answering(*pieces: bytes, hang: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """A server for one connection that says these pieces; its URL and what it was asked."""
    asked: list[bytes] = []
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            for piece in pieces:
                connection.sendall(piece)
            if hang:
                over.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ((b"HTTP/1.1 200 OK\r\nfastmirror-version: 1.2\r\n\r\n{}",), Answer(Kind.OURS, "1.2", 200)),
        ((b"HTTP/1.1 403 F", b"orbidden\r\nFastmirror-Version:1.2\r", b"\n\r\n"), Answer(Kind.OURS, "1.2", 403)),
        ((b"HTTP/1.0 404 Not Found\r\nServer: nginx\r\n\r\n",), Answer(Kind.FOREIGN, "status 404, nginx", 404)),
        ((b"HTTP/1.1 204\r\n\r\n",), Answer(Kind.FOREIGN, "status 204, no Server header", 204)),
        ((b"SSH-2.0-OpenSSH\r\n",), Answer(Kind.FOREIGN, "it does not speak HTTP: 'SSH-2.0-OpenSSH'")),
        ((), Answer(Kind.FOREIGN, "it hung up")),
        ((b"x" * 70_000,), Answer(Kind.FOREIGN, f"it does not speak HTTP: {'x' * 40!r}")),
    ],
)
def test_what_answers_is_named(pieces: tuple[bytes, ...], answer: Answer) -> None:
    with answering(*pieces, hang=len(pieces) > 0 and len(pieces[0]) > 30) as (url, asked):
        assert probe(url, 10) == answer
    assert asked[0].startswith(b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\nFastmirror-Version: 1.2\r\n",)])
def test_who_does_not_finish_its_answer_is_silent(pieces: tuple[bytes, ...]) -> None:
    with answering(*pieces, hang=True) as (url, _):
        assert probe(url, 0.2).kind is Kind.SILENT


def test_a_closed_port_is_absent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert probe(f"http://127.0.0.1:{port}").kind is Kind.ABSENT
