"""Which tokens are hidden from the encoder, and which the decoder predicts: all choices by name.

Masks are bool, True = hidden, flat in raster order (time, row, column; for band groups the group
comes first). Every kind hides the same number of tokens at each draw, so that batches are
rectangular.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing import mask_random
from preprocessing.mask_block import block_mask, cube_mask, upsample_mask
from preprocessing.mask_content import SIGMAS, colormae_mask
from preprocessing.mask_motion import mgm_mask, mgmae_mask
from preprocessing.mask_random import Grid, Mask, kept

_CHOICES = {
    "source": ("flow", "motion"),
    "base": ("middle", "first", "random"),
    "fill": ("base", "none"),
    "keep": ("tubelet", "clip"),
    "colour": tuple(SIGMAS),
    "decoder": ("masked", "running_cell", "partial", "all"),
    "made": ("online", "column"),
}
MASK_SEED = 0
"Frozen draws do not depend on a run's seed, so that runs with different seeds share their masks."


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """How tokens are hidden. A setting that the kind does not use is ignored."""

    kind: str = "random"
    "one of `MASKS`"
    ratio: float = 0.75
    "share of tokens hidden"
    source: str = "flow"
    "mgmae, mgm: the column that says what moves, flow or motion (codec vectors)"
    base: str = "middle"
    "mgmae: frame of the random map"
    fill: str = "base"
    "mgmae: what warping leaves empty gets the base map, or nothing"
    keep: str = "tubelet"
    "mgmae: keep as many tokens in each tubelet, or over the clip"
    released: bool = False
    "mgmae: repeat the released code's wrong direction before the base frame"
    colour: str = "green"
    "colormae: colour of the noise"
    decoder: str = "masked"
    "tokens predicted: all hidden ones, V2's running cells, CrossMAE's part of the hidden ones, "
    "or all"
    decoder_ratio: float = 0.5
    "running_cell: share NOT decoded, in quarters; partial: share of all tokens that is predicted"
    draws: int = 0
    """0 draws a new mask each epoch; K uses draw `epoch mod K` of K frozen ones, the same in every
    run"""
    made: str = "online"
    "frozen draws are made on the spot, or read from the column `masks`: the same numbers"

    def __post_init__(self) -> None:
        mask_named(self.kind)
        if not 0 < self.ratio < 1:
            raise ValueError(
                f"mask.ratio is {self.ratio}; it must lie strictly between 0 and 1. "
                "0.75 is usual for images, 0.9 for video."
            )
        if not 0 < self.decoder_ratio < 1:
            raise ValueError(
                f"mask.decoder_ratio is {self.decoder_ratio}; it must lie strictly between 0 and "
                "1. 0.5 is usual."
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"mask.{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}."
                )
        if self.draws < 0 or (self.made == "column" and not self.draws):
            raise ValueError(
                f"mask.made is {self.made}, mask.draws is {self.draws}. Stored masks are frozen "
                "draws: set mask.draws to their number, or mask.made=online."
            )
        if self.decoder == "partial" and self.decoder_ratio > self.ratio:
            raise ValueError(
                f"mask.decoder_ratio is {self.decoder_ratio}, mask.ratio {self.ratio}; "
                "decoder=partial predicts some of the hidden tokens. Use at most the mask ratio."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The derived columns that drawing this mask needs."""
        return (self.source,) if self.kind in ("mgmae", "mgm") else ()

    def entropy(self, seed: int, epoch: int) -> tuple[int, int]:
        """Return the seed and the number that key the draws of an epoch of a run."""
        return (MASK_SEED, epoch % self.draws) if self.draws else (seed, epoch)


@dataclass(frozen=True, slots=True)
class Moving:
    """What is known of a clip's motion, on cells; see preprocessing.mask_motion."""

    cell: float
    "edge of a cell, px of the view"
    backward: NDArray[np.float32] | None = None
    forward: NDArray[np.float32] | None = None
    motion: NDArray[np.float32] | None = None


MaskFunction = Callable[[MaskConfig, Grid, np.random.Generator, Moving | None], Mask]


def make_mask(
    config: MaskConfig,
    grid: Grid,
    rng: np.random.Generator,
    *,
    backward: NDArray[np.float32] | None = None,
    forward: NDArray[np.float32] | None = None,
    motion: NDArray[np.float32] | None = None,
    cell: float | None = None,
) -> Mask:
    """Draw the mask of one sample.

    Args:
        grid: (t, h, w) tokens.
        backward: (T-1, h*k, w*k, 2) flow(j -> j-1) in px of the view, k cells along a patch;
            `forward` likewise.
        motion: (T, h*k, w*k, 2) codec vectors, flow(j -> j-1), in px of the view.
        cell: edge of those cells in px of the view: patch / k.

    Returns:
        (t * h * w,) bool, True = hidden, with `visible_count(config, grid)` False.
    """
    visible_count(config, grid)
    moving = None
    if backward is not None or motion is not None:
        if cell is None:
            raise ValueError(
                "make_mask: cell is missing. Pass the edge of a flow cell in px of the view, "
                "patch / k."
            )
        moving = Moving(cell, backward, forward, motion)
    return mask_named(config.kind)(config, grid, rng, moving)


def visible_count(config: MaskConfig, grid: Grid) -> int:
    """Return how many tokens of the grid stay visible, the same at every draw.

    Raises:
        ValueError: the ratio hides or keeps every token of this grid.
    """
    t, h, w = grid
    count = VISIBLE.get(config.kind, _visible_whole)(grid, config.ratio)
    if not 0 < count < t * h * w:
        raise ValueError(
            f"mask.ratio {config.ratio} leaves {count} of {t}x{h}x{w} tokens visible with "
            f"mask.kind={config.kind}; "
            "at least one must be visible and one hidden. Use another ratio or smaller patches."
        )
    return count


def decoded_tokens(config: MaskConfig, grid: Grid, mask: Mask, rng: np.random.Generator) -> Mask:
    """Return which tokens the decoder predicts: (N,) bool, equally many at every draw.

    With running_cell it may hold visible tokens, which the loss leaves out (VideoMAE V2).
    """
    if config.decoder == "masked":
        return mask
    if config.decoder == "all":
        return np.ones_like(mask)
    if config.decoder == "partial":
        return mask_random.partial_mask(mask, config.ratio, config.decoder_ratio, rng)
    return ~mask_random.running_cells(grid, config.decoder_ratio, int(rng.integers(4)))


def _visible_whole(grid: Grid, ratio: float) -> int:
    return kept(grid[0] * grid[1] * grid[2], ratio)


def _visible_frames(grid: Grid, ratio: float) -> int:
    return grid[0] * kept(grid[1] * grid[2], ratio)


def _hidden_whole(grid: Grid, ratio: float) -> int:
    tokens = grid[0] * grid[1] * grid[2]
    return tokens - int(ratio * tokens)


def _hidden_frames(grid: Grid, ratio: float) -> int:
    return grid[0] * (grid[1] * grid[2] - int(ratio * grid[1] * grid[2]))


def _visible_block(grid: Grid, ratio: float) -> int:
    return grid[0] * (grid[1] * grid[2] - round(grid[1] * grid[2] * ratio))


def _visible_cube(grid: Grid, ratio: float) -> int:
    t, h, w = _coarse(grid)
    factor = grid[1] // h
    return factor * factor * (t * h * w - round(t * h * w * ratio))


def _coarse(grid: Grid) -> Grid:
    """Return the grid on which MaskFeat's cubes are drawn: half the edges where they are even."""
    t, h, w = grid
    return (t, h // 2, w // 2) if h % 2 == 0 and w % 2 == 0 and min(h, w) >= 4 else grid


VISIBLE: dict[str, Callable[[Grid, float], int]] = {
    "hidden_random": _hidden_whole,
    "tube": _hidden_frames,
    "mgm": _hidden_frames,
    "spatial": _visible_frames,
    "frame": _visible_frames,
    "mgmae": _visible_frames,
    "colormae": _visible_frames,
    "block": _visible_block,
    "cube": _visible_cube,
}
"How many tokens each kind leaves visible; the others keep int(N * (1 - r))."


def _plain(function: Callable[[Grid, float, np.random.Generator], Mask]) -> MaskFunction:
    return lambda config, grid, rng, moving: function(grid, config.ratio, rng)


def _block(config: MaskConfig, grid: Grid, rng: np.random.Generator, moving: Moving | None) -> Mask:
    t, h, w = grid
    count = round(h * w * config.ratio)
    return np.tile(block_mask((h, w), count, count // 5, rng), t)


def _cube(config: MaskConfig, grid: Grid, rng: np.random.Generator, moving: Moving | None) -> Mask:
    coarse = _coarse(grid)
    count = round(coarse[0] * coarse[1] * coarse[2] * config.ratio)
    return upsample_mask(cube_mask(coarse, count, rng), coarse, grid[1] // coarse[1])


def _mgmae(config: MaskConfig, grid: Grid, rng: np.random.Generator, moving: Moving | None) -> Mask:
    backward, forward = mgmae_fields(config, moving)
    return mgmae_mask(
        grid,
        config.ratio,
        rng,
        backward,
        forward,
        cell=_needed(config, moving).cell,
        base=config.base,
        fill=config.fill,
        keep=config.keep,
        released=config.released,
    )


def mgmae_fields(
    config: MaskConfig, moving: Moving | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the flow back and forth that MGMAE's masks follow, (T-1, h*k, w*k, 2) each.

    Raises:
        ValueError: the column that says what moves is missing.
    """
    known = _needed(config, moving)
    if config.source == "flow":
        return _needed_field(config, known.backward), known.forward
    # A codec stream knows only the way back; the way forth is nearly its negative.
    backward = _needed_field(config, known.motion)[1:]
    return backward, -backward


def _mgm(config: MaskConfig, grid: Grid, rng: np.random.Generator, moving: Moving | None) -> Mask:
    known = _needed(config, moving)
    if config.source == "motion":
        motion = _needed_field(config, known.motion)
    else:
        backward = _needed_field(config, known.backward)
        motion = np.concatenate([np.zeros_like(backward[:1]), backward])
    return mgm_mask(grid, config.ratio, rng, motion, cell=known.cell)


def _needed(config: MaskConfig, moving: Moving | None) -> Moving:
    if moving is None:
        _needed_field(config, None)
    assert moving is not None
    return moving


def _needed_field(config: MaskConfig, field: NDArray[Any] | None) -> NDArray[np.float32]:
    if field is None:
        raise ValueError(
            f"mask {config.kind}: the {config.source} of this sample is missing. "
            f"Derive it with 'headrace derive DATASET {config.source}', or use mask.source."
        )
    return field


MASKS: dict[str, MaskFunction] = {
    "random": _plain(mask_random.random_mask),
    "agnostic": _plain(mask_random.random_mask),
    "hidden_random": _plain(mask_random.hidden_random_mask),
    "tube": _plain(mask_random.tube_mask),
    "spatial": _plain(mask_random.spatial_mask),
    "frame": _plain(mask_random.frame_mask),
    "multimae": lambda config, grid, rng, moving: mask_random.dirichlet_mask(
        grid, visible_count(config, grid), rng
    ),
    "block": _block,
    "cube": _cube,
    "colormae": lambda config, grid, rng, moving: colormae_mask(
        grid, config.ratio, rng, config.colour
    ),
    "mgmae": _mgmae,
    "mgm": _mgm,
}


def mask_named(name: str) -> MaskFunction:
    """Return the mask of this name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in MASKS:
        raise ValueError(
            f"mask.kind {name!r} is unknown. Known: {', '.join(MASKS)}. Add it in "
            "preprocessing/masks.py."
        )
    return MASKS[name]
