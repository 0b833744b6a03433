"""One connection to another router: yamux with one stream of the inventory's protocol on it, within limits.

Guards, as py-libp2p 0.8.1 has none of them: frames of at most 256 KiB; what was not read yet waits in the kernel and
not in memory; streams beyond the one are never accepted; frames and bytes per second are limited by not reading on;
every step of the handshake has a deadline; whatever goes wrong in py-libp2p ends this connection and nothing else.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, cast

import trio
import trio.lowlevel
from libp2p.abc import ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import HEADER_SIZE, Yamux, YamuxStream

from fastmirror.inventory.messages import PROTOCOL
from fastmirror.inventory.wire import MAX_FRAME, Splitter
from fastmirror.p2p.secure import Guest, raw_connection, select, select_muxer

HANDSHAKE_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 1.0
MOST_UNSENT: Final = 8 << 20
MOST_UNREAD: Final = 1 << 20
MOST_PIECE: Final = 256 * 1024
RELEASE: Final = 64 * 1024  # bytes read before the other side is told of them: py-libp2p would tell of each read
PIECE: Final = 48 * 1024  # yamux and Noise divide anyway; less than both limits costs no copy
FRAMES_PER_SECOND: Final = 1000.0
BYTES_PER_SECOND: Final = 4 << 20
BURST_SECONDS: Final = 8.0
TURN: Final = 32  # frames
FRAME_OVERHEAD: Final = BYTES_PER_SECOND / FRAMES_PER_SECOND


class _Patience:
    """A bucket: lets BYTES_PER_SECOND through, each frame counted as FRAME_OVERHEAD bytes more, and bursts at once."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at = trio.current_time()

    async def take(self, size: int) -> None:
        now = trio.current_time()
        self._level = max(0.0, self._level - (now - self._at) * BYTES_PER_SECOND) + size
        self._at = now
        over = self._level - BURST_SECONDS * BYTES_PER_SECOND
        if over > 0:
            await trio.sleep(over / BYTES_PER_SECOND)


class _Metered:
    """An encrypted connection whose yamux frames are counted, also those that carry and ask for nothing."""

    def __init__(self, secured: ISecureConn, patience: _Patience) -> None:
        self._secured = secured
        self._patience = patience
        self._frames = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secured, name)

    async def read(self, n: int | None = None) -> bytes:
        data = await self._secured.read(n)
        if n == HEADER_SIZE:
            await self._patience.take(int(FRAME_OVERHEAD))
            self._frames += 1
            if self._frames % TURN == 0:  # py-libp2p works a whole Noise message off without a pause
                await trio.lowlevel.checkpoint()
        return data


class _Muxer(Yamux):
    """yamux with limits on what the other side makes it hold."""

    def __init__(self, secured: ISecureConn, peer: ID, is_initiator: bool) -> None:
        self._patience = _Patience()
        super().__init__(cast(ISecureConn, _Metered(secured, self._patience)), peer, is_initiator=is_initiator)
        self.read_on = trio.Event()
        self.left: dict[int, bytearray] = {}

    async def _cleanup_on_error(self) -> None:
        # py-libp2p forgets here what was not read yet: the last words of a node come together with its end
        self.left.update(self.stream_buffers)
        await super()._cleanup_on_error()

    async def _read_data_body(self, length: int) -> bytes:
        if length > MOST_PIECE:
            raise trio.TooSlowError  # the one error after which yamux ends the connection
        await self._patience.take(length)
        while sum(map(len, self.stream_buffers.values())) > MOST_UNREAD:
            self.read_on = trio.Event()
            await self.read_on.wait()
        return await super()._read_data_body(length)

    async def _write_frame(self, data: bytes) -> None:
        if len(data) == 12:  # an answer to what the other side sent without data: it may not flood us with these
            await self._patience.take(64)
        await super()._write_frame(data)


class Wire:
    """An open connection to ``peer``. Its owner runs :meth:`write` and reads :meth:`frame`; others only :meth:`put`.

    ``scope`` is what the owner waits in: it ends when the connection was ended here.
    """

    def __init__(self, secured: ISecureConn, muxer: _Muxer, initiator: bool) -> None:
        self.peer = secured.get_remote_peer().to_bytes()
        self.initiator = initiator
        self._muxer = muxer
        self._stream: Any = None
        self._splitter = Splitter()
        self._patience = _Patience()
        self._frames: deque[tuple[int, bytes]] = deque()
        self._queue: deque[bytes] = deque()
        self._unsent = 0
        self._unreleased = 0
        self._news = trio.Event()
        self._ending = False
        self.why = ""
        self.secret = b""
        """What the other side was let in by."""
        self.scope: trio.CancelScope | None = None

    async def begin(self) -> None:
        """Agree on the stream. The muxer must be running."""
        if self.initiator:
            self._stream = await self._muxer.open_stream()
        else:
            self._stream = await self._muxer.accept_stream()
        assert isinstance(self._stream, YamuxStream)
        await select(self._stream, TProtocol(PROTOCOL))

    def put(self, data: bytes) -> None:
        """Send a frame after those that wait. Too many waiting end the connection."""
        if self._ending:
            return
        self._queue.append(data)
        self._unsent += len(data)
        if self._unsent > MOST_UNSENT:
            self._queue.clear()
            self.end("too slow")
        self._news.set()

    def end(self, why: str) -> None:
        """End the connection once what waits has been sent, or a second later."""
        if not self._ending:
            self._ending = True
            self.why = why
            if self.scope is not None:
                self.scope.deadline = trio.current_time() + CLOSE_SECONDS
        self._news.set()

    async def write(self) -> None:
        """Send what is put in until the end. Where that fails, what the other side still says is listened to."""
        try:
            await self._write()
        except Exception:  # noqa: BLE001 - whatever goes wrong in py-libp2p ends this connection only
            self._queue.clear()
            self.end("connection lost")

    async def _write(self) -> None:
        while True:
            while self._queue:
                data = b"".join(self._queue)
                self._queue.clear()
                self._unsent = 0
                for at in range(0, len(data), PIECE):
                    await self._stream.write(data[at : at + PIECE])
            if self._ending:
                await self._muxer.close()
                if self.scope is not None:
                    self.scope.cancel()
                return
            self._news = trio.Event()
            await self._news.wait()

    async def frame(self) -> tuple[int, bytes]:
        """The next frame that comes. Raises BadFrame, and whatever py-libp2p raises at the end."""
        while not self._frames:
            found = self._splitter.feed(await self._read())
            self._frames.extend(found)
            await self._patience.take(len(found) * int(FRAME_OVERHEAD))
        if len(self._frames) % TURN == 0:
            await trio.lowlevel.checkpoint()
        return self._frames.popleft()

    async def _read(self) -> bytes:
        if self._unreleased >= RELEASE:
            size, self._unreleased = self._unreleased, 0
            self._stream.recv_window += size
            await self._stream.send_window_update(size)
        try:
            data = await self._muxer.read_stream(self._stream.stream_id, PIECE)
        except (MuxedStreamEOF, MuxedStreamReset):
            rest = self._muxer.left.pop(self._stream.stream_id, None)
            if not rest:
                raise
            return bytes(rest)
        self._muxer.read_on.set()
        self._unreleased += len(data)
        return data


async def greet(
    stream: trio.SocketStream, guest: Guest, expected: ID | None, initiator: bool
) -> tuple[ISecureConn, bytes]:
    """See ``Guest.secure``. Raises Refused, TooSlowError and py-libp2p's errors."""
    with trio.fail_after(HANDSHAKE_SECONDS):
        return await guest.secure(raw_connection(stream, initiator), expected)


async def muxed(secured: ISecureConn, initiator: bool) -> tuple[Wire, _Muxer]:
    """The wire on an encrypted connection; its muxer must be run (``start``) before ``begin``."""
    with trio.fail_after(HANDSHAKE_SECONDS):
        await select_muxer(secured)
    muxer = _Muxer(secured, secured.get_remote_peer(), initiator)
    return Wire(secured, muxer, initiator), muxer


assert MAX_FRAME < MOST_UNSENT
