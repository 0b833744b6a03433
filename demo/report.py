"""What is printed: progress while it runs, the table at the end. Plain text; carriage returns only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TextIO

from demo.images import MIB, Image

WIDTH = 40  # of the column that says what happened
REDRAW_SECONDS = 0.1
QUARTERS = 4  # progress lines per pull where there is no terminal


@dataclass
class Row:
    """One step as the table shows it. ``sources``: bytes by where they came from. ``gap``: the longest silence in a
    layer, None where it is not seen. ``layer_seconds``: how long the mirror fetched the largest layer, where it tells.
    ``error``: why it failed.
    """

    what: str
    node: str
    sources: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    gap: float | None = None
    layer_seconds: float = 0.0
    killed: str = ""
    error: str = ""


class Screen:
    """Writes lines, and one line that changes while a pull goes on."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._shown = 0
        self._drawn_at = 0.0
        self._quarter = 0

    def say(self, text: str) -> None:
        """Write a line."""
        self._clear()
        print(text, file=self._out, flush=True)

    def begin(self) -> None:
        """A pull begins."""
        self._quarter = 0

    def progress(self, done: int, total: int, sources: dict[str, int]) -> None:
        """Show how far a pull is, and where its bytes have come from so far."""
        parts = ", ".join(f"{name} {mebibytes(count)}" for name, count in sources.items() if count >= MIB // 10)
        text = f"    {done * 100 // max(total, 1):3d} %  {mebibytes(done):>9} of {mebibytes(total)}   {parts}"
        now = time.monotonic()
        if self._live and now - self._drawn_at >= REDRAW_SECONDS:
            self._drawn_at = now
            self._out.write("\r" + text.ljust(self._shown))
            self._out.flush()
            self._shown = len(text)
        elif not self._live and done * QUARTERS // max(total, 1) > self._quarter:
            self._quarter = done * QUARTERS // max(total, 1)
            print(text, file=self._out, flush=True)

    def _clear(self) -> None:
        if self._shown:
            self._out.write("\r" + " " * self._shown + "\r")
            self._shown = 0


def mebibytes(count: int) -> str:
    """Bytes as the table writes them: what is less than 0.1 MiB (questions, answers without a body) in KiB."""
    return f"{count / MIB:.1f} MiB" if count >= MIB // 10 else f"{count / 1024:.1f} KiB"


def table(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """The steps: where each byte came from, how long it took, and where it is seen the longest silence in a layer."""
    gaps = any(row.gap is not None for row in rows)
    head = f"{'step':<{WIDTH}}" + "".join(f"{name:>10}" for name in names) + f"{'seconds':>9}"
    head += f"{'gap':>9}" if gaps else ""
    lines = [head, "-" * len(head)]
    for number, row in enumerate(rows, 1):
        cells = "".join(f"{_amount(row.sources.get(name, 0)):>10}" for name in names)
        gap = f"{'-' if row.gap is None else f'{row.gap * 1000:.0f} ms':>9}" if gaps else ""
        lines.append(f"{f'{number} {row.what}':<{WIDTH}}{cells}{row.seconds:>9.2f}{gap}")
        if row.error:
            lines.append(f"  FAILED: {row.error}")
    return lines


def _amount(count: int) -> str:
    return mebibytes(count) if count else "-"


def summary(rows: Sequence[Row], image: Image, origin_served: int, checked: int) -> list[str]:
    """What the numbers mean, in sentences."""
    lines = []
    for before, row in pairwise(rows):
        if row.killed:  # the row before is the same pull without a death
            if row.layer_seconds:
                what, taken, quiet_taken = "the layer took ", row.layer_seconds, before.layer_seconds
            else:
                what, taken, quiet_taken = "", row.seconds, before.seconds
            cost = max(0.0, taken - quiet_taken) * 1000
            times = f"{what}{taken:.2f} s with one source less, instead of {quiet_taken:.2f} s"
            if row.gap is not None and before.gap is not None:
                quiet = f"{row.gap * 1000:.0f} ms, without a death {before.gap * 1000:.0f} ms"
                times += f" (longest silence in a layer: {quiet})"
            if row.layer_seconds:
                times += f"; the whole pull {row.seconds:.2f} s instead of {before.seconds:.2f} s"
            if round(cost) == 0:
                times += "; what it had not given yet came from the others meanwhile"
            lines.append(f"the death of node {row.killed} cost {cost:.0f} ms: {times}")
    share = origin_served / image.size
    lines.append(f"the origin served {mebibytes(origin_served)} in all: {share:.2f} times the image")
    lines.append(f"{checked} blobs on the nodes' disks were read again: every digest is right")
    return lines
