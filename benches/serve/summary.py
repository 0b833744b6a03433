"""What a results file says: each cell beside the better nginx, the other contenders, and the promised figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benches.serve import cells
from benches.serve.cells import Cell
from benches.serve.loadgen import Sample

OURS = "fastmirror"
NGINX = ("nginx, tcp_nopush on", "nginx, tcp_nopush off")
AIO = "nginx, aio threads"
BOUND = "bound in C"
GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class Figures:
    """One contender in one cell: medians over its rounds, and the medians of what each round says beside the baseline's
    (None: the baseline had no round of use beside it). Seconds, bytes, microseconds."""

    rate: float
    cost: float
    streams: float
    p50: float | None
    p99: float | None
    max: float | None
    rate_ratio: float | None
    cost_ratio: float | None
    worst_rate: float | None
    worst_cost: float | None


@dataclass(frozen=True)
class Result:
    """One cell: what each contender did, and the faster nginx, which the others are compared with (None: no nginx)."""

    cell: Cell
    baseline: str | None
    figures: dict[str, Figures]
    void: int  # samples of no use, left out
    foreign: float  # the largest share of a CPU that others used during a sample of use

    @property
    def ours(self) -> Figures | None:
        """fastmirror's figures."""
        return self.figures.get(OURS)

    @property
    def theirs(self) -> Figures | None:
        """The better nginx's figures."""
        return None if self.baseline is None else self.figures.get(self.baseline)


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is there; None of nothing."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def _ratios(cell: Cell, ours: list[Sample], theirs: list[Sample], of: Callable[[Cell, Sample], float]) -> list[float]:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if not (a.void or b.void)]
    return [of(cell, a) / of(cell, b) for a, b in pairs if (a.requests and b.requests) or not cell.small if of(cell, b)]


def _figures(cell: Cell, samples: list[Sample], baseline: list[Sample]) -> Figures | None:
    good = [sample for sample in samples if not sample.void and (sample.requests or not cell.small)]
    if not good:
        return None
    rates, costs = _ratios(cell, samples, baseline, cells.rate), _ratios(cell, samples, baseline, cells.cost)
    return Figures(
        rate=statistics.median(cells.rate(cell, sample) for sample in good),
        cost=statistics.median(cells.cost(cell, sample) for sample in good),
        streams=statistics.median(sample.stream_bytes / sample.seconds for sample in good),
        p50=median(sample.p50 for sample in good),
        p99=median(sample.p99 for sample in good),
        max=max((sample.max for sample in good if sample.max is not None), default=None),
        rate_ratio=median(rates),
        cost_ratio=median(costs),
        worst_rate=min(rates, default=None),
        worst_cost=max(costs, default=None),
    )


def result(entry: dict[str, Any]) -> Result:
    """What one cell of a results file says."""
    cell = Cell(**entry["cell"])
    samples = {name: [Sample(**sample) for sample in taken] for name, taken in entry["samples"].items()}
    known = {name: _figures(cell, samples[name], []) for name in NGINX if name in samples}
    rates = {name: figures.rate for name, figures in known.items() if figures is not None}
    baseline = max(rates, key=lambda name: rates[name]) if rates else None
    found = {name: _figures(cell, taken, samples.get(baseline or "", [])) for name, taken in samples.items()}
    everything = [sample for taken in samples.values() for sample in taken]
    return Result(
        cell,
        baseline,
        {name: figures for name, figures in found.items() if figures is not None},
        void=sum(sample.void for sample in everything),
        foreign=max((sample.foreign_share for sample in everything if not sample.void), default=0.0),
    )


def rate_text(cell: Cell, value: float) -> str:
    """A rate with its unit."""
    return f"{value:,.0f}/s" if cell.small else f"{value / GIB:.2f} GiB/s"


def cost_text(cell: Cell, value: float) -> str:
    """A cost with its unit: CPU time of a request, or of a GiB."""
    return f"{value * 1e6:.1f} µs" if cell.small else f"{value:.3f} s"


def latency_text(value: float | None) -> str:
    """Microseconds as milliseconds."""
    return "" if value is None else f"{value / 1000:.2f} ms"


def _ratio(value: float | None, worst: float | None) -> str:
    return "" if value is None else f"**{value:.2f}** ({worst:.2f})"


def line(entry: dict[str, Any]) -> str:
    """One cell for the terminal, when it has been measured."""
    got = result(entry)
    ours, noise = got.ours, f"; others used up to {got.foreign:.0%} of a CPU" if got.foreign > cells.NOISE else ""
    if ours is None:
        return f"{got.cell.name}: not one sample of use{noise}"
    if got.cell.streams:
        theirs = f", nginx {latency_text(got.theirs.p99)}" if got.theirs else ""
        return f"{got.cell.name}: small p99 {latency_text(ours.p99)}{theirs}{noise}"
    if ours.rate_ratio is None or ours.cost_ratio is None:
        return f"{got.cell.name}: {rate_text(got.cell, ours.rate)}, nothing to compare with{noise}"
    return f"{got.cell.name}: {ours.rate_ratio:.2f}x nginx's rate at {ours.cost_ratio:.2f}x its CPU{noise}"


@dataclass(frozen=True)
class Goal:
    """One figure that the project wants to reach, and what this run says about it (None: not measured)."""

    text: str
    limit: float
    value: float | None
    at_least: bool = True

    def line(self) -> str:
        """The goal as a row of a table."""
        bound = f"{'≥' if self.at_least else '≤'} {self.limit:g}"
        if self.value is None:
            return f"| {self.text} | {bound} | not measured | |"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return f"| {self.text} | {bound} | {self.value:.2f} | {'met' if met else '**missed**'} |"


def _blob_goals(results: list[Result]) -> list[Goal]:
    blobs = [r.ours for r in results if r.cell.group == "blobs" and r.ours is not None]
    lone = [r for r in results if r.cell.group == "blobs" and r.cell.item == "1 GiB" and r.cell.connections == 1]
    nopush = [r.ours.rate / r.figures[NGINX[0]].rate for r in lone if r.ours is not None and NGINX[0] in r.figures]
    registry = [
        r.figures["docker-registry"].cost / r.ours.cost
        for r in results
        if r.cell.group == "blobs" and r.cell.connections == 64 and r.ours and "docker-registry" in r.figures
    ]
    rates, costs = [f.rate_ratio for f in blobs if f.rate_ratio], [f.cost_ratio for f in blobs if f.cost_ratio]
    return [
        Goal("blobs: throughput beside the better nginx, median of the cells", 1.25, median(rates)),
        Goal("blobs: the same, the worst cell", 0.95, min(rates, default=None)),
        Goal("blobs: CPU per GiB beside the better nginx, median of the cells", 0.85, median(costs), False),
        Goal("blobs: the same, the worst cell", 1.05, max(costs, default=None), False),
        Goal("1 GiB at one connection: throughput beside nginx with `tcp_nopush on`", 1.5, median(nopush)),
        Goal(
            "blobs at 64: docker-registry's CPU per GiB beside ours, the worst cell", 3.5, min(registry, default=None)
        ),
    ]


def _small_goals(results: list[Result]) -> list[Goal]:
    busy = [r.ours.rate_ratio for r in results if r.cell.group == "manifests" and r.cell.connections == 64 and r.ours]
    mixed = [r for r in results if r.cell.group == "mixed" and r.ours and r.theirs]
    tails = [r.ours.p99 / r.theirs.p99 for r in mixed if r.ours and r.theirs and r.ours.p99 and r.theirs.p99]
    streams = [r.ours.streams / r.theirs.streams for r in mixed if r.ours and r.theirs and r.theirs.streams]
    cold = {r.cell.streams: r.ours.p99 for r in results if r.cell.group == "cold" and r.ours and r.ours.p99}
    return [
        Goal("manifests at 64: requests per second beside the better nginx, the worst cell", 1.5,
             min((value for value in busy if value), default=None)),
        Goal("mixed: p99 of small requests beside nginx's, the worse cell", 1.0, max(tails, default=None), False),
        Goal("mixed: rate of the streams beside nginx's, the worse cell", 0.9, min(streams, default=None)),
        Goal("one cold file: p99 of small requests, ms", 0.2, cold[1] / 1000 if 1 in cold else None, False),
        Goal("sixteen cold files: p99 of small requests, ms", 1.0, cold[16] / 1000 if 16 in cold else None, False),
    ]  # fmt: skip


def goals(results: dict[str, Any], cells_: list[Result]) -> list[Goal]:
    """The figures with their measured values."""
    memory = results["memory_bytes"].get(OURS)
    relay = median(sample["server_cpu_seconds"] / (sample["bytes"] / GIB) for sample in results["relay"])
    spegel = [r.ours.rate / r.figures["Spegel"].rate for r in cells_ if r.ours and "Spegel" in r.figures]
    return [
        *_blob_goals(cells_),
        *_small_goals(cells_),
        Goal("Spegel: rate beside its, the worst cell", 1.0, min(spegel, default=None)),
        Goal("verified relay from one peer, CPU seconds per GiB", 1.35, relay, False),
        Goal(f"memory (PSS) at {results['memory_connections']} connections, MiB", 30.0,
             None if memory is None else memory / MIB, False),
    ]  # fmt: skip


def _table(head: tuple[str, ...], rows: Iterable[Iterable[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _compared(got: Result) -> list[str]:
    ours, theirs = got.ours, got.theirs
    assert ours is not None
    nopush = "" if got.baseline is None else f" ({got.baseline.rpartition(' ')[2]})"
    return [
        got.cell.item if got.cell.method == "GET" else f"{got.cell.method} {got.cell.item}",
        str(got.cell.connections),
        rate_text(got.cell, ours.rate),
        rate_text(got.cell, theirs.rate) + nopush if theirs else "",
        _ratio(ours.rate_ratio, ours.worst_rate),
        cost_text(got.cell, ours.cost),
        cost_text(got.cell, theirs.cost) if theirs else "",
        _ratio(ours.cost_ratio, ours.worst_cost),
        latency_text(ours.p99),
        latency_text(theirs.p99) if theirs else "",
    ]


def compared(results: list[Result]) -> list[str]:
    """Cells beside the better nginx, as a Markdown table."""
    head = ("object", "conns", "fastmirror", "nginx (tcp_nopush)", "ratio (worst)",
            "CPU", "nginx", "ratio (worst)", "p99", "nginx")  # fmt: skip
    return _table(head, (_compared(got) for got in results if got.ours is not None))


def everybody(results: list[Result]) -> list[str]:
    """Every contender's rate and CPU relative to the better nginx's, as a Markdown table."""
    names = list(dict.fromkeys(name for got in results for name in got.figures))

    def one(figures: Figures | None) -> str:
        if figures is None or figures.rate_ratio is None or figures.cost_ratio is None:
            return ""
        return f"{figures.rate_ratio:.2f} / {figures.cost_ratio:.2f}"

    rows = ([got.cell.name, *(one(got.figures.get(name)) for name in names)] for got in results)
    return _table(("rate / CPU, the better nginx's is 1", *names), rows)


def disturbed(results: list[Result]) -> list[str]:
    """Small requests beside streams or on their own short way, one row for each contender."""
    rows = []
    for got in results:
        for name, f in got.figures.items():
            streams = f"{f.streams / GIB:.2f} GiB/s" if got.cell.streams else ""
            rows.append([got.cell.name, name, streams, f"{f.rate:,.0f}/s", latency_text(f.p50), latency_text(f.p99),
                         latency_text(f.max), cost_text(got.cell, f.cost)])  # fmt: skip
    return _table(("cell", "server", "streams", "small", "p50", "p99", "max", "CPU a request"), rows)


def notes(results: dict[str, Any], cells_: list[Result]) -> list[str]:
    """Memory, relays, and what makes cells less certain."""
    found = [f"- PSS of {name}: {value / MIB:.1f} MiB" for name, value in results["memory_bytes"].items()]
    found += [f"- relay of 1 GiB: {s['seconds']:.2f} s, {s['server_cpu_seconds']:.2f} CPU-s" for s in results["relay"]]
    found += [f"- failed, and left out: {failure}" for failure in results.get("failures", ())]
    for got in cells_:
        what = [f"{got.void} void samples left out"] if got.void else []
        what += [f"others used up to {got.foreign:.0%} of a CPU"] if got.foreign > cells.NOISE else []
        found += [f"- disturbed: {got.cell.name}: {', '.join(what)}"] if what else []
    return found


def sections(results: dict[str, Any]) -> dict[str, list[str]]:
    """The tables by heading: what the terminal shows and the page holds."""
    got = [result(entry) for entry in results["cells"]]
    large = [r for r in got if r.cell.group == "blobs"]
    small = [r for r in got if r.cell.group == "manifests"]
    rest = [r for r in got if r.cell.group not in ("blobs", "manifests")]
    return {
        "Figures to reach": _table(("figure", "limit", "measured", ""), []) + [g.line() for g in goals(results, got)],
        "Blobs": compared(large),
        "Blobs, everybody": everybody(large),
        "Manifests": compared(small),
        "Manifests, everybody": everybody(small),
        "Mixed loads, cold files, hang-ups": disturbed(rest),
        "Memory, relays, disturbances": notes(results, got),
    }


def lines(results: dict[str, Any]) -> list[str]:
    """Everything for the terminal."""
    return [line for name, body in sections(results).items() for line in ("", f"## {name}", "", *body)]
