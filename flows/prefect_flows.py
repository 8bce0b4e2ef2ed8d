"""Prefect's view of the stages: one flow each, two tasks at most, artifacts a person can look at.

Only modules of this name import Prefect, and the settings that keep it quiet come first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flows.parent import end_with_parent
from flows.prefect_settings import be_quiet

be_quiet()
SERVED = "HEADRACE_SERVED"
if os.environ.get(SERVED):  # a run of `headrace serve`, which may be killed
    end_with_parent()

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.tasks import Task

from flows import stages
from flows.once import Stages
from flows.refresh import RefreshPlan, run_refresh
from flows.study import run_study
from flows.study_plan import StudyPlan

TRANSIENT = (ConnectionError, TimeoutError)
LEASE_SECONDS = 60.0
"How long the place of a training that was killed stays taken."
TRAINING_LIMIT = "headrace-training"
"Prefect's limit of trainings at once; `headrace serve` sets it, without it there is none."


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failure may pass by itself: a lost cluster or store, never a user's or a
    program's mistake."""
    return isinstance(state.result(raise_on_failure=False), TRANSIENT)


def _stage(function: Any, name: str) -> Any:
    return task(
        function,
        name=name,
        retries=3,
        retry_delay_seconds=[5, 30, 120],
        retry_condition_fn=is_transient,
        cache_policy=NO_CACHE,
    )


_ingest = _stage(stages.run_ingest, "write shards")
_derive = _stage(stages.run_derive, "compute columns")
_pretrain = _stage(stages.run_pretrain, "train")
_evaluate = _stage(stages.run_evaluate, "probe")
_export = _stage(stages.run_export, "write weights")


@flow(name="ingest", log_prints=False)
def ingest(
    store: str,
    sources: list[str],
    dataset: str,
    spec: dict[str, Any],
    executor: dict[str, Any],
    retry_rejects: bool = False,
) -> dict[str, Any]:
    """Raw files to a new part and snapshot. Safe to run again."""
    report: dict[str, Any] = _ingest(store, sources, dataset, spec, executor, retry_rejects)
    _publish_books(report)
    return report


@task(name="publish books", cache_policy=NO_CACHE)
def _publish_books(report: dict[str, Any]) -> None:
    rows = [
        {"outcome": name, "files": report[name]}
        for name in ("written", "duplicates", "rejects", "skipped")
    ]
    rows += [
        {"outcome": f"rejected: {name}", "files": count}
        for name, count in report["reasons"].items()
    ]
    create_table_artifact(
        key=_key("books", report["dataset"]), table=rows, description="What became of each raw file"
    )
    create_markdown_artifact(key=_key("ingest", report["dataset"]), markdown=_list(report))


@flow(name="derive", log_prints=False)
def derive(
    store: str, dataset: str, columns: dict[str, dict[str, Any]], executor: dict[str, Any]
) -> dict[str, Any]:
    """Missing columns of a dataset. Safe to run again."""
    report: dict[str, Any] = _derive(store, dataset, columns, executor)
    rows = [{"column": name, **about} for name, about in report.items()]
    create_table_artifact(
        key=_key("columns", dataset), table=rows, description=f"Columns of {dataset}"
    )
    return report


@flow(name="pretrain", log_prints=False)
def pretrain(
    store: str,
    recipe: str,
    overrides: list[str],
    run: str,
    resume: bool = False,
    feed: str = "local",
    workers: int = 0,
) -> dict[str, Any]:
    """One run by one recipe. A killed run continues with resume."""
    with concurrency(TRAINING_LIMIT, occupy=1, lease_duration=LEASE_SECONDS):
        report: dict[str, Any] = _pretrain(store, recipe, overrides, run, resume, feed, workers)
    create_markdown_artifact(key=_key("run", report["run"]), markdown=_list(report))
    return report


@flow(name="evaluate", log_prints=False)
def evaluate(
    store: str, run: str, dataset: str, test: str = "", probe: str = "knn", untrained: bool = False
) -> dict[str, Any]:
    """A probe of a run's frozen encoder."""
    report: dict[str, Any] = _evaluate(store, run, dataset, test, probe, untrained)
    create_table_artifact(
        key=_key("probe", run), table=[report], description=f"{probe} probe of {run}"
    )
    return report


@flow(name="export", log_prints=False)
def export(
    store: str,
    run: str,
    to: str,
    output: str,
    step: int = 0,
    decoder: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """A run's weights as other libraries load them."""
    report: dict[str, Any] = _export(store, run, to, output, step, decoder, overwrite)
    create_markdown_artifact(key=_key("export", run), markdown=_list(report))
    return report


@flow(name="study", log_prints=False)
def study(store: str, plan: StudyPlan, executor: dict[str, Any], output: str) -> dict[str, Any]:
    """A comparison of recipes on one dataset. Safe to run again: it does what is missing."""
    report = run_study(store, plan, _flows(), executor, Path(output))
    rows = [{name: row[name] for name in ("run", "loss", "reused")} for row in report["runs"]]
    create_table_artifact(key=_key("study", plan.name), table=rows, description="Runs compared")
    return report


@flow(name="refresh", log_prints=False)
def refresh(store: str, plan: RefreshPlan, executor: dict[str, Any]) -> dict[str, Any]:
    """New raw files, their columns, and training that goes on. Safe to run again."""
    report = run_refresh(store, plan, _flows(), executor)
    create_markdown_artifact(key=_key("refresh", plan.dataset), markdown=_list(report))
    return report


def _flows() -> Stages:
    """Return the flows that others are made of."""
    return {
        "ingest": ingest,
        "derive": derive,
        "pretrain": pretrain,
        "evaluate": evaluate,
        "export": export,
    }


def _key(kind: str, name: str) -> str:
    """Return an artifact key: lower case letters, digits and dashes, as Prefect asks."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return f"{kind}-{plain}"


def _list(report: dict[str, Any]) -> str:
    return "\n".join(f"- **{name}**: {value}" for name, value in report.items())
