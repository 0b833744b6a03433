"""What is fuzzed, and what must hold for every input."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Hashable
from pathlib import Path

from fastmirror import cli
from fastmirror.config.load import fields, load
from fastmirror.errors import ConfigError, ImportFailed, NameInvalid, RangeNotSatisfiable, RegistryError
from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.response import Ask, HeadReader, part_of
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import parse_manifest
from fastmirror.oci.pull import parse_pull
from fastmirror.oci.reference import Reference
from fastmirror.oci.span import Span, parse_range
from fastmirror.store.importer import import_archive
from fastmirror.store.memory import MemoryStore
from tests.fuzz import requests
from tests.fuzz.engine import Target
from tests.property.test_span import oracle
from tests.unit.test_importer_mutated import ARCHIVES, holds_only_whole_images

HEX = "a" * 64
CASES = Path(__file__).parents[1] / "cases" / "bad_http.json"
SIZES = (0, 1, 100, 1 << 20, 1 << 40)
KNOWN = {field.name for field in fields()}
NUMBER = re.compile(r"[0-9]+")


def text_of(error: Exception) -> str:
    """An error's own words, without what it quotes and counts."""
    return NUMBER.sub("0", re.split(r"[\"'(]", str(error))[0])[:80]


def ranges(data: bytes) -> Hashable:
    """A Range field says the same to us and to an oracle from RFC 9110."""
    told = []
    for size in SIZES:
        try:
            span = parse_range(data, size)
            ours: object = "ignored" if span is None else (span.start, span.stop)
        except RangeNotSatisfiable:
            ours = "416"
        assert ours == oracle(data.decode("latin-1"), size), size
        told.append(ours if isinstance(ours, str) else "span")
    return tuple(told)


def pulls(data: bytes) -> Hashable:
    """A target is refused, or is a pull whose parts are in the target."""
    target = data.decode("latin-1")
    try:
        pull = parse_pull(target, "docker.io")
    except RegistryError as error:
        if error.status not in (400, 404):
            raise
        return type(error).__name__, text_of(error)
    if pull.kind == "api":
        return "api"
    assert (pull.digest is None) != (pull.reference is None)
    assert ".." not in pull.repository.split("/")
    assert re.fullmatch(r"[a-z0-9._/-]+", pull.repository)
    assert len(pull.registry) + len(pull.repository) < 256
    if pull.digest is not None:
        assert Digest.parse(str(pull.digest)) == pull.digest
        again = f"/v2/{pull.repository}/{pull.kind}/{pull.digest}?ns={pull.registry}"
    else:
        assert pull.reference is not None
        again = f"/v2/{pull.repository}/{pull.kind}/{pull.reference.tag}?ns={pull.registry}"
    assert parse_pull(again) == pull, "it is the same when it is written plainly"
    return pull.kind, pull.digest is None, "%" in target, target[0] != "/"


def names(data: bytes) -> Hashable:
    """A reference is refused, or comes back from its own text."""
    text = data.decode("utf-8", "replace")
    try:
        reference = Reference.parse(text)
    except NameInvalid as error:
        return text_of(error)
    assert Reference.parse(str(reference)) == reference
    assert not set(str(reference)) & set(" \n\0%\\")
    return reference.registry == "docker.io", "/" in reference.repository, reference.tag == "latest"


def heads(data: bytes) -> Hashable:
    """A peer's answer head is the same however it arrives, and promises nothing outside of what was asked."""
    whole, pieces = HeadReader(), HeadReader()
    head, other = whole.feed(data), None
    at = 0
    while other is None and at < len(data):
        other = pieces.feed(data[at : at + 7])
        at += 7
    if data:
        assert head == other
    if head is None or isinstance(head, PeerOutcome):
        return str(head)
    told: list[Hashable] = [head.status, head.keep_alive, head.length is None]
    for ask in (Ask("/x"), Ask("/x", Span(10, 20)), Ask("/x", Span(10, 20), 100), Ask("/x", None, 100)):
        part = part_of(head, ask)
        if isinstance(part, PeerOutcome):
            told.append(part.name)
            continue
        assert 0 <= part.span.start <= part.span.stop <= part.size
        assert ask.size is None or part.size == ask.size
        assert ask.span is None or part.span.start in (0, ask.span.start)
        told.append(len(part.span) > 0)
    return tuple(told)


def manifests(data: bytes) -> Hashable:
    """A manifest is nothing, or has children with valid digests and sizes."""
    manifest = parse_manifest(data)
    if manifest is None:
        return None
    for child in manifest.children:
        assert Digest.parse(str(child.digest)) == child.digest
        assert child.size >= 0
    return manifest.media_type[:60], len(manifest.children) > 0, len(manifest.manifests) > 0


def settings(data: bytes) -> Hashable:
    """A settings file is refused with a field's name, or gives settings that survive being written and read again."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            loaded = load({}, {}, file.name)
        except ConfigError as error:
            name, _, why = text_of(error).partition(": ")
            return (name if name in KNOWN else ""), NUMBER.sub("0", why)
    found = {field: getattr(getattr(loaded.settings, field.section), field.name) for field in fields()}
    environment = {field.variable: cli.text(value) for field, value in found.items() if value not in ((), "")}
    assert load({}, environment).settings == loaded.settings
    changed = [field.name for field, value in found.items() if value != field.default]
    return "".join(changed[:1]), min(len(changed), 3)


def archives(data: bytes) -> Hashable:
    """An archive is refused and leaves nothing, or whole images are there."""
    store = MemoryStore()
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            made = import_archive(store, file.name)
        except ImportFailed as error:
            assert not list(store.digests())
            assert not list(store.references())
            return text_of(error).replace(file.name, "FILE")
    assert sorted(made) == sorted(reference for reference, _ in store.references())
    holds_only_whole_images(store)
    return len(list(store.digests())), len(made)


def _requests() -> list[bytes]:
    def request(target: str, *lines: str) -> bytes:
        return "\r\n".join([f"GET {target} HTTP/1.1", "Host: m", *lines, "", ""]).encode("latin-1")

    plain = [
        request("/v2/"),
        request("/v2/a/blobs/sha256:x", "Range: bytes=0-9", 'If-Range: "x"'),
        request("/v2/a/manifests/1?ns=docker.io", "Connection: close", "Fastmirror-Token: t"),
        request("/v2/").replace(b"GET", b"HEAD").replace(b"1.1", b"1.0"),
        request("/", "Content-Length: 0") * 40,
        request("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        request("/", "Upgrade: h2c", "Connection: Upgrade"),
        b"PUT /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n\r\nhello",
    ]
    text = CASES.read_text()
    found = [raw for raw in re.findall(r'"((?:[^"\\]|\\.)*HTTP/[0-9](?:[^"\\]|\\.)*)"', text) if len(raw) < 2000]
    return plain + [json.loads(f'"{raw}"').encode("latin-1", "replace") for raw in found]


_TARGETS = [
    f"/v2/library/debian/blobs/sha256:{HEX}?ns=docker.io", "/v2/a/b/manifests/1.0", "/v2/", "/v2/a/manifests/x%3Ay",
    f"http://h:5000/v2/a/blobs/sha256:{HEX}", "/v2/a/tags/list", f"/v2/a/blobs/sha512:{HEX * 2}",
    "/v2/a/blobs/x?ns=a&ns=b",
]  # fmt: skip
_HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nrest",
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 10-19/100\r\n\r\n",
    b"HTTP/1.1 416 X\r\nContent-Range: bytes */100\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
]
_DESCRIPTOR = f'{{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:{HEX}", "size": 7}}'
_MANIFESTS = [
    f'{{"schemaVersion": 2, "config": {_DESCRIPTOR}, "layers": [{_DESCRIPTOR}]}}',
    f'{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{_DESCRIPTOR}]}}',
    '{"schemaVersion": 1, "fsLayers": []}',
]


def _settings() -> list[bytes]:
    lines = [f"{field.name} = {json.dumps(field.default)}".encode() for field in fields()]
    return [b"", b"\n".join(lines), *lines]


TARGETS = {
    target.name: target
    for target in (
        Target("requests", requests.run, _requests(), rate=9_000, limit=20_000,
               words=[b"\r\n", b"\r\n\r\n", b"Host: m\r\n", b"Connection: close\r\n", b"Range: bytes=0-1\r\n", b"GET ",
                      b"HTTP/1.1", b"HTTP/1.0", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"HEAD "]),
        Target("ranges", ranges, [b"bytes=0-9", b"bytes=5-", b"bytes=-5", b"items=0-1", b"bytes=0-1,3-4"], rate=60_000,
               limit=200, words=[b"bytes=", b"-", b",", b"BYTES="]),
        Target("pulls", pulls, [text.encode() for text in _TARGETS], rate=60_000,
               words=[b"/v2/", b"/blobs/", b"/manifests/", b"sha256:", b"?ns=", b"&", b"%3A", b"..", b"http://"]),
        Target("names", names, [b"debian", b"docker.io/library/debian:12", b"[::1]:5000/a/b:c", b"a.b/c@sha256:x"],
               rate=60_000, words=[b":", b"/", b"@", b".", b"localhost", b"index.docker.io"]),
        Target("heads", heads, _HEADS, rate=15_000,
               words=[b"\r\n", b"Content-Length: 10\r\n", b"Content-Range: bytes 10-19/100\r\n",
                      b"HTTP/1.1 206 X\r\n"]),
        Target("manifests", manifests, [text.encode() for text in _MANIFESTS], rate=60_000,
               words=[b'"layers"', b'"manifests"', b'"config"', b"null", b"[]", b"{}", _DESCRIPTOR.encode()]),
        Target("settings", settings, _settings(), rate=1_500, words=[b"\n", b" = ", b'"', b"true", b"[]", b"1s"]),
        Target("archives", archives, ARCHIVES, rate=400, limit=1 << 16,
               words=[b"ustar\x0000", bytes(512), b"../", b"/"]),
    )
}  # fmt: skip
