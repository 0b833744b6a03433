"""Numbers, texts and frames as bytes. Source: docs/inventory.md, "Frames"."""

from __future__ import annotations

import struct
from typing import Final, Self

MAX_FRAME: Final = 1 << 20
"""Bytes of a frame with its header; longer ones end the connection."""

HEADER: Final = struct.Struct(">IB")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")


class BadFrame(Exception):
    """The other side broke the protocol; the text says how. The connection ends."""


class Writer:
    """Appends values; the methods give the writer back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u8(self, value: int) -> Self:
        """One byte."""
        self._parts.append(bytes((value,)))
        return self

    def u16(self, value: int) -> Self:
        """Two bytes, big-endian, like the larger ones."""
        self._parts.append(_U16.pack(value))
        return self

    def u32(self, value: int) -> Self:
        """Four bytes."""
        self._parts.append(_U32.pack(value))
        return self

    def u64(self, value: int) -> Self:
        """Eight bytes."""
        self._parts.append(_U64.pack(value))
        return self

    def short(self, value: bytes) -> Self:
        """Up to 255 bytes, after their length in one."""
        return self.u8(len(value)).raw(value)

    def raw(self, value: bytes) -> Self:
        """Bytes as they are."""
        self._parts.append(value)
        return self

    def done(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)


class Reader:
    """Takes values off the front; each method raises BadFrame if there are too few bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def raw(self, count: int) -> bytes:
        """That many bytes."""
        if count > len(self._data) - self._at:
            raise BadFrame("a frame ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def u8(self) -> int:
        """One byte."""
        return self.raw(1)[0]

    def u16(self) -> int:
        """Two bytes."""
        return int.from_bytes(self.raw(2), "big")

    def u32(self) -> int:
        """Four bytes."""
        return int.from_bytes(self.raw(4), "big")

    def u64(self) -> int:
        """Eight bytes."""
        return int.from_bytes(self.raw(8), "big")

    def short(self) -> bytes:
        """Bytes after their length in one."""
        return self.raw(self.u8())

    def rest(self) -> bytes:
        """All that is left."""
        return self.raw(len(self._data) - self._at)


def frame(kind: int, payload: bytes) -> bytes:
    """One frame: the length of what follows it in 4 bytes, the kind in one, the payload."""
    return HEADER.pack(len(payload) + 1, kind) + payload


class Splitter:
    """Makes frames of a stream of bytes; holds at most one that is not complete."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The kind and payload of each frame that is complete now. Raises BadFrame for one that is too large."""
        held = self._held
        held += data
        found = []
        at = 0
        while len(held) - at >= HEADER.size:
            length, kind = HEADER.unpack_from(held, at)
            if not 1 <= length <= MAX_FRAME - 4:
                raise BadFrame(f"a frame of {length} bytes")
            if len(held) - at < 4 + length:
                break
            found.append((kind, bytes(held[at + HEADER.size : at + 4 + length])))
            at += 4 + length
        del held[:at]
        return found
