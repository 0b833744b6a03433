"""Answers with what other nodes have: misses, heads, manifests, tags, and what peers get to see of a request."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastmirror.mirror.filters import Filters
from fastmirror.oci.descriptor import OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import blob_target, fetching, holders, is_all
from tests.kit.layout import image
from tests.kit.waiting import NOISE

WHOLE = 64 * 1024
HOLDBACK = 32 * 1024
LAYER = blob(1_000_000, 3)
OTHER = blob(700_000, 4)
SMALL = blob(40_000, 5)
SETTINGS: dict[str, Any] = {
    "verify": "tail",  # the contents here are smaller than a piece of a chunk list
    "whole_bytes": WHOLE,
    "holdback_bytes": HOLDBACK,
    "stall_timeout": 1.0,
    "lookup_timeout": 1.0,
}


# ---- misses, heads, manifests, tags


async def test_what_nobody_has_is_a_404_of_one_question_to_each_peer(tmp_path: Path):
    with FaultyPeer([]) as one, FaultyPeer([]) as two:
        async with fetching(tmp_path, [one.address, two.address], **SETTINGS) as node:
            for kind in ("blobs", "manifests"):
                for method in ("GET", "HEAD"):
                    answer = await node.ask(f"/v2/team/app/{kind}/{Digest.of(b'nowhere')}", method)
                    assert answer.status == 404
                    assert answer.seconds < 0.2 * NOISE
            assert len(one.requests) == len(two.requests) == 4
            assert one.gets() == two.gets() == []
            assert node.parts.room.used == 0


async def test_the_head_of_a_blob_tells_its_size_and_fetches_nothing(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            for _ in range(2):
                answer = await node.ask(blob_target(LAYER), "HEAD", Range="bytes=5-6")
                assert answer.status == 200
                assert answer.headers["content-length"] == "1000000"
                assert answer.headers["docker-content-digest"] == Digest.of(LAYER)
            assert peer.gets() == []


class Image:
    def __init__(self) -> None:
        self.manifest, self.blobs = image([LAYER, SMALL])
        self.digest = Digest.of(self.manifest)
        self.reference = Reference("reg.example", "team/app", "v1")


async def test_a_manifest_comes_with_the_type_of_its_own_bytes(tmp_path: Path):
    made = Image()
    with FaultyPeer([made.manifest, *made.blobs]) as peer:  # which says octet-stream for everything
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            for method in ("HEAD", "GET"):
                answer = await node.ask(f"/v2/team/app/manifests/{made.digest}?ns=reg.example", method)
                assert answer.status == 200
                assert answer.headers["content-type"] == OCI_MANIFEST
                assert answer.headers["content-length"] == str(len(made.manifest))
                assert answer.headers["docker-content-digest"] == made.digest
                assert answer.body == (made.manifest if method == "GET" else b"")


async def test_content_that_is_no_manifest_is_none_whatever_the_path_says(tmp_path: Path):
    with FaultyPeer([SMALL, b'{"schemaVersion":2}']) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            for content in (SMALL, b'{"schemaVersion":2}'):
                assert (await node.ask(f"/v2/team/app/manifests/{Digest.of(content)}")).status == 404


async def test_a_manifest_with_a_wrong_byte_is_a_miss(tmp_path: Path):
    made = Image()
    with FaultyPeer([made.manifest], faults.on_get(faults.corrupt(20))) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            assert (await node.ask(f"/v2/team/app/manifests/{made.digest}")).status == 404


async def test_a_holder_whose_size_is_not_the_manifests_is_none(tmp_path: Path):
    made = Image()
    with FaultyPeer([made.manifest]) as honest, FaultyPeer([LAYER], faults.always(faults.wrong_length(7))) as liar:
        async with fetching(tmp_path, [honest.address, liar.address], **SETTINGS) as node:
            assert (await node.ask(f"/v2/team/app/manifests/{made.digest}")).status == 200
            assert (await node.ask(blob_target(LAYER))).status == 404
            assert (await node.ask(blob_target(LAYER), "HEAD")).status == 404
            assert liar.gets(str(Digest.of(LAYER))) == []


async def test_an_empty_blob_is_served(tmp_path: Path):
    with FaultyPeer([b""]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            answer = await node.ask(blob_target(b""))
            assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")


async def test_sha512_content_is_verified_as_well(tmp_path: Path):
    async with holders() as (holder,):
        digest = holder.store.put(LAYER, "sha512")
        async with fetching(tmp_path, [holder.peer], **SETTINGS) as node:
            assert (await node.ask(f"/v2/team/app/blobs/{digest}")).body == LAYER


async def test_tags_are_not_asked_for_elsewhere_unless_told(tmp_path: Path):
    async with holders() as (holder,):
        _tag(holder.store, Image())
        async with fetching(tmp_path, [holder.peer], **SETTINGS) as node:
            asked = holder.stats.requests
            assert (await node.ask("/v2/team/app/manifests/v1?ns=reg.example")).status == 404
            assert holder.stats.requests == asked


async def test_a_tag_that_all_who_know_it_agree_on_is_answered(tmp_path: Path):
    made = Image()
    async with holders(3) as (one, two, three):
        for holder in (one, two):
            _tag(holder.store, made)
        async with fetching(tmp_path, [h.peer for h in (one, two, three)], resolve_tags=True, **SETTINGS) as node:
            for method in ("HEAD", "GET"):
                answer = await node.ask("/v2/team/app/manifests/v1?ns=reg.example", method)
                assert answer.status == 200
                assert answer.headers["docker-content-digest"] == made.digest
                assert answer.headers["content-type"] == OCI_MANIFEST
            assert (await node.ask("/v2/team/app/manifests/v2?ns=reg.example")).status == 404


async def test_a_tag_that_peers_do_not_agree_on_is_a_miss(tmp_path: Path):
    made, other = Image(), Image()
    other.manifest, other.blobs = image([OTHER])
    other.digest = Digest.of(other.manifest)
    async with holders(2) as (one, two):
        _tag(one.store, made)
        _tag(two.store, other)
        async with fetching(tmp_path, [one.peer, two.peer], resolve_tags=True, **SETTINGS) as node:
            assert (await node.ask("/v2/team/app/manifests/v1?ns=reg.example")).status == 404


def _tag(store: Any, made: Image) -> None:
    for content in (*made.blobs, made.manifest):
        store.put(content)
    store.tag(made.reference, Descriptor(OCI_MANIFEST, made.digest, len(made.manifest)))


async def test_what_is_denied_by_name_is_not_asked_for(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], Filters(deny=["secret.example"]), **SETTINGS) as node:
            assert (await node.ask(blob_target(LAYER) + "?ns=secret.example")).status == 404
            assert peer.requests == []
            assert is_all(await node.ask(blob_target(LAYER) + "?ns=open.example"), LAYER)


async def test_a_spool_that_cannot_be_read_is_a_miss_and_no_error_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = Image()
    with FaultyPeer([made.manifest, SMALL]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:

            def broken(*_: object) -> bytes:
                raise OSError(5, "Input/output error")

            monkeypatch.setattr(os, "pread", broken)
            assert (await node.ask(f"/v2/team/app/manifests/{made.digest}")).status == 404
            assert (await node.ask(blob_target(SMALL), Range="bytes=0-99")).status == 404


# ---- what peers get to see


async def test_nothing_of_a_clients_request_reaches_a_peer(tmp_path: Path):
    with FaultyPeer([LAYER]) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            fields = {
                "Authorization": "Bearer canary",
                "Cookie": "canary",
                "X_Canary": "canary",
                "User_Agent": "canary",
            }
            assert is_all(await node.ask(blob_target(LAYER) + "?ns=reg.example%3A5000", **fields), LAYER)
            for seen in peer.requests:
                assert "canary" not in json.dumps(seen.headers)
                assert set(seen.headers) <= {"host", "user-agent", "accept", "range"}
            assert [seen.target for seen in peer.gets()] == [blob_target(LAYER) + "?ns=reg.example%3A5000"]


async def test_connections_to_a_peer_are_kept(tmp_path: Path):
    contents = [blob(1000 + n, n) for n in range(20)] + [LAYER]
    async with holders() as (holder,):
        for content in contents:
            holder.store.put(content)
        async with fetching(tmp_path, [holder.peer], **SETTINGS) as node:
            for content in contents:
                assert is_all(await node.ask(blob_target(content)), content)
            assert holder.stats.accepted == 1


async def test_a_peer_that_ended_kept_connections_is_asked_on_a_new_one(tmp_path: Path):
    with FaultyPeer([LAYER, OTHER], lambda seen: None) as peer:
        async with fetching(tmp_path, [peer.address], **SETTINGS) as node:
            assert is_all(await node.ask(blob_target(LAYER)), LAYER)
            for sock in list(peer._open):
                sock.shutdown(2)
            assert is_all(await node.ask(blob_target(OTHER)), OTHER)
            assert node.parts.book.outcomes.total() == 4, "two questions, two bodies, no failure"
