"""Routers of one process that share a dictionary: for tests and benches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Self

from fastmirror.routing import Holder, Key, Peer


class Directory:
    """Who holds what, for all MemoryRouters that were made with it."""

    def __init__(self) -> None:
        self.holders: dict[Key, dict[Peer, Holder]] = {}
        self.members: set[Peer] = set()


class MemoryRouter:
    """A Router for ``me`` over a shared :class:`Directory`. What is advertised is known everywhere at once."""

    def __init__(self, me: Peer, directory: Directory) -> None:
        self.me = me
        self._directory = directory
        directory.members.add(me)

    def find(self, key: Key) -> _Known:
        """See ``Router.find``; never waits."""
        holders = self._directory.holders.get(key, {})
        return _Known(iter([holder for peer, holder in holders.items() if peer != self.me]))

    def advertise(self, keys: Iterable[Key]) -> None:
        """See ``Router.advertise``."""
        for key in keys:
            self._directory.holders.setdefault(key, {})[self.me] = Holder(self.me)

    def withdraw(self, keys: Iterable[Key]) -> None:
        """See ``Router.withdraw``."""
        for key in keys:
            holders = self._directory.holders.get(key, {})
            holders.pop(self.me, None)
            if not holders:
                self._directory.holders.pop(key, None)

    def peers(self) -> list[Peer]:
        """See ``Router.peers``."""
        return sorted(self._directory.members - {self.me})

    async def run(self) -> None:
        """Nothing to keep current; ends when it is cancelled."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """See ``Router.close``."""
        self.withdraw([key for key, holders in self._directory.holders.items() if self.me in holders])
        self._directory.members.discard(self.me)


class _Known:
    """A look-up whose holders are all known from the start."""

    def __init__(self, holders: Iterator[Holder]) -> None:
        self._holders = holders

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Holder:
        for holder in self._holders:
            return holder
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._holders = iter(())
