"""The request grammar: every target is one pull, or is refused with an error of the distribution-spec."""

from __future__ import annotations

import re
import time
from urllib.parse import quote

from hypothesis import assume, example, given
from hypothesis import strategies as st

from fastmirror.errors import RegistryError
from fastmirror.oci.pull import Pull, parse_pull
from fastmirror.oci.reference import normalize_registry
from tests.property.test_names import HOST, REPOSITORY, TAG

DIGEST = st.builds(
    lambda algorithm, number: f"{algorithm}:{number:0{64 if algorithm == 'sha256' else 128}x}",
    st.sampled_from(["sha256", "sha512"]),
    st.integers(0, (1 << 256) - 1),
)
PIECES = st.sampled_from(
    [
        "/", "//", "v2", "blobs", "manifests", "library", "a", "..", ".", "%2f", "%2F", "%2e", "%00", "%zz", "%", "?",
        "&", "ns=", "ns=x.example", "ns=%0d%0a", "#", "\\", " ", "\n", "\r\n", "@", ":", "latest", "sha256:", "a" * 64,
        "sha256:" + "a" * 64, "http://", "\x7f", "\xe9", "[::1]", "_", "-", "__",
    ]
)  # fmt: skip


@given(REPOSITORY, DIGEST, HOST, st.sampled_from(["blobs", "manifests"]))
def test_what_containerd_asks_is_understood(repository: str, digest: str, host: str, kind: str) -> None:
    assume(len(host) + 1 + len(repository) <= 255)
    pull = parse_pull(f"/v2/{repository}/{kind}/{digest}?ns={quote(host, safe='')}")
    assert (pull.kind, pull.repository, pull.digest, pull.reference) == (kind, repository, digest, None)
    assert pull.registry == normalize_registry(host)


@given(REPOSITORY, TAG, HOST)
def test_a_tag_is_asked_in_its_registry(repository: str, tag: str, host: str) -> None:
    assume(len(host) + 1 + len(repository) <= 255)
    pull = parse_pull(f"/v2/{repository}/manifests/{tag}?ns={quote(host, safe='')}")
    assert pull.reference == (normalize_registry(host), repository, tag)
    assert parse_pull(f"/v2/{repository}/manifests/{tag}", host) == pull


@given(REPOSITORY, DIGEST)
def test_one_way_of_writing_it_percent_encoded_means_the_same(repository: str, digest: str) -> None:
    plain = parse_pull(f"/v2/{repository}/blobs/{digest}")
    assert parse_pull(f"/v2/{repository}/blobs/{digest.replace(':', '%3A')}") == plain
    assert parse_pull(f"/v2/{repository}/blobs/{digest.replace(':', '%3a')}") == plain
    assert parse_pull(f"http://other.example/v2/{repository}/blobs/{digest}") == plain


def parsed(target: str) -> Pull | RegistryError:
    try:
        return parse_pull(target, "default.example")
    except RegistryError as error:
        return error


def check(target: str) -> Pull | None:
    """Whatever is accepted is safe; whatever is not is an error with a status and a code."""
    pull = parsed(target)
    if isinstance(pull, RegistryError):
        assert pull.status in (400, 404)
        assert pull.code in ("NAME_INVALID", "DIGEST_INVALID", "UNSUPPORTED", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN")
        return None
    assert pull.kind in ("api", "blobs", "manifests")
    if pull.kind == "api":
        return pull
    assert (pull.digest is None) != (pull.reference is None)
    assert pull.kind == "manifests" or pull.digest is not None
    assert re.fullmatch(r"[a-z0-9._/-]+", pull.repository, re.ASCII)
    assert not {"", ".", ".."} & set(pull.repository.split("/"))
    assert re.fullmatch(r"[a-z0-9._:\[\]-]*", pull.registry, re.ASCII)
    assert pull.digest is None or re.fullmatch(r"sha(256|512):[0-9a-f]{64,128}", pull.digest, re.ASCII)
    return pull


@given(st.lists(PIECES, max_size=14).map("".join))
@example("/v2/a/blobs/sha256:" + "a" * 64 + "%0a")
@example("/v2/X!/v2/a/blobs/sha256:" + "a" * 64)
@example("/v2/a/../b/blobs/sha256:" + "a" * 64)
@example("*")
@example("")
def test_any_mix_of_pieces_is_a_safe_pull_or_refused(target: str) -> None:
    check(target)
    check("/v2/" + target)


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=300))
def test_any_text_is_a_safe_pull_or_refused(target: str) -> None:
    check(target)
    check("/v2/a/manifests/" + target)
    check("/v2/a/blobs/sha256:" + "a" * 64 + target)
    check("/v2/a/manifests/b?ns=" + target)


@given(st.text(alphabet="a-._/", min_size=2000, max_size=8000))
def test_long_names_take_linear_time(middle: str) -> None:
    began = time.process_time()
    check(f"/v2/{middle}!/manifests/latest")
    check(f"/v2/{middle}/manifests/latest")
    assert time.process_time() - began < 0.5
