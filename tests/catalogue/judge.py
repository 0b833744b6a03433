"""Whether an outcome is what its case, and every answer of a pull mirror, must be."""

from __future__ import annotations

import hashlib
import json
import re

from tests.catalogue.cases import Case
from tests.catalogue.exchange import Outcome, Reply
from tests.catalogue.fixture import Fixture
from tests.kit.wire import End

_NEVER_STATUS = frozenset({100, 101, 301, 302, 303, 307, 308, 408, 429})
_NEVER_FIELDS = ("content-encoding", "transfer-encoding", "location", "access-control-allow-origin", "server")
_VARYING = frozenset({"date", "connection"})


def judge(case: Case, outcome: Outcome, fixture: Fixture, *, default_registry: bool, slack: float) -> list[str]:
    """What is wrong, in words; an empty list if nothing is. ``slack`` multiplies the time limit of the case."""
    problems = [*outcome.problems]
    problems += _connection(case, outcome)
    problems += _status(case, outcome, default_registry)
    for number, reply in enumerate(outcome.replies):
        method = outcome.methods[number] if number < len(outcome.methods) else "GET"
        problems += [f"answer {number}: {text}" for text in _reply(reply, method, fixture)]
    if outcome.replies:
        problems += _first(case, outcome.replies[0], fixture)
    for text in case.absent:
        if fixture.fill(text).encode("latin-1") in outcome.received:
            problems.append(f"the answer contains {text!r}")
    if case.max_ms and outcome.first_byte_ms > case.max_ms * slack:
        problems.append(f"first byte after {outcome.first_byte_ms:.0f} ms, allowed are {case.max_ms:g} (x {slack:g})")
    if case.max_rss_mib and outcome.rss_growth_kib > case.max_rss_mib * 1024:
        problems.append(f"memory grew by {outcome.rss_growth_kib} KiB, allowed are {case.max_rss_mib:g} MiB")
    return problems


def same_headers(reply: Reply, other: Reply) -> list[str]:
    """How the fields of two answers differ, apart from those that say nothing about the content."""
    mine = {name: value for name, value in reply.headers.items() if name not in _VARYING}
    theirs = {name: value for name, value in other.headers.items() if name not in _VARYING}
    return [] if mine == theirs else [f"header fields differ: {mine} and {theirs}"]


def _connection(case: Case, outcome: Outcome) -> list[str]:
    problems = []
    if outcome.end is End.RST:
        problems.append("the connection ended by RST")
    if outcome.late and not outcome.replies:
        problems.append("neither an answer nor an end in time")
    elif outcome.late and case.closes:
        problems.append("the connection was not ended")
    if case.closes and outcome.end is End.KEPT and not outcome.late:
        problems.append("the connection was not ended")
    if outcome.rest:
        problems.append(f"bytes that are no answer: {outcome.rest[:60]!r}")
    if outcome.informational:
        problems.append("an informational answer (100 Continue invites a body that nobody wants)")
    count = len(outcome.replies)
    if case.answers and count != case.answers:
        problems.append(f"{count} answers instead of {case.answers}")
    if case.answers_or_close and count != case.answers_or_close and outcome.end is not End.FIN:
        problems.append(f"{count} answers and the connection goes on")
    if case.usable and not outcome.usable:
        problems.append("the connection does not answer a further request")
    return problems


def _status(case: Case, outcome: Outcome, default_registry: bool) -> list[str]:
    allowed = {*case.status, *(case.status_with_default_registry if default_registry else ())}
    if outcome.status not in allowed:
        return [f"status {outcome.status}, allowed are {sorted(allowed)}"]
    if case.prefer is not None and outcome.status != case.prefer:
        return [f"status {outcome.status} is legal, but {case.prefer} is what we chose"]
    found = tuple(reply.status for reply in outcome.replies)
    if case.statuses and found != case.statuses:
        return [f"statuses {found} instead of {case.statuses}"]
    return []


def _reply(reply: Reply, method: str, fixture: Fixture) -> list[str]:
    """What holds for every answer."""
    fields = reply.headers
    problems = [f"field {name} must not be there" for name in _NEVER_FIELDS if name in fields]
    if reply.status in _NEVER_STATUS:
        problems.append(f"status {reply.status} is never given")
    if len(fields) != len(reply.fields):
        problems.append("a header field comes twice")
    if not re.fullmatch(r"\d+", fields.get("content-length", "")):
        problems.append("no Content-Length")
    if any(not (name.isascii() and value.isprintable()) for name, value in reply.fields):
        problems.append("a field with characters that are not printable")
    if not reply.complete:
        problems.append("the body is shorter than its Content-Length")
    if reply.status == 405 and sorted(fields.get("allow", "").split(", ")) != ["GET", "HEAD"]:
        problems.append("405 without Allow: GET, HEAD")
    if reply.status == 416 and fields.get("content-range") != f"bytes */{len(fixture.blob)}":
        problems.append(f"416 with Content-Range {fields.get('content-range')}")
    if reply.status == 206 and method == "GET":
        problems += _partial(reply, fixture)
    if reply.status >= 400 and reply.body:
        problems += _error_body(reply)
    return problems


def _partial(reply: Reply, fixture: Fixture) -> list[str]:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.headers.get("content-range", ""))
    if match is None:
        return ["206 without a Content-Range"]
    first, last, size = map(int, match.groups())
    if size != len(fixture.blob) or reply.body != fixture.blob[first : last + 1]:
        return [f"the body is not what {match[0]} says"]
    return []


def _error_body(reply: Reply) -> list[str]:
    try:
        errors = json.loads(reply.body)["errors"]
        good = all(isinstance(error["code"], str) and isinstance(error["message"], str) for error in errors)
    except (ValueError, KeyError, TypeError):
        return ["an error body that is not the OCI error object"]
    if not good or not errors:
        return ["an OCI error without code and message"]
    if reply.headers.get("content-type") != "application/json":
        return ["an error body that is not application/json"]
    return []


def _first(case: Case, reply: Reply, fixture: Fixture) -> list[str]:
    """What the case says about its (first) answer."""
    problems = []
    if case.codes and reply.status >= 400 and reply.body and not _error_body(reply):
        code = json.loads(reply.body)["errors"][0]["code"]
        if code not in case.codes:
            problems.append(f"code {code}, allowed are {case.codes}")
    for name, value in (case.headers or {}).get(str(reply.status), {}).items():
        found = reply.headers.get(name)
        expected = None if value is None else fixture.fill(value)
        if (expected == "*" and found is None) or (expected != "*" and found != expected):
            problems.append(f"{name}: {found!r} instead of {expected!r}")
    if case.digest and reply.status in (200, 206):
        found = "sha256:" + hashlib.sha256(reply.body).hexdigest()
        if found != fixture.fill(case.digest):
            problems.append("the body does not have its digest")
    return problems
