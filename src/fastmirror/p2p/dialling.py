"""Connections that this node makes: to stay, or only to find out who answers."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import trio
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey

from fastmirror.inventory.wire import BadFrame
from fastmirror.p2p.door import hold
from fastmirror.p2p.secure import Guest, Refused
from fastmirror.p2p.wire import greet

CONNECT_SECONDS: Final = 1.0


class Meeting(NamedTuple):
    """What became of one: ``host`` is where the node answered, empty if nowhere, and then ``why`` says why not.

    ``secret`` is the admission secret that it knows.
    """

    host: str
    secret: bytes
    why: str


async def meet(guest: Guest, owner: bytes, hosts: tuple[str, ...], port: int) -> Meeting:
    """Look for a node at each of these addresses in turn. Cancel: the socket is closed at once."""
    why = "no address that may be dialled (--peer-cidr)"
    for host in hosts:
        stream, why = await connect(host, port)
        if stream is None:
            continue
        try:
            _, secret = await greet(stream, guest, ID(owner), True)
            return Meeting(host, secret, "")
        except Exception as error:  # noqa: BLE001 - py-libp2p raises anything; all of it means the same
            why = reason(error)
        finally:
            await trio.aclose_forcefully(stream)
    return Meeting("", b"", why)


async def connect(host: str, port: int) -> tuple[trio.SocketStream | None, str]:
    """A TCP connection, or why there is none."""
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await sock.connect((host, port))
        hold(sock)
        return trio.SocketStream(sock), ""
    except (OSError, trio.TooSlowError) as error:
        sock.close()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return (
            None,
            f"{where}: {os.strerror(error.errno) if isinstance(error, OSError) and error.errno else 'no answer'}",
        )
    except BaseException:
        sock.close()
        raise


def reason(error: BaseException) -> str:
    """Why a connection ended, in a few words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PeerIDMismatchesPubkey):
        return "another identity answers there"
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    if isinstance(error, Refused | BadFrame):
        return str(error)
    return (
        "connection lost"
        if "losed" in type(error).__name__ or "EOF" in type(error).__name__
        else (f"{type(error).__name__}: {error}"[:120])
    )
