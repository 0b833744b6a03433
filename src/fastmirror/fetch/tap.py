"""What a reader holds of a fetch: first the wait for its beginning, then a FileBody over its spool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from fastmirror.fetch.endings import Endings
from fastmirror.fetch.layer import LayerFetch, Stage
from fastmirror.fetch.spool import Spool

Cut = Callable[[int], None]

_ASK_AGAIN_SECONDS: Final = 0.1
_endings: WeakKeyDictionary[LayerFetch, Endings] = WeakKeyDictionary()


class Tap:
    """One reader of a LayerFetch, and the FileBody of its reply. Whoever has it closes it, once.

    ``cut`` hears at which offset the body had to be ended early; see :class:`Endings` for when that is.
    """

    __slots__ = ("_cut", "_endings", "_left", "_spool", "_timer", "fetch")

    def __init__(self, fetch: LayerFetch, left: Callable[[LayerFetch], None]) -> None:
        self.fetch = fetch
        self._left: Callable[[LayerFetch], None] | None = left
        self._spool: Spool | None = None
        self._cut: Cut | None = None
        self._endings = _endings.setdefault(fetch, Endings())
        self._timer: asyncio.TimerHandle | None = None
        fetch.readers += 1

    async def settled(self) -> bool:
        """Wait until it is known whether there is something to read. Cancel: nothing has changed."""
        await self.fetch.settled.wait()
        return self.fetch.stage in (Stage.FLOWING, Stage.VERIFIED)

    def open(self, cut: Cut) -> Spool:
        """Begin to read; only after :meth:`settled` said yes."""
        spool = self.fetch.spool
        assert spool is not None, "there is nothing to read"
        spool.hold()
        self._spool = spool
        self._cut = cut
        return spool

    def fileno(self) -> int:
        """See ``FileBody.fileno``."""
        assert self._spool is not None
        return self._spool.fileno()

    def available(self, position: int) -> int:
        """See ``FileBody.available``."""
        assert self._spool is not None
        ready = self._spool.available(position)
        self._endings.reads(self, position)
        if ready < 0 and self._cut is not None:
            if not self._endings.may_end(self, asyncio.get_running_loop().time()):
                return 0
            cut, self._cut = self._cut, None
            cut(position)
        return ready

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        """See ``FileBody.wait``."""
        assert self._spool is not None
        if self._spool.available(position) < 0:
            self._timer = asyncio.get_running_loop().call_later(_ASK_AGAIN_SECONDS, wake)
        else:
            self._spool.wait(self, position, wake)

    def close(self) -> None:
        """See ``FileBody.close``."""
        if self._left is None:
            return
        left, self._left = self._left, None
        self._endings.left(self)
        if self._timer is not None:
            self._timer.cancel()
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.forget(self)
            spool.release()
        self.fetch.readers -= 1
        left(self.fetch)


class NoBody:
    """The body of an answer that ends before its first byte, because nobody has the content any more."""

    __slots__ = ("_cut",)

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def fileno(self) -> int:
        """See ``FileBody.fileno``."""
        return -1

    def available(self, position: int) -> int:
        """See ``FileBody.available``."""
        self._cut(position)
        return -1

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        """See ``FileBody.wait``."""
        raise AssertionError("a body without bytes is never waited for")

    def close(self) -> None:
        """See ``FileBody.close``."""
