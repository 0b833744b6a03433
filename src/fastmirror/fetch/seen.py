"""What a node remembers of its answers, whether they came from its own content or from peers. Pure."""

from __future__ import annotations

from fastmirror.fetch.handover import Handover
from fastmirror.fetch.record import FetchLog
from fastmirror.fetch.sizes import Sizes


class Seen:
    """Sizes that manifests told of, bodies that had to be cut, contents whose readers may come back, and what fetches
    came to, for people. Bounded.
    """

    def __init__(self) -> None:
        self.handover = Handover()
        self.log = FetchLog()
        self.sizes = Sizes()
