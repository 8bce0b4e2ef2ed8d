"""`headrace ingest` and `headrace plan`: the same options, done or only told."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.arguments import (
    Direct,
    Json,
    Modality,
    RayAddress,
    RetryRejects,
    Store,
    Workers,
    executor_values,
    spec_values,
    spec_words,
    stages_by_name,
    takes_spec,
)
from flows.command_text import ingest_text, plan_text
from flows.options import OVER_BUDGET, UsageError, answer, errors_for_people, say

INGEST_EXAMPLE = (
    "Example: headrace ingest ./photos --modality image --dataset photos --resize 256 "
    "--labels parent. Run it again after new files came, or after a kill: it takes what is missing."
)
PLAN_EXAMPLE = (
    "Example: headrace plan ./photos --modality image --resize 256 --workers 16. It reads the "
    "sources and writes nothing."
)


@takes_spec
def ingest(
    modality: Annotated[Modality, typer.Option(help="kind of the raw files")],
    dataset: Annotated[str, typer.Option(help="name of the dataset that gets a new part")],
    spec: dict[str, Any],
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="folders, files, tars, or lists of files (CSV, Parquet, JSONL)"),
    ] = None,
    store: Store = "./store",
    max_reject: Annotated[
        float, typer.Option(help="share of refused files above which the exit code is 3")
    ] = 0.01,
    retry_rejects: RetryRejects = False,
    workers: Workers = 0,
    direct: Direct = False,
    ray_address: RayAddress = "",
    as_json: Json = False,
) -> None:
    """Turn raw files into WebDataset shards: a new part and snapshot of a dataset."""
    with errors_for_people():
        if not sources and not retry_rejects:
            raise UsageError(
                "ingest: name at least one SOURCE. Only --retry-rejects knows its files already."
            )
        if not 0 <= max_reject <= 1:
            raise UsageError(f"--max-reject is {max_reject}; it is a share, from 0 to 1.")
        executor = executor_values(workers, direct, ray_address)
        values = spec_values(modality.value, spec)
        run = stages_by_name(direct)["ingest"]
        report = run(store, sources or [], dataset, values, executor, retry_rejects=retry_rejects)
    answer(report, as_json, ingest_text(report))
    taken = report["inputs"] - report["skipped"]
    if taken and report["rejects"] / taken > max_reject:
        rest = (
            "the others are in the dataset"
            if report["written"]
            else ("are --modality and --pattern right? --retry-rejects takes these files again")
        )
        say(
            f"headrace: {report['rejects']} of {taken} files were refused, more than --max-reject "
            f"{max_reject:.2%}. See 'headrace ls {dataset} --rejects'; {rest}."
        )
        raise typer.Exit(OVER_BUDGET)


@takes_spec
def plan(
    sources: Annotated[
        list[str],
        typer.Argument(help="folders, files, tars, or lists of files (CSV, Parquet, JSONL)"),
    ],
    modality: Annotated[Modality, typer.Option(help="kind of the raw files")],
    spec: dict[str, Any],
    dataset: Annotated[str, typer.Option(help="name that the printed command gets")] = "NAME",
    store: Store = "./store",
    workers: Annotated[
        int, typer.Option(help="processes that the ingest would have; 0 takes one a core")
    ] = 0,
    probe_files: Annotated[int, typer.Option(help="files (or units) to encode at most")] = 64,
    probe_seconds: Annotated[float, typer.Option(help="time for the probe")] = 20.0,
    seed: Annotated[int, typer.Option(help="which files are probed")] = 0,
    as_json: Json = False,
) -> None:
    """Say what an ingest would do and cost, by a listing and a probe; nothing is written."""
    from flows.stages import run_plan

    with errors_for_people():
        if probe_files < 1:
            raise UsageError(f"--probe-files is {probe_files}; it must be 1 or more.")
        count = executor_values(workers, True, "")["workers"]
        report = run_plan(
            sources,
            spec_values(modality.value, spec),
            count,
            {"units": probe_files, "seconds": probe_seconds, "seed": seed},
        )
    words = ["headrace", "ingest", *sources, "--modality", modality.value, "--dataset", dataset]
    words += [*spec_words(spec), "--store", store]
    answer(report, as_json, plan_text(report, words))
