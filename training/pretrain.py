"""The entry point: joins a feed to the loop, by a recipe.

Runs in one process, or in several under torchrun: `torchrun --nproc-per-node 8 -m training.pretrain
RECIPE …`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch

from storage.fs import Store, open_store
from training.allocator import keep_memory
from training.assemble import about_input, count_parameters, make_trainer
from training.begin import first_step, load_begin, pin_begin, spared_steps
from training.ceiling import Cached, measure_ceiling
from training.checkpoints import list_checkpoints, prune_checkpoints, read_checkpoint
from training.curves import drop_curves
from training.evaluate import probe_while_training
from training.feeds import (
    Feed,
    keys_of,
    main_batch,
    members_of,
    open_heldout_of,
    open_recipe,
)
from training.flops import measured_peak, sample_flops
from training.guard import BadStep, DivergedError
from training.import_weights import load_weights
from training.loop import Batch, Trainer, train
from training.mixing import pin_snapshots
from training.ranks import Place, bare, open_place, stop_on_signals, wait_for_all
from training.recipe import Recipe, make_recipe, read_recipe, recipe_fingerprint, resolve
from training.runs import (
    Metrics,
    code_version,
    read_metrics,
    read_record,
    read_run,
    write_record,
)
from training.session import (
    Progress,
    Recorder,
    Session,
    note_ceiling,
    pick_example,
    say,
    sum_up,
)
from training.skips import note_skip, read_skips, write_skips
from training.state import restore

INTERRUPTED = 130
"Exit code of a run that was asked to stop, and is resumable."


class RunError(RuntimeError):
    """A run cannot be begun or continued as asked."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came, and the state was saved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one process of a run works on."""

    store: Store
    recipe: Recipe
    run: str
    place: Place


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

    Where the guard finds a bad step, the run is resumed in place from its last checkpoint, and
    passes over that step's batch.

    Args:
        run: name of the run; everything it leaves lies under runs/<run>.
        resume: continue from the newest checkpoint, if there is one.
        feed: local, or ray.
        workers: processes that compute batches ahead; 0 computes them in this one.
        progress: told (what, done, total).

    Raises:
        RunError: the run exists already, or was made by another recipe or from other data.
        DivergedError: more batches were bad than the recipe allows.
        Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    keep_memory()
    with open_place() as place:
        job = Job(store=store, recipe=recipe, run=run, place=place)
        job, done = _begin(job, resume)
        while done < recipe.steps:
            opened = open_recipe(
                store,
                job.recipe,
                rank=place.rank,
                ranks=place.ranks,
                start=done,
                stop=recipe.steps,
                workers=workers,
                kind=feed,
            )
            try:
                done = _train(job, opened, done, progress)
            except BadStep as bad:
                _pass_over(job, opened, bad, done)
                job, done = _begin(job, resume=True)
            finally:
                opened.close()
        return _finish(job)


def _begin(job: Job, resume: bool) -> tuple[Job, int]:
    """Return the job with its snapshot fixed, and how many steps are finished."""
    store, run, recipe = job.store, job.run, job.recipe
    record = read_record(store, run)
    steps = list_checkpoints(store, run)
    if record is not None and not resume:
        if steps:
            raise RunError(
                f"run {run}: exists, with {steps[-1]} of {record['recipe']['steps']} steps done. "
                "Add --resume to continue it, or choose another --run."
            )
        _forget(job)
        record = None
    recipe = pin_begin(store, recipe, record)
    if record is None:
        return replace(job, recipe=recipe), first_step(recipe)
    recipe = pin_snapshots(recipe, record["provenance"])
    # Built again, as settings that are newer than the record have their defaults in it.
    if recipe_fingerprint(recipe) != recipe_fingerprint(make_recipe(record["recipe"])):
        raise RunError(
            f"run {run}: was begun with {_difference(record['recipe'], resolve(recipe))}. A run "
            "keeps its recipe. Give the same settings, or choose another --run."
        )
    return replace(job, recipe=recipe), steps[-1] if steps else first_step(recipe)


def _forget(job: Job) -> None:
    """Remove the records of a run that ended before its first checkpoint: it begins anew, maybe by
    another recipe.
    """
    wait_for_all(job.place)
    if job.place.first:
        for name in ("skipped.json", "failed.json", "run.json"):
            job.store.delete(f"runs/{job.run}/{name}")
    wait_for_all(job.place)


def _difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> str:
    told = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            told.append(_difference(before, after, f"{where}{name}."))
        elif before != after:
            told.append(f"{where}{name}={before}, not {after}")
    return "; ".join(text for text in told if text)


def _train(job: Job, feed: Feed, done: int, progress: Progress | None) -> int:
    """Take the steps that are left; returns how many are finished."""
    source = iter(feed)
    first = next(source)
    session = _open_session(job, feed, main_batch(feed, first), done)
    # The state comes last, as opening feeds and models draws from the generators that it sets.
    if list_checkpoints(job.store, job.run):
        state = read_checkpoint(job.store, job.run, done, device=str(job.place.device))
        restore(session.trainer, state)
    else:
        load_begin(job.store, job.recipe, session.trainer)
    skips = {skip["step"] for skip in read_skips(job.store, job.run)}
    left = range(done, job.recipe.steps)
    with stop_on_signals(job.place) as stop:
        hooks = Recorder(session, stop, progress).hooks()
        batches = Cached(chain([first], source))
        finished = train(session.trainer, batches, left, hooks, skips)
        if finished == job.recipe.steps:
            steps = finished - first_step(job.recipe)
            note_ceiling(session, measure_ceiling(session.trainer, batches, steps))
    wait_for_all(job.place)
    if stop.signal and finished < job.recipe.steps:
        raise Stopped(f"run {job.run}: saved at step {finished}; add --resume to continue")
    return finished


def _open_session(job: Job, feed: Feed, batch: Batch, done: int) -> Session:
    """Return a run at its first state, recorded if it is new.

    Args:
        batch: the first one of the recipe's first dataset, or an example of it.
        done: steps that are finished.
    """
    store, recipe, run, place = job.store, job.recipe, job.run, job.place
    about = about_input(recipe, batch, feed.channels, dict(feed.stats))
    trainer = make_trainer(recipe, about, place)
    about["parameters"] = count_parameters(trainer)
    if recipe.init and not done:
        about["init"] = _start_from(trainer, recipe.init)
    provenance = _record_run(job, feed, about)
    heldout = open_heldout_of(store, feed) if place.first else None
    if place.first:
        drop_curves(store, run, after=done)
    return Session(
        store=store,
        recipe=recipe,
        run=run,
        place=place,
        trainer=trainer,
        metrics=Metrics(store, run, done),
        feed=feed,
        heldout=heldout,
        example=pick_example(heldout, batch),
        about=provenance,
        keys=partial(keys_of, feed),
        probe=probe_while_training(store, recipe) if place.first else None,
        spare=spared_steps(recipe),
        speed=_speed(trainer, batch, recipe) if place.first else {},
    )


def _start_from(trainer: Trainer, path: str) -> dict[str, Any]:
    """Give a trainer its first weights; returns what the run remembers of them."""
    model = bare(trainer.model)
    loaded = load_weights(model, path)
    if trainer.average is not None:
        trainer.average.load({n: p.detach() for n, p in model.named_parameters()})
    return loaded.record()


def _speed(trainer: Trainer, batch: Batch, recipe: Recipe) -> dict[str, float]:
    peak = recipe.peak_flops or measured_peak(trainer.device, recipe.precision)
    return {"flops": sample_flops(trainer, batch), "peak": peak}


def _record_run(job: Job, feed: Feed, about: dict[str, Any]) -> dict[str, Any]:
    """Return what each checkpoint is to say of code and data; the first rank of a new run writes
    its record.
    """
    values = resolve(pin_snapshots(job.recipe, feed.fingerprints))
    provenance = {
        **feed.fingerprints,
        "recipe_fingerprint": recipe_fingerprint(make_recipe(values)),
        "code": code_version(),
        "torch": torch.__version__,
    }
    old = read_record(job.store, job.run)
    if old is not None and old["provenance"]["fingerprint"] != feed.fingerprints["fingerprint"]:
        raise RunError(
            f"run {job.run}: read snapshot {old['provenance']['fingerprint'][:12]} before, now "
            f"{feed.fingerprints['fingerprint'][:12]}. A run keeps its data; choose another --run."
        )
    if old is None and job.place.first:
        record = {
            "name": job.run,
            "recipe": values,
            "provenance": provenance,
            "input": about,
            "batches_per_epoch": feed.batches_per_epoch,
            "remainder": feed.remainder,
        }
        write_record(job.store, job.run, "run.json", record)
    return provenance


def _pass_over(job: Job, feed: Feed, bad: BadStep, began: int) -> None:
    """Keep and tell which batch is passed over from now on.

    Args:
        began: steps that were finished when this part of the run began.

    Raises:
        DivergedError: it is one too many; on all ranks.
    """
    store, run, place = job.store, job.run, job.place
    back_to = max([step for step in list_checkpoints(store, run) if step > began], default=began)
    skips = read_skips(store, run)
    wait_for_all(place)
    samples = members_of(feed, bad.step)
    told = note_skip(skips, bad, samples, back_to, run=run, most=job.recipe.guard.most)
    if place.first:
        write_skips(store, run, skips)
    wait_for_all(place)
    say(place, told)


def _finish(job: Job) -> dict[str, Any]:
    """Return the summary of a run, and keep it with the run."""
    store, recipe, run = job.store, job.recipe, job.run
    parameters = read_run(store, run)["input"]["parameters"]
    summary = sum_up(run, recipe, read_metrics(store, run), parameters)
    if job.place.first:
        write_record(store, run, "summary.json", summary)
        prune_checkpoints(store, run, recipe.keep, spared_steps(recipe))
        store.delete_abandoned(f"runs/{run}")
    if summary["data_advice"]:
        say(job.place, f"{run}: {summary['data_advice']}")
    return summary


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
    given = parser.parse_intermixed_args()
    try:
        recipe = read_recipe(given.recipe, given.settings)
        summary = pretrain(
            open_store(given.store),
            recipe,
            run=given.run or recipe.name,
            resume=given.resume,
            feed=given.feed,
            workers=given.workers,
        )
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError, RunError, DivergedError) as error:
        sys.exit(f"headrace: {error}")
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
