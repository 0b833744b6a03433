"""What ``fastmirror peers`` shows, and what it says where there is nothing to show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastmirror import peers
from fastmirror.config.check import Address
from fastmirror.inventory.bridge import PeerRow
from tests.kit.cluster import free_port
from tests.kit.process import start


def row(
    address: str = "a:1", state: str = "live", failure: str = "", failure_age: float | None = None, peer_id: str = ""
) -> PeerRow:
    return PeerRow(
        peer_id=peer_id, name="", zone="", address=address, state=state, connection="", round_trip=None, keys=0,
        age=2.0, failure=failure, failure_age=failure_age,
    )  # fmt: skip


def test_the_table_has_no_columns_that_only_the_libp2p_router_fills() -> None:
    down = row(address="b:1", state="down", failure="unreachable", failure_age=3.0)
    assert peers.rows([row(), down]) == [
        ("PEER ADDRESS", "STATE", "AGE", "LAST FAILURE"),
        ("a:1", "live", "2 s", ""),
        ("b:1", "down", "2 s", "unreachable (3 s ago)"),
    ]
    assert peers.rows([row(peer_id="12D3")])[0] == peers.HEADS


def test_a_running_node_tells_which_of_its_given_peers_are_down(tmp_path: Path) -> None:
    down = f"127.0.0.1:{free_port('127.0.0.1')}"
    with start(tmp_path / "one") as other, start(tmp_path / "two", peers=["{}:{}".format(*other.peer), down]) as node:
        found = json.loads(peers.to_json(peers.ask(Address(*node.admin))))
        assert [(one["address"], one["state"]) for one in found] == [
            ("{}:{}".format(*other.peer), "live"),
            (down, "down"),
        ]
        with pytest.raises(peers.PeersUnknown, match="neither --peers nor --bootstrap"):
            peers.ask(Address(*other.admin))
