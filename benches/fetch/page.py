"""The page of this rig, rendered from its results."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benches.serve import plot

if TYPE_CHECKING:
    from benches.fetch.run import Row

FOLDER: Final = Path(__file__).parents[2] / "docs" / "benchmarks"
PAGE: Final = FOLDER / "fetch.md"
MIB: Final = 1 << 20
NOISE: Final = 0.25  # CPUs that others may use; what is measured beside more is marked

HEAD: Final = """\
# One layer from many peers

A node that has nothing gets a blob from k holders, each behind a link of 300 Mbit/s (tc tbf, 256 KiB burst); a reader
on that node takes the bytes in order. Every holder and the node are processes in network namespaces of their own, on
one bridge. *Ideal* is the time that the links would need, from the measured rate of one peer. *Gap* is the longest
time for which the reader had no byte after the first one. Each pull is by a fresh node that knows nothing of its peers;
the holders have made their chunk lists before.

Run it with `python -m benches.fetch` (root, for the namespaces). Made by it; do not edit.
"""


def line(row: Row) -> str:
    """One case for the terminal."""
    complete = sum(sample.complete for sample in row.samples)
    worst = max(sample.gap for sample in row.samples)
    text = f"{row.case:70} {complete} of {len(row.samples)}  {row.seconds:7.3f} s  gap {row.gap * 1000:4.0f} ms"
    goals = [f"{g.what}: {g.value:.3f} ({'met' if g.met else 'MISSED'}, {g.limit:g})" for g in row.goals]
    foreign = max(sample.foreign for sample in row.samples)
    return "\n    ".join([f"{text} (worst {worst * 1000:.0f})  others {foreign:.1f} CPUs", *goals])


def render(results: Path) -> None:
    """Write the page from a results file."""
    found = json.loads(results.read_text())
    facts = (f"{name.replace('_', ' ')} {value}" for name, value in found["machine"].items())
    text = [HEAD, f"Machine: {', '.join(facts)}."]
    text.append(f"{found['rounds']} rounds; medians.\n")
    text += _drawings(found["rows"])
    text.append("| case | complete | MiB | seconds | ideal | longest gap (worst) | rate |")
    text.append("|---|---|---|---|---|---|---|")
    text += [_row(row) for row in found["rows"]]
    text.append("\n## Promised figures\n")
    text.append("| case | figure | promised | measured | |")
    text.append("|---|---|---|---|---|")
    for row in found["rows"]:
        for goal, met in zip(row["goals"], row["met"], strict=True):
            sign = "at least" if goal["at_least"] else "at most"
            values = f"{sign} {goal['limit']:g} | **{goal['value']:.3f}** | {'met' if met else 'missed'}"
            text.append(f"| {row['case']} | {goal['what']} | {values} |")
    noisy = [f"{row['case']} ({_foreign(row):.1f} CPUs)" for row in found["rows"] if _foreign(row) > NOISE]
    if noisy:
        text.append(f"\nDisturbed, because others used the machine's CPUs too: {'; '.join(noisy)}.")
    PAGE.write_text("\n".join(text) + "\n")


def _drawings(rows: list[dict[str, Any]]) -> list[str]:
    """Draw the times beside the ideal ones, and the gaps; the lines that show them."""
    ideal = {
        row["case"]: {"measured": statistics.median(s["seconds"] for s in row["samples"]), "ideal": row["ideal"]}
        for row in rows
        if row["ideal"]
    }
    gaps = {
        row["case"]: {"median": statistics.median(gaps), "worst": max(gaps)}
        for row in rows
        if row["ideal"] and (gaps := [sample["gap"] * 1000 for sample in row["samples"]])
    }
    lines = []
    FOLDER.mkdir(exist_ok=True)
    for name, chart in (
        ("fetch-seconds", plot.Chart("One layer from many peers", "seconds", ideal)),
        ("fetch-gaps", plot.Chart("Longest time without a byte", "ms", gaps)),
    ):
        (FOLDER / f"{name}.svg").write_text(plot.svg(chart))
        lines.append(f"![{chart.title}]({name}.svg)\n")
    return lines


def _row(row: dict[str, Any]) -> str:
    samples = row["samples"]
    seconds = statistics.median(sample["seconds"] for sample in samples)
    gaps = [sample["gap"] * 1000 for sample in samples]
    ideal = f"{row['ideal']:.3f}" if row["ideal"] else ""
    complete = f"{sum(sample['complete'] for sample in samples)} of {len(samples)}"
    gap = f"{statistics.median(gaps):.0f} ms ({max(gaps):.0f})"
    rate = f"{row['size'] / seconds / MIB:.0f} MiB/s"
    return f"| {row['case']} | {complete} | {row['size'] // MIB} | {seconds:.3f} | {ideal} | {gap} | {rate} |"


def _foreign(row: dict[str, Any]) -> float:
    return max(float(sample["foreign"]) for sample in row["samples"])
