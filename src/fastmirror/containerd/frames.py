"""What the data plane and its helper process tell each other: msgpack behind a four-byte length.

Both ends are the same version of this package, one started by the other, so there is no version in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

MAX_FRAME_BYTES: Final = 256 << 20
_LENGTH_BYTES: Final = 4


class ImageRecord(msgspec.Struct, frozen=True, array_like=True):
    """A name in containerd's image store and what it means."""

    name: str
    media_type: str
    digest: str
    size: int


class ContentRecord(msgspec.Struct, frozen=True, array_like=True):
    """Content of the namespace: its size in bytes, and ``registry/repository`` names from its labels."""

    digest: str
    size: int
    sources: tuple[str, ...]


class Event(msgspec.Struct, frozen=True):
    """Something happened in the namespace; ``digest`` is set for new content. Stays in the helper process."""

    topic: str
    digest: str


class Connected(msgspec.Struct, tag="connected"):
    """containerd answers. ``root`` is its content root as containerd names it; empty if it did not say."""

    version: str
    root: str


class Lost(msgspec.Struct, tag="lost"):
    """containerd does not answer; what was said before may be out of date."""

    reason: str


class Changed(msgspec.Struct, tag="changed"):
    """What the namespace has, as a difference to all that was said before.

    With ``complete`` the difference is to nothing: the helper has just begun, what is not named is not there.
    """

    complete: bool
    images: list[ImageRecord]
    no_images: list[str]
    content: list[ContentRecord]
    no_content: list[str]


class Look(msgspec.Struct, tag="look"):
    """To the helper: these files are new, does the namespace have them? Each is answered by Changed or Foreign."""

    digests: list[str]


class Foreign(msgspec.Struct, tag="foreign"):
    """The namespace does not have this content, though containerd answers."""

    digests: list[str]


Frame = Connected | Lost | Changed | Look | Foreign

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """The bytes of one frame."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes. Raises ValueError for what is no frame."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            stop = _LENGTH_BYTES + length
            if len(self._buffer) < stop:
                return
            body = bytes(self._buffer[_LENGTH_BYTES:stop])
            del self._buffer[:stop]
            yield _decoder.decode(body)  # msgspec.DecodeError is a ValueError
