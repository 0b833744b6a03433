from typing_extensions import disjoint_base

from fastmirror._native.endpoint import Endpoint, Reply
from fastmirror._native.sender import Sender

@disjoint_base
class Connection(Sender):
    """One client connection, from accept to close; owns ``fd``, a connected non-blocking stream socket.

    It keeps itself in ``endpoint.connections`` until it is closed. All methods run on the loop's thread.
    """

    def __new__(cls, endpoint: Endpoint, fd: int, client: str) -> Connection: ...
    def deliver(self, reply: Reply) -> None:
        """Give the reply that ``answer`` promised through an awaitable; if the client has left it is just released."""

    def hang_up(self) -> None:
        """End the reply here (cut short if it is not complete) and the connection by FIN; idempotent."""

    def retire(self) -> None:
        """Take no further request; end by FIN once what was asked so far is answered."""

    def close(self) -> None:
        """Close the descriptor at once, or when the native threads give it back; idempotent.

        With unread input the kernel sends RST: prefer ``hang_up``.
        """

    def detach(self) -> int:
        """Cut the reply and send FIN; gives a descriptor that the caller owns now, or -1 if it was closed before.

        For an end without RST the caller reads the input to its end, or throws it away for a while, before it closes.
        """

    def expire(self, header_seconds: float, idle_seconds: float) -> None:
        """End the connection if it is over its time; called about twice a second for every connection."""

    def on_turn(self) -> None: ...
    def given_back(self) -> None: ...
    @property
    def idle(self) -> bool:
        """Whether no request is being answered or waits for it: such a connection may be ended to make room."""
