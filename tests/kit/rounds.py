"""Pulls under random faults, with the origin always there: each must succeed with every byte right.

python -m tests.kit.rounds [COUNT [SEED]]        as root; prints the rounds that failed, exits 1 if any did
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.kit import faults
from tests.kit.cluster import free_port
from tests.kit.containerd import Generation, Pulling, generations
from tests.kit.faults import Fault
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.images import Image, make_image
from tests.kit.layout import Layout
from tests.kit.origin import Origin, origin
from tests.kit.pair import Pair, Two, pair, two
from tests.kit.waiting import eventually

SIZES = (300_000, 5_000_000, 12_000_000)
OURS = ("nothing", "nothing", "killed", "restarted", "told to end", "stuck")
THEIRS = ("nothing", "nothing", "killed", "frozen", "containerd frozen", "image removed")


class Round(NamedTuple):
    """What happens in one round. ``peer`` is the fault of the first peer's answers for one of the layers."""

    number: int
    client: str
    sizes: tuple[int, ...]
    held: bool
    peer: Fault | None
    ours: str
    theirs: str
    at: float
    """How far the pull gets before something happens to a process: 0 at once, 1 when the first blob is there."""


def draw(number: int, dice: random.Random) -> Round:
    """A round, the same for the same dice."""
    size = dice.choice(SIZES)
    where = dice.randrange(size)
    broken = [None, None, faults.truncate(where), faults.reset(where), faults.stall(where), faults.silent()]
    broken += [
        faults.status(503),
        faults.promised_length(999),
        faults.corrupt(-1),
        faults.garbage(),
        faults.half_status(),
    ]
    return Round(
        number,
        dice.choice(("ctr", "cri")),
        (20_000, size),
        dice.random() < 0.7,
        dice.choice(broken),
        dice.choice(OURS),
        dice.choice(THEIRS),
        dice.random(),
    )


def play(turn: Round, both: Two, source: Origin) -> str | None:
    """Play one round; what went wrong, or None."""
    image = make_image(f"registry.test/round/{turn.number}:1", turn.sizes, seed=turn.number)
    layer = list(image.blobs)[4]
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(
            FaultyPeer(
                image.blobs.values(),
                lambda seen: turn.peer if seen.method == "GET" and seen.reference == layer else None,
            )
        )
        nodes = stack.enter_context(pair(source, both, peers=[str(peer)], supervise=True))
        if turn.held:
            nodes.hold(image)
        else:
            nodes.publish(image)
        stack.callback(settle, nodes, turn)
        with nodes.puller.pulling(turn.client, image.name) as pulling:
            if turn.at > 0.3:
                begun = [nodes.puller.path(digest) for digest in list(image.blobs)[: 1 + int(turn.at * 3)]]
                eventually(lambda: not pulling.running or all(path.exists() for path in begun), "it began", 60)
            harm(nodes, turn, image, pulling)
            pulled = pulling.wait(90)
        if not pulled:
            return repr(pulled)
        nodes.check(image)
    return None


def harm(nodes: Pair, turn: Round, image: Image, pulling: Pulling) -> None:
    """Do to the processes what the round says."""
    ours, theirs = nodes.ours, nodes.theirs
    assert ours is not None
    assert theirs is not None
    expected = {"supervisor.process_died", "supervisor.process_stuck"}
    ours.expected |= expected
    match turn.ours:
        case "killed":
            ours.kill()
        case "restarted":
            nodes.end_child("SIGKILL")
        case "stuck":
            nodes.end_child("SIGSTOP")
        case "told to end":
            ours.stop()
    match turn.theirs:
        case "killed":
            theirs.kill()
        case "frozen":
            theirs.freeze()
        case "containerd frozen":
            nodes.holder.freeze()
        case "image removed":
            if turn.held and pulling.running:
                nodes.holder.remove(image.name)


def settle(nodes: Pair, turn: Round) -> None:
    """Everything runs again, so that it can be ended in order."""
    nodes.holder.thaw()
    if nodes.theirs is not None and nodes.theirs.alive:
        nodes.theirs.thaw()
    ours = nodes.ours
    if ours is not None and ours.alive and turn.ours in ("restarted", "stuck"):
        eventually(lambda: [e["event"] for e in ours.log.events()].count("daemon.serving") >= 2, "it serves again", 30)


def play_all(generation: Generation, count: int, seed: int) -> list[str]:
    """Play rounds on one generation; those that failed, with what is needed to play them again."""
    dice = random.Random(f"{seed}/{generation}")
    failed = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = stack.enter_context(
            origin(Layout(directory / "origin"), "127.0.0.1", free_port("127.0.0.1"), directory / "log")
        )
        both = stack.enter_context(two(generation))
        for number in range(count):
            turn = draw(number, dice)
            wrong = play(turn, both, source)
            if wrong is not None:
                failed.append(f"{generation} seed {seed} {turn}: {wrong}")
    return failed


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    found = generations()
    failed = []
    for generation in found:
        lost = play_all(generation, -(-count // len(found)), seed)
        print(f"{generation}: {-(-count // len(found))} rounds, {len(lost)} failed pulls", flush=True)
        failed += lost
    print("\n".join(failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
