"""The curves of the learning trial as one SVG: three figures against CPU minutes, a line a run."""

from __future__ import annotations

from html import escape
from typing import Any

from flows.report_curves import HEIGHT, WIDTH, Series, svg_curve

FIGURES = {"knn": "kNN, %", "linear": "linear probe, %", "effective_rank": "effective rank"}
COLOURS = ("#0b6e99", "#c4500b", "#3a7d2c")
STYLE = """
text { font: 13px sans-serif; fill: #444 }
.grid { stroke: #ddd } .tick { stroke: #888 }
polyline { fill: none; stroke-width: 2 } circle { r: 3 }
"""
MARGIN = 26


def draw(curves: dict[str, list[dict[str, Any]]]) -> str:
    """Return the picture of each run's looks at its encoder, as `learning_clock.measure` gives
    them.
    """
    style = STYLE + "".join(
        f".s{i} polyline {{ stroke: {colour} }} .s{i} circle {{ fill: {colour} }}"
        for i, colour in enumerate(COLOURS)
    )
    names = "".join(
        f'<text x="{68 + 130 * i}" y="18" style="fill: {COLOURS[i]}">{escape(run)}</text>'
        for i, run in enumerate(curves)
    )
    panels = "".join(
        f'<svg x="{WIDTH * i}" y="{MARGIN}" width="{WIDTH}" height="{HEIGHT}">{panel}</svg>'
        for i, panel in enumerate(_panel(curves, *figure) for figure in FIGURES.items())
    )
    size = f'viewBox="0 0 {WIDTH * len(FIGURES)} {HEIGHT + MARGIN}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{names}{panels}</svg>\n'
    )


def _panel(curves: dict[str, list[dict[str, Any]]], figure: str, label: str) -> str:
    factor = 1 if figure == "effective_rank" else 100
    series = [
        Series(run, tuple((look["cpu_seconds"] / 60, factor * look[figure]) for look in looks))
        for run, looks in curves.items()
    ]
    return svg_curve(series, "CPU minutes of training", label)
