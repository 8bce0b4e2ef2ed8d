"""`headrace derive` and `headrace why`: columns made, told in advance, explained."""

from __future__ import annotations

from typing import Annotated, Any

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
from flows.command_text import cost_line, derive_line
from flows.options import UsageError, answer, column_settings, errors_for_people, split_settings

DERIVE_EXAMPLE = (
    "Examples: headrace derive clips flow hog cell=8 view.size=112; headrace derive clips --for "
    "mgmae_tiny --plan --epochs 800; headrace derive photos features weights=run:first"
)
WHY_EXAMPLE = "Example: headrace why clips hog cell=4"


def derive(
    dataset: Annotated[str, typer.Argument(help="the dataset")],
    columns: Annotated[
        list[str] | None, typer.Argument(help="columns, and key=value settings")
    ] = None,
    recipe: Annotated[
        str, typer.Option("--for", help="derive what this recipe needs, as it needs it")
    ] = "",
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="measure a few samples and say what it would cost; nothing is written"
        ),
    ] = False,
    epochs: Annotated[
        float,
        typer.Option(help="with --plan: how often each sample is looked at, all runs together"),
    ] = 1.0,
    store: Store = "./store",
    workers: Workers = 0,
    direct: Direct = False,
    ray_address: RayAddress = "",
    as_json: Json = False,
) -> None:
    """Compute derived columns; what is there already is left alone."""
    with errors_for_people():
        if epochs <= 0:
            raise UsageError(f"--epochs is {epochs}; it must be above 0.")
        asked = _asked(dataset, columns or [], recipe)
        executor = executor_values(workers, direct, ray_address)
        if plan:
            from flows.stages import run_derive_plan

            report = run_derive_plan(store, dataset, asked, epochs)
        else:
            report = stages_by_name(direct)["derive"](store, dataset, asked, executor)
    if plan:
        count = executor["workers"]
        lines = [cost_line(dataset, name, about, count) for name, about in report.items()]
    else:
        lines = [derive_line(dataset, name, about) for name, about in report.items()]
    answer(report, as_json, "\n".join(lines))


def _asked(dataset: str, words: list[str], recipe: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of each column that the command line, or a recipe, asks for."""
    from pipelines.producers import PRODUCERS

    if recipe:
        from flows.recipes import needed_columns

        named, _ = split_settings(words)
        if named:
            raise UsageError(
                f"derive {dataset} --for {recipe}: the recipe says which columns. Leave out "
                f"{', '.join(named)}, or --for."
            )
        asked = needed_columns(recipe, dataset, words)
        if not asked:
            raise UsageError(f"derive {dataset} --for {recipe}: this recipe needs no column.")
        return asked
    names, settings = split_settings(words)
    known = {name: producer.defaults for name, producer in PRODUCERS.items()}
    asked = column_settings(names, settings, known)
    if not asked:
        raise UsageError(
            f"derive {dataset}: name at least one column of {', '.join(PRODUCERS)}, or --for "
            "RECIPE."
        )
    return asked


def why(
    dataset: Annotated[str, typer.Argument(help="the dataset")],
    column: Annotated[list[str], typer.Argument(help="a column, and key=value settings")],
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Explain, a line a part, whether a column is there, and if not what differs."""
    from flows.weights import with_weights
    from pipelines.derive import why as explain
    from pipelines.producers import PRODUCERS
    from storage.fs import open_store

    with errors_for_people():
        names, _ = split_settings(column)
        if len(names) != 1:
            raise UsageError(f"why {dataset}: name exactly one column of {', '.join(PRODUCERS)}.")
        place = open_store(store, writable=False)
        asked, _ = with_weights(place, _asked(dataset, column, ""))
        parts = explain(place, dataset, names[0], asked[names[0]])
    answer(
        {"parts": parts},
        as_json,
        "\n".join(f"{p['part']}: {p['state']}: {p['reason']}" for p in parts),
    )
