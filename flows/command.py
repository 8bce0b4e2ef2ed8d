"""The `headrace` command: a thin face over the flows. Results on standard output, everything else
on standard error."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flows import (
    column_commands,
    doctor,
    export_command,
    ingest_commands,
    plan_commands,
    store_commands,
)
from flows.arguments import (
    Direct,
    Json,
    Modality,
    Store,
    executor_values,
    stages_by_name,
)
from flows.command_text import evaluate_line, pretrain_line, pretrain_plan_line
from flows.options import INTERRUPTED, UsageError, answer, errors_for_people, output_file

_FOLDER = Path(__file__).resolve().parent.parent / "recipes"
RECIPES = ", ".join(sorted(path.stem for path in _FOLDER.glob("*.yaml")))
"Named in the help of pretrain; looked up here, as what reads recipes loads much more."

app = typer.Typer(
    name="headrace",
    help="Raw files to shards, derived columns, ordered batches and a pretrained encoder.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class FeedKind(StrEnum):
    """Where batches are made."""

    local = "local"
    ray = "ray"


class Probe(StrEnum):
    """Tests of a frozen encoder."""

    knn = "knn"
    linear = "linear"
    attentive = "attentive"


app.command(epilog=ingest_commands.PLAN_EXAMPLE)(ingest_commands.plan)
app.command(epilog=ingest_commands.INGEST_EXAMPLE)(ingest_commands.ingest)
app.command(epilog=column_commands.DERIVE_EXAMPLE)(column_commands.derive)
app.command(epilog=column_commands.WHY_EXAMPLE)(column_commands.why)


@app.command(
    epilog="Example: headrace pretrain mgmae_tiny data.dataset=clips steps=200 --run first"
)
def pretrain(
    recipe: Annotated[str, typer.Argument(help=f"name or path of a recipe; known: {RECIPES}")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value in place of the recipe's own")
    ] = None,
    run: Annotated[str, typer.Option(help="name of the run; by default the recipe's")] = "",
    resume: Annotated[bool, typer.Option(help="continue the run from its last checkpoint")] = False,
    feed: Annotated[FeedKind, typer.Option(help="where batches are made")] = FeedKind.local,
    workers: Annotated[int, typer.Option(help="loader processes, or Ray actors, of each rank")] = 0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="check recipe, data and columns; nothing is written"),
    ] = False,
    store: Store = "./store",
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Pretrain an encoder by a recipe."""
    with errors_for_people():
        if workers < 0:
            raise UsageError(f"--workers is {workers}; it must not be negative.")
        name = run or Path(recipe).stem
        if dry_run:
            from flows.stages import run_pretrain_plan

            told = run_pretrain_plan(store, recipe, settings or [], name)
            answer(told, as_json, pretrain_plan_line(told))
            return
        report = stages_by_name(direct)["pretrain"](
            store, recipe, settings or [], name, resume, feed.value, workers
        )
    answer(report, as_json, pretrain_line(report))


@app.command(epilog="Example: headrace evaluate first --dataset photos --untrained")
def evaluate(
    run: Annotated[str, typer.Argument(help="the run whose encoder is tested")],
    dataset: Annotated[
        str,
        typer.Option(
            help="labelled samples that teach the probe; without --test its held-out samples are "
            "asked, or each group of samples in turn"
        ),
    ],
    test: Annotated[str, typer.Option(help="another dataset to test on")] = "",
    probe: Annotated[Probe, typer.Option(help="kind of test")] = Probe.knn,
    untrained: Annotated[bool, typer.Option(help="also test the same encoder untrained")] = False,
    store: Store = "./store",
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Probe a frozen encoder on labelled samples."""
    with errors_for_people():
        report = stages_by_name(direct)["evaluate"](
            store, run, dataset, test, probe.value, untrained
        )
    answer(report, as_json, evaluate_line(report))


app.command(epilog=export_command.EXPORT_EXAMPLE)(export_command.export)
app.command(epilog=store_commands.VERIFY_EXAMPLE)(store_commands.verify)
app.command("gc", epilog=store_commands.GC_EXAMPLE)(store_commands.collect_garbage)
app.command("ls", epilog=store_commands.LS_EXAMPLE)(store_commands.list_catalog)
app.command(epilog=doctor.EXAMPLE)(doctor.doctor)
app.command(epilog=plan_commands.STUDY_EXAMPLE)(plan_commands.study)
app.command(epilog=plan_commands.UP_EXAMPLE)(plan_commands.up)
app.command(epilog=plan_commands.SERVE_EXAMPLE)(plan_commands.serve)


@app.command(epilog="Example: headrace report photos --output photos.html")
def report(
    name: Annotated[str, typer.Argument(help="a dataset or a run")],
    output: Annotated[Path | None, typer.Option(help="the HTML file; by default NAME.html")] = None,
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file about a dataset or a run."""
    from flows.report_data import write_report

    with errors_for_people():
        path = write_report(store, [name], output_file(output or Path(f"{name}.html")))
    answer({"report": str(path)}, as_json, f"report: {path}")


@app.command(epilog="Example: headrace demo --store ./demo-store --modality video")
def demo(
    modality: Annotated[
        list[Modality] | None, typer.Option(help="only these; by default all four")
    ] = None,
    store: Store = "./store",
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Walk the whole road on raw inputs made on the spot: ingest, derive, pretrain, probe,
    report."""
    from flows.demo import run_demo

    with errors_for_people():
        result = run_demo(
            store,
            [m.value for m in modality or list(Modality)],
            stages_by_name(direct),
            executor_values(0, direct, ""),
        )
    answer(result, as_json, result["table"])


def main() -> None:
    """Run the command."""
    try:
        app()
    except SystemExit as ended:
        # All is said: a Ctrl-C from here on changes nothing.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if ended.code == INTERRUPTED:
            _leave(INTERRUPTED)
        raise


def _leave(code: int) -> NoReturn:
    """End without taking the interpreter apart: threads of an interrupted flow, of Ray and Prefect,
    may be at work in it, and crash then."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
