from typing_extensions import disjoint_base

from fastmirror._native.link import Link

@disjoint_base
class Sender(Link):
    """A Link that sends the bodies of replies from their files.

    Where ``Endpoint.senders`` are given, native threads send what would block the loop (or all that is there).
    """

    def wake(self) -> None:
        """What a body calls that had nothing to send and has something now, or has ended."""
