from typing_extensions import disjoint_base

from fastmirror._native.endpoint import Endpoint

@disjoint_base
class Link:
    """The socket under a Connection: what is watched of it, what has still to leave, how fast the client takes it.

    Borrows ``fd``, a connected non-blocking stream socket. All methods run on the loop's thread.
    """

    def __new__(cls, endpoint: Endpoint, fd: int, client: str) -> Link: ...
    def on_readable(self) -> None:
        """Called by the loop when there is input; a Link by itself leaves it."""

    def on_writable(self) -> None:
        """Called by the loop when there is room; a Link by itself sends nothing."""

    @property
    def client(self) -> str:
        """The remote address without its port."""

    @property
    def since(self) -> float:
        """Seconds of the loop's coarse clock: the last request or progress."""

    @property
    def rate(self) -> float:
        """Bytes a second that the client took lately while more waited for it; -1: nothing waits, or not known yet."""
