"""One self-contained HTML file about datasets and runs: no other file, no request."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.report_curves import number, svg_curve
from flows.report_parts import Chart, DatasetSection, ProbeRow, ReportData, RunSection

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 10_000_000
"A report is mailed and opened on phones."


def render_report(data: ReportData) -> str:
    """Return the HTML of a report.

    Raises:
        ValueError: it would pass 10 MB.
    """
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            data=data, chapters=chapters(data), lone_runs=_lone_runs(data), anchors=_anchors(data)
        )
    )
    size = len(html.encode())
    if size > MOST_BYTES:
        raise ValueError(
            f"report {data.title!r}: {size:,} bytes, at most {MOST_BYTES:,} are allowed. "
            "Give it fewer or smaller pictures."
        )
    return html


def chapters(data: ReportData) -> list[tuple[DatasetSection, list[RunSection]]]:
    """Return each dataset with the runs that it fed."""
    return [(d, [run for run in data.runs if run.dataset == d.name]) for d in data.datasets]


def _lone_runs(data: ReportData) -> list[RunSection]:
    names = {d.name for d in data.datasets}
    return [run for run in data.runs if run.dataset not in names]


def _anchors(data: ReportData) -> set[str]:
    """Return the places of a report that the sources of its runs may lead to."""
    columns = {f"column-{d.name}-{c.fingerprint[:8]}" for d in data.datasets for c in d.columns}
    recipes = {f"recipe-{run.name}" for run in data.runs}
    return {d.name for d in data.datasets} | columns | recipes


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        curve=chart_svg, size=byte_size, number=number, pretty=pretty, gain=gain, short=short
    )
    return environment


def chart_svg(chart: Chart) -> Markup:
    """Return the SVG of a chart, safe to put in HTML."""
    return Markup(svg_curve(chart.series, chart.x_label, chart.y_label, chart.title))


def byte_size(count: int) -> str:
    """Return a size in bytes as people write it."""
    for unit, base in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= base:
            return f"{count / base:.1f} {unit}"
    return f"{count} B"


def pretty(value: object) -> str:
    """Return a nested value as indented JSON."""
    return json.dumps(value, indent=2, default=str, ensure_ascii=False)


def short(text: str, length: int = 12) -> str:
    """Return the first letters of a fingerprint."""
    return text[:length]


def gain(probe: ProbeRow) -> str:
    """Return what training gained, in points."""
    if probe.untrained is None:
        return "not measured"
    points = 100 * (probe.trained - probe.untrained)
    return f"{'+' if points >= 0 else '−'}{abs(points):.1f} points"
