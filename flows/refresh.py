"""What a schedule repeats: new raw files, their columns, and training that goes on from the last
checkpoint over all data.

Each snapshot has a run of its own, `<run>-<snapshot>`, which begins with the weights and the
optimiser of the one before. So every checkpoint says which data it saw, and a refresh that was
killed goes on where it was: run again, it finds what is done.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import Field

from flows.once import Stages, train_once
from flows.recipes import needed_columns
from flows.study_plan import IngestPlan
from flows.yaml_files import Strict
from pipelines.catalog import open_snapshot
from storage.fs import Store, open_store


class RefreshPlan(Strict):
    """What is kept up to date."""

    dataset: str
    ingest: IngestPlan
    columns: dict[str, dict[str, Any]] = Field(default_factory=dict)
    "derived besides those that the recipe needs"
    recipe: str = ""
    "trained on; empty keeps only the dataset and its columns up to date"
    settings: dict[str, Any] = Field(default_factory=dict)
    run: str = "refresh"
    "how its runs begin"


def run_refresh(
    store: str, plan: RefreshPlan, stages: Stages, executor: dict[str, Any]
) -> dict[str, Any]:
    """Take what is new, derive what it lacks, and train on.

    Returns:
        dataset, snapshot, new (raw files taken), columns (what became of each), run (None without
        a recipe), before (the run that it went on from), steps (of all runs together).
    """
    place = open_store(store)
    taken = stages["ingest"](
        place.uri, plan.ingest.sources, plan.dataset, plan.ingest.spec(), executor
    )
    snapshot = open_snapshot(place, plan.dataset).number
    columns = dict(plan.columns)
    if plan.recipe:
        columns |= needed_columns(plan.recipe, plan.dataset, _words(plan.settings))
    made = stages["derive"](place.uri, plan.dataset, columns, executor) if columns else {}
    report = {
        "dataset": plan.dataset,
        "snapshot": snapshot,
        "new": taken["inputs"] - taken["skipped"],
        "columns": made,
        "run": None,
        "before": None,
        "steps": 0,
    }
    return report | (_trained(place, plan, snapshot, stages) if plan.recipe else {})


def _words(settings: dict[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def _trained(place: Store, plan: RefreshPlan, snapshot: int, stages: Stages) -> dict[str, Any]:
    """Train the run of a snapshot on from the run before it."""
    run, done = f"{plan.run}-{snapshot:06d}", _finished(place, plan.run)
    before = max((name for name in done if name < run), default=None)
    settings = {**plan.settings, "data.dataset": plan.dataset, "data.snapshot": snapshot}
    if before is not None:
        settings |= {"begin.run": before, "begin.count": "anew"}
    summary, _ = train_once(place, plan.recipe, _words(settings), run, stages)
    steps = summary["step"] + sum(count for name, count in done.items() if name < run)
    return {"run": run, "before": before, "steps": steps}


def _finished(place: Store, base: str) -> dict[str, int]:
    """Return the finished runs of a refresh and their steps."""
    names = (n for n in place.folders("runs") if re.fullmatch(rf"{re.escape(base)}-\d{{6}}", n))
    paths = {name: f"runs/{name}/summary.json" for name in names}
    return {n: json.loads(place.read(p))["step"] for n, p in paths.items() if place.exists(p)}
