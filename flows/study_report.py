"""The comparison of a study: one self-contained HTML file, runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.report import render_report
from flows.report_curves import Series
from flows.report_data import save_page
from flows.report_dataset import dataset_section
from flows.report_parts import Chart, ReportData, Table
from flows.report_run import run_section
from flows.study_plan import StudyPlan
from pipelines.ledger import ledger_of
from storage.fs import Store

HEADS = (
    "run",
    "settings",
    "steps",
    "loss, first → last",
    "held-out loss",
    "probe, untrained → trained",
    "95 % interval",
    "samples/s",
    "data work, s",
    "saved by reuse, s",
)
NOTE = "Losses of different masks or targets are of different tokens: compare runs by their probes."


def write_study(store: Store, plan: StudyPlan, report: dict[str, Any], output: Path) -> Path:
    """Write the report of a study; `report` is what `run_study` returns."""
    runs = [row["run"] for row in report["runs"]]
    data = ReportData(
        title=f"study {plan.name}",
        subtitle=f"{len(runs)} runs on {plan.dataset}, snapshot {report['snapshot']}",
        summary=_comparison(store, report["runs"]),
        charts=_charts(store, report["runs"]),
        datasets=(dataset_section(store, plan.dataset),),
        runs=tuple(run_section(store, run) for run in runs),
    )
    return save_page(render_report(data), output)


def _comparison(store: Store, rows: list[dict[str, Any]]) -> Table:
    """Return one row a run."""
    return Table(heads=HEADS, rows=tuple(_compared(store, row) for row in rows), caption=NOTE)


def _compared(store: Store, row: dict[str, Any]) -> tuple[str | float | int, ...]:
    probe = row.get("probe") or {}
    work = ledger_of(store, run=row["run"])["runs"]
    shares = [probe.get(name) for name in ("untrained_accuracy", "accuracy")]
    sure = [probe.get(name) for name in ("low", "high")]
    return (
        row["name"],
        row["settings"],
        row["step"],
        f"{row['first_loss']:.4g} → {row['loss']:.4g}",
        "none" if row["heldout_loss"] is None else row["heldout_loss"],
        " → ".join(f"{share:.1%}" for share in shares if share is not None),
        " to ".join(f"{share:.0%}" for share in sure if share is not None),
        round(row["samples_per_second"], 1),
        round(sum(line["spent"] for line in work), 2),
        round(sum(line["saved"] for line in work), 2),
    )


def _charts(store: Store, rows: list[dict[str, Any]]) -> tuple[Chart, ...]:
    """Return the curves of all runs over common axes."""
    logs = {row["name"]: _log(store, row["run"]) for row in rows}
    charts = []
    for title, field in (
        ("loss", "loss"),
        ("held-out loss", "heldout_loss"),
        ("throughput", "samples_per_second"),
    ):
        curves = [
            Series(
                name,
                tuple((line["step"], line[field]) for line in log if line.get(field) is not None),
            )
            for name, log in logs.items()
        ]
        label = "samples/s" if field == "samples_per_second" else "loss"
        charts.append(Chart(title=title, x_label="step", y_label=label, series=tuple(curves)))
    return tuple(charts)


def _log(store: Store, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read(f"runs/{run}/metrics.jsonl").splitlines()]
