"""The lists that this node gives to others: computed when they are asked for, and kept.

Source: docs/protocol.md, "Lists of piece hashes".
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import ALGORITHMS, DEFAULT, Algorithm, Shape
from fastmirror.chunks.making import Making
from fastmirror.errors import BlobUnknown, NameInvalid, NotOffered, StoreError
from fastmirror.http.message import Reply, Request, head
from fastmirror.oci.digest import Digest
from fastmirror.store import Arrived, BlobStore, ContentEvent, Gone

log = logging.getLogger(__name__)

PREFIX: Final = "/fastmirror/v1/"
"""Targets that begin so are for the answerer of this package."""
CONTENT_TYPE: Final = "application/vnd.fastmirror.chunks.v1"
KEPT_BYTES: Final = 16 * 1024 * 1024  # lists of 512 GiB of content
AT_ONCE: Final = 16  # lists that are computed at a time; the threads go from one to the other piece by piece
EARLY: Final = 1024  # contents that wait for their list to be computed before anybody asks
_TARGET: Final = re.compile(r"/fastmirror/v1/chunks/([^?/]*)(?:\?algorithm=([a-z0-9-]{1,16}))?", re.ASCII)

_Key = tuple[Digest, str]


def list_target(digest: Digest, algorithm: Algorithm) -> str:
    """The request target of a list at a peer."""
    return f"{PREFIX}chunks/{digest}?algorithm={algorithm.name}"


class ListServer:
    """Answers requests for lists. Owns what it computes, until :meth:`close`; the ``checks`` are the caller's.

    ``may_serve`` are the filters that hold for the blobs themselves. With ``early`` the list of content of at least so
    many bytes is computed (by ``algorithm``) when it arrives, one after the other; else when it is first asked for.
    """

    def __init__(
        self,
        store: BlobStore,
        may_serve: Callable[[Digest], bool],
        checks: Checks,
        algorithm: Algorithm = DEFAULT,
        early: int | None = None,
    ) -> None:
        self.made_lists = 0
        self.answered = 0
        self.refused = 0  # because too many lists are being computed
        self._store = store
        self._may_serve = may_serve
        self._checks = checks
        self._algorithm = algorithm
        self._early = early
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._makings: dict[_Key, Making] = {}  # those that further requests may join
        self._running: set[Making] = set()
        self._next: deque[Digest] = deque(maxlen=EARLY)
        self._first: Making | None = None  # the one that nobody has asked for
        self._forget = store.subscribe(self._changed)

    def __call__(self, request: Request) -> Reply:
        """Answer a request whose target begins with ``PREFIX``. Raises RegistryError."""
        match = _TARGET.fullmatch(request.target)
        if match is None:
            raise NotOffered("not part of what a fastmirror offers to others", request.target[:160])
        algorithm = ALGORITHMS.get(match[2]) if match[2] else DEFAULT
        if algorithm is None:
            raise NameInvalid("pieces are hashed by " + ", ".join(ALGORITHMS) + " only", match[2])
        digest = Digest.parse(match[1])
        try:
            if not self._may_serve(digest):
                raise BlobUnknown("not on this node")
            reply = self._answer(digest, algorithm, request.method == "HEAD")
        except StoreError as error:
            log.warning("local content cannot be read: %s", error, extra={"event": "chunks.store_failed"})
            raise BlobUnknown("not on this node") from None
        self.answered += 1
        return reply

    def close(self) -> None:
        """Stop computing; bodies end where they are. Idempotent."""
        self._forget()
        self._next.clear()
        for making in list(self._running):
            making.cancel()

    # ---- answers

    def _answer(self, digest: Digest, algorithm: Algorithm, only_head: bool) -> Reply:
        key = digest, algorithm.name
        content = self._kept.get(key)
        if content is not None:
            self._kept.move_to_end(key)
            return Reply(_head(digest, len(content)), content)
        if only_head:
            size = self._store.size(digest)
            if size is None or not Shape(size, algorithm).fits:
                raise BlobUnknown("not on this node, or too large for a list")
            return Reply(_head(digest, Shape(size, algorithm).length))
        making = self._makings.get(key)
        joined = making is not None
        if making is None:
            making = self._make(digest, algorithm)
        reply = Reply(_head(digest, making.shape.length), body=making.open(), start=0, stop=making.shape.length)
        if making is self._first:
            self._first = None
        if not joined:
            making.begin()
        return reply

    def _make(self, digest: Digest, algorithm: Algorithm) -> Making:
        """A making that is still to begin. Raises BlobUnknown, StoreError."""
        if len(self._running) >= AT_ONCE:
            self.refused += 1
            raise BlobUnknown("this node computes as many lists as it may already")
        blob = self._store.open(digest)
        if blob is None:
            raise BlobUnknown("not on this node")
        shape = Shape(blob.size, algorithm)
        if not shape.fits:
            blob.close()
            raise BlobUnknown("too large for a list")
        making = Making(blob, shape, self._checks, self)
        self._makings[digest, algorithm.name] = making
        self._running.add(making)
        return making

    # ---- what becomes of makings

    def made(self, making: Making, content: bytes | None) -> None:
        """See ``Owner.made``."""
        self._running.discard(making)
        if self._unlist(making) and content is not None:
            self._keep((making.digest, making.shape.algorithm.name), content)
        if self._first is making:
            self._first = None
        self._make_next()

    def unread(self, making: Making) -> None:
        """See ``Owner.unread``."""
        self._unlist(making)
        making.cancel()

    def _unlist(self, making: Making) -> bool:
        """Let nobody join any more; False if that was so already."""
        key = making.digest, making.shape.algorithm.name
        if self._makings.get(key) is not making:
            return False
        del self._makings[key]
        return True

    def _keep(self, key: _Key, content: bytes) -> None:
        self.made_lists += 1
        self._kept[key] = content
        self._kept_bytes += len(content)
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)

    # ---- what becomes of content

    def _changed(self, event: ContentEvent) -> None:
        if isinstance(event, Gone):
            self._drop(event.digest)
        elif isinstance(event, Arrived) and self._early is not None:
            self._next.append(event.digest)
            self._make_next()

    def _drop(self, digest: Digest) -> None:
        for name in ALGORITHMS:
            content = self._kept.pop((digest, name), None)
            self._kept_bytes -= len(content or b"")
            self._makings.pop((digest, name), None)  # it goes on for those who read it, and is not kept
        if digest in self._next:
            self._next.remove(digest)

    def _make_next(self) -> None:
        """Begin the next list that nobody has asked for, unless one is on its way."""
        while self._next and self._first is None and len(self._running) < AT_ONCE:
            digest = self._next.popleft()
            key = digest, self._algorithm.name
            if key in self._kept or key in self._makings:
                continue
            with contextlib.suppress(BlobUnknown, StoreError):
                size = self._store.size(digest)
                if size is not None and size >= (self._early or 0) and self._may_serve(digest):
                    self._first = making = self._make(digest, self._algorithm)
                    making.begin()


def _head(digest: Digest, length: int) -> bytes:
    return head(200, f"Content-Type: {CONTENT_TYPE}", f"Content-Length: {length}", f"Docker-Content-Digest: {digest}")
