"""One layer from k peers of 300 Mbit/s each, as an in-order reader sees it: healthy, and with one of them broken.

Each holder is a process in a network namespace of its own, behind a veth whose egress is limited with tc tbf (256 KiB
burst); the node that fetches and its reader share another one. Root, iproute2 and nftables are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from benches.fetch import page
from benches.fetch.rig import MBIT, PORT, UNLIMITED, Rig, Sample, rig
from benches.serve import machine
from benches.serve.netns import CONGESTION_CONTROL
from tests.kit.content import blob
from tests.kit.faulty_peer import flip

MIB = 1 << 20
RESULTS = Path(__file__).parents[1] / "results" / "fetch.json"
STALL = 0.5  # the default of --stall-timeout
ROUND_TRIP = 0.01  # more than any here


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    size: int
    rounds: int
    blobs: int


FULL, QUICK = Amount(512 * MIB, 5, 12), Amount(96 * MIB, 1, 6)


@dataclass(frozen=True)
class Goal:
    """One promised figure and what was measured; met if it is at most (or at least) the limit."""

    what: str
    limit: float
    value: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Row:
    """One case, all its samples and its figures. ``ideal`` in seconds, 0 where there is none."""

    case: str
    size: int
    ideal: float
    samples: list[Sample]
    goals: list[Goal] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def gap(self) -> float:
        """The median of the longest gaps; the page has the worst one too."""
        return statistics.median(sample.gap for sample in self.samples)


Act = Callable[[Rig], object]


def rounds(work: Path, amount: Amount, rates: Sequence[int], mark: float = 0.0, act: Act | None = None) -> list[Sample]:
    """So many pulls of one blob, each by a fresh node. One that breaks a holder (``act``) gets a fresh rig, too.

    The first pull of a rig is not counted: with it the holders make their chunk lists.
    """
    samples: list[Sample] = []
    while len(samples) < amount.rounds:
        with (
            tempfile.TemporaryDirectory(dir=work) as place,
            rig(Path(place), [blob(amount.size, 1)], rates) as made,
        ):
            (digest,) = made.sizes
            with made.asker() as asker:
                made.pull(asker, digest)
            for _ in range(amount.rounds if act is None else 1):
                with made.asker() as asker:
                    samples.append(made.pull(asker, digest, mark, None if act is None else partial(act, made)))
    return samples


def scaling(work: Path, amount: Amount) -> list[Row]:
    """k peers against one."""
    one = Row("1 peer", amount.size, 0.0, rounds(work, amount, [MBIT]))
    rows = [one]
    for count in (2, 4, 8):
        samples = rounds(work, amount, [MBIT] * count)
        row = Row(f"{count} peers", amount.size, one.seconds / count, samples)
        row.goals.append(Goal(f"rate over that of one peer, of {count}", 0.95 * count, one.seconds / row.seconds, True))
        rows.append(row)
    return rows


def broken(work: Path, amount: Amount, rate: float) -> list[Row]:
    """One of four is slow, vanishes, or is killed. ``rate``: bytes per second of one peer."""
    size = amount.size
    slow = Row(
        "4 peers, one at a tenth of the rate",
        size,
        size / (3.1 * rate),
        rounds(work, amount, [MBIT // 10, *[MBIT] * 3]),
    )
    rows = [slow]
    for share, name, act in (
        (0.3, "vanishes at 30 %", lambda made: made.spots[0].run("ip", "link", "set", "eth0", "down")),
        (0.5, "is killed at 50 %", lambda made: made.holders[0].kill()),
    ):
        ideal = size / rate * (share / 4 + (1 - share) / 3)
        samples = rounds(work, amount, [MBIT] * 4, share, act)
        rows.append(Row(f"4 peers, one {name}", size, ideal, samples))
    for row, gap in zip(rows, (STALL + ROUND_TRIP, STALL + ROUND_TRIP, 0.05), strict=True):
        row.goals.append(Goal("time over the ideal one", 1.15, row.seconds / row.ideal))
        row.goals.append(Goal("longest gap, seconds", gap, row.gap))
    return rows


def black_hole(work: Path, amount: Amount) -> list[Row]:
    """Small blobs one after the other, from three peers, and from the same three with a fourth that lets no packet in:
    what that costs a fresh node.
    """
    contents = [blob(4 * MIB, 100 + number) for number in range(amount.blobs)]
    rows: list[Row] = []
    for case, count in (("from 3 peers", 3), ("and a black-holed one", 4)):
        firsts: list[Sample] = []
        others: list[Sample] = []
        for _ in range(amount.rounds):
            with tempfile.TemporaryDirectory(dir=work) as place, rig(Path(place), contents, [MBIT] * count) as made:
                if rows:
                    made.spots[0].drop(PORT)
                with made.asker() as asker:
                    pulled = [made.pull(asker, digest) for digest in made.sizes]
                firsts.append(pulled[0])
                others += pulled[1:]
        rows.append(Row(f"4 MiB {case}: the first blob", 4 * MIB, 0.0, firsts))
        rows.append(Row(f"4 MiB {case}: the {amount.blobs - 1} others", 4 * MIB, 0.0, others))
    first, rest, first_then, rest_then = rows
    first_then.goals.append(Goal("cost for the first blob, seconds", 0.1, first_then.seconds - first.seconds))
    cost = (rest_then.seconds - rest.seconds) * (amount.blobs - 1)
    rest_then.goals.append(Goal("cost for all others together, seconds", 0.1, cost))
    return rows


def relay(work: Path, amount: Amount) -> list[Row]:
    """One blob through the node from one holder behind no limit, by how pieces are checked: the node's own CPU."""
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(dir=work) as place,
        rig(Path(place), [blob(amount.size, 300)], [UNLIMITED]) as made,
    ):
        (digest,) = made.sizes
        for algorithm, most in (("blake3", 1.4), ("xxh3-128", 1.4), ("sha256", 1.9)):
            samples: list[Sample] = []
            for _ in range(amount.rounds + 1):
                with made.asker(piece_hash=algorithm) as asker:
                    samples.append(made.pull(asker, digest))
            row = Row(f"verified relay, pieces by {algorithm}", amount.size, 0.0, samples[1:])
            cost = statistics.median(sample.cpu for sample in row.samples) / amount.size * 1024 * MIB
            row.goals.append(Goal("CPU seconds per GiB", most, cost))
            rows.append(row)
    return rows


def wrong_byte(work: Path, amount: Amount) -> list[Row]:
    """The disk of one of three holders has one wrong byte in every blob."""
    size = 48 * MIB
    contents = [blob(size, 200 + number) for number in range(min(amount.blobs, 6))]

    def spoil(number: int, content: bytes) -> bytes:
        return flip(content, (number * 7 + 3) * MIB + 11)

    with tempfile.TemporaryDirectory(dir=work) as place, rig(Path(place), contents, [MBIT] * 3, spoil) as made:
        with made.asker() as asker:
            samples = [made.pull(asker, digest) for digest in made.sizes]
        liar = f"{made.spots[0].host}:{PORT}"
    parts = [next((p for p in sample.fetch.get("peers", ()) if p["peer"] == liar), None) for sample in samples]
    found = next((number for number, part in enumerate(parts) if part and part["convicted"]), len(parts))
    refetched = sum(sample.fetch.get("refetched", 0) for sample in samples)
    row = Row(f"{len(samples)} blobs from 3 peers, one with a wrong byte in each", size, 0.0, samples)
    hits = sum(bool(part and part["wrong"]) for part in parts)
    later = sum(part["bytes"] for part in parts[found + 1 :] if part)
    row.goals.append(Goal("blobs in which its wrong bytes came", 1, hits))
    row.goals.append(Goal("bytes from it after the blob in which it was found out", 0, later))
    row.goals.append(Goal("MiB asked for again", 1, refetched / MIB))
    return [row]


def main() -> None:
    """Run all cases, print them, and with ``--write`` keep them and render the page. Exit 1 if a pull failed."""
    parser = argparse.ArgumentParser(prog="python -m benches.fetch", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, one round: shows that it works")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} and the page")
    parser.add_argument("--render", action="store_true", help="only write the page again from the results")
    arguments = parser.parse_args()
    if arguments.render:
        page.render(RESULTS)
        return
    if os.geteuid() != 0:
        parser.exit(2, "benches.fetch needs root, for network namespaces\n")
    amount = QUICK if arguments.quick else FULL
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fm-fetch-") as work:

        def show(found: list[Row]) -> None:
            rows.extend(found)
            for row in found:
                print(page.line(row), flush=True)

        place = Path(work)
        show(scaling(place, amount))
        show(broken(place, amount, amount.size / rows[0].seconds))
        show(black_hole(place, amount))
        show(wrong_byte(place, amount))
        show(relay(place, amount))
    if arguments.write:
        about = machine.describe() | {"congestion_control": CONGESTION_CONTROL}
        kept = [asdict(row) | {"met": [goal.met for goal in row.goals]} for row in rows]
        RESULTS.write_text(json.dumps({"machine": about, "rounds": amount.rounds, "rows": kept}, indent=1))
        page.render(RESULTS)
    raise SystemExit(not all(sample.complete for row in rows for sample in row.samples))
