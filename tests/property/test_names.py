"""Digests and references: what is accepted comes back unchanged, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fastmirror.errors import DigestInvalid, NameInvalid
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference, normalize_registry

HEX = "0123456789abcdef"
COMPONENT = st.from_regex(r"\A[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}\Z")
REPOSITORY = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
TAG = st.from_regex(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
HOST = st.from_regex(r"\A[a-z0-9]{1,10}(?:\.[a-z0-9]{1,10}){1,3}(?::[1-9][0-9]{0,3})?\Z")


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_the_digest_of_content_parses_and_is_what_hashlib_says(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    assert Digest.parse(str(digest)) == digest
    assert (digest.algorithm, len(digest.hex)) == (algorithm, 64 if algorithm == "sha256" else 128)


def is_digest(text: str) -> bool:
    algorithm, _, rest = text.partition(":")
    length = {"sha256": 64, "sha512": 128}.get(algorithm)
    return length is not None and len(rest) == length and all(char in HEX for char in rest)


@given(
    st.one_of(
        st.text(max_size=200),
        st.builds(
            lambda algorithm, rest, end: f"{algorithm}:{rest}{end}",
            st.sampled_from(["sha256", "sha512", "SHA256", "md5", "sha1", "sha384", ""]),
            st.text(alphabet=HEX + "ABFgxyz/.%", min_size=60, max_size=130),
            st.sampled_from(["", "\n", "\0", " ", "/", "%00"]),
        ),
        st.builds(lambda rest: f"sha256:{rest}", st.text(alphabet=HEX, min_size=64, max_size=64)),
    )
)
@example("sha256:" + "a" * 64 + "\n")
@example("sha256:" + "\u0661" * 64)
def test_a_text_is_a_digest_exactly_by_its_grammar(text: str) -> None:
    if is_digest(text):
        assert str(Digest.parse(text)) == text
    else:
        with pytest.raises(DigestInvalid):
            Digest.parse(text)


@given(HOST, REPOSITORY, TAG)
def test_a_full_name_survives_being_written_and_read(host: str, repository: str, tag: str) -> None:
    assume(len(host) + 1 + len(repository) <= 255)
    assume("." in host.partition(":")[0])
    reference = Reference.parse(f"{host}/{repository}:{tag}")
    assert Reference.parse(str(reference)) == reference
    if reference.registry != "docker.io":
        assert (reference.registry, reference.repository, reference.tag) == (normalize_registry(host), repository, tag)


@given(COMPONENT)
def test_a_short_name_is_an_official_image_of_docker_hub(name: str) -> None:
    assert str(Reference.parse(name)) == f"docker.io/library/{name}:latest"


@given(st.text(max_size=300))
@example("a/../b")
@example("a//b:c")
@example("UPPER/case")
@example("registry.example:99999999/a")
@example("registry.example/a:tag\n")
@example("[::1]:5000/a/b:c")
def test_any_text_is_a_name_that_cannot_be_a_path_trick_or_is_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except NameInvalid:
        return
    assert re.fullmatch(r"[a-z0-9._/-]+", reference.repository, re.ASCII)
    assert not {"", ".", ".."} & set(reference.repository.split("/"))
    assert re.fullmatch(r"[\w][\w.-]{0,127}", reference.tag, re.ASCII)
    assert len(reference.name) <= 255
    assert not set(reference.registry) & set("/\\@%? \n\0")
    assert Reference.parse(str(reference)) == reference


@given(
    st.sampled_from(["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO", "registry.hub.docker.com"])
)
def test_docker_hub_has_one_name(host: str) -> None:
    assert normalize_registry(host) == "docker.io"


@given(HOST)
def test_a_registry_is_normalized_once_and_for_all(host: str) -> None:
    once = normalize_registry(host)
    assert normalize_registry(once) == once
    assert normalize_registry(host.upper()) == once
