"""The page of the failure rig, rendered from its results; nothing is typed by hand but what others measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benches.failures.run import Row

PAGE: Final = Path(__file__).parents[2] / "docs" / "failure-benchmark.md"

# Spegel v0.7.4, measured in November 2026 in a rig of the same shape with its own defaults; not run here.
SPEGEL: Final = {
    ("4 MiB", "frozen"): "48 of 60",
    ("4 MiB", "black-holed"): "45 of 60",
    ("4 MiB", "killed"): "49 of 60",
    ("again", "healthy"): "25 of 60",
    ("48 MiB", "frozen"): "7 of 12, some hang until the client gives up",
    ("48 MiB", "black-holed"): "9 of 12, the same hang",
    ("48 MiB", "killed"): "8 of 12",
}

HEAD: Final = """\
# What a failing peer costs

Three nodes hold all blobs, a fourth one is asked for them and fetches from the three. One holder is broken: frozen
(SIGSTOP), black-holed (its packets are dropped) or killed (SIGKILL), before the first request or in mid-body. There is
no origin here: a blob that the peers do not deliver is lost. *Gap* is the longest time that any client waited for a
next byte, the status line included.

Run it with `python -m benches.failures` (root, for the network namespace).
"""


def line(row: Row) -> str:
    """One case for the terminal."""
    return (
        f"{row.case:55} {row.fault:12} {row.complete:3} of {row.asked:3}  {row.seconds:6.2f} s"
        f"  median {row.median * 1000:5.0f} ms  longest gap {row.gap * 1000:5.0f} ms"
    )


def render(results: Path) -> None:
    """Write the page from a results file."""
    found = json.loads(results.read_text())
    text = [
        HEAD,
        f"Machine: {_machine(found['machine'])}. Read every row beside the healthy one: it has the machine's noise.\n",
    ]
    text.append("| case | the holder is | complete | seconds | median | longest gap | Spegel v0.7.4 completes |")
    text.append("|---|---|---|---|---|---|---|")
    text += [_row(row) for row in found["rows"]]
    text.append(
        "\nSpegel's figures were measured once, in a rig of the same shape on a machine of the same kind; they are"
    )
    text.append("quoted, not run here.")
    PAGE.write_text("\n".join(text) + "\n")


def _row(row: dict[str, Any]) -> str:
    other = next((text for (case, fault), text in SPEGEL.items() if case in row["case"] and fault == row["fault"]), "")
    if "again" in row["case"] and row["fault"] != "healthy":
        other = ""
    return (
        f"| {row['case']} | {row['fault']} | {row['complete']} of {row['asked']} | {row['seconds']:.2f}"
        f" | {row['median'] * 1000:.0f} ms | {row['gap'] * 1000:.0f} ms | {other} |"
    )


def _machine(machine: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
