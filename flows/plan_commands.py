"""`headrace study`: commands that do what a YAML file says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from flows.options import answer, errors_for_people, output_file

STUDY_EXAMPLE = (
    "Examples: headrace study examples/study_masks.yaml; headrace study masks.yaml --dry-run. Run "
    "it again after new files came or settings changed: it does what is missing."
)


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
