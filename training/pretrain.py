"""The entry point: joins a feed to the loop, by a recipe.

Runs in one process, or in several under torchrun: `torchrun --nproc-per-node 8 -m training.pretrain
RECIPE …`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from itertools import chain
from typing import Any

import torch

from storage.fs import Store, open_store
from training.assemble import about_input, count_parameters, make_trainer
from training.begin import first_step, load_begin, pin_begin, spared_steps
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
from training.loop import Trainer, train
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
from training.session import Progress, Recorder, Session, pick_example, say, sum_up
from training.skips import note_skip, read_skips, write_skips
from training.state import restore

INTERRUPTED = 130
"Exit code of a run that was asked to stop, and is resumable."


class RunError(RuntimeError):
    """A run cannot be begun or continued as asked."""


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came, and the state was saved."""


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
    with open_place() as place:
        recipe, done = _begin(store, recipe, run, place, resume)
        while done < recipe.steps:
            opened = open_recipe(
                store,
                recipe,
                rank=place.rank,
                ranks=place.ranks,
                start=done,
                stop=recipe.steps,
                workers=workers,
                kind=feed,
            )
            try:
                done = _train(store, recipe, run, place, opened, (done, progress))
            except BadStep as bad:
                _note(store, recipe, run, place, opened, (bad, done))
                recipe, done = _begin(store, recipe, run, place, resume=True)
            finally:
                opened.close()
        return _finish(store, recipe, run, place)


def _note(
    store: Store, recipe: Recipe, run: str, place: Place, feed: Feed, found: tuple[BadStep, int]
) -> None:
    """Keep and tell which batch is passed over from now on.

    Raises:
        DivergedError: it is one too many; on all ranks.
    """
    bad, began = found
    back_to = max([step for step in list_checkpoints(store, run) if step > began], default=began)
    skips = read_skips(store, run)
    wait_for_all(place)
    told = note_skip(skips, bad, members_of(feed, bad.step), back_to, (run, recipe.guard.most))
    if place.first:
        write_skips(store, run, skips)
    wait_for_all(place)
    say(place, told)


def _begin(
    store: Store, recipe: Recipe, run: str, place: Place, resume: bool
) -> tuple[Recipe, int]:
    """Return the recipe with its snapshot fixed, and how many steps are finished."""
    record = read_record(store, run)
    steps = list_checkpoints(store, run)
    if record is not None and not resume:
        if steps:
            raise RunError(
                f"run {run}: exists, with {steps[-1]} of {record['recipe']['steps']} steps done. "
                "Add --resume to continue it, or choose another --run."
            )
        _forget(store, run, place)
        record = None
    recipe = pin_begin(store, recipe, record)
    if record is None:
        return recipe, first_step(recipe)
    recipe = pin_snapshots(recipe, record["provenance"])
    # Built again, as settings that are newer than the record have their defaults in it.
    if recipe_fingerprint(recipe) != recipe_fingerprint(make_recipe(record["recipe"])):
        raise RunError(
            f"run {run}: was begun with {_difference(record['recipe'], resolve(recipe))}. A run "
            "keeps its recipe. "
            "Give the same settings, or choose another --run."
        )
    return recipe, steps[-1] if steps else first_step(recipe)


def _forget(store: Store, run: str, place: Place) -> None:
    """Remove the records of a run that ended before its first checkpoint: it begins anew, maybe by
    another recipe.
    """
    wait_for_all(place)
    if place.first:
        for name in ("skipped.json", "failed.json", "run.json"):
            store.delete(f"runs/{run}/{name}")
    wait_for_all(place)


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
) -> int:
    """Take the steps that are left; returns how many are finished."""
    done, progress = plan
    source = iter(feed)
    first = next(source)
    main = main_batch(feed, first)
    about = about_input(recipe, main, feed.channels, dict(feed.stats))
    trainer = make_trainer(recipe, about, place)
    about["parameters"] = count_parameters(trainer)
    if recipe.init and not done:
        about["init"] = _start_from(trainer, recipe.init)
    provenance = _record_run(store, recipe, run, feed, about, place)
    heldout = open_heldout_of(store, feed) if place.first else None
    session = Session(
        store=store,
        recipe=recipe,
        run=run,
        place=place,
        trainer=trainer,
        metrics=Metrics(store, run, done),
        feed=feed,
        heldout=heldout,
        example=pick_example(heldout, main),
        about=provenance,
        keys=partial(keys_of, feed),
        probe=probe_while_training(store, recipe) if place.first else None,
        spare=spared_steps(recipe),
        speed=_speed(trainer, main, recipe) if place.first else {},
    )
    if place.first:
        drop_curves(store, run, after=done)
    skips = {skip["step"] for skip in read_skips(store, run)}
    if list_checkpoints(store, run):  # last, as opening a feed draws from the generators
        restore(trainer, read_checkpoint(store, run, done, device=str(place.device)))
    else:
        load_begin(store, recipe, trainer)
    with stop_on_signals(place) as stop:
        hooks = Recorder(session, stop, progress).hooks()
        finished = train(trainer, chain([first], source), range(done, recipe.steps), hooks, skips)
    wait_for_all(place)
    if stop.signal and finished < recipe.steps:
        raise Stopped(f"run {run}: saved at step {finished}; add --resume to continue")
    return finished


def _start_from(trainer: Trainer, path: str) -> dict[str, Any]:
    """Give a trainer its first weights; returns what the run remembers of them."""
    model = bare(trainer.model)
    loaded = load_weights(model, path)
    if trainer.average is not None:
        trainer.average.load({n: p.detach() for n, p in model.named_parameters()})
    return loaded.record()


def _speed(trainer: Trainer, batch: dict[str, Any], recipe: Recipe) -> dict[str, float]:
    peak = recipe.peak_flops or measured_peak(trainer.device, recipe.precision)
    return {"flops": sample_flops(trainer, batch), "peak": peak}


def _finish(store: Store, recipe: Recipe, run: str, place: Place) -> dict[str, Any]:
    """Return the summary of a run, and keep it with the run."""
    parameters = read_run(store, run)["input"]["parameters"]
    summary = sum_up(run, recipe, read_metrics(store, run), parameters)
    if place.first:
        write_record(store, run, "summary.json", summary)
        prune_checkpoints(store, run, recipe.keep, spared_steps(recipe))
        store.delete_abandoned(f"runs/{run}")
    return summary


def _record_run(
    store: Store, recipe: Recipe, run: str, feed: Feed, about: dict[str, Any], place: Place
) -> dict[str, Any]:
    """Return what each checkpoint is to say of code and data; the first rank of a new run writes
    its record.
    """
    values = resolve(pin_snapshots(recipe, feed.fingerprints))
    provenance = {
        **feed.fingerprints,
        "recipe_fingerprint": recipe_fingerprint(make_recipe(values)),
        "code": code_version(),
        "torch": torch.__version__,
    }
    old = read_record(store, run)
    if old is not None and old["provenance"]["fingerprint"] != feed.fingerprints["fingerprint"]:
        raise RunError(
            f"run {run}: read snapshot {old['provenance']['fingerprint'][:12]} before, now "
            f"{feed.fingerprints['fingerprint'][:12]}. A run keeps its data; choose another --run."
        )
    if old is None and place.first:
        record = {
            "name": run,
            "recipe": values,
            "provenance": provenance,
            "input": about,
            "batches_per_epoch": feed.batches_per_epoch,
            "remainder": feed.remainder,
        }
        write_record(store, run, "run.json", record)
    return provenance


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
