"""The Host field: exactly one, and a name or an address with an optional port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fastmirror._native.endpoint import Reply
from fastmirror.http.message import head
from tests.native.serving import Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    rig.answer = lambda request: Reply(head(200, "Content-Length: 0"))
    yield rig
    rig.end()


async def answer(rig: Rig, *hosts: bytes) -> bytes:
    client, _ = rig.connect()
    fields = b"".join(b"Host: %s\r\n" % host for host in hosts)
    await rig.send(client, b"GET /v2/ HTTP/1.1\r\n" + fields + b"Connection: close\r\n\r\n")
    return await rig.read_to_end(client)


@pytest.mark.parametrize(
    "host",
    b"|m|mirror.local:5000|a:|a:0|a:65535|10.0.0.1|10.0.0.1:80|[::1]|[fe80::1]:5000|[::ffff:1.2.3.4]|a_b-c.d.".split(
        b"|"
    ),
)
async def test_host_with_an_optional_port_is_taken(rig: Rig, host: bytes) -> None:
    assert (await answer(rig, host)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "host",
    b"a:65536|a:99999|a:000080|a:-1|a:+1|a:b|a:b:c|a:80:|:|:80|[|[]|[::1|[::1]80|[::1]:x|[1]|[::g]|]:[|%%|a%41"
    b"|[fe80::1%25eth0]|u@a|a/b|a,b|a b|..|.a|a..b|::1".split(b"|"),
)
async def test_any_other_host_is_refused_and_the_answer_says_why(rig: Rig, host: bytes) -> None:
    received = await answer(rig, host)
    assert received.startswith(b"HTTP/1.1 400 ") and b"Host is not a name or an address" in received
    assert not rig.requests


async def test_no_host_and_two_hosts_are_refused(rig: Rig) -> None:
    for received in (await answer(rig), await answer(rig, b"m", b"m")):
        assert received.startswith(b"HTTP/1.1 400 ") and b"exactly one Host field" in received
