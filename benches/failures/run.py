"""Three holders, one node without the content, and a client: what it costs when one holder freezes, dies or vanishes.

Real processes on loopback addresses in a network namespace of their own; a black hole is a dropped address there. The
cases are those in which other mirrors lose blobs; their figures stand beside ours on the page, with their source.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benches.failures import page
from benches.failures.load import Load, Pulled, when
from benches.serve import machine, netns
from tests.kit.cluster import cluster
from tests.kit.content import blob
from tests.kit.layout import Layout
from tests.kit.process import Node

MIB = 1024 * 1024
RESULTS = Path(__file__).parents[1] / "results" / "failures.json"
BLACK_HOLE = """\
table ip bench {
    chain in {
        type filter hook input priority 0;
        ip daddr %s drop
        ip saddr %s drop
    }
}
"""
FAULTS = ("healthy", "frozen", "black-holed", "killed")


@dataclass(frozen=True)
class Row:
    """One case. Seconds; ``gap`` is the longest wait of any client for a next byte."""

    case: str
    fault: str
    asked: int
    complete: int
    seconds: float
    gap: float
    median: float


def summarize(case: str, fault: str, pulled: Sequence[Pulled], seconds: float) -> Row:
    """What one case came to."""
    times = sorted(one.seconds for one in pulled)
    gap = max(one.gap for one in pulled)
    return Row(case, fault, len(pulled), sum(one.complete for one in pulled), seconds, gap, times[len(times) // 2])


@contextlib.contextmanager
def rig(work: Path, contents: Sequence[bytes]) -> Iterator[tuple[list[Node], Load, list[str]]]:
    """Three holders and the node that is asked, the clients' load, and the digests."""
    stores = [work / name for name in ("a", "b", "c", "asked")]
    digests: list[str] = []
    for store in stores:
        layout = Layout(store)
        if store is not stores[-1]:
            digests = [layout.add(content) for content in contents]
    with cluster(stores) as nodes:
        yield nodes, Load(nodes[-1].registry), digests


def inflict(fault: str, node: Node) -> Callable[[], object]:
    """Do it to one holder; the answer undoes what would outlive the case."""
    if fault == "frozen":
        node.freeze()
        return node.thaw
    if fault == "killed":
        node.kill()
    elif fault == "black-holed":
        subprocess.run(["nft", "-f", "-"], input=BLACK_HOLE % (node.peer[0], node.peer[0]), text=True, check=True)
        return partial(subprocess.run, ["nft", "delete", "table", "ip", "bench"], check=True)
    return lambda: None


def before_the_answer(work: Path, fault: str, count: int) -> list[Row]:
    """``count`` blobs of 4 MiB, three at a time, while one of three holders is broken; then all of them again."""
    contents = [blob(4 * MIB, seed) for seed in range(count)]
    with rig(work, contents) as (nodes, load, digests):
        blobs = [(digest, 4 * MIB) for digest in digests]
        undo = inflict(fault, nodes[0])
        try:
            rows = []
            for case in (f"{count} blobs of 4 MiB, 3 at a time", "the same blobs again at once"):
                began = time.monotonic()
                pulled = load.pull(blobs, 3)
                rows.append(summarize(case, fault, pulled, time.monotonic() - began))
            if fault == "healthy":
                began = time.monotonic()
                pulled = load.ranges(digests[0], contents[0], 16)
                rows.append(summarize("one blob as 16 ranges at once", fault, pulled, time.monotonic() - began))
            return rows
        finally:
            undo()


def in_mid_body(work: Path, fault: str, count: int) -> list[Row]:
    """``count`` blobs of 48 MiB, six at a time; one holder breaks when a tenth of all bytes has come."""
    contents = [blob(48 * MIB, 1000 + seed) for seed in range(count)]
    with rig(work, contents) as (nodes, load, digests):
        undo: list[Callable[[], object]] = []
        watcher = when(load, count * 48 * MIB // 10, lambda: undo.append(inflict(fault, nodes[0])))
        began = time.monotonic()
        pulled = load.pull([(digest, 48 * MIB) for digest in digests], 6)
        seconds = time.monotonic() - began
        row = summarize(f"{count} blobs of 48 MiB, 6 at a time, broken in mid-body", fault, pulled, seconds)
        watcher.join()
        for each in undo:
            each()
        return [row]


def main() -> None:
    """Run all cases, print them, and with ``--write`` keep them and render the page. Exit 1 if a blob was lost."""
    parser = argparse.ArgumentParser(prog="python -m benches.failures", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer blobs; nothing is kept")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} and the page")
    arguments = parser.parse_args()
    netns.enter("benches.failures", [flag for flag in ("--quick", "--write") if getattr(arguments, flag[2:])])
    few, large = (12, 6) if arguments.quick else (60, 12)
    rows: list[Row] = []
    for case, count in ((before_the_answer, few), (in_mid_body, large)):
        for fault in FAULTS:
            with tempfile.TemporaryDirectory(prefix="fm-failures-") as work:
                found = case(Path(work), fault, count)
            for row in found:
                print(page.line(row), flush=True)
            rows += found
    if arguments.write:
        RESULTS.write_text(json.dumps({"machine": machine.describe(), "rows": [asdict(row) for row in rows]}, indent=1))
        page.render(RESULTS)
    raise SystemExit(any(row.complete < row.asked for row in rows))
