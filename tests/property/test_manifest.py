"""Manifests that anybody may have written: read for what they name, or passed over, in bounded time and memory."""

from __future__ import annotations

import json
import time
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from fastmirror.oci.descriptor import MANIFEST_TYPES
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import MAX_BYTES, MAX_DESCRIPTORS, parse_manifest

INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
DIGEST = st.integers(0, (1 << 256) - 1).map(lambda number: f"sha256:{number:064x}")
SIZE = st.integers(0, (1 << 53) - 1)
ENTRY = st.builds(
    lambda digest, size, kind, urls: {"mediaType": kind, "digest": digest, "size": size, **urls},
    DIGEST,
    SIZE,
    st.sampled_from(["application/vnd.oci.image.layer.v1.tar", IMAGE, "x/y"]),
    st.sampled_from([{}, {"urls": ["https://store.example/x"]}, {"annotations": {"a": "b"}}, {"data": "e30="}]),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("schemaVersion", "mediaType", "config", "layers", "manifests", "blobs", "subject", "artifactType")


def dump(document: object) -> bytes:
    return json.dumps(document).encode()


@given(ENTRY, st.lists(ENTRY, max_size=20), st.dictionaries(st.text(max_size=8), JSON, max_size=3), st.booleans())
def test_an_image_names_its_config_and_layers_in_order(
    config: dict[str, Any], layers: list[dict[str, Any]], more: dict[str, Any], typed: bool
) -> None:
    document = {key: value for key, value in more.items() if key not in KEYS}
    document |= {"schemaVersion": 2, "config": config, "layers": layers} | ({"mediaType": IMAGE} if typed else {})
    manifest = parse_manifest(dump(document))
    assert manifest is not None
    assert manifest.media_type == IMAGE
    assert [(child.digest, child.size) for child in manifest.children] == [
        (entry["digest"], entry["size"]) for entry in [config, *layers]
    ]
    assert manifest.manifests == ()


@given(st.lists(ENTRY, max_size=20), st.booleans())
def test_an_index_names_its_manifests_in_order(entries: list[dict[str, Any]], typed: bool) -> None:
    document = {"schemaVersion": 2, "manifests": entries} | ({"mediaType": INDEX} if typed else {})
    manifest = parse_manifest(dump(document))
    assert manifest is not None
    assert manifest.media_type == INDEX
    assert [child.digest for child in manifest.manifests] == [entry["digest"] for entry in entries]


@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.one_of(JSON, st.just(2), st.just(IMAGE), ENTRY, st.lists(st.one_of(ENTRY, JSON), max_size=4)),
        max_size=6,
    )
)
@example({"schemaVersion": 2, "mediaType": IMAGE, "config": {"digest": "sha256:" + "a" * 64, "size": -1}})
@example({"schemaVersion": 2, "mediaType": IMAGE, "layers": [{"digest": "sha256:../..", "size": 1}]})
@example({"schemaVersion": 2, "mediaType": IMAGE, "layers": [{"digest": "sha256:" + "a" * 64, "size": 1 << 63}]})
@example({"schemaVersion": 2, "mediaType": "text/html", "config": {}, "layers": []})
def test_whatever_a_document_says_only_sound_descriptors_come_out(document: dict[str, Any]) -> None:
    check(dump(document))


@given(st.binary(max_size=300))
@example(b"")
@example(b" ")
@example(b"{}")
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(b'{"schemaVersion":2,"mediaType":"' + IMAGE.encode() + b'","x":"\xff\xfe"}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_a_sound_manifest_or_none(content: bytes) -> None:
    check(content)


def check(content: bytes) -> None:
    manifest = parse_manifest(content)
    if manifest is None:
        return
    assert manifest.media_type in MANIFEST_TYPES
    assert set(manifest.manifests) <= set(manifest.children)
    for child in manifest.children:
        assert Digest.parse(child.digest) == child.digest
        assert 0 <= child.size < 1 << 53


def test_too_many_descriptors_and_too_many_bytes_are_passed_over_quickly() -> None:
    entry = {"mediaType": IMAGE, "digest": "sha256:" + "a" * 64, "size": 1}
    began = time.process_time()
    assert parse_manifest(dump({"schemaVersion": 2, "manifests": [entry] * MAX_DESCRIPTORS})) is not None
    assert parse_manifest(dump({"schemaVersion": 2, "manifests": [entry] * (MAX_DESCRIPTORS + 1)})) is None
    annotations = {"schemaVersion": 2, "manifests": [], "annotations": {"a": "b" * MAX_BYTES}}
    assert parse_manifest(dump(annotations)) is None
    assert time.process_time() - began < 2
