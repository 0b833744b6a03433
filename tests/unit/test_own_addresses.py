"""Which addresses are this node."""

from __future__ import annotations

import pytest

from fastmirror.config.check import address
from fastmirror.http.own import leads_here, own_addresses

OWN = frozenset({"127.0.0.1", "10.0.0.1", "::1", "fd00::1"})


def test_the_nodes_own_addresses_are_known():
    assert "127.0.0.1" in own_addresses()


@pytest.mark.parametrize(
    ("bound", "other", "here"),
    [
        ("10.0.0.1:5001", "10.0.0.1:5001", True), ("10.0.0.1:5001", "10.0.0.1:5002", False),
        ("10.0.0.1:5001", "127.0.0.1:5001", False), ("127.0.0.11:5001", "127.0.0.12:5001", False),
        ("0.0.0.0:5001", "10.0.0.1:5001", True), ("0.0.0.0:5001", "127.0.0.12:5001", True),
        ("0.0.0.0:5001", "10.0.0.2:5001", False), ("0.0.0.0:5001", "[fd00::1]:5001", False),
        ("[::]:5001", "[fd00::1]:5001", True), ("[::]:5001", "10.0.0.1:5001", True),
        ("0.0.0.0:5001", "node-a:5001", False), ("node-a:5001", "node-a:5001", True),
    ],
)  # fmt: skip
def test_an_address_is_this_nodes_own_only_if_its_listener_answers_there(bound, other, here):
    assert leads_here(address(other), [bound], OWN) is here


def test_every_address_that_is_listened_on_counts():
    assert leads_here(address("[::1]:1"), ["127.0.0.1:1", "[::1]:1"], OWN)
    assert not leads_here(address("[::1]:1"), [], OWN)
