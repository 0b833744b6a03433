"""JSON lines that cannot be forged, do not tell secrets and never block."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.observe.log import MAX_LINE, StderrHandler, redact, setup

LOG = logging.getLogger("fastmirror.http.server")


class Reader:
    """The other end of the log."""

    def __init__(self, level: str) -> None:
        self.fd, self.write_fd = os.pipe()
        self.handler: StderrHandler = setup(level, self.write_fd)

    def text(self) -> bytes:
        os.set_blocking(self.fd, False)
        try:
            return os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return b""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def reader() -> Iterator[Reader]:
    root, ours = logging.getLogger(), logging.getLogger("fastmirror")
    before = root.handlers[:], root.level, ours.level
    made = Reader("info")
    yield made
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)
    os.close(made.fd)
    os.close(made.write_fd)


def test_a_line_has_the_schema_and_the_fields_of_its_event(reader):
    log = logging.getLogger("fastmirror.fetch.layer")
    fields = {"peer": "10.0.0.1:5001", "bytes": 3, "seconds": 0.5, "again": None}
    log.info("it %s", "stalled", extra={"event": "fetch.peer_failed", **fields})
    (line,) = reader.lines()
    assert list(line)[:4] == ["ts", "level", "event", "msg"]
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info", "event": "fetch.peer_failed", "msg": "it stalled", "peer": "10.0.0.1:5001", "bytes": 3,
        "seconds": 0.5, "again": None,
    }  # fmt: skip


def test_a_level_below_the_setting_is_not_written(reader):
    LOG.debug("not here", extra={"event": "mirror.pull_missed"})
    LOG.warning("no", extra={"event": "mirror.store_failed"})
    assert [line["event"] for line in reader.lines()] == ["mirror.store_failed"]


def test_other_libraries_lines_have_the_schema_too(reader):
    logging.getLogger("asyncio").error("Task %s", "broke")
    logging.getLogger("asyncio").info("chatter")
    (line,) = reader.lines()
    assert (line["level"], line["event"], line["msg"]) == ("error", "asyncio.message", "Task broke")


def test_an_exception_is_told_with_its_place(reader):
    try:
        raise ValueError("of token=abc")
    except ValueError:
        LOG.exception("no answer", extra={"event": "http.answer_failed"})
    (line,) = reader.lines()
    assert line["event"] == "http.answer_failed"
    assert line["error"].startswith("ValueError: ")
    assert "test_log.py" in line["traceback"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://user:hunter2@registry.example/v2/", "hunter2"),
        ("GET /v2/a/blobs/x?sig=hunter2&ns=docker.io", "hunter2"),
        ("authorization: Bearer hunter2", "hunter2"),
        ("proxy said Basic aHVudGVyMg==", "aHVudGVyMg"),
    ],
)
def test_secrets_in_urls_and_headers_are_redacted(reader, text, secret):
    LOG.info(text, extra={"url": text, "many": [text]})
    assert secret not in reader.text().decode()
    assert "REDACTED" in redact(text)


def test_fields_that_hold_secrets_by_name_are_redacted_whole(reader):
    LOG.info("no", extra={"Authorization": "hunter2", "session_token": "hunter2"})
    assert "hunter2" not in reader.text().decode()


def test_the_registry_in_ns_stays_readable():
    assert redact("/v2/a/manifests/b?ns=docker.io") == "/v2/a/manifests/b?ns=docker.io"


@settings(deadline=None)
@given(st.text(), st.text(st.characters(codec=None, categories=None), max_size=2000), st.lists(st.text(), max_size=40))
def test_no_text_makes_a_second_line_or_leaves_ascii(message, value, many):
    read_fd, write_fd = os.pipe()
    try:
        handler = StderrHandler(write_fd)
        record = logging.makeLogRecord({"name": "test", "msg": message, "levelname": "INFO"})
        record.__dict__ |= {"value": value, "many": many, **{f"field{n}": value for n in range(30)}}
        handler.emit(record)
        written = os.read(read_fd, 1 << 16)
    finally:
        os.close(read_fd)
        os.close(write_fd)
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert len(written) <= MAX_LINE
    assert all(32 <= byte < 127 for byte in written[:-1])
    assert "level" in json.loads(written)


def test_long_values_are_cut_and_say_how_long_they_were(reader):
    LOG.info("no", extra={"target": "x" * 5000})
    (line,) = reader.lines()
    assert line["target"] == "x" * 256 + "... (5000 characters)"


def test_a_reader_that_does_not_read_costs_lines_and_never_time(reader):
    fcntl.fcntl(reader.write_fd, fcntl.F_SETPIPE_SZ, 4096)
    for _ in range(200):
        LOG.info("first", extra={"target": "x" * 200})
    assert reader.handler.dropped > 100
    assert {line["msg"] for line in reader.lines()} == {"first"}
    LOG.info("the reader is back")
    assert [line["msg"] for line in reader.lines()] == ["the reader is back"]


def test_a_reader_that_is_gone_is_survived(reader):
    os.close(reader.fd)
    LOG.warning("anyone?")
    assert reader.handler.dropped == 1
    reader.fd = os.open("/dev/null", os.O_RDONLY)
