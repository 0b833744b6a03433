"""The ways in which a :class:`~tests.kit.faulty_peer.FaultyPeer` breaks an answer, and plans that choose one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Seen(NamedTuple):
    """One request as the peer saw it: bytes ``[start, stop)``. ``number`` counts the GETs before it."""

    method: str
    target: str
    reference: str
    start: int | None
    number: int
    headers: dict[str, str]
    stop: int | None = None


class Fault(NamedTuple):
    """One way to break an answer; made by the functions below. ``at`` and ``amount`` are bytes, ``pause`` seconds."""

    kind: str
    at: int = 0
    amount: int = 0
    pause: float = 0.0
    text: str = ""


Plan = Callable[[Seen], Fault | None]
"""Chooses the fault of an answer; None: the answer is right."""


def healthy(seen: Seen) -> Fault | None:
    """The plan of a peer without faults."""
    return None


def on_get(*faults: Fault | None) -> Plan:
    """HEAD is answered rightly; the nth GET with the nth fault, and all further ones with the last."""
    return lambda seen: faults[min(seen.number, len(faults) - 1)] if seen.method == "GET" else None


def always(fault: Fault) -> Plan:
    """Every request, HEAD too."""
    return lambda seen: fault


def silent() -> Fault:
    """Never answer, keep the connection."""
    return Fault("silent")


def half_status() -> Fault:
    """Send half a status line, then nothing."""
    return Fault("half_status")


def slow_first_byte(pause: float) -> Fault:
    """Answer rightly, but only after ``pause`` seconds."""
    return Fault("slow_first_byte", pause=pause)


def truncate(at: int) -> Fault:
    """End the connection by FIN after ``at`` bytes of the body."""
    return Fault("truncate", at=at)


def reset(at: int) -> Fault:
    """End the connection by RST after ``at`` bytes of the body."""
    return Fault("reset", at=at)


def stall(at: int) -> Fault:
    """Send ``at`` bytes of the body, then nothing more, and keep the connection."""
    return Fault("stall", at=at)


def drip(amount: int, pause: float) -> Fault:
    """Send ``amount`` bytes of the body every ``pause`` seconds."""
    return Fault("drip", amount=amount, pause=pause)


def corrupt(at: int) -> Fault:
    """Change one byte: offset ``at`` of the content, from its end if negative."""
    return Fault("corrupt", at=at)


def wrong_length(amount: int) -> Fault:
    """Announce and send ``amount`` bytes more (junk) or fewer than the content has."""
    return Fault("wrong_length", amount=amount)


def promised_length(amount: int) -> Fault:
    """Announce ``amount`` bytes more than are sent, then end by FIN."""
    return Fault("promised_length", amount=amount)


def extra(amount: int) -> Fault:
    """Send ``amount`` bytes after what Content-Length announced."""
    return Fault("extra", amount=amount)


def no_range() -> Fault:
    """Answer a Range with 200 and the whole content."""
    return Fault("no_range")


def wrong_range(amount: int) -> Fault:
    """Answer a Range with a Content-Range that begins ``amount`` bytes further on than was asked."""
    return Fault("wrong_range", amount=amount)


def unasked_range() -> Fault:
    """Answer a request without Range with 206 and the second half."""
    return Fault("unasked_range")


def encoded() -> Fault:
    """Say that the body is gzip."""
    return Fault("encoded")


def chunked() -> Fault:
    """Send the body with chunked transfer coding and no length."""
    return Fault("chunked")


def redirect(location: str) -> Fault:
    """302 to another place."""
    return Fault("redirect", text=location)


def unauthorized(realm: str) -> Fault:
    """401 with a bearer challenge that names ``realm``."""
    return Fault("unauthorized", text=realm)


def status(code: int) -> Fault:
    """An error answer with this status."""
    return Fault("status", at=code)


def header_bomb(amount: int) -> Fault:
    """A response head with a field of ``amount`` bytes."""
    return Fault("header_bomb", amount=amount)


def many_headers(amount: int) -> Fault:
    """A response head with ``amount`` fields."""
    return Fault("many_headers", amount=amount)


def garbage() -> Fault:
    """Something that is not HTTP."""
    return Fault("garbage")
