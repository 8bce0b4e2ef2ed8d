"""A study: one dataset, its columns, several recipes, their probes, one comparison.

Every stage finds what is done already. A run is named by the study, by its name there and by the
fingerprint of its recipe, which says the snapshot too: changed settings or new data give new runs,
the same ones find the old.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from flows.once import Stages, probe_once, train_once
from flows.options import say
from flows.recipes import needed_columns
from flows.study_plan import Planned, ProbePlan, StudyPlan
from pipelines.catalog import open_snapshot
from storage.fs import Store, open_store


def run_study(
    store: str, plan: StudyPlan, stages: Stages, executor: dict[str, Any], output: Path
) -> dict[str, Any]:
    """Do what a plan asks for and is not done yet, and write the report.

    Returns:
        report (path), dataset, snapshot, columns and runs (a list of what became of each, with
        `reused`), worked (stages that had something to do) and seconds.

    Raises:
        ValueError: a recipe or a setting that does not fit; nothing was begun then.
    """
    from flows.study_report import write_study

    began, place = time.monotonic(), open_store(store)
    for planned in plan.planned():
        needed_columns(planned.recipe, plan.dataset, list(planned.words))
    worked = _ingested(place, plan, stages, executor)
    snapshot = open_snapshot(place, plan.dataset).number
    runs = plan.planned(snapshot)
    columns = _columns(place, plan, runs, stages, executor)
    rows = [_run(place, plan, planned, stages) for planned in runs]
    report = {
        "study": plan.name,
        "dataset": plan.dataset,
        "snapshot": snapshot,
        "columns": columns,
        "runs": rows,
        "worked": worked + sum(not row["reused"] for row in (*columns, *rows)),
    }
    path = write_study(place, plan, report, output)
    return {"report": str(path), **report, "seconds": round(time.monotonic() - began, 1)}


def _ingested(place: Store, plan: StudyPlan, stages: Stages, executor: dict[str, Any]) -> int:
    """Take what is new in the sources; returns 1 if anything was."""
    if plan.ingest is None:
        return 0
    report = stages["ingest"](
        place.uri, plan.ingest.sources, plan.dataset, plan.ingest.spec(), executor
    )
    return int(report["inputs"] > report["skipped"])


def _columns(
    place: Store,
    plan: StudyPlan,
    runs: list[Planned],
    stages: Stages,
    executor: dict[str, Any],
) -> list[dict[str, Any]]:
    """Derive what the recipes need and the plan asks for besides, each column once."""
    seen, made = set[str](), []
    asked = [needed_columns(run.recipe, plan.dataset, list(run.words)) for run in runs]
    for columns in (*asked, plan.columns):
        new = {name: about for name, about in columns.items() if _key(name, about) not in seen}
        seen |= {_key(name, about) for name, about in new.items()}
        if not new:
            continue
        report = stages["derive"](place.uri, plan.dataset, new, executor)
        for name, about in report.items():
            made.append({"column": name, **about, "reused": not about["computed"]})
            say(f"{name}: {'reused' if not about['computed'] else 'computed'}")
    return made


def _key(name: str, parameters: dict[str, Any]) -> str:
    return f"{name} {json.dumps(parameters, sort_keys=True, default=str)}"


def _run(place: Store, plan: StudyPlan, planned: Planned, stages: Stages) -> dict[str, Any]:
    """Train and probe one run, or find that both are done."""
    words, run = list(planned.words), _run_name(plan.name, planned)
    summary, trained = train_once(place, planned.recipe, words, run, stages)
    row = {
        "name": planned.name,
        "run": run,
        "recipe": planned.recipe,
        "settings": planned.own,
        "reused": not trained,
        **{key: summary[key] for key in ("step", "first_loss", "loss", "heldout_loss")},
        **{key: summary[key] for key in ("samples_per_second", "data_wait_share")},
    }
    if plan.probe is not None:
        row["probe"], probed = _probe(place, run, plan.dataset, plan.probe, stages)
        row["reused"] = not (trained or probed)
    say(f"{run}: {'reused' if row['reused'] else 'trained and probed'}")
    return row


def _probe(
    place: Store, run: str, dataset: str, probe: ProbePlan, stages: Stages
) -> tuple[dict[str, Any], bool]:
    return probe_once(place, run, probe.dataset or dataset, stages, probe.test, probe.kind)


def _run_name(study: str, planned: Planned) -> str:
    from training.recipe import read_recipe, recipe_fingerprint

    recipe = read_recipe(planned.recipe, list(planned.words))
    return f"{study}-{planned.name}-{recipe_fingerprint(recipe)[:8]}"


def dry_study(plan: StudyPlan) -> tuple[dict[str, Any], str]:
    """Say what a study would need and run; nothing is written."""
    rows = [
        {
            "name": planned.name,
            "recipe": planned.recipe,
            "words": list(planned.words),
            "columns": needed_columns(planned.recipe, plan.dataset, list(planned.words)),
        }
        for planned in plan.planned()
    ]
    text = [
        f"{row['name']}: headrace pretrain {row['recipe']} {shlex.join(row['words'])}"
        f" (columns: {', '.join(row['columns']) or 'none'})"
        for row in rows
    ]
    return {"report": None, "runs": rows}, "\n".join(text)


def study_text(report: dict[str, Any]) -> str:
    """Return the comparison for people, and what was reused."""
    from flows.listing import text_table

    heads = ("run", "step", "loss", "held-out", "probe untrained", "trained", "")
    rows = [_row(row) for row in report["runs"]]
    lines = [text_table(heads, rows)]
    for what, key in (("columns", "column"), ("runs", "run")):
        reused = [row[key] for row in report[what] if row["reused"]]
        if reused:
            lines.append(f"reused {len(reused)} of {len(report[what])} {what}: {', '.join(reused)}")
    if not report["worked"]:
        lines.append("nothing to do: every column and every run was there already")
    return "\n".join([*lines, f"report: {report['report']}"])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    probe = row.get("probe") or {}
    numbers = (probe.get("untrained_accuracy"), probe.get("accuracy"))
    return (
        row["run"],
        str(row["step"]),
        f"{row['loss']:.4f}",
        "none" if row["heldout_loss"] is None else f"{row['heldout_loss']:.4f}",
        *("" if value is None else f"{value:.1%}" for value in numbers),
        "reused" if row["reused"] else "",
    )
