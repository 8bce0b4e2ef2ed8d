"""Tiny recipes and batches: 16 px images, a 2-block encoder, no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from training.assemble import make_trainer
from training.loop import Batch, Hooks, Trainer
from training.ranks import Place
from training.recipe import Recipe, read_recipe

PLACE = Place(0, 1, torch.device("cpu"))
TOKENS = 16


@pytest.fixture
def recipe() -> Recipe:
    """A recipe that trains in milliseconds."""
    words = ["view.size=16", "model.patch=4", "model.width=24", "model.depth=2", "model.heads=2"]
    words += ["model.decoder_width=16", "model.decoder_depth=1", "steps=8", "batch=8"]
    return read_recipe("mae_tiny", words)


@pytest.fixture
def trainer(recipe: Recipe) -> Callable[..., Trainer]:
    """Return a maker of equal trainers, or of trainers by changed settings of the recipe."""
    about = {"shape": [3, 16, 16], "stats": {}, "widths": {"pixels": 0}}
    return lambda **changes: make_trainer(replace(recipe, **changes), about, PLACE)


@pytest.fixture
def batches() -> Callable[[int, int], Iterator[Batch]]:
    """Return the batches [start, stop) of an endless stream that is a function of their numbers."""

    def serve(start: int, stop: int) -> Iterator[Batch]:
        for number in range(start, stop):
            draw = torch.Generator().manual_seed(number)
            ids = torch.rand(8, TOKENS, generator=draw).argsort(1)
            masked = ids[:, 4:].sort(1).values
            yield {
                "pixels": torch.randint(0, 256, (8, 3, 16, 16), generator=draw, dtype=torch.uint8),
                "visible": ids[:, :4].sort(1).values,
                "masked": masked,
                "decoded": masked,
                "sample": torch.arange(8) + 8 * number,
            }

    return serve


@pytest.fixture
def hooks() -> Callable[..., Hooks]:
    """Return a maker of hooks that keep log lines and do nothing else."""

    def make(lines: list[dict[str, Any]] | None = None, **changes: Any) -> Hooks:
        kept = [] if lines is None else lines
        calls: dict[str, Any] = {
            "log": kept.append,
            "save": lambda step: None,
            "evaluate": dict,
            "tick": lambda step: False,
            "skipped": lambda step, batch: None,
            "log_every": 2,
            "save_every": 100,
            "heldout_every": 100,
        }
        return Hooks(**{**calls, **changes})

    return make
