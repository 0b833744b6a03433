"""What the mirror says, afterwards, about where it had the objects of a pull from."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from fastmirror.pull.hosts import Client, Host

_MOST: Final = 8 << 20


class Told(NamedTuple):
    """``fetches`` by digest; ``complete`` if one that is not among them was not needed. ``problem``: why nothing."""

    fetches: dict[str, dict[str, Any]]
    complete: bool
    problem: str | None = None


def ask(admin: Host | None, began: float, digests: Iterable[str]) -> Told:
    """Ask the mirror's admin listener for what it fetched for a pull that began then (monotonic). Never raises."""
    if admin is None:
        return Told({}, False, "--admin URL asks the mirror which peer gave what (its admin listener, port 5002)")
    try:
        with Client().ask(admin, "GET", "/fetches", {}) as answer:
            content = b""
            while len(content) < _MOST and (piece := answer.read()):
                content += piece
        if answer.status != 200:
            return Told({}, False, f"{admin} does not tell (status {answer.status}): is it the mirror's --admin-addr?")
        return _read(json.loads(content), time.monotonic() - began, set(digests))
    except (OSError, http.client.HTTPException) as error:
        return Told({}, False, f"{admin} does not tell: {getattr(error, 'strerror', None) or error}")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Told({}, False, f"{admin} does not tell: its answer is not that of a fastmirror")


def _read(document: Any, seconds: float, digests: set[str]) -> Told:
    """Fetches are told of youngest first; what began before the pull, ``seconds`` ago, was for somebody else."""
    fetches: dict[str, dict[str, Any]] = {}
    over = [fetch for fetch in document["fetches"] if fetch["ended"] is not None]
    for fetch in document["fetches"]:
        if fetch["digest"] in digests:
            fetches.setdefault(fetch["digest"], fetch | {"earlier": fetch["began"] > seconds})
    complete = len(over) < document["kept"] or over[-1]["began"] > seconds
    return Told(fetches, complete)


def source(fetch: dict[str, Any] | None, told: Told, hosts: list[str], mirror: Host) -> str | None:
    """Where an object came from: peers, earlier (from peers, before this pull), store, other; None: not known."""
    if hosts and str(mirror) not in hosts:
        return "other"
    if fetch is not None:
        return "earlier" if fetch["earlier"] else "peers"
    return "store" if told.complete and hosts else None
