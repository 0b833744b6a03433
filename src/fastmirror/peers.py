"""What this node knows of the others, for people: ``/peers`` on the admin listener, and who asks it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from fastmirror.config.check import Address
from fastmirror.errors import FastmirrorError
from fastmirror.http.message import Answer, Reply, Request, head
from fastmirror.inventory.bridge import PeerRow

_JSON: Final = "Content-Type: application/json"


class Peers:
    """An Answer: GET and HEAD of /peers from what ``rows`` gives, everything else from another Answer."""

    def __init__(self, rows: Callable[[], Awaitable[list[PeerRow]]], others: Answer) -> None:
        self._rows = rows
        self._others = others

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer one request."""
        if request.target.partition("?")[0] == "/peers":
            return self._peers()
        return self._others(request)

    async def _peers(self) -> Reply:
        try:
            status, content = 200, msgspec.json.encode({"peers": await self._rows()}) + b"\n"
        except TimeoutError:
            status, content = 503, b'{"error": "the router process does not answer"}\n'
        return Reply(head(status, _JSON, f"Content-Length: {len(content)}", "Cache-Control: no-store"), content)


class PeersUnknown(FastmirrorError):
    """``fastmirror peers`` cannot find out; the text says whom it asked and why not. Caught in ``cli.main``."""


class _Told(msgspec.Struct):
    peers: list[PeerRow]


ASK_SECONDS: Final = 5.0
HEADS: Final = ("NAME", "PEER ADDRESS", "STATE", "LINK", "RTT", "KEYS", "AGE", "LAST FAILURE", "PEER ID")
_STATIC: Final = ("PEER ADDRESS", "STATE", "AGE", "LAST FAILURE")


def ask(admin: Address) -> list[PeerRow]:
    """What the node with this admin listener knows. Raises PeersUnknown."""
    import http.client  # the daemon, which loads this module too, does not need it

    connection = http.client.HTTPConnection(admin.host, admin.port, timeout=ASK_SECONDS)
    try:
        connection.request("GET", "/peers")
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 404:
            raise PeersUnknown(f"the node at {admin} knows no others: it was given neither --peers nor --bootstrap")
        if answer.status != 200:
            raise PeersUnknown(f"the node at {admin} answers with status {answer.status}: its router does not run now")
        return msgspec.json.decode(content, type=_Told).peers
    except (OSError, http.client.HTTPException) as error:
        raise PeersUnknown(f"no node answers at {admin}: {error}; --admin-addr says where it is") from error
    except msgspec.DecodeError as error:
        raise PeersUnknown(f"what answers at {admin} is no fastmirror") from error
    finally:
        connection.close()


def to_json(peers: list[PeerRow]) -> str:
    """As JSON; times in seconds."""
    return msgspec.json.encode(peers).decode()


def rows(peers: list[PeerRow]) -> list[tuple[str, ...]]:
    """As a table, with its heads; without what only the libp2p router knows where that router is not used."""
    table = [HEADS, *map(_row, peers)]
    if any(peer.peer_id for peer in peers):
        return table
    return [tuple(row[HEADS.index(head)] for head in _STATIC) for row in table]


def _row(peer: PeerRow) -> tuple[str, ...]:
    trip = "" if peer.round_trip is None else f"{peer.round_trip * 1000:.1f} ms"
    failure = f"{peer.failure} ({peer.failure_age or 0:.0f} s ago)" if peer.failure else ""
    known = (peer.name, peer.address, peer.state, peer.connection, trip, str(peer.keys), f"{peer.age:.0f} s")
    return (*known, failure, peer.peer_id)
