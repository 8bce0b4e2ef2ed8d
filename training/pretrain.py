"""The entry point: joins a feed to the loop, by a recipe. The only module here that imports
`pipelines`.

Runs in one process, or in several under torchrun: `torchrun --nproc-per-node 8 -m training.pretrain
RECIPE …`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from pipelines.feed import Feed, open_eval, open_feed, open_heldout
from pipelines.recipe_stream import stream_of
from pipelines.stream import StreamConfig
from storage.fs import Store, open_store
from training.assemble import about_input, count_parameters, make_trainer, restore
from training.checkpoints import list_checkpoints, read_checkpoint
from training.features import encode, told
from training.loop import train
from training.probes import Features, probe_named
from training.ranks import Place, bare, open_place, stop_on_signals, wait_for_all
from training.recipe import Recipe, make_recipe, read_recipe, recipe_fingerprint, resolve
from training.runs import Metrics, code_version, read_metrics, read_record, write_record
from training.session import Progress, Session, make_hooks, pick_example, sum_up

MIN_QUERIES = 20
"Fewer labelled held-out samples than this, and a probe leaves one out instead."


class RunError(RuntimeError):
    """A run cannot be begun or continued as asked."""


def pretrain(
    store: Store,
    recipe: Recipe,
    *,
    run: str,
    resume: bool = False,
    feed: str = "local",
    workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train by a recipe until its last step; returns the summary of the run.

    Args:
        run: name of the run; everything it leaves lies under runs/<run>.
        resume: continue from the newest checkpoint, if there is one.
        feed: local, or ray.
        workers: processes that compute batches ahead; 0 computes them in this one.
        progress: told (what, done, total).

    Raises:
        RunError: the run exists already, or was made by another recipe or from other data.
        KeyboardInterrupt: SIGINT came; the state is saved.
    """
    with open_place() as place:
        recipe, done = _begin(store, recipe, run, resume)
        if done >= recipe.steps:
            return _finish(store, recipe, run, place)
        stream = stream_of(recipe)
        opened = open_feed(
            store,
            stream,
            rank=place.rank,
            ranks=place.ranks,
            start=done,
            stop=recipe.steps,
            workers=workers,
            kind=feed,
        )
        try:
            return _train(store, recipe, run, place, opened, (done, stream, progress))
        finally:
            opened.close()


def _begin(store: Store, recipe: Recipe, run: str, resume: bool) -> tuple[Recipe, int]:
    """Return the recipe with its snapshot fixed, and how many steps are finished."""
    record = read_record(store, run)
    steps = list_checkpoints(store, run)
    if record is None:
        return recipe, 0
    if not resume and steps:
        raise RunError(
            f"run {run}: exists, with {steps[-1]} of {record['recipe']['steps']} steps done. "
            "Add --resume to continue it, or choose another --run."
        )
    if not resume:
        return recipe, 0
    if recipe.data.snapshot is None:
        snapshot = record["provenance"]["snapshot"]
        values = resolve(recipe)
        values["data"]["snapshot"] = snapshot
        recipe = make_recipe(values)
    if recipe_fingerprint(recipe) != record["provenance"]["recipe_fingerprint"]:
        raise RunError(
            f"run {run}: was begun with {_difference(record['recipe'], resolve(recipe))}. A run "
            "keeps its recipe. "
            "Give the same settings, or choose another --run."
        )
    return recipe, steps[-1] if steps else 0


def _difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> str:
    told = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            told.append(_difference(before, after, f"{where}{name}."))
        elif before != after:
            told.append(f"{where}{name}={before}, not {after}")
    return "; ".join(text for text in told if text)


def _train(
    store: Store, recipe: Recipe, run: str, place: Place, feed: Feed, plan: tuple[Any, ...]
) -> dict[str, Any]:
    done, stream, progress = plan
    source = iter(feed)
    first = next(source)
    about = about_input(recipe, first, feed.channels, dict(feed.stats))
    trainer = make_trainer(recipe, about, place)
    if done:
        restore(trainer, read_checkpoint(store, run, device=str(place.device)))
    pinned = recipe.data.snapshot or feed.fingerprints["snapshot"]
    if place.first:
        about["parameters"] = count_parameters(trainer)
        _record_run(store, recipe, run, feed, about, pinned)
    heldout = open_heldout(store, stream) if place.first else None
    session = Session(
        store=store,
        recipe=recipe,
        run=run,
        place=place,
        trainer=trainer,
        metrics=Metrics(store, run, done),
        heldout=heldout,
        example=pick_example(heldout, first),
        batches_per_epoch=feed.batches_per_epoch,
    )
    with stop_on_signals(place) as stop:
        hooks = make_hooks(session, stop, progress)
        finished = train(trainer, chain([first], source), range(done, recipe.steps), hooks)
    wait_for_all(place)
    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt(f"run {run}: saved at step {finished}; add --resume to continue")
    return _finish(store, recipe, run, place)


def _finish(store: Store, recipe: Recipe, run: str, place: Place) -> dict[str, Any]:
    """Return the summary of a run; kept with it once its last step is done."""
    record = read_record(store, run)
    assert record is not None, "a run that took a step has a record"
    summary = sum_up(run, recipe, read_metrics(store, run), record["input"]["parameters"])
    if place.first and summary["step"] == recipe.steps:
        write_record(store, run, "summary.json", summary)
    return summary


def _record_run(
    store: Store, recipe: Recipe, run: str, feed: Feed, about: dict[str, Any], pinned: int
) -> None:
    values = resolve(recipe)
    values["data"]["snapshot"] = pinned
    fixed = make_recipe(values)
    provenance = {
        **feed.fingerprints,
        "recipe_fingerprint": recipe_fingerprint(fixed),
        "code": code_version(),
        "torch": torch.__version__,
    }
    old = read_record(store, run)
    if old is not None and old["provenance"]["fingerprint"] != feed.fingerprints["fingerprint"]:
        raise RunError(
            f"run {run}: read snapshot {old['provenance']['fingerprint'][:12]} before, now "
            f"{feed.fingerprints['fingerprint'][:12]}. A run keeps its data; choose another --run."
        )
    if old is None:
        record = {
            "name": run,
            "recipe": values,
            "provenance": provenance,
            "input": about,
            "batches_per_epoch": feed.batches_per_epoch,
            "remainder": feed.remainder,
        }
        write_record(store, run, "run.json", record)


def evaluate(
    store: Store,
    run: str,
    dataset: str,
    *,
    test: str | None = None,
    probe: str = "knn",
    untrained: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Probe the frozen encoder of a run on labelled samples; the result is kept with the run.

    Args:
        dataset: whose samples teach the probe.
        test: dataset whose samples are asked; None asks the held-out samples of `dataset`, or, when
            these are fewer than 20, each sample with itself left out.
        probe: knn or linear.
        untrained: probe the same encoder at random initialisation too.

    Raises:
        RunError: no such run.
        ValueError: no labels, or an unknown probe.
    """
    record = read_record(store, run)
    if record is None:
        raise RunError(f"run {run}: there is none in {store.uri}. See 'headrace ls'.")
    measure = probe_named(probe)
    result: dict[str, Any] = {"run": run, "probe": probe, "dataset": dataset, "test": test}
    for name, fresh in (("accuracy", False), ("untrained_accuracy", True)):
        if fresh and not untrained:
            continue
        taught, asked = _features(store, record, (dataset, test), fresh, progress)
        result[name] = measure(taught, asked)
        result |= {
            "samples": len(taught[1]),
            "queries": len((asked or taught)[1]),
            "classes": len(set(taught[1])),
        }
        result["protocol"] = "train/test" if asked else "leave one out"
    suffix = f"-{test}" if test else ""
    write_record(store, run, f"probes/{dataset}{suffix}-{probe}.json", result)
    return result


def features(
    store: Store,
    run: str,
    dataset: str,
    *,
    split: str | None = None,
    untrained: bool = False,
    progress: Progress | None = None,
) -> Features:
    """Return the mean-pooled features (n, D) of a dataset's labelled samples under a run's encoder,
    and the labels.
    """
    record = read_record(store, run)
    if record is None:
        raise RunError(f"run {run}: there is none in {store.uri}. See 'headrace ls'.")
    return _encode(store, record, (dataset, split), untrained, progress)


def _features(
    store: Store,
    record: dict[str, Any],
    datasets: tuple[str, str | None],
    untrained: bool,
    progress: Progress | None,
) -> tuple[Features, Features | None]:
    dataset, test = datasets
    if test is not None:
        pairs = [(dataset, None), (test, None)]
        taught, asked = (_encode(store, record, pair, untrained, progress) for pair in pairs)
        return taught, asked
    taught = _encode(store, record, (dataset, "train"), untrained, progress)
    asked = _encode(store, record, (dataset, "heldout"), untrained, progress, needed=False)
    if len(asked[1]) >= MIN_QUERIES:
        return taught, asked
    return (
        torch.cat([taught[0], asked[0]]) if len(asked[1]) else taught[0],
        taught[1] + asked[1],
    ), None


def _encode(
    store: Store,
    record: dict[str, Any],
    what: tuple[str, str | None],
    untrained: bool,
    progress: Progress | None,
    needed: bool = True,
) -> Features:
    dataset, split = what
    recipe = make_recipe(record["recipe"])
    trainer = make_trainer(recipe, record["input"], Place(0, 1, torch.device("cpu")))
    if not untrained:
        state = read_checkpoint(store, record["name"])
        bare(trainer.model).load_state_dict(state["model"])
    feed = open_eval(store, eval_stream(recipe, dataset), split=split)
    found = encode(trainer, told(feed, len(feed), progress, f"encode {dataset}"))
    if needed and not found[1]:
        raise ValueError(
            f"evaluate: {dataset} has no labelled samples in {split or 'any split'}. "
            "Ingest it with --labels parent, or with the name of a metadata column."
        )
    return found


def eval_stream(recipe: Recipe, dataset: str) -> StreamConfig:
    """Return the stream of whole samples: the centre view, no masks and no targets."""
    return replace(
        stream_of(recipe),
        dataset=dataset,
        snapshot=None,
        view=replace(recipe.view, kind="center", flip=False),
        targets=(),
        columns={},
        frozen_views=0,
        where={},
        batch=max(recipe.batch, 16),
        lanes=1,
    )


def main() -> None:
    """Pretrain from the command line, as torchrun starts it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("settings", nargs="*", help="key=value in place of the recipe's own")
    parser.add_argument("--store", default=os.environ.get("HEADRACE_STORE", "store"))
    # torchrun takes --run for an abbreviation of its own --run-path.
    parser.add_argument("--run", "--run-name", default="")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--feed", default="local", choices=("local", "ray"))
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    recipe = read_recipe(given.recipe, given.settings)
    summary = pretrain(
        open_store(given.store),
        recipe,
        run=given.run or recipe.name,
        resume=given.resume,
        feed=given.feed,
        workers=given.workers,
    )
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
