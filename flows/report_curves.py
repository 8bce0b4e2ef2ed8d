"""Curves of reports as inline SVG: axes with round numbers, a value to read at every point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 68, 10, 10, 42
MOST_POINTS = 160
"Points of a series that are drawn; of longer ones every k-th, and the last."


@dataclass(frozen=True, slots=True)
class Series:
    """One curve."""

    name: str
    points: tuple[tuple[float, float], ...]
    "(x, y); points that are not finite leave a gap"
    dashed: bool = False


def svg_curve(series: Sequence[Series], x_label: str, y_label: str, title: str = "") -> str:
    """Return an SVG element of the curves, as wide as its container, coloured by CSS classes s0 …

    Every point has a title that a mouse or a screen reader gets: name, x and y.
    """
    drawn = [Series(s.name, _thinned(s.points), s.dashed) for s in series if s.points]
    finite = [p for s in drawn for p in s.points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if not finite:
        return f'<p class="muted">{escape(title or y_label)}: nothing was logged.</p>'
    x_ticks = round_ticks(min(p[0] for p in finite), max(p[0] for p in finite), 5)
    y_ticks = round_ticks(min(p[1] for p in finite), max(p[1] for p in finite), 5)
    x_range = min(p[0] for p in finite), max(max(p[0] for p in finite), x_ticks[-1])
    frame = _Frame(x_range, (y_ticks[0], y_ticks[-1]))
    body = [_axes(frame, x_ticks, y_ticks, x_label, y_label)]
    body += [_line(frame, i, one) for i, one in enumerate(drawn)]
    names = f"{title or y_label} against {x_label}: {', '.join(s.name for s in drawn)}"
    about = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(names)}"'
    return f'<svg class="curve" {about}>{"".join(body)}</svg>'


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a value."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that cover low to high: 1, 2 or 5 times a power of 10."""
    if high == low:  # a flat line runs through the middle
        low, high = low - abs(low) / 2, high + (abs(high) / 2 or 1.0)
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Return a number as people write it: four digits that matter, no trailing zeros."""
    text = f"{value:,.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _thinned(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    every = -(-len(points) // MOST_POINTS)
    kept = points[::every]
    return kept if not points or kept[-1] == points[-1] else (*kept, points[-1])


def _axes(
    frame: _Frame, x_ticks: list[float], y_ticks: list[float], x_label: str, y_label: str
) -> str:
    parts = []
    for y in y_ticks:
        _, at = frame.place(frame.x[0], y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_at("y", at)}/>')
        parts.append(_text(LEFT - 8, at + 4, number(y), "end"))
    for x in (x for x in x_ticks if frame.x[0] <= x <= frame.x[1]):
        at, bottom = frame.place(x, frame.y[0])
        parts.append(f'<line class="tick" y1="{bottom:.1f}" y2="{bottom + 5:.1f}" {_at("x", at)}/>')
        parts.append(_text(at, bottom + 18, number(x), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text(10, middle, y_label, "middle", f' transform="rotate(-90 10 {middle})"'))
    return "".join(parts)


def _at(axis: str, place: float) -> str:
    return f'{axis}1="{place:.1f}" {axis}2="{place:.1f}"'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _line(frame: _Frame, index: int, series: Series) -> str:
    pieces: list[list[str]] = [[]]
    circles = []
    for x, y in series.points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pieces.append([])
            continue
        left, top = frame.place(x, y)
        pieces[-1].append(f"{left:.1f},{top:.1f}")
        about = escape(f"{series.name} {number(y)} at {number(x)}")
        circles.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5"><title>{about}</title></circle>'
        )
    lines = "".join(f'<polyline points="{" ".join(piece)}"/>' for piece in pieces if len(piece) > 1)
    alone = " alone" if all(len(piece) < 2 for piece in pieces) else ""
    dashed = " dashed" if series.dashed else ""
    return f'<g class="series s{index % 6}{dashed}{alone}">{lines}{"".join(circles)}</g>'
