"""What is told of the router's state to people and metrics."""

from __future__ import annotations

from collections import Counter
from typing import Final

from fastmirror.inventory.bridge import PeerRow
from fastmirror.inventory.member import State
from fastmirror.inventory.node import Inventory
from fastmirror.p2p import identity

REFUSALS: Final = ("address", "signature", "frame", "room", "crowd", "suspicion", "admission")


def rows(inventory: Inventory, now: float) -> list[PeerRow]:
    """One row for each other node."""
    found = []
    links = {link.owner: link for link in inventory.links.values()}
    for member in inventory.members:
        card, link = member.card, links.get(member.owner)
        host = member.host or (card.hosts[0] if card.hosts else "?")
        row = PeerRow(
            peer_id=identity.text(member.owner),
            name=card.name,
            zone=card.zone,
            address=f"[{host}]:{card.peer_port}" if ":" in host else f"{host}:{card.peer_port}",
            state="unmet" if member.live and not member.host else member.state.value,
            connection="none" if link is None else "out" if link.outbound else "in",
            round_trip=None if link is None else link.round_trip,
            keys=len(member.keys) if member.live else 0,
            age=now - member.since,
            failure=member.failure,
            failure_age=now - member.failed_at if member.failure else None,
        )
        found.append(row)
    return sorted(found, key=lambda row: (row.name, row.peer_id))


def counters(inventory: Inventory, refused: Counter[str], turned_away: int) -> dict[str, int]:
    """Numbers for the metrics."""
    members = list(inventory.members)
    bad = inventory.members.refused + refused
    return {
        "live": sum(m.live and bool(m.host) for m in members),
        "unmet": sum(m.live and not m.host for m in members),
        "lost": sum(m.state is State.LOST for m in members),
        "left": sum(m.state is State.LEFT for m in members),
        "losses": inventory.members.losses,
        "links": len(inventory.links),
        "keys": len(inventory.ledger.keys),
        "keys_refused": inventory.ledger.refused,
        "deltas_in": inventory.deltas_in,
        "deltas_out": inventory.deltas_out,
        "resyncs": inventory.resyncs,
        "turned_away": turned_away,
        **{
            f"refused_{why}": bad[why]
            for why in ("address", "signature", "frame", "room", "crowd", "suspicion", "admission")
        },
    }


def everybody_met(inventory: Inventory) -> bool:
    """Whether this node is linked, and has met everybody that it knows."""
    return bool(inventory.links) and len(inventory.members) > 0 and all(m.host or not m.live for m in inventory.members)
