"""What a run of well-formed requests means, written from RFC 9112 and from the text of ext/requests.pyx.

Only the plain part of the grammar: for everything else there is no opinion (None), and httptools decides.
"""

from __future__ import annotations

import re

_FIELD = rb"([A-Za-z][A-Za-z0-9-]*): ?([!-~](?:[!-~ ]*[!-~])?)\r\n"
_REQUEST = re.compile(rb"(GET|HEAD) (/[A-Za-z0-9/._:%?=&@~-]*) HTTP/1\.([01])\r\n((?:" + _FIELD + rb")*)\r\n")
_NAME = re.compile(rb"[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*")
_KNOWN = {b"host", b"range", b"if-range", b"connection", b"fastmirror-token", b"accept", b"user-agent"}

Plain = tuple[str, bytes, bytes | None, bytes | None, bool, bytes | None]


def read(data: bytes) -> list[Plain] | None:
    """Method, target, range, if-range, keep-alive and token of each request, up to the last one that is answered."""
    found: list[Plain] = []
    at = 0
    while at < len(data):
        match = _REQUEST.match(data, at)
        if match is None or len(match[0]) > 4000 or len(found) == 30:
            return None
        one = _request(match)
        if one is None:
            return None
        found.append(one)
        if not one[4]:
            return found  # what follows is not read
        at = match.end()
    return found


def _request(match: re.Match[bytes]) -> Plain | None:
    fields: dict[bytes, bytes] = {}
    for name, value in re.findall(_FIELD, match[4]):
        if name.lower() not in _KNOWN or name.lower() in fields:
            return None
        fields[name.lower()] = value
    host, connection = fields.get(b"host"), fields.get(b"connection", b"")
    if host is None or not _NAME.fullmatch(host) or connection.lower() not in (b"", b"close", b"keep-alive"):
        return None
    keep_alive = match[3] == b"1" and connection.lower() != b"close"
    return (
        match[1].decode(),
        match[2],
        fields.get(b"range"),
        fields.get(b"if-range"),
        keep_alive,
        fields.get(b"fastmirror-token"),
    )
