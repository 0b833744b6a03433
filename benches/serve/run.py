"""Picks what to measure, runs it, writes the results and the page."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benches.serve import cells, contenders, content, loadgen, machine, netns, page, relay
from benches.serve.cells import Cell, Plan
from benches.serve.content import Content
from benches.serve.loadgen import Target

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "var" / "bench"
RESULTS = ROOT / "benches" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
MEMORY_CONNECTIONS = 256
PARTS = ("cells", "memory", "relay")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _targets(stack: ExitStack, data: Content) -> dict[str, Target]:
    cpu = cells.cpu_pair()[0]
    targets = {page.OURS: stack.enter_context(contenders.fastmirror(data.layout, WORK / "serve", cpu))}
    if contenders.nginx_version() is None:
        _say("nginx is not installed (Debian: apt-get install nginx-light): only fastmirror is measured")
        return targets
    for name, nopush in zip(page.NGINX, (True, False), strict=True):
        targets[name] = stack.enter_context(contenders.nginx(data, WORK, cpu, nopush=nopush))
    return targets


def _line(cell: Cell, samples: dict[str, list[loadgen.Sample]]) -> str:
    entry = cells.as_json(cell, samples)
    comparison = page.compare(entry)
    name = f"{cell.item}, {cell.connections} connections"
    if comparison is None:
        return f"{name}: measured, nothing to compare with"
    noise = f"; others used up to {comparison.foreign:.0%} of a CPU" if comparison.foreign > cells.NOISE else ""
    return f"{name}: {comparison.rate_ratio:.2f}x nginx's rate at {comparison.cost_ratio:.2f}x its CPU{noise}"


def _measure(binary: Path, data: Content, plan: Plan, parts: Sequence[str]) -> dict[str, Any]:
    results: dict[str, Any] = {"cells": [], "memory_bytes": {}, "relay": []}
    with ExitStack() as stack:
        targets = _targets(stack, data)
        for cell in cells.CELLS if "cells" in parts else ():
            samples = cells.measure(binary, data, cell, targets, plan)
            results["cells"].append(cells.as_json(cell, samples))
            _say(_line(cell, samples))
        for name, target in targets.items() if "memory" in parts else ():
            peak = cells.peak_memory(binary, data, target, MEMORY_CONNECTIONS, plan.seconds)
            results["memory_bytes"][name] = peak
            _say(f"PSS of {name} with {MEMORY_CONNECTIONS} connections: {peak / content.MIB:.1f} MiB")
    if "relay" in parts:
        results["relay"] = relay.measure(binary, data, WORK, plan.rounds)
        _say(f"relay: {len(results['relay'])} samples")
    return results


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.serve", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="under three minutes; results stay in var/bench (default)")
    mode.add_argument("--full", action="store_true", help="writes benches/results/ and docs/benchmarks.md")
    mode.add_argument("--render", metavar="FILE", help="only write docs/benchmarks.md again, from a results file")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part (may be given again)")
    return parser.parse_args(argv)


def _write_page(file: Path) -> None:
    PAGE.write_text(page.render(json.loads(file.read_text()), str(file.relative_to(ROOT))))
    _say(f"wrote {PAGE.relative_to(ROOT)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = _arguments(argv)
    if arguments.render:
        _write_page(Path(arguments.render).resolve())
        return 0
    netns.enter("benches.serve", argv)
    plan = cells.FULL if arguments.full else cells.QUICK
    try:
        _say("preparing 1.1 GB of content")
        data, binary = content.prepare(WORK), loadgen.build(WORK)
        results = _measure(binary, data, plan, arguments.only or PARTS)
    except (loadgen.LoadFailed, contenders.StartFailed, relay.RelayFailed) as error:
        _say(f"benches.serve: {error}")
        return 1
    date = dt.datetime.now(dt.UTC).date().isoformat()
    results |= {
        "machine": {**machine.describe(), "congestion_control": netns.congestion_control()},
        "nginx": contenders.nginx_version() or "not installed",
        "date": date,
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "memory_connections": MEMORY_CONNECTIONS,
    }
    file = RESULTS / f"serve-{date}.json" if arguments.full else WORK / "quick.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(page.summary(results)))
    _say(f"wrote {file.relative_to(ROOT)}")
    if arguments.full:
        _write_page(file)
    return 0
