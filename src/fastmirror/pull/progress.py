"""How far a pull is: bars that are drawn over each other on a terminal, a line per finished object elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from fastmirror.pull.measured import Measured
from fastmirror.pull.report import size

_BAR: Final = 24
_LEAST_BAR: Final = 6
_TEXT: Final = 40  # wide enough for most, so that bars seldom change their length
_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"
_CLEAR: Final = "\x1b[J"  # from the cursor to the end of the screen; source: ECMA-48, ED


def progress(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Lines | Bars:
    """What fits the stream. Colours only where NO_COLOR is not set."""
    if stream.isatty() and environment.get("TERM", "") not in ("", "dumb"):
        return Bars(stream, colour=not environment.get("NO_COLOR"))
    return Lines(stream)


def silent(_: Sequence[Measured]) -> None:
    """Shows nothing."""


class Lines:
    """A line for each object that is over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: set[Measured] = set()

    def __call__(self, objects: Sequence[Measured]) -> None:
        """Show how far it is."""
        for one in self.over(objects):
            self._stream.write(done(one) + "\n")
        self._stream.flush()

    def over(self, objects: Sequence[Measured]) -> list[Measured]:
        """Those that have come to an end since the last time."""
        news = [one for one in objects if one.ended and one not in self._told]
        self._told.update(news)
        return news


class Bars(Lines):
    """Below such lines a bar for each object that comes just now."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        super().__init__(stream)
        self._colour = colour
        self._drawn = 0

    def __call__(self, objects: Sequence[Measured]) -> None:
        """Show how far it is."""
        width = shutil.get_terminal_size().columns - 1
        lines = [done(one)[:width] for one in self.over(objects)]
        running = [one for one in objects if one.begun and not one.ended]
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = "\n".join([*lines, *(self._bar(one, width) for one in running)])
        self._drawn = len(running)
        self._stream.write(f"\r{back}{_CLEAR}{text}" + ("\n" if text else ""))
        self._stream.flush()

    def _bar(self, one: Measured, width: int) -> str:
        share = min(one.bytes / one.size, 1.0) if one.size else 0.0
        where = f"{one.kind:8} {one.digest[7:19]} "
        text = f" {share:4.0%} {size(one.bytes)} of {size(one.size or 0)}  {size(one.rate)}/s".ljust(_TEXT)
        room = min(_BAR, width - len(where) - len(text) - len("[]"))
        if room < _LEAST_BAR:
            return (where + text)[:width]
        full = int(share * room)
        bar = f"[{'#' * full}{'-' * (room - full)}]"
        return where + (f"{_GREEN}{bar}{_PLAIN}" if self._colour else bar) + text


def done(one: Measured) -> str:
    """One object that is over, as a line."""
    how = f"{size(one.bytes)} in {one.seconds:.2f} s, {size(one.rate)}/s"
    resumed = f", resumed {one.resumes} times" if one.resumes else ""
    return f"{one.kind:8} {one.digest[7:19]}  " + (how + resumed if one.whole else f"failed after {how}")
