"""From a store to a report: what datasets and runs hold, as the plain data that `flows.report`
renders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flows.report import render_report
from flows.report_curves import Series
from flows.report_parts import (
    Books,
    Chart,
    DatasetSection,
    Exhibit,
    Image,
    ProbeRow,
    RejectCause,
    ReportData,
    Row,
    RunSection,
    Table,
    image,
)
from flows.report_pictures import fitted, overlay_mask, stained, strip, true_colour
from flows.report_samples import EXHIBIT, SHOWN_FRAMES, choose, column_section, thumbnails
from pipelines.batch import BatchBuilder
from pipelines.catalog import describe_dataset, describe_run, open_snapshot, read_rejects
from pipelines.ledger import ledger_of
from pipelines.recipe_stream import stream_of
from pipelines.rows import read_rows
from preprocessing.statistics import ByChannels, apart_from_json, merge_apart, most_common
from storage.columns import list_columns
from storage.fs import Store, open_store
from storage.snapshots import Snapshot, list_datasets
from training.recipe import make_recipe

THUMBNAILS, EXAMPLES, MASKED, PICTURES = 16, 2, 3, 3
DRAWN = "input, masked, reconstruction"
LOOKED_AT = 32
"Samples among which the exhibits of masks are chosen."


def write_report(store: str, names: Sequence[str], output: Path) -> Path:
    """Write one HTML file about datasets and runs.

    Raises:
        FileNotFoundError: the store holds nothing of such a name.
    """
    place = open_store(store, writable=False)
    known = set(list_datasets(place))
    datasets = tuple(dataset_section(place, name) for name in names if name in known)
    runs = tuple(run_section(place, name) for name in names if name not in known)
    data = ReportData(
        title=" · ".join(names) if len(names) <= 2 else "headrace report",
        subtitle=f"{_count(len(datasets), 'dataset')}, {_count(len(runs), 'run')}",
        summary=_summary(datasets, runs) if len(names) > 1 else None,
        datasets=datasets,
        runs=runs,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render_report(data), encoding="utf-8")
    return output


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _summary(datasets: tuple[DatasetSection, ...], runs: tuple[RunSection, ...]) -> Table:
    rows = []
    for dataset in datasets:
        run = next((run for run in runs if run.dataset == dataset.name), None)
        probe = run.probes[0] if run and run.probes else None
        rows.append(
            (
                dataset.modality,
                dataset.books.inputs,
                dataset.books.rejects,
                dataset.samples,
                ", ".join(column.name for column in dataset.columns),
                run.recipe if run else "",
                f"{probe.untrained:.1%} → {probe.trained:.1%}"
                if probe and probe.untrained is not None
                else "",
            )
        )
    heads = (
        "modality",
        "raw files",
        "rejected",
        "samples",
        "columns",
        "recipe",
        "kNN untrained → trained",
    )
    return Table(heads=heads, rows=tuple(rows))


def dataset_section(store: Store, name: str) -> DatasetSection:
    """Return what a report shows of a dataset."""
    snapshot, described = open_snapshot(store, name), describe_dataset(store, name)
    shown = choose(store, snapshot, THUMBNAILS)
    sizes = {column["fingerprint"]: column["bytes"] for column in described["columns"]}
    moving = sorted(shown, key=lambda sample: -sample.row["score"])[:EXAMPLES]
    return DatasetSection(
        name=name,
        **{
            key: described[key]
            for key in (
                "modality",
                "snapshot",
                "fingerprint",
                "parts",
                "shards",
                "samples",
                "bytes",
            )
        },
        books=Books(
            **{key: described[key] for key in ("inputs", "written", "duplicates", "rejects")}
        ),
        reject_causes=_causes(store, name),
        splits=described["splits"],
        labels=_labels(snapshot),
        statistics=_statistics(snapshot),
        thumbnails=thumbnails(shown),
        columns=tuple(
            column_section(store, name, spec, sizes[spec.fingerprint], moving)
            for spec in list_columns(store, name)
        ),
        ledger=_data_work(store, name),
    )


def _data_work(store: Store, dataset: str) -> Table | None:
    """Return what ingest and columns cost, and what later runs did not have to spend."""
    lines = ledger_of(store, dataset=dataset)["columns"]
    rows = tuple(
        (
            f"{line['column']} {line['fingerprint'][:8]}",
            round(line["seconds"], 2),
            round(line["bytes"] / 2**20, 2),
            line["runs"],
            round(line["saved"], 2),
        )
        for line in lines
    )
    heads = ("data work", "seconds", "MiB", "runs", "seconds saved by reuse")
    return Table(heads=heads, rows=rows) if rows else None


def _run_work(store: Store, run: str) -> Table | None:
    """Return the data work that a run was the first to use, and that it found done."""
    lines = ledger_of(store, run=run)["runs"]
    rows = tuple((e["dataset"], round(e["spent"], 2), round(e["saved"], 2)) for e in lines)
    heads = ("dataset", "seconds of data work", "seconds saved by reuse")
    return Table(heads=heads, rows=rows) if rows else None


def _causes(store: Store, name: str) -> tuple[RejectCause, ...]:
    rejects = read_rejects(store, name)
    counts = Counter(reject["reason_class"] for reject in rejects)
    return tuple(
        RejectCause(
            reason=reason,
            count=count,
            examples=tuple(
                (Path(r["uri"]).name, r["detail"]) for r in rejects if r["reason_class"] == reason
            )[:3],
        )
        for reason, count in counts.most_common()
    )


def _labels(snapshot: Snapshot) -> dict[str, int]:
    total: Counter[str] = Counter()
    for entry in snapshot.parts:
        total.update(entry.stats["labels"])
    return {name: count for name, count in sorted(total.items()) if name}


def _statistics(snapshot: Snapshot) -> Table:
    found: ByChannels = {}
    for entry in snapshot.parts:
        found = merge_apart(found, apart_from_json(entry.stats["moments"]))
    moments = most_common(found)
    names = snapshot.settings.get("channels") or [str(c) for c in range(len(moments.mean()))]
    deviations = [max(value, 0.0) ** 0.5 for value in moments.variance()]
    rows = tuple(zip(names, moments.mean(), deviations, strict=False))
    return Table(
        heads=("channel", "mean", "standard deviation"),
        rows=rows,
        caption="over all valid pixels, exact",
    )


def run_section(store: Store, name: str) -> RunSection:
    """Return what a report shows of a run."""
    run = describe_run(store, name)
    recipe, summary = run["recipe"], run.get("summary", {})
    lines = [json.loads(line) for line in store.read(f"runs/{name}/metrics.jsonl").splitlines()]
    steps = [line for line in lines if "loss" in line]
    return RunSection(
        name=name,
        dataset=recipe["data"]["dataset"],
        recipe=recipe["name"],
        paper=recipe["paper"],
        facts=_facts(summary),
        charts=_charts(steps, lines),
        masks=_masks(store, recipe),
        pictures=_pictures(store, name),
        throughput=_throughput(steps),
        ledger=_run_work(store, name),
        probes=tuple(_probe(probe) for probe in run["probes"]),
        provenance=run["provenance"],
    )


def _facts(summary: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if not summary:
        return (("state", "not finished"),)
    heldout = summary["heldout_loss"]
    return (
        ("steps", f"{summary['step']}"),
        ("parameters", f"{summary['parameters'] / 1e6:.2f} M"),
        ("loss", f"{summary['first_loss']:.4f} → {summary['loss']:.4f}"),
        ("held-out loss", "none" if heldout is None else f"{heldout:.4f}"),
        ("throughput", f"{summary['samples_per_second']:.1f} samples/s"),
        ("waiting for data", f"{summary['data_wait_share']:.1%}"),
    )


def _charts(steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> tuple[Chart, ...]:
    loss = Series("training", tuple((line["step"], line["loss"]) for line in steps))
    held = tuple((x["step"], x["heldout_loss"]) for x in lines if x.get("heldout_loss") is not None)
    speed = Series("samples/s", tuple((line["step"], line["samples_per_second"]) for line in steps))
    return (
        Chart(
            title="loss",
            x_label="step",
            y_label="loss",
            series=(loss, Series("held-out", held, dashed=True)),
        ),
        Chart(title="throughput", x_label="step", y_label="samples/s", series=(speed,)),
    )


def _throughput(steps: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            line["step"],
            round(line["samples_per_second"], 1),
            f"{line['data_wait_share']:.1%}",
            line["lr"],
        )
        for line in steps[-8:]
    )
    return Table(heads=("step", "samples/s", "waiting for data", "learning rate"), rows=rows)


def _pictures(store: Store, name: str) -> tuple[Image, ...]:
    paths = [
        entry.path for entry in store.list(f"runs/{name}/pictures") if entry.path.endswith(".png")
    ]
    chosen = paths[:1] + paths[-(PICTURES - 1) :] if len(paths) > PICTURES else paths
    return tuple(
        image(_rgb(store.read(path)), f"step {int(Path(path).stem.removeprefix('step-'))}: {DRAWN}")
        for path in chosen
    )


def _rgb(png: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a PNG: stored again as WebP it is a tenth of the bytes."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(pixels, np.uint8)


def _probe(probe: dict[str, Any]) -> ProbeRow:
    return ProbeRow(
        dataset=probe["test"] or probe["dataset"],
        probe=probe["probe"],
        samples=probe["queries"],
        classes=probe["classes"],
        untrained=probe.get("untrained_accuracy"),
        trained=probe["accuracy"],
    )


def _masks(store: Store, recipe: dict[str, Any]) -> tuple[Exhibit, ...]:
    """Return samples as the run saw them in its first epoch: the view, and the mask over it.

    Of the samples with the most motion, those whose mask changes most over time.
    """
    made = make_recipe(recipe)
    stream = stream_of(made)
    snapshot = open_snapshot(store, stream.dataset, stream.snapshot)
    rows = read_rows(store, snapshot, None, stream.needed_columns())
    scores = [
        (-score, shard, row)
        for shard, entry in enumerate(rows)
        for row, score in enumerate(entry.table["score"].to_pylist())
    ]
    chosen = [(shard, row) for _, shard, row in sorted(scores)[:LOOKED_AT]]
    batch = BatchBuilder(store.uri, stream, rows).build(chosen, epoch=0)
    bands = [name for group in made.model.groups for name in group]
    bands = bands or list(snapshot.settings["channels"])
    edge = made.view.size // made.model.patch
    tokens = np.arange(batch["visible"].shape[1] + batch["masked"].shape[1])
    masks = [np.isin(tokens, ids).reshape(-1, edge, edge) for ids in batch["masked"].numpy()]
    moving = sorted(range(len(masks)), key=lambda i: -int((masks[i][0] != masks[i][-1]).sum()))
    title = f"{made.mask.kind} mask, {made.mask.ratio:.0%} hidden"
    return tuple(
        Exhibit(
            title=title,
            rows=_masked_rows(
                _as_frames(batch["pixels"][i].numpy(), bands, made.modality), masks[i]
            ),
        )
        for i in moving[:MASKED]
    )


def _masked_rows(frames: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[Row, ...]:
    """Return the frames (T, H, W, 3), and below them the frames under their mask (t, h, w)."""
    if len(frames) < len(mask):  # band groups: one picture, a mask a group
        frames = np.repeat(frames, len(mask), 0)
    steps = np.linspace(0, len(frames) - 1, min(len(frames), SHOWN_FRAMES)).round().astype(int)
    return tuple(
        Row(label=label, image=image(strip([fitted(shown[i], EXHIBIT) for i in steps])))
        for label, shown in (("seen", frames), ("masked", overlay_mask(frames, mask)))
    )


def _as_frames(pixels: NDArray[Any], bands: list[str], modality: str) -> NDArray[np.uint8]:
    """Return batch pixels (C, H, W) or (C, T, H, W) as RGB frames (T, H, W, 3)."""
    if pixels.ndim == 4:
        return np.ascontiguousarray(pixels.transpose(1, 2, 3, 0))
    if modality == "image":
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))[None]
    return (true_colour(pixels, bands) if modality == "satellite" else stained(pixels, bands))[None]
