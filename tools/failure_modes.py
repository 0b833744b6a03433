"""Render docs/failure-modes.md from its rows, virtual-time runs and measured runs, and check every row.

python -m tools.failure_modes            write the page
python -m tools.failure_modes --check    exit 1 if the page is another, or a row does not hold
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from fastmirror.config import Settings
from fastmirror.observe.metrics import Metrics
from tests.kit.scenarios import SCENARIOS

ROOT: Final = Path(__file__).parents[1]
ROWS: Final = ROOT / "docs" / "failure-modes.toml"
PAGE: Final = ROOT / "docs" / "failure-modes.md"
RESULTS: Final = ROOT / "benches" / "results" / "failures.json"

HEAD: Final = """\
# What happens to my pulls when ...

Every row is proved by the test that it names. *In virtual time* is exact: the plan that decides, against simulated
peers (one of four fails, 300 Mbit/s each). *Measured* is the longest wait of any client in a real run with real
processes ([what was run](failure-benchmark.md)); on a shared machine it may be up to {slack:g} times the bound and what
the same clients waited in the same run without a fault, which stands behind it. The build fails when a run in virtual
time exceeds its bound, a measured one its slack, or a row's test is gone.

| event | what happens | what the pull sees | at most | in virtual time | measured | setting | metric | test |
|---|---|---|---|---|---|---|---|---|
"""


def problems_and_page() -> tuple[list[str], str]:
    """What does not hold, and the page."""
    document = tomllib.loads(ROWS.read_text())
    measured = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    problems: list[str] = []
    lines = [_row(row, document["slack"], measured, problems) for row in document["row"]]
    return problems, HEAD.format(slack=document["slack"]) + "\n".join(lines) + "\n"


def _row(row: dict[str, Any], slack: float, measured: list[dict[str, Any]], problems: list[str]) -> str:
    bound = row["bound"]
    virtual, real = "", ""
    if "virtual" in row:
        gap = SCENARIOS[row["virtual"]]().gap
        virtual = _seconds(gap)
        if gap > bound:
            problems.append(f"{row['event']}: {gap:.3f} s in virtual time, {bound} s promised")
    if "real" in row and measured:
        part, fault = row["real"]
        gap, quiet = (_longest_gap(measured, part, kind) for kind in (fault, "healthy"))
        real = f"{_seconds(gap)} ({_seconds(quiet)})"
        if gap > (bound + quiet) * slack:
            problems.append(f"{row['event']}: {gap:.3f} s measured, {bound} s promised, slack {slack:g}")
    _exists(row, problems)
    name = row["test"].partition("::")[2].replace("test_", "", 1).replace("_", " ")
    cells = [row["event"], row["happens"], row["sees"], f"{_seconds(bound)}: {row['means']}", virtual, real]
    cells += [f"`{row['setting']}`", f"`{row['metric']}`", f"[{name}](../{row['test'].partition('::')[0]})"]
    return "| " + " | ".join(cells) + " |"


def _longest_gap(measured: list[dict[str, Any]], part: str, fault: str) -> float:
    return max(float(one["gap"]) for one in measured if part in one["case"] and one["fault"] == fault)


def _exists(row: dict[str, Any], problems: list[str]) -> None:
    path, _, name = row["test"].partition("::")
    file = ROOT / path
    if not file.exists() or not re.search(rf"^(async )?def {name}\(", file.read_text(), re.MULTILINE):
        problems.append(f"{row['event']}: its test is gone: {row['test']}")
    if row["setting"] not in _settings():
        problems.append(f"{row['event']}: no setting {row['setting']}")
    if row["metric"] not in {family.name for family in Metrics()}:
        problems.append(f"{row['event']}: no metric {row['metric']}")


def _settings() -> set[str]:
    sections = (field.type for field in msgspec.structs.fields(Settings))
    return {field.name for section in sections for field in msgspec.structs.fields(section)} | {"supervise"}


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def main() -> None:
    """Write or check; the exit code says whether every row holds."""
    problems, page = problems_and_page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != page:
            problems.append("docs/failure-modes.md is not what its rows say; run: python -m tools.failure_modes")
    else:
        PAGE.write_text(page)
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
