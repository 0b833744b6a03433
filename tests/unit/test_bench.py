"""``fastmirror bench``: it measures a node of its own, tells what and on what, and says what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from fastmirror import cli
from fastmirror.bench import report
from fastmirror.bench.client import BenchFailed, Load, run
from fastmirror.bench.report import Report, Row
from fastmirror.bench.server import MIB, make_layout


@contextlib.contextmanager
def answering(content: bytes) -> Iterator[int]:
    """A server that answers its first request with ``content`` and closes; gives its port."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(content)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_every_row_is_measured_and_told_with_the_machine(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "LARGE", 2 * MIB)
    monkeypatch.setattr(report, "MEDIUM", MIB)
    monkeypatch.setenv("FASTMIRROR_STORE", "nonsense")  # the node that is measured has its own settings
    cpus = os.sched_getaffinity(0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "--seconds", "0.1", "--dir", str(tmp_path), "-o", "json"])
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert [row["connections"] for row in told["rows"]] == [1, 8, 8, 64, 1, 64, 1]
    assert all(row["rate"] > 0 and row["cost"] >= 0 for row in told["rows"])
    assert told["rows"][-1]["what"] == "256 MiB blob, from a peer, verified"
    assert told["machine"]["cpus"] == len(cpus)
    assert list(tmp_path.iterdir()) == [], "it removes what it wrote"
    assert os.sched_getaffinity(0) == cpus


def test_a_directory_that_is_not_there_is_named_with_the_option(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "--dir", "/nonexistent/place"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "/nonexistent/place" in said
    assert "--dir" in said


def test_the_manifest_has_exactly_its_size_and_the_blobs_theirs(tmp_path):
    blobs, manifest = make_layout(tmp_path / "layout", (MIB, 2 * MIB))
    files = {path.name: path.stat().st_size for path in (tmp_path / "layout/blobs/sha256").iterdir()}
    assert {item.path.rpartition(":")[2]: item.size for item in (*blobs, manifest)} == files
    assert manifest.size == 2048


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n0123456789", "answered wrongly"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n012345678", "answered wrongly"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234", "5 bytes before the end"),
        (b"", "answered wrongly"),
    ],
)
def test_a_wrong_answer_ends_the_measurement_and_is_told(answer, says):
    with answering(answer) as port, pytest.raises(BenchFailed, match=says):
        run(port, Load("/x", 10, requests=2))


def test_the_body_is_counted_without_the_head():
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789") as port:
        sample = run(port, Load("/x", 10, requests=1))
    assert (sample.requests, sample.bytes, len(sample.latencies)) == (1, 10, 1)
    assert sample.latency(0.99) == sample.latencies[0]


def test_a_client_that_had_no_time_left_is_told():
    row = Row("2 KiB manifest", 64, "requests/s", 30_000.0, 9e-6, 0.002, 0.004, client=0.97)
    machine: dict[str, str | int] = {
        "fastmirror": "1",
        "python": "3",
        "cpu": "C",
        "cpus": 1,
        "kernel": "6",
        "congestion_control": "cubic",
    }
    made = Report([row], machine, 21.5, pinned=False)
    assert "the client was the limit, the server can do more: 2 KiB manifest" in made.notes()
    assert made.table()[1][2:6] == ("30,000/s", "9.0 us/request", "2.00 ms", "4.00 ms")
    assert "on one CPU" in made.notes()[1]
