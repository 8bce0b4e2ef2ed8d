"""`headrace study`, `up` and `serve`: what a YAML file says, now or by a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.arguments import (
    Direct,
    Json,
    RayAddress,
    Store,
    Workers,
    executor_values,
    stages_by_name,
)
from flows.options import UsageError, answer, errors_for_people, output_file, say

if TYPE_CHECKING:
    from flows.serve_plan import ServePlan

STUDY_EXAMPLE = (
    "Examples: headrace study examples/study_masks.yaml; headrace study masks.yaml --dry-run. Run "
    "it again after new files came or settings changed: it does what is missing."
)

UP_EXAMPLE = "Examples: headrace up; headrace up --port 4300 --json"
SERVE_EXAMPLE = (
    "Examples: headrace serve examples/nightly.yaml; headrace serve examples/nightly.yaml --list; "
    "headrace serve examples/nightly.yaml --pause nightly"
)
PORT = 4200


def study(
    file: Annotated[Path, typer.Argument(help="the YAML file that describes the study")],
    output: Annotated[Path | None, typer.Option(help="the HTML file; by default NAME.html")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check the file and name the runs; nothing is written")
    ] = False,
    store: Store = "./store",
    workers: Workers = 0,
    direct: Direct = False,
    ray_address: RayAddress = "",
    as_json: Json = False,
) -> None:
    """Compare recipes on one dataset: ingest, columns, runs, probes, one report."""
    from flows.study import dry_study, run_study, study_text
    from flows.study_plan import StudyPlan
    from flows.yaml_files import read_yaml

    with errors_for_people():
        plan = read_yaml(file, StudyPlan)
        executor = executor_values(workers, direct, ray_address)
        if dry_run:
            report, text = dry_study(plan)
        else:
            path = output_file(output or Path(f"{plan.name}.html"))
            stages = stages_by_name(direct)
            if "study" in stages:
                report = stages["study"](store, plan.model_dump(), executor, str(path))
            else:
                report = run_study(store, plan, stages, executor, path)
            text = study_text(report)
    answer(report, as_json, text)


def up(
    port: Annotated[int, typer.Option(help="of the server", min=1, max=65535)] = PORT,
    seconds: Annotated[float, typer.Option(help="to wait for it to answer")] = 300.0,
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Start a local Prefect server, with its UI, that stays; one that runs there is taken."""
    from flows.prefect_server import start_lasting

    del store  # every command takes it; a server has none
    with errors_for_people():
        url = start_lasting(port, seconds)
    page = url.removesuffix("/api")
    text = (
        f"{page} shows flows, runs and artifacts. Let commands use it: "
        f"export PREFECT_API_URL={url}\n'prefect server stop' ends it."
    )
    answer({"url": page, "api": url}, as_json, text)


def serve(
    file: Annotated[Path, typer.Argument(help="the YAML file of deployments")],
    listed: Annotated[
        bool, typer.Option("--list", help="say what the server knows of them, and end")
    ] = False,
    pause: Annotated[str, typer.Option(help="name of a deployment; then end")] = "",
    resume: Annotated[str, typer.Option(help="name of a deployment; then end")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check the file; nothing is deployed")
    ] = False,
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Run flows by schedules: cron, interval, or when new files appear; until Ctrl-C."""
    from flows.serve_plan import ServePlan
    from flows.yaml_files import read_yaml

    with errors_for_people():
        plan = read_yaml(file, ServePlan)
        if sum(map(bool, (listed, pause, resume, dry_run))) > 1:
            raise UsageError("serve: give one of --list, --pause, --resume and --dry-run.")
        for name, about in plan.deployments.items():
            say(f"{name}: {about.flow}, {about.when}")
        report = [] if dry_run else _served(plan, store, listed, pause, resume)
    lines = [f"{one['name']}: {_state(one)}" for one in report]
    answer({"deployments": report}, as_json, "\n".join(lines))


def _served(
    plan: ServePlan, store: str, listed: bool, pause: str, resume: str
) -> list[dict[str, Any]]:
    """Do what was asked with the server; returns the deployments."""
    from flows.prefect_server import lasting_server

    lasting_server(PORT)
    from flows import prefect_serve

    if pause or resume:
        prefect_serve.set_paused(plan, pause or resume, bool(pause))
    elif not listed:
        prefect_serve.serve_plan(plan, store)
    return prefect_serve.list_deployments(plan)


def _state(about: dict[str, Any]) -> str:
    runs = ", ".join(f"{count} {state}" for state, count in sorted(about["runs"].items()))
    return f"{'paused' if about['paused'] else 'active'}, {about['when']}; {runs or 'no runs'}"
