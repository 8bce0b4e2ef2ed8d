"""`headrace export`: the weights of a run as other libraries load them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.arguments import Direct, Json, Store, stages_by_name
from flows.options import answer, errors_for_people

EXPORT_EXAMPLE = "Example: headrace export first --to hf --output first-hf"


class Layout(StrEnum):
    """Whose layout the files have."""

    timm = "timm"
    hf = "hf"
    headrace = "headrace"


def export(
    run: Annotated[str, typer.Argument(help="the run whose weights are written")],
    to: Annotated[
        Layout,
        typer.Option(
            help="timm or hf (Hugging Face): the encoder, where there is a class for it; headrace: "
            "all of any model, under our own names"
        ),
    ],
    output: Annotated[Path, typer.Option(help="the folder to write")],
    step: Annotated[int, typer.Option(help="of the checkpoint; 0 takes the newest")] = 0,
    decoder: Annotated[
        bool, typer.Option("--decoder", help="hf: add the decoder, for …ForPreTraining")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="write over an earlier export")
    ] = False,
    store: Store = "./store",
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Write a run's weights as safetensors with the config.json that its library reads."""
    with errors_for_people():
        report = stages_by_name(direct)["export"](
            store, run, to.value, str(output.resolve()), step, decoder, overwrite
        )
    names = ", ".join(Path(file).name for file in report["files"])
    text = f"{run} step {report['step']} to {output}: {names}\n  {report['load']}"
    answer(report, as_json, text)
