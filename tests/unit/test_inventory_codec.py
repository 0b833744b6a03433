"""Frames of the inventory: there and back, appended to by later versions, and broken in every way."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastmirror.inventory import bridge
from fastmirror.inventory.card import MAX_KEYS, Card, Version, read_card
from fastmirror.inventory.keys import KeySet, fingerprint, pack, unpack
from fastmirror.inventory.messages import (
    Bye,
    Delta,
    Flight,
    Flights,
    Hello,
    Part,
    Ping,
    Pong,
    Snapshot,
    Suspect,
    View,
    Want,
    parse,
)
from fastmirror.inventory.wire import HEADER, MAX_FRAME, BadFrame, Reader, Splitter, frame
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from tests.kit.inventory_sim import sign_as, verify

_U64 = st.integers(0, 2**64 - 1)
_VERSIONS = st.builds(Version, _U64, _U64)
_OWNERS = st.binary(min_size=1, max_size=64)
_HOSTS = st.ip_addresses().map(str)
_KEYS = st.sets(_U64, max_size=50).map(KeySet)
_NAMES = st.text("abc -._", max_size=63)


@st.composite
def cards(draw, keys: KeySet | None = None) -> Card:
    keys = draw(_KEYS) if keys is None else keys
    owner = draw(_OWNERS)
    ports = draw(st.integers(0, 65535)), draw(st.integers(0, 65535))
    hosts = tuple(draw(st.lists(_HOSTS, max_size=8)))
    card = Card(
        owner, draw(_VERSIONS), draw(st.integers(0, 255)), draw(_NAMES), draw(_NAMES), hosts, *ports,
        draw(st.binary(max_size=16)), len(keys), keys.root, draw(st.binary(max_size=40)),
    )  # fmt: skip
    return card.signed(sign_as(owner))


@st.composite
def snapshots(draw) -> Snapshot:
    keys = draw(_KEYS)
    return Snapshot(draw(cards(keys)), keys)


_LISTED = st.lists(st.tuples(_OWNERS, _VERSIONS), max_size=20).map(tuple)
_SOME = st.lists(_U64, max_size=20).map(tuple)
MESSAGES = st.one_of(
    st.builds(Hello, _U64, cards(), st.integers(0, 65535)),
    snapshots(),
    st.builds(Delta, cards(), _U64, _SOME, _SOME),
    st.builds(Bye, cards()),
    st.builds(Ping, _U64, _U64),
    st.builds(Pong, _U64, _U64),
    st.builds(Suspect, _OWNERS, _VERSIONS),
    st.builds(View, _LISTED, st.booleans()),
    st.builds(Want, _LISTED),
    st.builds(Part, st.integers(0, 255)),
    st.builds(Flights, st.lists(st.builds(Flight, _U64, _U64, _U64), max_size=20).map(tuple)),
)


@given(MESSAGES)
@settings(deadline=None)
def test_every_message_comes_back_as_it_was(message):
    ((kind, payload),) = Splitter().feed(message.encode())
    assert parse(kind, payload) == message


@given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=50))
@settings(deadline=None)
def test_frames_come_out_of_any_pieces(sent, sizes):
    data = b"".join(message.encode() for message in sent)
    splitter, found, at = Splitter(), [], 0
    for number in range(len(data) + 1):
        size = sizes[number % len(sizes)]
        found += splitter.feed(data[at : at + size])
        at += size
        if at >= len(data):
            break
    assert [parse(*one) for one in found] == sent


@given(st.integers(0, 255), st.binary(max_size=300))
@settings(deadline=None)
@example(9, b"\xff\xff")
def test_rubbish_is_a_bad_frame_or_a_message_and_nothing_else(kind, payload):
    try:
        message = parse(kind, payload)
    except BadFrame:
        return
    assert message is None or kind in range(1, 12)


@given(MESSAGES, st.data())
@settings(deadline=None)
def test_a_message_that_was_cut_or_changed_is_a_bad_frame_or_another_message(message, data):
    payload = bytearray(message.encode()[HEADER.size :])
    kind = message.encode()[4]
    if payload:
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    for broken in (bytes(payload), cut):
        try:
            parse(kind, broken)
        except BadFrame:
            continue


def test_unknown_kinds_are_skipped():
    assert parse(200, b"from a later version") is None
    assert Splitter().feed(frame(200, b"x") + Ping(1, 2).encode())[1][0] == 5


def test_frames_that_are_too_large_are_refused_before_they_are_held():
    for length in (0, MAX_FRAME, 2**32 - 1):
        with pytest.raises(BadFrame):
            Splitter().feed(struct.pack(">IB", length, 2))


def test_too_many_keys_are_refused():
    card = Card(b"o", Version(1, 1), 0, "", "", (), 1, 1, b"", MAX_KEYS + 1, bytes(32)).signed(sign_as(b"o"))
    with pytest.raises(BadFrame, match="keys"):
        parse(4, card.encode())
    with pytest.raises(BadFrame):
        parse(3, card._replace(key_count=0).encode() + bytes(8) + struct.pack(">I", MAX_KEYS + 1))


def test_a_snapshot_that_is_not_what_its_card_says_is_refused():
    keys = KeySet({1, 2, 3})
    card = Card(b"o", Version(1, 1), 0, "", "", (), 1, 1, b"", 3, keys.root).signed(sign_as(b"o"))
    good = Snapshot(card, keys).encode()[HEADER.size :]
    assert parse(2, good) == Snapshot(card, keys)
    for keys_on_wire in (pack((1, 2, 4)), pack((1, 2)), pack((3, 2, 1)), pack((1, 2, 2)), pack((1, 2, 3)) + b"x"):
        with pytest.raises(BadFrame):
            parse(2, card.encode() + keys_on_wire)


def test_what_later_versions_append_to_a_card_is_signed_and_passed_on():
    card = Card(b"o", Version(1, 1), 0, "n", "z", ("10.0.0.1",), 1, 2, b"", 0, bytes(32), b"new field")
    card = card.signed(sign_as(b"o"))
    read = read_card(Reader(card.encode()))
    assert read.extra == b"new field"
    assert read.genuine(verify)
    assert not read._replace(extra=b"forged").genuine(verify)
    assert not read._replace(hosts=("10.0.0.2",)).genuine(verify)


def test_names_that_could_deceive_a_terminal_are_refused():
    for name in ("caf\u00e9", "a\x1b[2J", "x" * 64):
        card = Card(b"o", Version(1, 1), 0, name, "", (), 1, 1, b"", 0, bytes(32)).signed(sign_as(b"o"))
        with pytest.raises(BadFrame):
            read_card(Reader(card.encode()))


def test_fingerprints_are_those_of_the_specification():
    digest = Digest.of(b"hello")
    assert fingerprint(digest) == int.from_bytes(bytes.fromhex(digest.hex)[:8], "big")
    reference = Reference("docker.io", "library/debian", "12")
    wanted = Digest.of(b"docker.io/library/debian:12")
    assert fingerprint(reference) == fingerprint(wanted)
    assert pack((1, 2**63)) == struct.pack("<QQ", 1, 2**63)
    assert list(unpack(struct.pack("<QQ", 1, 2**63))) == [1, 2**63]


@given(st.sets(_U64), st.sets(_U64), st.sets(_U64))
def test_key_sets_change_as_sets_do(start, add, drop):
    before = KeySet(start)
    after = before.changed(add, drop - add)
    assert set(after) == (start - (drop - add)) | add
    assert set(before) == start
    assert after == KeySet(set(after))
    assert after.root == KeySet.parse(after.packed()).root
    assert all(key in after for key in add)


BRIDGED: list[Any] = [
    bridge.Start("::", 1, "a", 2, [], ["10.0.0.0/8"], "", "", [], 64, "n", "z", 7, "info"),
    bridge.Publish(pack((1, 2))), bridge.Change(b"", pack((3,))), bridge.Leave(), bridge.Alive(3), bridge.Ask(),
]  # fmt: skip


def test_both_ends_of_the_bridge_understand_each_other():
    bodies = bridge.Splitter().feed(b"".join(map(bridge.encode, BRIDGED)))
    assert [bridge.to_router(body) for body in bodies] == BRIDGED
    row = bridge.PeerRow("id", "n", "z", "h:1", "live", "in", 0.1, 3, 4.0, "", None)
    told: list[Any] = [bridge.Rows([row]), bridge.NodeUp(b"o", "n", "z", "h", 1, b"t", b""), bridge.Gone()]
    bodies = bridge.Splitter().feed(b"".join(map(bridge.encode, told)))
    assert [bridge.from_router(body) for body in bodies] == told
    with pytest.raises(ValueError, match="bytes"):
        bridge.Splitter().feed(b"\xff\xff\xff\xff")
