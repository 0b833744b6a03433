"""The look-up index in plain Python: what ``ext/index.pyx`` does, with a dictionary of sets."""

from __future__ import annotations

import struct
from enum import Enum


class _State(Enum):
    HIDDEN = 1
    SHOWN = 2
    CLOSED = 3


class Index:
    """See ``fastmirror._native.index``. A sweep does all at once."""

    MOST = 32766

    def __init__(self, seed: int) -> None:
        self._holders: dict[int, set[int]] = {}
        self._states: dict[int, _State] = {}

    def open(self) -> int:
        for node in range(self.MOST):
            if node not in self._states:
                self._states[node] = _State.HIDDEN
                return node
        raise OverflowError("no more nodes")

    def _expect(self, node: int, keys: bytes = b"") -> tuple[int, ...]:
        if self._states.get(node, _State.CLOSED) is _State.CLOSED:
            raise ValueError("no such node")
        if len(keys) % 8:
            raise ValueError("keys are 8 bytes each")
        return struct.unpack(f"<{len(keys) // 8}Q", keys)

    def show(self, node: int) -> None:
        self._expect(node)
        self._states[node] = _State.SHOWN

    def close(self, node: int) -> None:
        self._expect(node)
        self._states[node] = _State.CLOSED

    def add(self, node: int, keys: bytes) -> None:
        for key in self._expect(node, keys):
            self._holders.setdefault(key, set()).add(node)

    def drop(self, node: int, keys: bytes) -> None:
        for key in self._expect(node, keys):
            holders = self._holders.get(key, set())
            holders.discard(node)
            if not holders:
                self._holders.pop(key, None)

    def find(self, key: int) -> list[int]:
        return [node for node in self._holders.get(key, ()) if self._states[node] is _State.SHOWN]

    def sweep(self, slots: int) -> bool:
        closed = {node for node, state in self._states.items() if state is _State.CLOSED}
        for key, holders in list(self._holders.items()):
            holders -= closed
            if not holders:
                del self._holders[key]
        for node in closed:
            del self._states[node]
        return False

    @property
    def entries(self) -> int:
        return sum(map(len, self._holders.values()))

    def __len__(self) -> int:
        return len(self._holders)
