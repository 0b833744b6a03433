"""The cases as data, read from ``tests/cases/bad_http.json``, whose README says what the fields mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.catalogue.fixture import Fixture

FILE = Path(__file__).parents[1] / "cases" / "bad_http.json"


@dataclass(frozen=True)
class Case:
    """One request (or a scenario of many) and what the answer must be like."""

    id: str
    group: str
    status: tuple[int, ...]
    must: str
    send: tuple[str | dict[str, Any], ...] = ()
    ref: str = ""
    scenario: str = ""
    prefer: int | None = None
    status_with_default_registry: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    closes: bool = False
    answers: int = 0
    statuses: tuple[int, ...] = ()
    answers_or_close: int = 0
    usable: bool = False
    headers: dict[str, dict[str, str | None]] | None = None
    same_headers_as: str = ""
    digest: str = ""
    absent: tuple[str, ...] = ()
    unlogged: tuple[str, ...] = ()
    max_ms: float = 0.0
    max_rss_mib: float = 0.0
    piece: int = 1 << 18
    halfclose: bool = False

    def payload(self, fixture: Fixture) -> bytes:
        """The bytes to send."""
        return b"".join(_part(part, fixture) for part in self.send)

    @property
    def alone(self) -> bool:
        """Whether it measures something that other requests at the same time would change."""
        return bool(self.max_ms or self.max_rss_mib)


def _part(part: str | dict[str, Any], fixture: Fixture) -> bytes:
    if isinstance(part, str):
        return fixture.fill(part).encode("latin-1")
    times = int(part["times"])
    if "repeat" in part:
        return fixture.fill(part["repeat"]).encode("latin-1") * times
    template = fixture.fill(part["number"])
    return "".join(template.replace("#", str(number)) for number in range(times)).encode("latin-1")


def load(file: Path = FILE) -> list[Case]:
    """All cases. A field that is not known is an error, not a case that checks less than it says."""
    cases = []
    for entry in json.loads(file.read_text()):
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        cases.append(Case(**fields))
    names = {case.id for case in cases}
    assert len(names) == len(cases), "two cases have the same id"
    assert all(not case.same_headers_as or case.same_headers_as in names for case in cases)
    return cases
