"""Evaluation of a run: its frozen encoder read by a probe, beside the same encoder untrained.

Samples of one source (the clips of a video) are never on both sides of a probe, so that near copies
cannot pass for knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from storage.fs import Store
from training.checkpoints import list_checkpoints
from training.confidence import interval, split_groups
from training.features import encode, told
from training.feeds import eval_stream, open_labelled
from training.frozen import fresh_trainer, load_kept
from training.loop import Trainer
from training.probes import OF_TOKENS, SEEDED, Features, knn_right, probe_named
from training.recipe import Recipe, make_recipe
from training.runs import read_run, write_record
from training.session import Progress

MIN_QUERIES = 20
"Fewer labelled held-out samples than this, and all samples are taught and asked in turn."
SEEDS = 3


@dataclass(frozen=True, slots=True)
class Side:
    """Samples that are taught, or asked."""

    features: Features
    groups: list[str]

    def take(self, rows: list[int]) -> Side:
        """Return some of the samples."""
        values, labels = self.features
        kept = [labels[i] for i in rows]
        return Side((values[rows], kept), [self.groups[i] for i in rows])


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an evaluation was asked for."""

    store: Store
    record: dict[str, Any]
    step: int | None
    "of the newest checkpoint; None where there is none"
    probe: str
    progress: Progress | None


def _ask(store: Store, run: str, probe: str, progress: Progress | None) -> _Asked:
    steps = list_checkpoints(store, run)
    return _Asked(store, read_run(store, run), steps[-1] if steps else None, probe, progress)


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
    """Probe the frozen encoder of a run's newest checkpoint (`step`) on labelled samples; the
    result is kept with the run.

    `accuracy` is the mean over `seeds` (three, where a probe draws anything); `low` and `high`
    bound it at 95 % when the groups of asked samples are drawn anew. The same for the untrained
    encoder, with `untrained_` before the names.

    Args:
        dataset: whose samples teach the probe.
        test: dataset whose samples are asked, but for those whose group is taught (`excluded`);
            None asks the held-out samples of `dataset`, or, when these are fewer than 20, every
            sample with its own group left out (kNN), or a fifth of the groups (other probes).
        probe: knn, linear or attentive.
        untrained: probe the same encoder at random initialisation too.

    Raises:
        ValueError: no such run, no labels, or an unknown probe.
    """
    probe_named(probe)
    asked_for = _ask(store, run, probe, progress)
    result: dict[str, Any] = {"run": run, "step": asked_for.step, "probe": probe}
    result |= {"dataset": dataset, "test": test}
    for prefix in ("", "untrained_")[: 1 + untrained]:
        taught, asked, excluded = _sides(asked_for, dataset, test, fresh=bool(prefix))
        found = _measure(probe, taught, asked)
        result |= {prefix + name: value for name, value in found.items()}
        result |= {
            "samples": len(taught.groups),
            "queries": len((asked or taught).groups),
            "groups": len(set((asked or taught).groups)),
            "classes": len(set(taught.features[1])),
            "excluded": excluded,
            "protocol": _protocol(probe, asked),
        }
    suffix = f"-{test}" if test else ""
    write_record(store, run, f"probes/{dataset}{suffix}-{probe}.json", result)
    return result


def _protocol(probe: str, asked: Side | None) -> str:
    if asked is not None:
        return "train/test"
    return "a fifth of the groups" if probe in SEEDED else "leave one group out"


def _measure(probe: str, taught: Side, asked: Side | None) -> dict[str, Any]:
    """Return the accuracy, its bounds, and that of each seed."""
    right: list[Tensor] = []
    groups: list[list[str]] = []
    for seed in range(SEEDS if probe in SEEDED else 1):
        if asked is None and probe not in SEEDED:
            right.append(knn_right(taught.features, None, taught.groups))
            groups.append(taught.groups)
            continue
        known, new = taught, asked
        if new is None:
            rows = split_groups(taught.features[1], taught.groups, seed)
            known, new = (taught.take(part) for part in rows)
        right.append(probe_named(probe)(known.features, new.features, seed))
        groups.append(new.groups)
    low, high = interval(right, groups)
    seeds = [float(part.float().mean()) for part in right]
    return {"accuracy": fmean(seeds), "low": low, "high": high, "seeds": seeds}


def _sides(
    asked_for: _Asked, dataset: str, test: str | None, fresh: bool
) -> tuple[Side, Side | None, int]:
    """Return the taught samples, those asked (None: the same), and how many were left out."""
    if test is not None:
        taught = _encode(asked_for, dataset, None, fresh)
        asked = _encode(asked_for, test, None, fresh)
        known = set(taught.groups)
        kept = [i for i, group in enumerate(asked.groups) if group not in known]
        if not kept:
            raise ValueError(
                f"evaluate: every sample of {test} comes from a source that {dataset} has too. "
                "Ask others, or leave out --test."
            )
        return taught, asked.take(kept), len(asked.groups) - len(kept)
    taught = _encode(asked_for, dataset, "train", fresh)
    heldout = _encode(asked_for, dataset, "heldout", fresh, needed=False)
    if len(heldout.groups) >= MIN_QUERIES:
        return taught, heldout, 0
    if not heldout.groups:
        return taught, None, 0
    values = torch.cat([taught.features[0], heldout.features[0]])
    labels = taught.features[1] + heldout.features[1]
    return Side((values, labels), taught.groups + heldout.groups), None, 0


def probe_while_training(
    store: Store, recipe: Recipe
) -> Callable[[Trainer], dict[str, float]] | None:
    """Return what tries kNN on the first `data.probe` labelled samples, each with its own group
    left out; None where the recipe asks for none.
    """
    if not recipe.data.probe:
        return None
    dataset = recipe.data.dataset
    stream = replace(
        eval_stream(recipe, dataset), snapshot=recipe.data.snapshot, samples=recipe.data.probe
    )
    feed, groups = open_labelled(store, stream)

    def probe(trainer: Trainer) -> dict[str, float]:
        found = encode(trainer, feed)
        if not found.keys:
            return {}
        right = knn_right(found.features, None, [groups[key] for key in found.keys])
        return {"knn_accuracy": float(right.float().mean())}

    return probe


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
    asked_for = _ask(store, run, "knn", progress)
    return _encode(asked_for, dataset, split, untrained).features


def _encode(
    asked_for: _Asked, dataset: str, split: str | None, fresh: bool, needed: bool = True
) -> Side:
    store, record = asked_for.store, asked_for.record
    recipe = make_recipe(record["recipe"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = fresh_trainer(record, device)
    if not fresh:
        load_kept(trainer, store, record["name"], asked_for.step)
    feed, groups = open_labelled(store, eval_stream(recipe, dataset), split)
    batches = told(feed, len(feed), asked_for.progress, f"encode {dataset}")
    found = encode(trainer, batches, tokens=asked_for.probe in OF_TOKENS)
    if needed and not found.keys:
        raise ValueError(
            f"evaluate: {dataset} has no labelled samples in {split or 'any split'}. "
            "Ingest it with --labels parent, or with the name of a metadata column."
        )
    return Side(found.features, [groups[key] for key in found.keys])
