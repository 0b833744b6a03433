"""docs/benchmarks.md and its plots, rendered from one results file; nothing is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benches.serve import plot, summary
from benches.serve.plot import Chart
from benches.serve.summary import GIB, Figures, Result

METHOD = Path(__file__).with_name("method.md")
HEAD = """\
Made by `make bench`; do not edit. `fastmirror bench` measures a machine of yours in a few seconds;
[performance](performance.md) says where the time goes."""
PLOTS = "benchmarks"  # the directory beside the page

Of = dict[str, dict[str, float]]


def _values(results: list[Result], of: str) -> Of:
    def one(figures: Figures) -> float | None:
        value: float | None = getattr(figures, of)
        return value

    found = {r.cell.name: {name: one(f) for name, f in r.figures.items()} for r in results}
    return {group: {name: v for name, v in row.items() if v is not None} for group, row in found.items()}


def _scaled(values: Of, by: float) -> Of:
    return {group: {name: value * by for name, value in row.items()} for group, row in values.items()}


def charts(results: dict[str, Any]) -> dict[str, tuple[str, Chart]]:
    """File name: the heading that the chart stands under, and the chart."""
    got = [summary.result(entry) for entry in results["cells"]]
    large = [r for r in got if r.cell.group == "blobs"]
    small = [r for r in got if r.cell.group == "manifests" and r.cell.connections > 1]
    rest = [r for r in got if r.cell.group in ("mixed", "cold")]
    rest_name = "Mixed loads, cold files, hang-ups"
    tails = _scaled(_values(rest, "p99"), 1e-3)
    return {
        "blobs-rate": ("Blobs", Chart("Throughput", "GiB/s, more is better", _scaled(_values(large, "rate"), 1 / GIB))),
        "blobs-cpu": ("Blobs", Chart("CPU of the server", "s per GiB, less is better", _values(large, "cost"))),
        "manifests": ("Manifests", Chart("Small objects", "requests/s, more is better", _values(small, "rate"))),
        "small-p99": (
            rest_name,
            Chart("Small requests beside streams: p99", "ms, less is better", tails, True),
        ),
    }


def render(results: dict[str, Any], source: str) -> str:
    """The whole page. ``source`` is the results file's name in the repository."""
    machine, versions = results["machine"], results["versions"]
    contenders = ", ".join(f"{name} {version}" for name, version in versions.items())
    rounds = f"{results['rounds']} rounds of fastmirror and nginx, {results['other_rounds']} of the others"
    facts = [
        f"- machine: {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, Linux {machine['kernel']}",
        f"- congestion control: {machine['congestion_control']}",
        f"- versions: fastmirror at {machine['commit']}, Python {machine['python']}, {contenders or 'nobody else'}",
        f"- run: {results['date']}, {results['minutes']} min; {results['seconds']} s a sample; {rounds}",
        f"- samples, all of them: [`{source}`](../{source})",
    ]
    parts = ["# Benchmarks", "", HEAD, ""]
    drawn = charts(results)
    for name, body in summary.sections(results).items():
        parts += [f"## {name}", ""]
        for file, (under, chart) in drawn.items():
            if under == name and chart.values:
                parts += [f"![{chart.title}, {chart.unit}]({PLOTS}/{file}.svg)", ""]
        parts += [*body, ""]
    return "\n".join([*parts, "## This run", "", *facts, "", METHOD.read_text()])


def write(page: Path, results: dict[str, Any], source: str) -> None:
    """Write the page and its plots."""
    directory = page.parent / PLOTS
    directory.mkdir(exist_ok=True)
    for file, (_, chart) in charts(results).items():
        drawing = plot.svg(chart)
        if drawing:
            (directory / f"{file}.svg").write_text(drawing)
    page.write_text(render(results, source))
