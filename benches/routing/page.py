"""docs/routing-benchmark.md, rendered from the results; nothing is typed by hand."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "routing-benchmark.md"

HEAD: Final = """\
# Who has it: what it takes to know

Real router processes (py-libp2p, loopback addresses, all on the machine named below, so that they share its CPUs), and
the same state machines in virtual time. Run it with `python -m benches.routing.bench_cluster --write`. Made by it; do
not edit.
"""


def write(found: dict[str, Any]) -> None:
    """Write the page."""
    PAGE.write_text(HEAD + render(found))


def p99(samples: list[float]) -> float:
    """The 99th percentile."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def render(found: dict[str, Any]) -> str:
    """The page without its head."""
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["machine"].items())
    return (
        "\n".join([f"\nMachine: {facts}.\n", *_figures(found), *_joins(found), *_paper(found), *_simulated(found)])
        + "\n"
    )


def _figures(found: dict[str, Any]) -> list[str]:
    one = found["cluster"]
    size = f"{one['nodes']} nodes x {one['keys']} keys"
    look_ups, entry = found["many"]
    idle = one["idle_router"] + one["idle_plane"]
    rows = [
        ("a look-up with 50 nodes x 2,000 keys, p99", "us", p99(look_ups), 50),
        ("the same, memory of an entry", "B", entry, 24),
        (f"{size}: from all listening to all known", "s", one["known"], 5),
        (f"{size}: a new key is visible on every node, p99 of {len(one['visible'])}", "ms", p99(one["visible"]), 50),
        ("the same, median", "ms", statistics.median(one["visible"]), 50),
        (f"`kill -9` until its keys are gone everywhere, worst of {len(one['gone'])}", "ms", max(one["gone"]), 200),
        ("idle, of one core: router process and its part of the data plane", "%", idle, 1),
        ("router process, resident, the largest", "MiB", one["rss"], 100),
    ]
    lines = ["| figure | promised: less than | measured | |", "|---|---|---|---|"]
    for what, unit, value, limit in rows:
        lines.append(f"| {what} | {limit} {unit} | **{value:.3g} {unit}** | {'met' if value < limit else 'missed'} |")
    return [*lines, f"\nA router process used {one['join_cpu']:.2f} s of CPU until it knew all, its imports included."]


def _joins(found: dict[str, Any]) -> list[str]:
    names = {
        "quiet": "nothing else runs",
        "start": "30 routers start on the other CPU and know nobody",
        "join": "30 routers start on the other CPU and join this node",
    }
    lines = [
        "\n## A client while 30 nodes join\n",
        "HEAD requests for content that is there, one after another on one connection; the client and the node's data",
        "plane share a CPU, the node's router process runs where the kernel puts it. What joining costs is the",
        "difference of the last two lines.\n",
        "| meanwhile | requests | p50, us | p99, us |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, what in names.items():
        taken = found["joins"][name]
        lines.append(f"| {what} | {len(taken)} | {statistics.median(taken):.0f} | {p99(taken):.0f} |")
    return lines


def _paper(found: dict[str, Any]) -> list[str]:
    costs = found["costs"]
    lines = [
        "\n## On paper\n",
        "Counts of the protocol times what one of everything costs one end, measured in this run, in ms of CPU: a",
        f"frame {costs['frame']:.2f}, a connection {costs['connection']:.1f}, to make a change of a node with 2,000",
        f"keys {costs['told']:.2f}, to check and take over one {costs['heard']:.2f}. 2,000 keys a node, degree 64; a",
        "rollout brings 10 layers to every node in 60 s.\n",
        "| nodes | links | to join: CPU, s | received, MiB | index, MiB | idle, % of a core | rollout, % of a core |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["paper"]:
        numbers = f"{row['join_cpu']:.1f} | {row['received']:.1f} | {row['index']:.1f} | {row['idle']:.2f}"
        lines.append(f"| {row['nodes']:,} | {row['links']} | {numbers} | {row['rollout']:.1f} |")
    return lines


def _simulated(found: dict[str, Any]) -> list[str]:
    if "simulated" not in found:
        return []
    one = found["simulated"]
    frames = one["visible_frames"]
    return [
        "\n## In virtual time\n",
        f"{one['nodes']:,} nodes x {one['keys']} keys, degree {one['degree']}: the real ledger and membership, a",
        "network of 0.5 ms a frame and 10 ms a connection, CPU time not counted.\n",
        "| figure | |", "|---|---|",
        f"| all nodes start at once: everybody knows everything after | {one['known']:.2f} s |",
        f"| links of a node | {one['least_links']} to {one['most_links']} |",
        f"| sent by a node to join | {one['join_frames']:.0f} frames, {one['join_mib']:.1f} MiB |",
        f"| a new key is known everywhere after | {one['visible'] * 1000:.1f} ms, {frames:.1f} frames a node |",
        f"| a killed node is gone everywhere after | {one['killed'] * 1000:.0f} ms |",
        f"| a frozen node is gone everywhere after | {one['frozen'] * 1000:.0f} ms |",
        f"| idle | {one['idle_frames']:.1f} frames a second and node |",
    ]  # fmt: skip
