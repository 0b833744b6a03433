"""docs/benchmarks.md and the terminal's summary, both rendered from one results file; nothing is typed by hand."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches.serve import cells
from benches.serve.cells import Cell
from benches.serve.loadgen import Sample

OURS = "fastmirror"
NGINX = ("nginx, tcp_nopush on", "nginx, tcp_nopush off")
GIB = 1 << 30
MIB = 1 << 20

METHOD = Path(__file__).with_name("method.md")


@dataclass(frozen=True)
class Comparison:
    """One cell: our medians, the better nginx's, and the ratios."""

    cell: Cell
    rate: float
    cost: float
    p99: float | None
    baseline: str
    baseline_rate: float
    baseline_cost: float
    baseline_p99: float | None
    rate_ratio: float
    cost_ratio: float
    void: int  # rounds of no use
    foreign: float  # the largest share of a CPU that others used in a round of use


def _samples(entry: dict[str, Any]) -> dict[str, list[Sample]]:
    return {name: [Sample(**sample) for sample in taken] for name, taken in entry["samples"].items()}


def _median_p99(samples: list[Sample]) -> float | None:
    return _median([sample.p99 for sample in samples if sample.p99 is not None])


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def compare(entry: dict[str, Any]) -> Comparison | None:
    """What a cell of the results says; None without nginx, without ours, or if not one round is of use."""
    cell = Cell(entry["item"], entry["connections"])
    samples = _samples(entry)
    known = {
        name: statistics.median(cells.rate(cell, sample) for sample in samples[name])
        for name in NGINX
        if name in samples
    }
    if OURS not in samples or not known:
        return None
    baseline = max(known, key=lambda name: known[name])
    pairs = list(zip(samples[OURS], samples[baseline], strict=True))
    rounds = [(ours, theirs) for ours, theirs in pairs if not (ours.void or theirs.void)]
    if not rounds:
        return None
    return Comparison(
        cell=cell,
        rate=statistics.median(cells.rate(cell, ours) for ours, _ in rounds),
        cost=statistics.median(cells.cost(cell, ours) for ours, _ in rounds),
        p99=_median_p99([ours for ours, _ in rounds]),
        baseline=baseline,
        baseline_rate=statistics.median(cells.rate(cell, theirs) for _, theirs in rounds),
        baseline_cost=statistics.median(cells.cost(cell, theirs) for _, theirs in rounds),
        baseline_p99=_median_p99([theirs for _, theirs in rounds]),
        rate_ratio=statistics.median(cells.rate(cell, ours) / cells.rate(cell, theirs) for ours, theirs in rounds),
        cost_ratio=statistics.median(cells.cost(cell, ours) / cells.cost(cell, theirs) for ours, theirs in rounds),
        void=len(pairs) - len(rounds),
        foreign=max(sample.foreign_share for pair in rounds for sample in pair),
    )


def _rate(comparison: Comparison, value: float) -> str:
    return f"{value:,.0f}/s" if comparison.cell.small else f"{value / GIB:.2f} GiB/s"


def _cost(comparison: Comparison, value: float) -> str:
    return f"{value * 1e6:.1f} µs" if comparison.cell.small else f"{value:.3f} s"


def _latency(value: float | None) -> str:
    return "" if value is None else f"{value / 1000:.2f} ms"


def _row(comparison: Comparison) -> str:
    c = comparison
    nopush = "on" if c.baseline == NGINX[0] else "off"
    columns = [
        c.cell.item,
        str(c.cell.connections),
        _rate(c, c.rate),
        f"{_rate(c, c.baseline_rate)} ({nopush})",
        f"**{c.rate_ratio:.2f}**",
        _cost(c, c.cost),
        _cost(c, c.baseline_cost),
        f"**{c.cost_ratio:.2f}**",
        _latency(c.p99),
        _latency(c.baseline_p99),
    ]
    return f"| {' | '.join(columns)} |"


def table(comparisons: list[Comparison]) -> list[str]:
    """The cells as a Markdown table."""
    head = ("object", "conns", "fastmirror", "nginx (tcp_nopush)", "ratio", "CPU", "nginx", "ratio", "p99", "nginx")
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(_row, comparisons)]


def _note(c: Comparison) -> str:
    """What makes a cell less certain, or nothing."""
    notes = [f"{c.void} void rounds left out"] if c.void else []
    if c.foreign > cells.NOISE:
        notes.append(f"others used up to {c.foreign:.0%} of a CPU")
    return f"- disturbed: {c.cell.item} at {c.cell.connections}: {', '.join(notes)}" if notes else ""


@dataclass(frozen=True)
class Goal:
    """One figure that the project promises, and what this run says about it (None: not measured)."""

    text: str
    limit: float
    value: float | None
    at_least: bool

    def line(self) -> str:
        """The goal as a list item."""
        if self.value is None:
            return f"- {self.text}: not measured"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return f"- {self.text}: **{self.value:.2f}** ({'met' if met else 'missed'})"


def goals(results: dict[str, Any], comparisons: list[Comparison]) -> list[Goal]:
    """The promised figures with their measured values."""
    large = [c for c in comparisons if not c.cell.small]
    busy = max(cell.connections for cell in cells.CELLS if cell.small)  # with one, both wait for each other's wake-up
    memory = results["memory_bytes"].get(OURS)
    relay = _median([sample["server_cpu_seconds"] / (sample["bytes"] / GIB) for sample in results["relay"]])
    return [
        Goal("blobs, median of the throughput ratios, at least 1.0", 1.0, _median([c.rate_ratio for c in large]), True),
        Goal("blobs, median of the CPU ratios, at most 1.0", 1.0, _median([c.cost_ratio for c in large]), False),
        Goal(f"2 KiB manifests at {busy} connections, ratio of requests per second, at least 1.3", 1.3,
             _median([c.rate_ratio for c in comparisons if c.cell.small and c.cell.connections == busy]), True),
        Goal("verified relay from one peer, CPU seconds per GiB, at most 1.35", 1.35, relay, False),
        Goal(f"memory (PSS) at {results['memory_connections']} connections, MiB, less than 30", 30.0,
             None if memory is None else memory / MIB, False),
    ]  # fmt: skip


def summary(results: dict[str, Any]) -> list[str]:
    """Table, memory, relay and goals: what the terminal shows and the page holds."""
    comparisons = [c for c in map(compare, results["cells"]) if c is not None]
    lines = [*table(comparisons), "", *(goal.line() for goal in goals(results, comparisons))]
    lines.extend(note for note in map(_note, comparisons) if note)
    for name, value in results["memory_bytes"].items():
        lines.append(f"- PSS of {name}: {value / MIB:.1f} MiB")
    lines.extend(
        f"- relay of 1 GiB: {sample['seconds']:.2f} s, {sample['server_cpu_seconds']:.2f} CPU-s"
        for sample in results["relay"]
    )
    return lines


def render(results: dict[str, Any], source: str) -> str:
    """The whole page. ``source`` is the results file's name in the repository."""
    machine = results["machine"]
    facts = [
        f"- machine: {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, Linux {machine['kernel']}",
        f"- congestion control: {machine['congestion_control']}",
        f"- versions: fastmirror at {machine['commit']}, Python {machine['python']}, nginx {results['nginx']}",
        f"- run: {results['date']}, {results['seconds']} s a sample, {results['rounds']} rounds",
        f"- samples, all of them: [`{source}`](../{source})",
    ]
    head = ["# Benchmarks", "", "Made by `make bench`; do not edit.", ""]
    parts = [*head, *summary(results), "", "## This run", "", *facts]
    return "\n".join([*parts, "", METHOD.read_text()])
