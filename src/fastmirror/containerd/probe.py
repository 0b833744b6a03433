"""Who answers at a mirror's address: fastmirror, somebody else, nobody, or something that is stuck."""

from __future__ import annotations

import http.client
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

HEADER: Final = "Fastmirror-Version"
TIMEOUT_SECONDS: Final = 2.0


class Kind(Enum):
    """What the answer means for containerd."""

    OURS = "fastmirror answers"
    FOREIGN = "something else answers"
    SILENT = "it takes connections and does not answer"
    ABSENT = "nothing listens there"


class Answer(NamedTuple):
    """Who answers, and what was seen: a version of fastmirror, a status, an error."""

    kind: Kind
    detail: str
    status: int = 0

    def __str__(self) -> str:
        return f"{self.kind.value} ({self.detail})"


def probe(url: str, timeout: float = TIMEOUT_SECONDS) -> Answer:
    """Ask ``URL/v2/``. Never raises for what the other side does."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    try:
        connection.connect()
    except OSError as error:
        return Answer(Kind.ABSENT, error.strerror or str(error))
    try:
        connection.request("GET", "/v2/")
        answer = connection.getresponse()
        version = answer.getheader(HEADER)
        if version is not None:
            return Answer(Kind.OURS, version, answer.status)
        server = answer.getheader("Server") or "no Server header"
        return Answer(Kind.FOREIGN, f"status {answer.status}, {server}", answer.status)
    except TimeoutError:
        return Answer(Kind.SILENT, f"no answer within {timeout:g} s")
    except (OSError, http.client.HTTPException) as error:
        return Answer(Kind.FOREIGN, str(error) or type(error).__name__)
    finally:
        connection.close()
