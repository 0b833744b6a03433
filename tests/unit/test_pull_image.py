"""Names and platforms of what is pulled, and URLs of who is asked."""

from __future__ import annotations

import platform

import pytest

from fastmirror.errors import ConfigError, PullFailed
from fastmirror.oci.digest import Digest
from fastmirror.pull.hosts import Host
from fastmirror.pull.image import ImageName, Platform, choose
from tests.kit.content import image, index
from tests.kit.layout import dump

DIGEST = Digest.of(b"index")


@pytest.mark.parametrize(
    ("text", "shown", "asked"),
    [
        ("registry.example/team/app:1", "registry.example/team/app:1", "1"),
        ("registry.example:5000/app", "registry.example:5000/app:latest", "latest"),
        ("debian:12", "docker.io/library/debian:12", "12"),
        (f"registry.example/app@{DIGEST}", f"registry.example/app@{DIGEST}", DIGEST),
        (f"registry.example/app:1@{DIGEST}", f"registry.example/app@{DIGEST}", DIGEST),
    ],
)
def test_a_name_is_echoed_whole_and_a_digest_goes_before_a_tag(text, shown, asked):
    name = ImageName.parse(text)
    assert (str(name), name.reference) == (shown, asked)


@pytest.mark.parametrize("text", ["UPPER", "registry.example/app:", "registry.example/app@sha256:12", "", "a b", "@"])
def test_what_is_no_name_is_wrong_use_with_an_example(text):
    with pytest.raises(ConfigError, match=r"^image: .*registry\.example/team/app:1"):
        ImageName.parse(text)


def test_the_machines_own_platform_has_the_names_of_images(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert str(Platform.here()) == "linux/arm64"
    monkeypatch.setattr(platform, "machine", lambda: "armv7l")
    assert Platform.here() == Platform("linux", "arm", "v7")
    for text in ("linux", "linux/", "linux/arm/v7/x"):
        with pytest.raises(ConfigError, match=r"^platform: expected OS/ARCH"):
            Platform.parse(text)


def test_the_manifest_of_the_platform_is_chosen_and_the_others_named_if_there_is_none():
    amd, arm = image((1536,), seed=1), image((1536,), seed=2)
    both = index([amd, arm])
    assert choose(both.manifest, Platform.parse("linux/arm64")).digest == arm.target.digest
    with pytest.raises(PullFailed, match="nothing for linux/s390x; it has linux/amd64, linux/arm64"):
        choose(both.manifest, Platform.parse("linux/s390x"))


def test_the_exact_variant_goes_before_others_and_a_wrong_one_is_none():
    entries = [
        {"mediaType": "m", "digest": Digest.of(bytes([number])), "size": 1, "platform": each}
        for number, each in enumerate(
            (
                {"os": "unknown", "architecture": "unknown"},
                {"os": "linux", "architecture": "arm"},
                {"os": "linux", "architecture": "arm", "variant": "v6"},
                {"os": "linux", "architecture": "arm", "variant": "v7"},
            )
        )
    ]
    content = dump({"manifests": entries})
    chosen = {
        text: choose(content, Platform.parse(text)).digest for text in ("linux/arm/v7", "linux/arm", "linux/arm/v8")
    }
    assert chosen == {
        text: Digest.of(bytes([n])) for text, n in (("linux/arm/v7", 3), ("linux/arm", 1), ("linux/arm/v8", 1))
    }


@pytest.mark.parametrize("content", [b"no JSON", b"{}", dump({"manifests": [{"digest": 1}]})])
def test_an_index_that_cannot_be_read_fails_the_pull(content):
    with pytest.raises(PullFailed, match="cannot be read"):
        choose(content, Platform("linux", "amd64"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"), ("https://registry.example/", "https://registry.example"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)  # fmt: skip
def test_a_host_is_shown_without_what_goes_without_saying(text, shown):
    assert str(Host.parse(text, "mirror")) == shown


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:5000", "ftp://a", "http://", "http://a/v2", "http://a?x", "http://u@a", "http://a:0", "http://a:x"],
)
def test_what_is_no_host_is_wrong_use_that_names_the_option(text):
    with pytest.raises(ConfigError, match=r"^origin: expected http.*from --origin"):
        Host.parse(text, "origin")
