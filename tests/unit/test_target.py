"""Request targets and ``ns``: hosts and ports in them."""

from __future__ import annotations

import pytest

from fastmirror.errors import NameInvalid, NotOffered
from fastmirror.oci.pull import parse_pull

BLOB = "/v2/team/app/blobs/sha256:" + "ab" * 32


@pytest.mark.parametrize("authority", ["mirror", "mirror:5000", "10.0.0.1:80", "[::1]:5000", "MIRROR.local"])
def test_absolute_form_means_its_path(authority: str) -> None:
    assert parse_pull(f"http://{authority}{BLOB}?ns=reg.example") == parse_pull(f"{BLOB}?ns=reg.example")


def test_query_of_an_absolute_form_without_a_path_is_no_path() -> None:
    with pytest.raises(NotOffered):
        parse_pull(f"http://mirror?x{BLOB}")


@pytest.mark.parametrize(
    "authority",
    ["", "u@mirror", "u:p@mirror", "mirror:", "mirror:0", "mirror:65536", "a:b:c", "[", "[]", "[::g]", "a..b"],
)
def test_absolute_form_without_a_plain_host_is_refused(authority: str) -> None:
    with pytest.raises(NameInvalid, match="names no host"):
        parse_pull(f"http://{authority}{BLOB}")


@pytest.mark.parametrize(
    "ns", ["reg.example:65536", "reg.example:99999", "reg.example:0", "[", "[]", "[::g]:80", "a:b:c"]
)
def test_ns_that_is_no_host_with_a_port_is_refused(ns: str) -> None:
    with pytest.raises(NameInvalid, match="registry is not a host"):
        parse_pull(f"{BLOB}?ns={ns}")


def test_ns_may_have_any_real_port_and_an_address() -> None:
    assert parse_pull(f"{BLOB}?ns=reg.example%3A65535").registry == "reg.example:65535"
    assert parse_pull(f"{BLOB}?ns=%5B::1%5D%3A5000").registry == "[::1]:5000"
