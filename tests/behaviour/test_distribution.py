"""The pull side of the OCI conformance suite, with its names, and real clients.

Source: distribution-spec, conformance/. The suite sends no ``ns``: the server has a default registry.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.data_sets import EMPTY_JSON, REGISTRY, DataSet, make
from tests.kit import proc
from tests.kit.content import blob
from tests.kit.layout import OCI_INDEX, Layout, digest_of
from tests.kit.process import Node, start
from tests.kit.puller import Puller
from tests.kit.wire import Answer, Wire

DATA = make()
RANGE_BLOB = blob(2048, 99)
ABSENT = "sha256:" + "ab" * 32

each = pytest.mark.parametrize("data", DATA, ids=lambda data: data.name)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    layout = Layout(tmp_path_factory.mktemp("conformance"))
    for data in DATA:
        data.write(layout)
    layout.add(RANGE_BLOB)
    with start(layout.directory, default_registry=REGISTRY) as started:
        yield started


def assert_manifest(answer: Answer, media_type: str, content: bytes, digest: str, method: str) -> None:
    assert answer.status == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["docker-content-digest"] == digest
    assert answer.body == (content if method == "GET" else b"")


def error_code(answer: Answer) -> str:
    return str(json.loads(answer.body)["errors"][0]["code"])


def test_ping(node: Node) -> None:
    assert node.ask("GET", "/v2/").status == 200
    assert node.ask("HEAD", "/v2/").body == b""


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@each
def test_manifest_by_tag(node: Node, data: DataSet, method: str) -> None:
    answer = node.ask(method, f"/v2/{data.repository}/manifests/v1")
    assert_manifest(answer, data.media_type, data.manifest, digest_of(data.manifest, data.algorithm), method)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@each
def test_manifest_by_digest(node: Node, data: DataSet, method: str) -> None:
    for media_type, content in data.manifests:
        digest = digest_of(content, data.algorithm)
        answer = node.ask(method, f"/v2/{data.repository}/manifests/{digest}")
        assert_manifest(answer, media_type, content, digest, method)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@each
def test_blob(node: Node, data: DataSet, method: str) -> None:
    for content in data.blobs:
        digest = digest_of(content, data.algorithm)
        answer = node.ask(method, f"/v2/{data.repository}/blobs/{digest}")
        assert answer.status == 200
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["docker-content-digest"] == digest
        assert answer.body == (content if method == "GET" else b"")


def test_head_sends_no_body_and_the_connection_goes_on(node: Node) -> None:
    with Wire(node.registry) as wire:
        head = wire.ask("HEAD", f"/v2/a/blobs/{digest_of(RANGE_BLOB)}")
        assert int(head.headers["content-length"]) == len(RANGE_BLOB)
        assert wire.ask("GET", f"/v2/a/blobs/{digest_of(RANGE_BLOB)}").body == RANGE_BLOB


def test_the_empty_blob_and_the_empty_json_are_blobs_like_others(node: Node) -> None:
    for content in (b"", EMPTY_JSON):
        answer = node.ask("GET", f"/v2/a/blobs/{digest_of(content)}")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, content, str(len(content)))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_missing_manifest_by_digest(node: Node, method: str) -> None:
    answer = node.ask(method, f"/v2/conformance/image/manifests/{ABSENT}")
    assert answer.status == 404
    assert method == "HEAD" or error_code(answer) == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_missing_manifest_by_tag(node: Node, method: str) -> None:
    answer = node.ask(method, "/v2/conformance/image/manifests/no-such-tag")
    assert answer.status == 404
    assert method == "HEAD" or error_code(answer) == "MANIFEST_UNKNOWN"


def test_invalid_digest_format_manifest_get(node: Node) -> None:
    answer = node.ask("GET", "/v2/conformance/image/manifests/sha256:baddigeststring")
    assert answer.status == 400
    assert error_code(answer) == "DIGEST_INVALID"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_blobs_get_missing(node: Node, method: str) -> None:
    answer = node.ask(method, f"/v2/conformance/image/blobs/{ABSENT}")
    assert answer.status == 404
    assert method == "HEAD" or error_code(answer) == "BLOB_UNKNOWN"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("500-1499", 500, 1499), ("500-", 500, 2047), ("-500", 1548, 2047), ("2000-5000", 2000, 2047)],
)
def test_range_requests(node: Node, asked: str, first: int, last: int) -> None:
    answer = node.ask("GET", f"/v2/a/blobs/{digest_of(RANGE_BLOB)}", Range=f"bytes={asked}")
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/2048"
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.body == RANGE_BLOB[first : last + 1]


@pytest.mark.parametrize("asked", ["500-0", "5000-10000"])
def test_range_requests_that_select_nothing(node: Node, asked: str) -> None:
    answer = node.ask("GET", f"/v2/a/blobs/{digest_of(RANGE_BLOB)}", Range=f"bytes={asked}")
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */2048"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v2/conformance/image/blobs/uploads/"),
        ("PUT", "/v2/conformance/image/manifests/v2"),
        ("PATCH", "/v2/conformance/image/blobs/uploads/1"),
        ("DELETE", "/v2/conformance/image/manifests/v1"),
        ("DELETE", f"/v2/conformance/image/blobs/{ABSENT}"),
    ],
)
def test_push_and_delete_are_refused(node: Node, method: str, target: str) -> None:
    answer = node.ask(method, target)
    assert answer.status == 405
    assert error_code(answer) == "UNSUPPORTED"
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("target", ["tags/list", f"referrers/{ABSENT}", "blobs/uploads/"])
def test_what_a_pull_mirror_does_not_offer_is_not_found(node: Node, target: str) -> None:
    assert node.ask("GET", f"/v2/conformance/image/{target}").status in (400, 404)


def test_a_manifest_of_4_mib_costs_little_memory(node: Node) -> None:
    """U05 of the fault matrix: the largest manifest that the suite has, many times."""
    data = next(data for data in DATA if data.name == "large-manifest")
    assert len(data.manifest) > 3_900_000
    proc.reset_peak(node.pid)
    before = proc.rss_kib(node.pid)
    for _ in range(10):
        assert node.ask("GET", f"/v2/{data.repository}/manifests/v1").body == data.manifest
    assert proc.peak_kib(node.pid) - before <= 10 * 1024


@pytest.mark.parametrize(
    "name", ["image", "index", "nested-index", "no-layers", "data-field", "custom-fields", "sha512", "empty-blob"]
)
def test_a_client_like_containerd_pulls_it(node: Node, name: str) -> None:
    data = next(data for data in DATA if data.name == name)
    pulled = Puller([node.registry]).pull(data.repository, "v1")
    expected = {digest_of(content, data.algorithm): content for _, content in data.manifests}
    expected |= {digest_of(content, data.algorithm): content for content in data.blobs}
    assert pulled == expected


@pytest.mark.parametrize("name", ["image", "index"])
def test_a_client_that_asks_for_many_ranges_gets_the_layer(node: Node, name: str) -> None:
    data = next(data for data in DATA if data.name == name)
    layer = data.blobs[2]
    assert len(layer) == 100_000
    puller = Puller([node.registry])
    assert puller.fetch_parallel(data.repository, digest_of(layer), len(layer), chunk=8192) == layer


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("name", ["image", "index", "large-manifest", "no-layers", "custom-fields"])
def test_skopeo_copies_it_with_its_digests(node: Node, name: str, tmp_path: Path) -> None:
    data = next(data for data in DATA if data.name == name)
    source = f"docker://{node.registry[0]}:{node.registry[1]}/{data.repository}:v1"
    command = ["skopeo", "copy", "--insecure-policy", "--all", "--preserve-digests", "--src-tls-verify=false"]
    done = subprocess.run([*command, source, f"oci:{tmp_path}/copy:v1"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "copy"
    root = json.loads((copy / "index.json").read_text())["manifests"][0]
    assert root["digest"] == digest_of(data.manifest)
    for content in (*(manifest for _, manifest in data.manifests), *data.blobs):
        assert (copy / "blobs/sha256" / digest_of(content).partition(":")[2]).read_bytes() == content


@pytest.mark.needs("curl")
def test_plain_curl_pulls_an_image(node: Node, tmp_path: Path) -> None:
    """A shell's way: the index by tag, then what it names, by digest."""
    data = next(data for data in DATA if data.name == "index")
    base = f"http://{node.registry[0]}:{node.registry[1]}/v2/{data.repository}"

    def curl(path: str) -> bytes:
        target = tmp_path / "part"
        command = ["curl", "--silent", "--show-error", "--fail", "-H", f"Accept: {OCI_INDEX}", "-o", str(target)]
        subprocess.run([*command, f"{base}/{path}"], check=True, timeout=30)
        return target.read_bytes()

    def by_digest(kind: str, digest: str) -> bytes:
        content = curl(f"{kind}/{digest}")
        assert "sha256:" + hashlib.sha256(content).hexdigest() == digest
        return content

    fetched = 0
    for entry in json.loads(curl("manifests/v1"))["manifests"]:
        manifest = json.loads(by_digest("manifests", entry["digest"]))
        for part in [manifest["config"], *manifest["layers"]]:
            assert len(by_digest("blobs", part["digest"])) == part["size"]
            fetched += 1
    assert fetched == 5


@pytest.mark.needs("curl")
def test_curl_resumes_a_blob(node: Node, tmp_path: Path) -> None:
    target = tmp_path / "part"
    target.write_bytes(RANGE_BLOB[:777])
    url = f"http://{node.registry[0]}:{node.registry[1]}/v2/a/blobs/{digest_of(RANGE_BLOB)}"
    subprocess.run(["curl", "--silent", "--fail", "-C", "-", "-o", str(target), url], check=True, timeout=30)
    assert target.read_bytes() == RANGE_BLOB
