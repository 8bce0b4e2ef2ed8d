"""Trainings and probes that are done once: what a store holds already is read from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from storage.fs import Store

Stages = dict[str, Callable[..., dict[str, Any]]]
"The stages by name: plain functions, or the same ones as Prefect flows."


def train_once(
    place: Store, recipe: str, words: list[str], run: str, stages: Stages
) -> tuple[dict[str, Any], bool]:
    """Return the summary of a run, and whether it had to be trained; an unfinished one goes on."""
    path = f"runs/{run}/summary.json"
    if place.exists(path):
        return json.loads(place.read(path)), False
    resume = place.exists(f"runs/{run}/run.json")
    stages["pretrain"](place.uri, recipe, words, run, resume=resume)
    return json.loads(place.read(path)), True


def probe_once(
    place: Store, run: str, dataset: str, stages: Stages, test: str = "", probe: str = "knn"
) -> tuple[dict[str, Any], bool]:
    """Return a probe of a run beside the untrained encoder, and whether it had to be made."""
    path = f"runs/{run}/probes/{dataset}{f'-{test}' if test else ''}-{probe}.json"
    if place.exists(path):
        return json.loads(place.read(path)), False
    return stages["evaluate"](place.uri, run, dataset, test, probe, untrained=True), True
