"""From a request to an answer: what is served, under which head, and what is refused."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator

import pytest

from fastmirror._native.endpoint import Reply
from fastmirror._native.requests import Request
from fastmirror.errors import BlobUnknown, StoreUnavailable
from fastmirror.fetch.seen import Seen
from fastmirror.mirror.app import Mirror
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import SMALL_BYTES, Local
from fastmirror.oci.descriptor import DOCKER_MANIFEST, OCI_MANIFEST, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.pull import Pull
from fastmirror.oci.reference import Reference
from fastmirror.store.memory import MemoryStore

LAYER = bytes(range(256)) * 1024
CONFIG = b'{"architecture":"amd64"}'
NS = "?ns=reg.example%3A5000"


class Image:
    """One image in a memory store, and a mirror in front of it."""

    def __init__(self, filters: Filters | None = None, default_registry: str = "") -> None:
        self.store = MemoryStore()
        self.layer = self.store.put(LAYER)
        self.config = self.store.put(CONFIG)
        self.content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": "application/json", "digest": self.config, "size": len(CONFIG)},
                "layers": [{"mediaType": "application/x-tar", "digest": self.layer, "size": len(LAYER)}],
            }
        ).encode()
        self.manifest = self.store.put(self.content)
        target = Descriptor(OCI_MANIFEST, self.manifest, len(self.content))
        self.store.tag(Reference("reg.example:5000", "team/app", "v1"), target)
        self.mirror = Mirror(Local(self.store, filters or Filters()), default_registry=default_registry)
        self.replies: list[Reply] = []

    def ask(self, target: str, method: str = "GET", range: bytes | None = None, if_range: bytes | None = None) -> Reply:
        reply = self.mirror(Request(method, target.encode(), range, if_range, True, "127.0.0.1"))
        assert isinstance(reply, Reply), "local content and errors are answered at once"
        self.replies.append(reply)
        return reply

    def close(self) -> None:
        for reply in self.replies:
            if reply.body is not None:
                reply.body.close()


@pytest.fixture
def image() -> Iterator[Image]:
    image = Image()
    yield image
    image.close()


def fields(reply: Reply) -> dict[str, str]:
    lines = reply.head.decode("ascii").split("\r\n")
    return dict(line.split(": ", 1) for line in lines[1:] if line)


def status(reply: Reply) -> int:
    return int(reply.head.split(b" ")[1])


def code(reply: Reply) -> str:
    return str(json.loads(reply.content)["errors"][0]["code"])


@pytest.mark.parametrize("reference", ["v1", "digest"])
def test_manifest_is_served_with_what_containerd_needs(image: Image, reference: str) -> None:
    name = image.manifest if reference == "digest" else reference
    reply = image.ask(f"/v2/team/app/manifests/{name}{NS}")
    assert reply.content == image.content
    assert fields(reply) == {
        "Content-Type": OCI_MANIFEST,
        "Content-Length": str(len(image.content)),
        "Docker-Content-Digest": image.manifest,
        "ETag": f'"{image.manifest}"',
        "OCI-Namespace": "reg.example:5000",
    }


def test_manifest_type_comes_from_its_bytes_even_if_the_record_says_otherwise(image: Image) -> None:
    image.store.tag(Reference("reg.example:5000", "team/app", "odd"), Descriptor(DOCKER_MANIFEST, image.manifest, 1))
    reply = image.ask(f"/v2/team/app/manifests/odd{NS}")
    assert status(reply) == 404 or fields(reply)["Content-Type"] == OCI_MANIFEST


def test_only_answers_by_digest_are_kept(image: Image) -> None:
    assert image.ask(f"/v2/team/app/manifests/{image.manifest}{NS}").cacheable
    assert image.ask(f"/v2/team/app/blobs/{image.config}{NS}").cacheable
    assert not image.ask(f"/v2/team/app/manifests/v1{NS}").cacheable
    assert not image.ask(f"/v2/team/app/blobs/{image.config}{NS}", range=b"bytes=0-3").cacheable


def test_large_blob_is_a_file_and_a_small_one_leaves_from_memory(image: Image) -> None:
    large = image.ask(f"/v2/team/app/blobs/{image.layer}")
    assert (large.start, large.stop) == (0, len(LAYER)) and large.body is not None
    small = image.ask(f"/v2/team/app/blobs/{image.config}")
    assert small.body is None and small.content == CONFIG
    piece = image.ask(f"/v2/team/app/blobs/{image.layer}", range=b"bytes=-%d" % SMALL_BYTES)
    assert piece.body is None and piece.content == LAYER[-SMALL_BYTES:]


@pytest.mark.parametrize(
    ("header", "if_range", "expected"),
    [
        (b"bytes=0-0", None, (206, "bytes 0-0/262144", 1)),
        (b"bytes=1000-", None, (206, "bytes 1000-262143/262144", 261144)),
        (b"bytes=-500", None, (206, "bytes 261644-262143/262144", 500)),
        (b"bytes=200000-999999", None, (206, "bytes 200000-262143/262144", 62144)),
        (b"bytes=0-9", b"etag", (206, "bytes 0-9/262144", 10)),
        (b"bytes=0-9", b'"other"', (200, None, 262144)),
        (b"items=0-9", None, (200, None, 262144)),
        (b"", None, (200, None, 262144)),
        (b"bytes=262144-", None, (416, "bytes */262144", 0)),
        (b"bytes=9-0", None, (416, "bytes */262144", 0)),
        (b"bytes=0-1,5-6", None, (416, "bytes */262144", 0)),
        (b"bytes=+0-5", None, (416, "bytes */262144", 0)),
    ],
)
def test_range_is_answered_as_the_standard_says(
    image: Image, header: bytes, if_range: bytes | None, expected: tuple[int, str | None, int]
) -> None:
    condition = f'"{image.layer}"'.encode() if if_range == b"etag" else if_range
    reply = image.ask(f"/v2/team/app/blobs/{image.layer}", range=header, if_range=condition)
    found = fields(reply)
    assert (status(reply), found.get("Content-Range"), int(found["Content-Length"])) == expected


def test_head_ignores_range(image: Image) -> None:
    reply = image.ask(f"/v2/team/app/blobs/{image.layer}", method="HEAD", range=b"bytes=0-9")
    assert status(reply) == 200 and fields(reply)["Content-Length"] == str(len(LAYER))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v2/team/app/blobs/sha256:" + "ab" * 32, (404, "BLOB_UNKNOWN")),
        ("/v2/team/app/manifests/sha256:" + "ab" * 32, (404, "MANIFEST_UNKNOWN")),
        (f"/v2/team/app/manifests/v2{NS}", (404, "MANIFEST_UNKNOWN")),
        ("/v2/team/app/manifests/v1?ns=other.example", (404, "MANIFEST_UNKNOWN")),
        ("/v2/team/app/manifests/v1", (404, "MANIFEST_UNKNOWN")),
        ("/v2/team/app/tags/list", (404, "UNSUPPORTED")),
        ("/v2/_catalog", (404, "UNSUPPORTED")),
        ("/v2/TEAM/manifests/v1", (400, "NAME_INVALID")),
        ("/v2/team/app/blobs/v1", (400, "DIGEST_INVALID")),
        ("/v2/team/app/manifests/v1?ns=a&ns=b", (400, "NAME_INVALID")),
    ],
)
def test_what_is_not_served_gets_the_code_of_the_spec(image: Image, target: str, expected: tuple[int, str]) -> None:
    reply = image.ask(target)
    assert (status(reply), code(reply)) == expected


def test_blob_is_never_served_as_a_manifest_and_a_manifest_only_as_octets(image: Image) -> None:
    assert status(image.ask(f"/v2/team/app/manifests/{image.config}")) == 404
    assert fields(image.ask(f"/v2/team/app/blobs/{image.manifest}"))["Content-Type"] == "application/octet-stream"


def test_default_registry_stands_in_for_ns() -> None:
    image = Image(default_registry="reg.example:5000")
    assert status(image.ask("/v2/team/app/manifests/v1")) == 200


@pytest.mark.parametrize(
    ("filters", "served"),
    [
        (Filters(allow=["reg.example:5000"]), 200),
        (Filters(deny=["reg.example:5000/team/*"]), 404),
        (Filters(allow=["docker.io"]), 404),
    ],
)
def test_filters_judge_the_contents_own_names_whatever_the_request_says(filters: Filters, served: int) -> None:
    image = Image(filters)
    for path in (f"manifests/{image.manifest}", f"blobs/{image.layer}", f"blobs/{image.config}"):
        for ns in (NS, "?ns=docker.io", ""):
            assert status(image.ask(f"/v2/anything/{path}{ns}")) == served
    assert status(image.ask(f"/v2/team/app/manifests/v1{NS}")) == served
    image.close()


def test_file_that_cannot_be_read_on_sends_the_reopen_elsewhere_and_only_that(image: Image) -> None:
    first = image.ask(f"/v2/team/app/blobs/{image.layer}")
    assert first.cut is not None
    first.cut(100_000)
    assert status(image.ask(f"/v2/team/app/blobs/{image.layer}", range=b"bytes=100000-")) == 404
    assert status(image.ask(f"/v2/team/app/blobs/{image.layer}", range=b"bytes=100001-")) == 206
    assert status(image.ask(f"/v2/team/app/blobs/{image.layer}")) == 200


def test_what_is_answered_is_remembered_for_when_it_has_to_come_from_elsewhere(image: Image) -> None:
    seen = Seen()
    image.mirror = Mirror(Local(image.store, Filters(), seen))
    image.ask(f"/v2/team/app/manifests/{image.manifest}")
    assert seen.sizes.get(image.layer) == len(LAYER)
    image.ask(f"/v2/team/app/blobs/{image.layer}")
    assert seen.handover.begun(image.layer, time.monotonic()) == len(LAYER)


def test_api_check_says_what_answers(image: Image) -> None:
    reply = image.ask("/v2/")
    assert status(reply) == 200 and "Fastmirror-Version" in fields(reply)
    assert fields(reply)["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_store_that_does_not_answer_is_a_miss_and_is_logged(
    image: Image, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(digest: Digest) -> None:
        raise StoreUnavailable("the disk failed")

    monkeypatch.setattr(image.store, "open", fail)
    assert status(image.ask(f"/v2/team/app/blobs/{image.layer}")) == 404
    assert "the disk failed" in caplog.text


async def test_what_is_not_here_is_asked_elsewhere_and_a_miss_there_is_a_404(image: Image) -> None:
    class Elsewhere:
        async def answer(self, pull: Pull, request: Request, done: object = None) -> Reply:
            if pull.repository == "there":
                return Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n")
            raise BlobUnknown("nobody has it")

    mirror = Mirror(Local(image.store, Filters()), elsewhere=Elsewhere())
    digest = "sha256:" + "cd" * 32
    for repository, expected in (("there", 200), ("nowhere", 404)):
        answer = mirror(Request("GET", f"/v2/{repository}/blobs/{digest}".encode(), None, None, True, "127.0.0.1"))
        assert inspect.isawaitable(answer)
        assert status(await answer) == expected
    local = mirror(Request("GET", f"/v2/x/blobs/{image.config}".encode(), None, None, True, "127.0.0.1"))
    assert isinstance(local, Reply) and local.content == CONFIG
    assert (mirror.served.local, mirror.served.elsewhere, mirror.served.missed) == (1, 1, 1)


def test_what_the_filters_hold_back_is_not_asked_for_elsewhere_either() -> None:
    image = Image()

    class Elsewhere:
        async def answer(self, pull: Pull, request: Request, done: object = None) -> Reply:
            raise AssertionError("a peer without this filter would give it")

    local = Local(image.store, Filters(deny=["reg.example:5000"]))
    mirror = Mirror(local, elsewhere=Elsewhere())
    for path in (f"blobs/{image.layer}", f"manifests/{image.manifest}"):
        target = f"/v2/x/{path}?ns=other.example".encode()
        reply = mirror(Request("GET", target, None, None, True, "127.0.0.1"))
        assert isinstance(reply, Reply) and status(reply) == 404


def test_content_with_wrong_bytes_is_not_kept_and_such_a_manifest_is_not_served(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(image.store._content, image.config, b"x" * len(CONFIG))
    monkeypatch.setitem(image.store._content, image.manifest, image.content.replace(b"tar", b"rat"))
    assert not image.ask(f"/v2/team/app/blobs/{image.config}").cacheable
    assert status(image.ask(f"/v2/team/app/manifests/{image.manifest}")) == 404


def test_disk_that_fails_under_a_small_blob_is_a_miss(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("fastmirror.store.Blob.read_span", fail)
    assert status(image.ask(f"/v2/team/app/blobs/{image.config}")) == 404
