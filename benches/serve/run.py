"""Picks what to measure, runs it, writes the results and the page."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from benches.serve import cells, cold, contenders, content, loadgen, machine, netns, others, page, relay, summary
from benches.serve.cells import Cell, Group, Plan
from benches.serve.content import Content
from benches.serve.loadgen import Target
from benches.serve.summary import AIO, BOUND, NGINX, OURS

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "var" / "bench"
RESULTS = ROOT / "benches" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
MEMORY_CONNECTIONS = 256
PARTS = (*get_args(Group), "memory", "relay")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _versions() -> dict[str, str]:
    """What of the others is here; says what is missing."""
    found: dict[str, str] = {}
    hints = {"nginx": "apt-get install nginx-light", "docker-registry": "apt-get install docker-registry",
             "aiohttp": "pip install aiohttp, into .venv", "Spegel": "BENCH_SPEGEL=/path/to/spegel"}  # fmt: skip
    versions = (contenders.nginx_version, others.registry_version, others.aiohttp_version, others.spegel_version)
    for (name, hint), version in zip(hints.items(), versions, strict=True):
        value = version()
        if value is None:
            _say(f"{name} is left out: it is not installed ({hint})")
        else:
            found[name] = value
    return found


def _targets(stack: ExitStack, data: Content, versions: dict[str, str], plan: Plan) -> dict[str, tuple[Target, int]]:
    """Every contender that is here, started, and in how many rounds it takes part."""
    cpu = cells.cpu_pair()[0]
    targets: dict[str, tuple[Target, int]] = {}

    def add(name: str, started: AbstractContextManager[Target], rounds: int) -> None:
        targets[name] = stack.enter_context(started), rounds

    add(OURS, contenders.fastmirror(data.layout, WORK / "serve", cpu), plan.rounds)
    add(BOUND, others.bound(data, WORK, cpu), plan.other_rounds)
    if "nginx" in versions:
        for name, nopush in zip(NGINX, (True, False), strict=True):
            add(name, contenders.nginx(data, WORK, cpu, nopush=nopush), plan.rounds)
        add(AIO, contenders.nginx(data, WORK, cpu, nopush=False, aio=True), plan.other_rounds)
    for name, start in (("docker-registry", others.registry), ("aiohttp", others.aiohttp), ("Spegel", others.spegel)):
        if name in versions:
            add(name, start(data, WORK, cpu), plan.other_rounds)
    return targets


def _wanted(plan: Plan, parts: Sequence[str], data: Content) -> list[Cell]:
    found = [cell for cell in plan.cells if cell.group in parts]
    reason = cold.why_not(data.root)
    if reason is not None and any(cell.group == "cold" for cell in found):
        _say(f"cold files are left out: {reason}")
        found = [cell for cell in found if cell.group != "cold"]
    return found


def _measure(binary: Path, data: Content, plan: Plan, parts: Sequence[str], versions: dict[str, str]) -> dict[str, Any]:
    results: dict[str, Any] = {"cells": [], "memory_bytes": {}, "relay": [], "failures": []}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        """One measurement whose failure is told and does not cost the others."""
        try:
            yield
        except (loadgen.LoadFailed, relay.RelayFailed) as error:
            results["failures"].append(f"{name}: {error}")
            _say(f"failed: {name}: {error}")

    with ExitStack() as stack:
        targets, retries = _targets(stack, data, versions, plan), cells.Retries(plan.retries)
        for cell in _wanted(plan, parts, data):
            with part(cell.name):
                entry = cells.as_json(cell, cells.measure(binary, data, cell, targets, plan, retries))
                results["cells"].append(entry)
                _say(summary.line(entry))
        for name, (target, _) in targets.items() if "memory" in parts else ():
            with part(f"memory of {name}"):
                peak = cells.peak_memory(binary, data, target, MEMORY_CONNECTIONS, plan.seconds)
                results["memory_bytes"][name] = peak
                _say(f"PSS of {name} with {MEMORY_CONNECTIONS} connections: {peak / content.MIB:.1f} MiB")
    if "relay" in parts:
        with part("relay"):
            results["relay"] = relay.measure(binary, data, WORK, plan.rounds)
            _say(f"relay: {len(results['relay'])} samples")
    return results


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.serve", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="under three minutes; results stay in var/bench (default)")
    mode.add_argument("--full", action="store_true", help="all cells; writes benches/results/ and docs/benchmarks.md")
    mode.add_argument("--render", metavar="FILE", help="only write docs/benchmarks.md again, from a results file")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part (may be given again)")
    parser.add_argument("--rounds", type=int, help="samples of fastmirror and nginx in each cell")
    parser.add_argument("--other-rounds", type=int, help="samples of the other contenders in each cell")
    parser.add_argument("--seconds", type=float, help="length of a sample")
    return parser.parse_args(argv)


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = cells.FULL if arguments.full else cells.QUICK
    given = {name: getattr(arguments, name) for name in ("rounds", "other_rounds", "seconds")}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _write_page(file: Path) -> None:
    page.write(PAGE, json.loads(file.read_text()), str(file.relative_to(ROOT)))
    _say(f"wrote {PAGE.relative_to(ROOT)} and its plots")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = _arguments(argv)
    if arguments.render:
        _write_page(Path(arguments.render).resolve())
        return 0
    netns.enter("benches.serve", argv)
    plan = _plan(arguments)
    began = dt.datetime.now(dt.UTC)
    try:
        _say("preparing 1.6 GB of content")
        data, binary, versions = content.prepare(WORK), loadgen.build(WORK), _versions()
        results = _measure(binary, data, plan, arguments.only or PARTS, versions)
    except (loadgen.LoadFailed, contenders.StartFailed) as error:
        _say(f"benches.serve: {error}")
        return 1
    took = dt.datetime.now(dt.UTC) - began
    results |= {
        "machine": {**machine.describe(), "congestion_control": netns.congestion_control()},
        "versions": versions,
        "date": began.date().isoformat(),
        "minutes": round(took.total_seconds() / 60, 1),
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "other_rounds": plan.other_rounds,
        "memory_connections": MEMORY_CONNECTIONS,
    }
    file = RESULTS / f"serve-{results['date']}.json" if arguments.full else WORK / "quick.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(summary.lines(results)))
    _say(f"wrote {file.relative_to(ROOT)} after {results['minutes']} min")
    if arguments.full:
        _write_page(file)
    return 1 if results["failures"] else 0
