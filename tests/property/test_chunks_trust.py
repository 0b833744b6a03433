"""Arbitrary liars against ``chunks.trust``: what they cannot bring about, whatever they tell and send, in any order.

True hashes are ``("true", piece)``. A liar tells and sends anything; liars who conspire have hashes in common, others
have not: ``(liar, n)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.chunks.trust import Convicted, Fault, Refused, Trust
from fastmirror.routing import Peer

MOST_PIECES = 5


def true(piece: int) -> bytes:
    return b"true %d" % piece


class World:
    """A content, its peers, and every choice of the schedule drawn by hypothesis."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], honest: int, liars: int, conspire: bool) -> None:
        self.draw = draw
        self.pieces = draw(st.integers(1, MOST_PIECES))
        self.honest = [Peer("honest", number) for number in range(1, honest + 1)]
        self.liars = [Peer("liar", number) for number in range(1, liars + 1)]
        self.conspire = conspire
        self.trust = Trust(self.pieces)
        self.held: dict[int, bytes] = {}
        self.told: dict[Peer, int] = {}
        self.rulings: list[Convicted | Refused] = []

    def choice(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def says(self, peer: Peer, piece: int) -> bytes:
        """What a peer tells or sends; each lie is chosen anew."""
        if peer in self.honest:
            return true(piece)
        number = self.choice(0, 1, 2)
        teller = "all" if self.conspire else str(peer.port)
        return true(piece) if number == 0 else f"{teller} {piece} {number}".encode()

    def expect(self, peer: Peer) -> None:
        self.trust.expect(peer)
        self.told.setdefault(peer, 0)

    def tell(self, peer: Peer, count: int) -> None:
        first = self.told[peer]
        last = min(first + count, self.pieces)
        self.told[peer] = last
        self.trust.told(peer, [self.says(peer, piece) for piece in range(first, last)])
        if last == self.pieces:
            self.trust.ended(peer)

    def send(self, piece: int, peers: list[Peer]) -> None:
        """Bytes of these peers become the piece; with one liar among them it is what the liar wants."""
        if piece in self.held:
            return
        liars = [peer for peer in peers if peer in self.liars]
        content = self.says(liars[0] if liars else peers[0], piece)
        if len(peers) > 1 and content != true(piece) and not self.conspire:
            content += b" mixed"
        self.held[piece] = content
        self.trust.holds(piece, content, frozenset(peers))

    def judge(self) -> None:
        """Carry out refusals and check what must always hold."""
        for ruling in self.trust.take():
            self.rulings.append(ruling)
            if isinstance(ruling, Refused):
                assert not self.trust.believed(ruling.piece)
                del self.held[ruling.piece]
            else:
                assert ruling.peer in self.liars, f"{ruling} is honest"
        for piece, content in self.held.items():
            assert not self.trust.believed(piece) or content == true(piece), f"piece {piece} is wrong"
        assert self.trust.complete == (len(self.held) == self.pieces)
        assert all(self.trust.believed(piece) for piece in range(self.trust.frontier))

    def fetch(self) -> None:
        """Let every piece that is missing come from somebody who has not sent it wrongly, as a plan does."""
        avoid: dict[int, set[Peer]] = {}
        for ruling in self.rulings:
            if isinstance(ruling, Refused):
                avoid.setdefault(ruling.piece, set()).update(ruling.peers)
        for piece in range(self.pieces):
            if piece not in self.held:
                usable = [peer for peer in (*self.honest, *self.liars) if peer not in self.trust.convicted]
                liked = [peer for peer in usable if peer not in avoid.get(piece, ())] or usable
                self.send(piece, [self.choice(*liked)])
                self.judge()


@settings(max_examples=300)
@given(data=st.data(), honest=st.integers(1, 3), liars=st.integers(0, 4), steps=st.integers(0, 40))
def test_liars_who_do_not_conspire_pass_no_wrong_piece_and_convict_nobody_honest(
    data: st.DataObject, honest: int, liars: int, steps: int
) -> None:
    """One honest list was asked for, and has not failed; everything else is arbitrary."""
    world = World(data.draw, honest, liars, conspire=False)
    world.expect(world.honest[0])
    everybody = [*world.honest, *world.liars]
    for _ in range(steps):
        peer = world.choice(*everybody)
        match world.choice("expect", "tell", "tell", "end", "sought", "send", "send", "mix"):
            case "expect":
                world.expect(peer)
            case "tell" if peer in world.told:
                world.tell(peer, world.choice(1, 2, 9))
            case "end" if peer is not world.honest[0]:
                world.trust.ended(peer)
                world.told.setdefault(peer, world.pieces)
            case "sought":
                world.trust.sought()
            case "send":
                world.send(world.choice(*range(world.pieces)), [peer])
            case "mix":
                others = [other for other in everybody if other != peer]
                if others:
                    world.send(world.choice(*range(world.pieces)), [peer, world.choice(*others)])
        world.judge()


@settings(max_examples=300)
@given(data=st.data(), liars=st.integers(1, 3), more=st.integers(0, 1), steps=st.integers(0, 30))
def test_conspirators_who_do_not_outnumber_the_honest_lists_pass_nothing_either(
    data: st.DataObject, liars: int, more: int, steps: int
) -> None:
    world = World(data.draw, liars + more, liars, conspire=True)
    for peer in data.draw(st.permutations([*world.honest, *world.liars])):
        world.expect(peer)
    for peer in world.honest:
        world.tell(peer, world.pieces)
    for _ in range(steps):
        peer = world.choice(*world.liars, *world.honest)
        match world.choice("tell", "end", "sought", "send", "mix"):
            case "tell" if peer not in world.honest:
                world.expect(peer)
                world.tell(peer, world.choice(1, 2, 9))
            case "end":
                world.trust.ended(peer)
            case "sought":
                world.trust.sought()
            case "send":
                world.send(world.choice(*range(world.pieces)), [peer])
            case "mix":
                world.send(world.choice(*range(world.pieces)), [peer, world.choice(*world.honest)])
        world.judge()


@settings(max_examples=300)
@given(data=st.data(), honest=st.integers(1, 2), liars=st.integers(0, 3), late=st.booleans())
def test_the_content_comes_out_right_and_every_liar_who_was_caught_is_a_liar(
    data: st.DataObject, honest: int, liars: int, late: bool
) -> None:
    """With one honest list and source, in a number of steps that is bounded by the number of liars."""
    world = World(data.draw, honest, liars, conspire=False)
    listed = [world.honest[0], *(peer for peer in world.liars if world.choice(True, False))]
    for peer in listed:
        world.expect(peer)
    for peer in [] if late else listed:
        world.tell(peer, world.pieces)
        world.judge()
    world.fetch()
    for peer in listed if late else []:
        world.tell(peer, world.pieces)
        world.judge()
    world.trust.sought()
    world.judge()
    rounds = 0
    while world.trust.frontier < world.pieces:
        rounds += 1
        assert rounds <= 12 * (1 + liars)
        assert not world.trust.hopeless
        world.fetch()
        if world.trust.undecided:
            right = all(content == true(piece) for piece, content in world.held.items())
            world.trust.whole(right)
            world.judge()
    assert all(content == true(piece) for piece, content in world.held.items())
    world.trust.whole(True)
    world.judge()
    assert world.trust.convicted.keys() <= set(world.liars)


@settings(max_examples=200)
@given(data=st.data(), liars=st.integers(1, 4), steps=st.integers(0, 25))
def test_whatever_all_peers_do_there_is_an_end(data: st.DataObject, liars: int, steps: int) -> None:
    """Nobody is honest, or those who lie together are the most: the digest finds it, and nothing goes on for ever."""
    world = World(data.draw, data.draw(st.integers(0, 1)), liars, conspire=True)
    everybody = [*world.honest, *world.liars]
    for peer in everybody[: data.draw(st.integers(0, len(everybody)))]:
        world.expect(peer)
        world.tell(peer, world.pieces)
    world.trust.sought()
    refused = 0
    for _ in range(MOST_PIECES * 64 + 100):
        rulings = world.trust.take()
        refused += sum(isinstance(ruling, Refused) for ruling in rulings)
        for ruling in rulings:
            if isinstance(ruling, Refused):
                world.held.pop(ruling.piece)
        missing = [piece for piece in range(world.pieces) if piece not in world.held]
        if world.trust.hopeless or (not missing and not world.trust.undecided):
            break
        if missing:
            world.send(missing[0], [world.choice(*everybody)])
        else:
            world.trust.whole(False)
    else:
        raise AssertionError("it goes on for ever")
    assert refused <= MOST_PIECES * 64


@given(count=st.integers(0, MOST_PIECES), data=st.data())
def test_whoever_is_proven_wrong_by_the_digest_is_convicted(count: int, data: st.DataObject) -> None:
    trust = Trust(count)
    liar, source = Peer("liar", 1), Peer("honest", 1)
    lies = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    trust.expect(liar)
    trust.told(liar, [b"lie" if lie else true(piece) for piece, lie in enumerate(lies)])
    trust.sought()
    for piece in range(count):
        trust.holds(piece, true(piece), frozenset([source]))
    assert trust.undecided == any(lies)
    trust.whole(True)
    assert trust.frontier == count
    assert trust.convicted == ({liar: Fault.DISPROVED} if any(lies) else {})
