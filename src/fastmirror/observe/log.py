"""Logs: JSON lines on stderr, one schema: ``ts level event msg`` and the fields of the event.

Parts log through the standard library: ``log.info("text", extra={"event": "fetch.peer_failed", "peer": peer})``.
An event is ``<package>.<thing>_<past participle>``, what else is in ``extra`` are its fields. All text is redacted,
shortened and escaped here and nowhere else. Levels: debug for what only someone who looks for a fault wants to read
(also every miss and every client that left), info for a change of state, warning if someone should look, error for a
bug and for what this node cannot work without.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import time
import traceback
from typing import Final

MAX_VALUE: Final = 256
MAX_LINE: Final = 4096
"""A pipe that polls writable takes PIPE_BUF (4096) bytes at once without blocking. Source: pipe(7)."""

_SECRET_FIELD: Final = re.compile(r"authorization|cookie|token|secret|password|credential", re.ASCII | re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"\b(Bearer|Basic|Digest|Negotiate)\s+[^\s,;\"']+", re.ASCII | re.IGNORECASE)
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s?#]*@", re.ASCII)
_QUERY: Final = re.compile(r"([?&](?!ns=)[^=&\s\"']*)=[^&\s\"'#]*", re.ASCII)

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}

Value = str | int | float | bool | None | list[str]


def redact(text: str) -> str:
    """The text without credentials, user names in URLs and query values (``ns`` is kept: it names a registry)."""
    text = _CREDENTIALS.sub(r"\1 REDACTED", text)
    text = _USERINFO.sub("REDACTED@", text)
    return _QUERY.sub(r"\1=REDACTED", text)


def shorten(text: str) -> str:
    """The text, or its first 256 characters and how long it was."""
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}... ({len(text)} characters)"


def _value(name: str, value: object) -> Value:
    if _SECRET_FIELD.search(name):
        return "REDACTED"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [shorten(redact(str(item))) for item in list(value)[:16]]
    return shorten(redact(str(value)))


class JsonFormatter(logging.Formatter):
    """Makes one line of at most 4096 bytes of ASCII. Other libraries' records get the event ``<logger>.message``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        seconds = record.created
        line: dict[str, Value] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z",
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name + ".message"),
            "msg": shorten(redact(record.getMessage())),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                line.setdefault(name, _value(name, value))
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = shorten(redact(f"{type(error).__name__}: {error}"))
            line["traceback"] = redact("".join(traceback.format_tb(error.__traceback__)))[-1500:]
        return _encode(line)


def _encode(line: dict[str, Value]) -> str:
    text = _dump(line)
    for name in sorted(line, key=lambda name: -len(_dump(line[name]))):
        if len(text) < MAX_LINE:
            return text
        line[name] = "too long"
        text = _dump(line)
    return text[: MAX_LINE - 1]


def _dump(value: object) -> str:
    # json, not msgspec: it escapes everything outside ASCII, lone surrogates too, so no text can forge or hide a line.
    return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f")


class StderrHandler(logging.Handler):
    """Writes lines to a descriptor without ever waiting for its reader; ``dropped`` counts what was not taken.

    A stuck reader of our log must not stop the loop: lines that a pipe has no room for are dropped.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.dropped = 0
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or drop it."""
        line = self.format(record).encode("ascii") + b"\n"
        events = self._poll.poll(0)
        with contextlib.suppress(OSError):  # the reader is gone, the disk under the log is full: we serve on
            if events and events[0][1] & select.POLLOUT and os.write(self._fd, line) == len(line):
                return
        self.dropped += 1


def setup(level: str, fd: int | None = None) -> StderrHandler:
    """Send all logging of the process to stderr (or ``fd``) as JSON lines, from ``level`` on."""
    handler = StderrHandler(2 if fd is None else fd)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("fastmirror").setLevel(level.upper())
    return handler
