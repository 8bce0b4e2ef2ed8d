"""Which tokens of a batch are visible, hidden and predicted.

The draws are keyed by (seed, epoch, sample, purpose); masks that follow motion are warped for all
clips of a batch together, on the device of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.producers_motion import CELLS_PER_PATCH, seen_motion
from pipelines.stream import StreamConfig
from preprocessing.bits import unpack_mask
from preprocessing.mask_motion_torch import make_masks
from preprocessing.mask_random import Grid, Mask
from preprocessing.masks import decoded_tokens
from preprocessing.randomness import borrowed
from preprocessing.views import View
from storage.columns import ColumnSpec

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unmasked:
    """A sample whose tokens are to be chosen."""

    sample: int
    grid: Grid
    view: View
    derived: Mapping[str, NDArray[Any]]
    "its columns"


def choose_tokens(
    stream: StreamConfig,
    columns: Mapping[str, ColumnSpec],
    samples: Sequence[Unmasked],
    epoch: int,
    device: torch.device,
) -> list[Arrays]:
    """Return the index lists of visible, masked and decoded tokens of each sample.

    Args:
        columns: those that the stream reads.
    """
    config = stream.mask
    entropy = config.entropy(stream.seed, epoch)
    if config.made == "column":
        masks = [
            unpack_mask(one.derived["masks"][epoch % config.draws], int(np.prod(one.grid)))
            for one in samples
        ]
    else:
        masks = make_masks(
            config,
            samples[0].grid,
            (borrowed(*entropy, one.sample, "mask") for one in samples),
            [_motion(columns, one) for one in samples],
            cell=stream.patch / CELLS_PER_PATCH,
            device=device,
        )
    return [
        _indices(
            mask,
            decoded_tokens(config, one.grid, mask, borrowed(*entropy, one.sample, "decoded")),
        )
        for one, mask in zip(samples, masks, strict=True)
    ]


def _motion(columns: Mapping[str, ColumnSpec], one: Unmasked) -> Arrays:
    """Return the fields of motion of a sample under its view; none where the mask needs none."""
    found: Arrays = {}
    for name in {"flow", "motion"} & set(one.derived):
        parameters = columns[name].parameters
        found |= seen_motion(name, one.derived[name], parameters, one.view, one.grid)
    return found


def _indices(mask: Mask, decoded: Mask) -> Arrays:
    return {
        "visible": (~mask).nonzero()[0],
        "masked": mask.nonzero()[0],
        "decoded": decoded.nonzero()[0],
    }
