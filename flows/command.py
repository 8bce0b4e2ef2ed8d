"""The `headrace` command: a thin face over the flows. Results on standard output, everything else
on standard error."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.command_text import derive_line, ingest_text, pretrain_line
from flows.options import (
    OVER_BUDGET,
    UsageError,
    answer,
    column_settings,
    errors_for_people,
    say,
    split_settings,
)

app = typer.Typer(
    name="headrace",
    help="Raw files to shards, derived columns, ordered batches and a pretrained encoder.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Modality(StrEnum):
    """Kinds of raw data."""

    image = "image"
    video = "video"
    microscopy = "microscopy"
    satellite = "satellite"


class FeedKind(StrEnum):
    """Where batches are made."""

    local = "local"
    ray = "ray"


class Probe(StrEnum):
    """Tests of a frozen encoder."""

    knn = "knn"
    linear = "linear"


Store = Annotated[
    str,
    typer.Option(
        envvar="HEADRACE_STORE", help="where datasets and runs are: a folder or a URI (s3://…)"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]
Workers = Annotated[int, typer.Option(help="processes or Ray tasks at once; 0 takes one a core")]
Direct = Annotated[
    bool, typer.Option("--direct", help="run the same functions without Prefect and Ray")
]
RayAddress = Annotated[
    str, typer.Option(help="a running Ray cluster; by default one is started here")
]


def _executor(workers: int, direct: bool, ray_address: str) -> dict[str, Any]:
    if direct and ray_address:
        raise UsageError(
            "--direct runs without Ray, so it cannot go with --ray-address. Leave one out."
        )
    count = workers or os.cpu_count() or 1
    return {"kind": "direct" if direct else "ray", "workers": count, "ray_address": ray_address}


def _stages(direct: bool) -> Any:
    """Return the stages by name: plain functions, or the same ones as Prefect flows."""
    if direct:
        from flows import stages

        return {
            name.removeprefix("run_"): getattr(stages, name)
            for name in dir(stages)
            if name.startswith("run_")
        }
    from flows import prefect_flows

    return {
        name: getattr(prefect_flows, name) for name in ("ingest", "derive", "pretrain", "evaluate")
    }


@app.command(
    epilog="Example: headrace ingest ./photos --modality image --dataset photos "
    "--resize 256 --labels parent"
)
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(help="folders, files, tars, or lists of files (CSV, Parquet, JSONL)"),
    ],
    modality: Annotated[Modality, typer.Option(help="kind of the raw files")],
    dataset: Annotated[str, typer.Option(help="name of the dataset that gets a new part")],
    store: Store = "./store",
    resize: Annotated[int, typer.Option(help="short side in pixels; 0 keeps the size")] = 0,
    pattern: Annotated[
        str,
        typer.Option(
            help="groups files by named groups, e.g. "
            r"'(?P<well>[A-P]\d\d)_s(?P<site>\d)_(?P<channel>\w+)\.tif'"
        ),
    ] = "",
    labels: Annotated[
        str, typer.Option(help="'parent' (folder name) or a column of the list")
    ] = "",
    shard_size: Annotated[
        int, typer.Option(help="raw bytes that go into one shard; 0 chooses by the input")
    ] = 0,
    frames: Annotated[int, typer.Option(help="frames of a clip")] = 16,
    stride: Annotated[int, typer.Option(help="source frames between two frames of a clip")] = 1,
    fps: Annotated[float, typer.Option(help="clip frames a second, in place of --stride")] = 0.0,
    tile: Annotated[
        int, typer.Option(help="edge of tiles in pixels; 0 keeps fields and scenes whole")
    ] = 0,
    overlap: Annotated[int, typer.Option(help="pixels that neighbouring tiles share")] = 0,
    min_valid: Annotated[float, typer.Option(help="least share of valid pixels of a tile")] = 0.05,
    channels: Annotated[str, typer.Option(help="channel or band names, comma separated")] = "",
    heldout: Annotated[
        float, typer.Option(help="share of groups kept for the held-out loss")
    ] = 0.01,
    max_reject: Annotated[
        float, typer.Option(help="share of refused files above which the exit code is 3")
    ] = 0.01,
    retry_rejects: Annotated[
        bool, typer.Option(help="take files that an earlier ingest refused again")
    ] = False,
    workers: Workers = 0,
    direct: Direct = False,
    ray_address: RayAddress = "",
    as_json: Json = False,
) -> None:
    """Turn raw files into WebDataset shards: a new part and snapshot of a dataset."""
    with errors_for_people():
        spec = {
            "modality": modality.value,
            "resize": resize,
            "pattern": pattern,
            "labels": labels,
            "shard_size": shard_size,
            "frames": frames,
            "stride": stride,
            "fps": fps,
            "tile": tile,
            "overlap": overlap,
            "min_valid": min_valid,
            "channels": [name.strip() for name in channels.split(",") if name.strip()],
            "heldout": heldout,
        }
        run = _stages(direct)["ingest"]
        report = run(
            store,
            sources,
            dataset,
            spec,
            _executor(workers, direct, ray_address),
            retry_rejects=retry_rejects,
        )
    answer(report, as_json, ingest_text(report))
    taken = report["inputs"] - report["skipped"]
    if taken and report["rejects"] / taken > max_reject:
        say(
            f"headrace: {report['rejects']} of {taken} files were refused, more than --max-reject "
            f"{max_reject:.2%}. "
            f"See 'headrace ls {dataset} --rejects'; the others are in the dataset."
        )
        raise typer.Exit(OVER_BUDGET)


@app.command(epilog="Example: headrace derive clips flow hog cell=8 view.size=112")
def derive(
    dataset: Annotated[str, typer.Argument(help="the dataset")],
    columns: Annotated[
        list[str] | None, typer.Argument(help="columns, and key=value settings")
    ] = None,
    recipe: Annotated[
        str, typer.Option("--for", help="derive what this recipe needs, as it needs it")
    ] = "",
    store: Store = "./store",
    workers: Workers = 0,
    direct: Direct = False,
    ray_address: RayAddress = "",
    as_json: Json = False,
) -> None:
    """Compute derived columns; what is there already is left alone."""
    from pipelines.producers import PRODUCERS

    with errors_for_people():
        names, settings = split_settings(columns or [])
        known = {name: producer.defaults for name, producer in PRODUCERS.items()}
        if recipe:
            from flows.recipes import needed_columns

            asked = needed_columns(recipe, dataset, columns or [])
        else:
            asked = column_settings(names, settings, known)
        if not asked:
            raise UsageError(
                f"derive {dataset}: name at least one column of {', '.join(PRODUCERS)}, or --for "
                "RECIPE."
            )
        report = _stages(direct)["derive"](
            store, dataset, asked, _executor(workers, direct, ray_address)
        )
    answer(
        report,
        as_json,
        "\n".join(derive_line(dataset, name, about) for name, about in report.items()),
    )


@app.command(epilog="Example: headrace why clips hog cell=4")
def why(
    dataset: Annotated[str, typer.Argument(help="the dataset")],
    column: Annotated[list[str], typer.Argument(help="a column, and key=value settings")],
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Explain, a line a part, whether a column is there, and if not what differs."""
    from pipelines.derive import why as explain
    from pipelines.producers import PRODUCERS
    from storage.fs import open_store

    with errors_for_people():
        names, settings = split_settings(column)
        if len(names) != 1:
            raise UsageError(f"why {dataset}: name exactly one column of {', '.join(PRODUCERS)}.")
        known = {name: producer.defaults for name, producer in PRODUCERS.items()}
        asked = column_settings(names, settings, known)[names[0]]
        parts = explain(open_store(store), dataset, names[0], asked)
    answer(
        {"parts": parts},
        as_json,
        "\n".join(f"{p['part']}: {p['state']}: {p['reason']}" for p in parts),
    )


@app.command(
    epilog="Example: headrace pretrain mgmae_tiny data.dataset=clips steps=200 --run first"
)
def pretrain(
    recipe: Annotated[str, typer.Argument(help="name or path of a recipe")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value in place of the recipe's own")
    ] = None,
    run: Annotated[str, typer.Option(help="name of the run; by default the recipe's")] = "",
    resume: Annotated[bool, typer.Option(help="continue the run from its last checkpoint")] = False,
    feed: Annotated[FeedKind, typer.Option(help="where batches are made")] = FeedKind.local,
    workers: Annotated[int, typer.Option(help="loader processes")] = 0,
    store: Store = "./store",
    direct: Direct = False,
    as_json: Json = False,
) -> None:
    """Pretrain an encoder by a recipe."""
    with errors_for_people():
        name = run or Path(recipe).stem
        report = _stages(direct)["pretrain"](
            store, recipe, settings or [], name, resume, feed.value, workers
        )
    answer(report, as_json, pretrain_line(report))


@app.command(epilog="Example: headrace evaluate first --dataset photos --untrained")
def evaluate(
    run: Annotated[str, typer.Argument(help="the run whose encoder is tested")],
    dataset: Annotated[
        str, typer.Option(help="labelled samples; tested leave-one-out unless --test is given")
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
        report = _stages(direct)["evaluate"](store, run, dataset, test, probe.value, untrained)
    beside = (
        ""
        if report.get("untrained_accuracy") is None
        else f" (untrained {report['untrained_accuracy']:.2%})"
    )
    answer(
        report,
        as_json,
        f"{run} on {test or dataset}: {report['probe']} accuracy {report['accuracy']:.2%}{beside}",
    )


@app.command(epilog="Example: headrace verify photos")
def verify(
    dataset: Annotated[str, typer.Argument(help="the dataset")],
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """Check every byte of a dataset against its manifests."""
    from flows.stages import run_verify

    with errors_for_people():
        report = run_verify(store, dataset)
    lines = [f"{d['where']}: {d['sample'] or 'the file'}: {d['detail']}" for d in report["damaged"]]
    lines.append(
        f"{dataset}: {report['samples']} samples checked, {len(report['damaged'])} damaged"
    )
    answer(report, as_json, "\n".join(lines))
    if report["damaged"]:
        raise typer.Exit(1)


@app.command("ls", epilog="Example: headrace ls photos --rejects")
def list_catalog(
    name: Annotated[str, typer.Argument(help="a dataset or a run; by default all")] = "",
    rejects: Annotated[bool, typer.Option(help="files that were refused, and why")] = False,
    samples: Annotated[int, typer.Option(help="show this many samples")] = 0,
    store: Store = "./store",
    as_json: Json = False,
) -> None:
    """List datasets with their columns, and runs."""
    from flows.listing import catalog, catalog_text

    with errors_for_people():
        result = catalog(store, name, rejects=rejects, samples=samples)
    answer(result, as_json, catalog_text(result))


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
        path = write_report(store, [name], output or Path(f"{name}.html"))
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
            _stages(direct),
            _executor(0, direct, ""),
        )
    answer(result, as_json, result["table"])


def main() -> None:
    """Run the command."""
    app()
