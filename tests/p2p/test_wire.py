"""One connection between two routers, both ends in this process."""

from __future__ import annotations

import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair

from fastmirror.inventory.messages import CLONE, Part, Ping
from fastmirror.inventory.wire import frame
from fastmirror.p2p.secure import Guest
from fastmirror.p2p.wire import RELEASE, Wire, greet, muxed


async def _end(nursery: trio.Nursery, sock: trio.socket.SocketType, initiator: bool, made: dict[bool, Wire]) -> None:
    guest = Guest(create_new_key_pair(), (), list)
    secured, _ = await greet(trio.SocketStream(sock), guest, None, initiator)
    wire, muxer = await muxed(secured, initiator)
    nursery.start_soon(muxer.start)
    await wire.begin()
    made[initiator] = wire


def over_a_wire(act) -> None:
    """Run ``act(nursery, dialler, answerer)`` with the two ends of a connection."""

    async def main() -> None:
        ours, theirs = trio.socket.socketpair()
        made: dict[bool, Wire] = {}
        with ours, theirs, trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as handshakes:
                    handshakes.start_soon(_end, nursery, ours, True, made)
                    handshakes.start_soon(_end, nursery, theirs, False, made)
                await act(nursery, made[True], made[False])
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_last_words_before_an_end_are_heard_however_late_they_are_read():
    async def act(nursery: trio.Nursery, ours: Wire, theirs: Wire) -> None:
        nursery.start_soon(theirs.write)
        theirs.put(Ping(1, 2).encode())
        theirs.put(Part(CLONE).encode())
        theirs.end("a clone")
        await trio.testing.wait_all_tasks_blocked(0.2)  # they have closed, and our muxer has seen it
        nursery.start_soon(ours.write)
        ours.put(Ping(3, 4).encode())  # cannot be sent any more
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert [(await ours.frame())[0] for _ in range(2)] == [5, 10]

    over_a_wire(act)


def test_what_was_read_makes_room_for_more_than_one_window():
    async def act(nursery: trio.Nursery, ours: Wire, theirs: Wire) -> None:
        nursery.start_soon(theirs.write)
        for _ in range(10):
            theirs.put(frame(99, bytes(RELEASE)))
        assert [(await ours.frame())[0] for _ in range(10)] == [99] * 10

    over_a_wire(act)


def test_small_frames_are_read_no_faster_than_a_thousand_a_second():
    async def act(nursery: trio.Nursery, ours: Wire, theirs: Wire) -> None:
        nursery.start_soon(theirs.write)
        began = trio.current_time()
        ping = Ping(1, 2).encode()
        theirs.put(ping * 9_000)
        for _ in range(9_000):
            await ours.frame()
        assert trio.current_time() - began > 0.9  # all but those of eight seconds

    over_a_wire(act)
