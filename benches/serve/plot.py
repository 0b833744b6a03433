"""Bar charts as SVG: groups of horizontal bars, one for each contender, readable in the dark and in print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0b6e4f", "#1f77b4", "#7fb3d8", "#17becf", "#d62728", "#9467bd", "#ff7f0e", "#7f7f7f")
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 860, 210, 90, 11, 14, 64
FONT = 'font-family="sans-serif" font-size="11"'


@dataclass(frozen=True)
class Chart:
    """``values[group][series]`` with a unit; a logarithmic scale is for latencies."""

    title: str
    unit: str
    values: Mapping[str, Mapping[str, float]]
    logarithmic: bool = False


def _scale(chart: Chart) -> tuple[float, float]:
    everything = [value for group in chart.values.values() for value in group.values() if value > 0]
    low = 10 ** math.floor(math.log10(min(everything))) if chart.logarithmic else 0.0
    return low, max(everything)


def _length(chart: Chart, value: float) -> float:
    low, high = _scale(chart)
    room = WIDTH - LEFT - RIGHT
    if not chart.logarithmic:
        return room * value / high
    return room * max(0.0, math.log10(value / low)) / max(math.log10(high / low), 1e-9) if value > 0 else 0.0


def _legend(series: Sequence[str]) -> list[str]:
    parts, x = [], 10
    for number, name in enumerate(series):
        parts.append(f'<rect x="{x}" y="34" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 14}" y="43" {FONT}>{escape(name)}</text>')
        x += 26 + 6 * len(name)
    return parts


def svg(chart: Chart) -> str:
    """The chart; empty without values."""
    series = list(dict.fromkeys(name for group in chart.values.values() for name in group))
    if not series:
        return ""
    parts, y = _legend(series), TOP
    for group, values in chart.values.items():
        middle = y + BAR * len(values) / 2 + 4
        parts.append(f'<text x="{LEFT - 8}" y="{middle:g}" text-anchor="end" {FONT}>{escape(group)}</text>')
        for name, value in values.items():
            colour = COLOURS[series.index(name) % len(COLOURS)]
            length = _length(chart, value)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + length + 4:.1f}" y="{y + BAR - 3}" {FONT}>{value:.4g}</text>')
            y += BAR
        y += GAP
    scale = ", logarithmic" if chart.logarithmic else ""
    words = escape(f"{chart.title} ({chart.unit}{scale})")
    title = f'<text x="10" y="20" font-family="sans-serif" font-size="14">{words}</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', title, *parts, "</svg>", ""])
