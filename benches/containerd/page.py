"""The page of the figures with containerd, rendered from their results: ``python -m benches.containerd.page``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parents[1] / "results" / "containerd.json"
PAGE: Final = Path(__file__).parents[2] / "docs" / "benchmarks" / "containerd.md"

HEAD: Final = """\
# In front of containerd: figures

Run it with `python -m benches.containerd.figures --write` (root, nginx). Pulls are by `ctr`, medians of {rounds}
alternating runs, in brackets the fastest and the slowest; read the differences within a line, not the lines.

Machine: {machine}.
"""
LEGEND: Final = """
- **A present image**: three layers of 60 MB, and what belongs to them, that the mirror has; nginx serves the same
  files.
- **An absent image**: 24 objects that no node has; containerd then asks the origin. *Added* is the difference of the
  medians by object, *a miss* the answer to a single request with two other nodes asked.
- **From commit to served**: from the rename of a blob's file by containerd to the first 200 of the peer listener, over
  all blobs of pulls with many small layers. With the socket a blob is served when containerd's own records have it,
  which are on disk some time after the rename; with the files alone (`content:DIR`) it is the file that counts.
- **A start**: with 2,000 blobs in containerd, from the command to the first answer with content and to the first tag.
- **Memory** is PSS with 2,000 blobs known: the data plane, and the helper process that speaks gRPC.
"""
WAYS: Final = {"mirror misses": "the mirror misses", "mirror dead": "the mirror is not running"}
MISS, SERVED = "a miss, two other nodes asked", "from commit to served, with the socket"
START, MEMORY = "a start: first content, first tag", "memory: data plane + helper"
GOALS: Final = {MISS: "p99 <= 20 ms", SERVED: "p99 < 50 ms", START: "< 2 s", MEMORY: "data plane < 45 MiB"}


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def _late(times: list[float]) -> str:
    p50, p99 = (times[len(times) * part // 100] * 1e3 for part in (50, 99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {times[-1] * 1e3:.1f} ms"


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """One generation's figures: what it is, and how it came out."""
    pulls, many = found["absent"], found["many"]
    plain = statistics.median(pulls["no mirror"])
    added = {way: (statistics.median(pulls[way]) - plain) / 24 * 1e3 for way in WAYS}
    plane, helper = max(((start["plane"], start["helper"]) for start in many), key=sum)
    return [
        ("a present image, fastmirror", _spread(found["present"]["fastmirror"])),
        ("a present image, nginx in its place", _spread(found["present"]["nginx"])),
        ("an absent image, no mirror", _spread(pulls["no mirror"])),
        *(
            (f"an absent image, {said}", f"{_spread(pulls[way])}, added {added[way]:+.1f} ms")
            for way, said in WAYS.items()
        ),
        (MISS, _late(found["misses"])),
        (SERVED, _late(found["arrival"]["socket"])),
        ("from commit to served, the files alone", _late(found["arrival"]["files"])),
        (START, ", ".join(f"{max(start[key] for start in many):.2f} s" for key in ("serving", "tags"))),
        (MEMORY, f"{plane:.1f} + {helper:.1f} = {plane + helper:.1f} MiB"),
    ]


def lines(version: str, found: dict[str, Any]) -> str:
    """One generation for the terminal."""
    return "\n".join([version, *(f"  {what:45} {figure}" for what, figure in rows(found))])


def places(found: list[dict[str, Any]]) -> str:
    """Where gRPC could run, as a table."""
    table = ["| gRPC in | requests/s | p50 | p99 | worst | PSS of each process |", "|---|---|---|---|---|---|"]
    for row in found:
        times = " | ".join(f"{row[at] * 1e3:.2f} ms" for at in ("p50", "p99", "max"))
        memory = " + ".join(f"{pss} MiB" for pss in row["pss"])
        table.append(f"| {row['place']} | {row['rate']:.0f} | {times} | {memory} |")
    return "\n".join(table)


def render() -> None:
    """Write the page."""
    found = json.loads(RESULTS.read_text())
    machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["machine"].items())
    by_version = {version: dict(rows(row)) for version, row in found["generations"].items()}
    text = [HEAD.format(rounds=found["rounds"], machine=machine)]
    text += ["| | goal | " + " | ".join(by_version) + " |", "|---" * (len(by_version) + 2) + "|"]
    for what in next(iter(by_version.values())):
        cells = [what, GOALS.get(what, ""), *(figures[what] for figures in by_version.values())]
        text.append(f"| {' | '.join(cells)} |")
    text += [LEGEND, "## Where gRPC should run", ""]
    text += [
        "Small answers over 16 connections kept busy, while a containerd with 2,000 blobs is listed as fast as the"
    ]
    text += ["watcher allows; each place twice.", "", places(found["places"])]
    PAGE.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    render()
