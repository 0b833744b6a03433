"""What a pull came to, as rows for a terminal or as JSON. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from fastmirror.errors import FastmirrorError, PullFailed
from fastmirror.pull.told import Told, source
from fastmirror.pull.walk import Walk

Rows = list[tuple[str, ...]]

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_SOURCES: Final = {
    "peers": "peers",
    "earlier": "peers, before this pull",
    "store": "the mirror's own store",
    "other": "not through the mirror",
    None: "?",
}


class Report:
    """A pull that is over, well or not, and what the mirror told of it."""

    def __init__(self, walk: Walk, told: Told, error: FastmirrorError | None) -> None:
        self._walk = walk
        self._told = told
        self._error = error

    def objects(self) -> Rows:
        """One row per object, and the sum; empty if the pull did not come as far as the first one."""
        if not self._walk.objects:
            return []
        rows: Rows = [("KIND", "DIGEST", "SIZE", "SECONDS", "RATE", "FIRST BYTE", "LONGEST GAP", "RESUMES", "SOURCE")]
        for one in self._walk.objects:
            told = one.told()
            where = self._source(told)
            rows.append(
                (
                    one.kind, one.digest[:19], size(one.bytes), f"{one.seconds:.3f}", f"{size(one.rate)}/s",
                    milliseconds(told["first_byte_ms"]), milliseconds(told["longest_gap_ms"]), str(one.resumes),
                    _SOURCES[where] if one.whole else "not complete" if one.begun else "not begun",
                )
            )  # fmt: skip
        total, seconds = sum(one.bytes for one in self._walk.objects), self._walk.seconds
        rows.append(
            ("all", "", size(total), f"{seconds:.3f}", f"{size(total / seconds if seconds else 0)}/s", *[""] * 4)
        )
        return rows

    def peers(self) -> Rows:
        """One row per object and peer; empty if the mirror told nothing of peers."""
        rows: Rows = []
        for one in self._walk.objects:
            fetch = self._told.fetches.get(one.digest)
            for peer in fetch["peers"] if fetch else ():
                rows.append(_peer_row(one.digest, peer))
        return [("DIGEST", "PEER", "BYTES", "RATE", "REQUESTS", "FAILED", "WHAT WAS SLOW"), *rows] if rows else []

    def notes(self) -> list[str]:
        """What else there is to say, a line each."""
        notes = [f"peers: {self._told.problem}"] if self._told.problem and self._walk.objects else []
        for one in self._walk.objects:
            fetch = self._told.fetches.get(one.digest)
            if fetch and (fetch["hedges"] or fetch["steals"] or fetch["refetched"]):
                notes.append(
                    f"{one.digest[:19]}: {fetch['hedges']} hedges, {fetch['steals']} parts taken from slower peers,"
                    f" {size(fetch['refetched'])} asked for again because they were wrong"
                )
        return notes

    def to_json(self) -> str:
        """Everything; rates in bytes per second."""
        walk = self._walk
        objects = []
        for one in walk.objects:
            told, fetch = one.told(), self._told.fetches.get(one.digest)
            objects.append({**told, "source": self._source(told), "fetch": fetch})
        document: dict[str, Any] = {
            "image": str(walk.options.image),
            "digest": walk.target,
            "platform": str(walk.options.platform),
            "hosts": [str(host) for host in walk.options.hosts],
            "ok": self._error is None,
            "missed": isinstance(self._error, PullFailed) and self._error.missed,
            "error": None if self._error is None else str(self._error),
            "seconds": round(walk.seconds, 6),
            "bytes": sum(one.bytes for one in walk.objects),
            "objects": objects,
            "not_told": self._told.problem,
        }
        return json.dumps(document, indent=2)

    def _source(self, told: dict[str, Any]) -> str | None:
        fetch = self._told.fetches.get(told["digest"])
        return source(fetch, self._told, told["hosts"], self._walk.options.hosts[0])


def _peer_row(digest: str, peer: dict[str, Any]) -> tuple[str, ...]:
    failed = ", ".join(f"{outcome} {count}" for outcome, count in peer["failed"].items())
    slow = [f"answered late {peer['late']} times"] if peer["late"] else []
    slow += [f"given up for a faster one {peer['slow']} times"] if peer["slow"] else []
    slow += [f"{size(peer['wrong'])} wrong"] if peer["wrong"] else []
    slow += ["told or sent what is wrong"] if peer["convicted"] else []
    rate = "-" if peer["rate"] is None else f"{size(peer['rate'])}/s"
    return digest[:19], peer["peer"], size(peer["bytes"]), rate, str(peer["requests"]), failed or "-", ", ".join(slow)


def size(count: float) -> str:
    """Bytes for people."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def milliseconds(value: float | None) -> str:
    """A time for people, "-" if there was none."""
    return "-" if value is None else f"{value:.1f} ms"
