"""What "who has it" means.

Nouns: Peer, Router. Every implementation passes ``tests/kit/router_conformance.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, Self

from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference

Key = Digest | Reference
"""What is advertised and looked up: content by digest, or an image by its tag."""


class Peer(NamedTuple):
    """Another fastmirror: where its peer listener answers. Two peers are one if their addresses are equal."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Holder(NamedTuple):
    """A peer that says it has what was looked for.

    ``size`` is what it told of the content's bytes, ``target`` what a tag means there; None where it did not say.
    """

    peer: Peer
    size: int | None = None
    target: Digest | None = None


class Lookup(Protocol):
    """Holders as they become known, each once; iterate it once, and close it unless it has ended."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Holder:
        """The next holder; StopAsyncIteration when no more will come. Cancel: the look-up goes on."""

    async def aclose(self) -> None:
        """Stop the look-up at once; idempotent."""


class Router(Protocol):
    """Finds holders and says what this node holds. Never raises for a peer's fault: it finds fewer holders."""

    def find(self, key: Key) -> Lookup:
        """Holders other than this node, the best first where that is known; ends within ``lookup_timeout``."""

    def advertise(self, keys: Iterable[Key]) -> None:
        """This node now serves these keys."""

    def withdraw(self, keys: Iterable[Key]) -> None:
        """This node does not serve these keys any more; keys it never advertised are ignored."""

    def peers(self) -> list[Peer]:
        """The other nodes that are known, whatever their state."""

    async def run(self) -> None:
        """Keep the view of the other nodes current until cancelled."""

    async def close(self) -> None:
        """Withdraw everything and release connections; idempotent."""
