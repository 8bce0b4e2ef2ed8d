"""Laws of masks: exact counts, a partition of the grid, never an empty side, motion that is
followed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocessing.mask_content import hpm_hard_count, hpm_mask
from preprocessing.mask_torch import everest_masks
from preprocessing.masks import MASKS, MaskConfig, decoded_tokens, make_mask, visible_count
from preprocessing.randomness import generator

CELLS = 2
PATCH = 16
FAST = settings(max_examples=60, deadline=None)

grids = st.tuples(st.integers(1, 8), st.integers(2, 10), st.integers(2, 10))
ratios = st.floats(0.05, 0.95)


def fields(grid: tuple[int, int, int], scale: float, seed: int) -> dict[str, Any]:
    """Return random motion on half-patch cells of two frames a tubelet."""
    t, h, w = grid
    shape = (2 * t, CELLS * h, CELLS * w, 2)
    motion = np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)
    return {
        "backward": motion[1:],
        "forward": -motion[:-1],
        "motion": motion,
        "cell": PATCH / CELLS,
    }


def countable(config: MaskConfig, grid: tuple[int, int, int]) -> bool:
    """Return whether the ratio leaves tokens on both sides of this grid."""
    try:
        return visible_count(config, grid) > 0
    except ValueError:
        return False


@pytest.mark.parametrize("kind", MASKS)
@FAST
@given(grid=grids, ratio=ratios, seed=st.integers(0, 2**32), scale=st.sampled_from([0, 3, 300]))
def test_exact_count_on_both_sides(
    kind: str, grid: tuple[int, int, int], ratio: float, seed: int, scale: float
) -> None:
    config = MaskConfig(kind=kind, ratio=ratio)
    assume(countable(config, grid))
    mask = make_mask(config, grid, generator(seed, 0, 1, "mask"), **fields(grid, scale, seed))
    assert mask.shape == (grid[0] * grid[1] * grid[2],)
    assert mask.dtype == np.bool_
    assert (~mask).sum() == visible_count(config, grid)
    assert 0 < mask.sum() < mask.size


@pytest.mark.parametrize("kind", MASKS)
@FAST
@given(seed=st.integers(0, 2**32), sample=st.integers(-(2**63), 2**63 - 1))
def test_same_numbers_same_mask(kind: str, seed: int, sample: int) -> None:
    grid = (2, 6, 6)
    config = MaskConfig(kind=kind, ratio=0.7)
    motion = fields(grid, 4, 0)
    one, two = (make_mask(config, grid, generator(seed, 3, sample, "mask"), **motion) for _ in "ab")
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("base", ["middle", "first", "random"])
@FAST
@given(
    t=st.integers(1, 8),
    h=st.integers(3, 10),
    w=st.integers(3, 10),
    ratio=st.floats(0.3, 0.9),
    seed=st.integers(0, 2**32),
)
def test_mgmae_without_motion_is_a_tube(
    base: str, t: int, h: int, w: int, ratio: float, seed: int
) -> None:
    grid = (t, h, w)
    config = MaskConfig(kind="mgmae", ratio=ratio, base=base)
    assume(countable(config, grid))
    rng = generator(seed, 0, 0, "mask")
    mask = make_mask(config, grid, rng, **fields(grid, 0, seed)).reshape(t, -1)
    assert (mask == mask[0]).all()
    # What is visible are patches that the base map chose: of h*w - int(r*h*w), at most one is left
    # out.
    draw = generator(seed, 0, 0, "mask")
    if base == "random":
        draw.integers(2 * t)
    chosen = draw.permutation(h * w)[: h * w - int(ratio * h * w)]
    assert set(np.flatnonzero(~mask[0])) <= set(chosen.tolist())


@FAST
@given(grid=grids, ratio=st.floats(0.2, 0.9), seed=st.integers(0, 2**32))
def test_mgm_without_motion_is_a_tube(grid: tuple[int, int, int], ratio: float, seed: int) -> None:
    config = MaskConfig(kind="mgm", ratio=ratio, source="motion")
    assume(countable(config, grid))
    mask = make_mask(config, grid, generator(seed, 0, 0, "mask"), **fields(grid, 0, 0))
    mask = mask.reshape(grid[0], -1)
    assert (mask == mask[0]).all()


def moving_square(
    t: int, edge: int, start: tuple[int, int], step: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return codec-like motion of a 3x3-patch square and its centre (row, column) in each
    tubelet."""
    motion = np.zeros((2 * t, CELLS * edge, CELLS * edge, 2), dtype=np.float32)
    centres = np.empty((2 * t, 2))
    for frame in range(2 * t):
        row, column = start[0] + step[0] * frame, start[1] + step[1] * frame
        centres[frame] = row + 1, column + 1
        rows = slice(round(row * CELLS), round((row + 3) * CELLS))
        columns = slice(round(column * CELLS), round((column + 3) * CELLS))
        if frame:  # content that moves by `step` came from minus `step`
            motion[frame, rows, columns] = (-step[1] * PATCH, -step[0] * PATCH)
    return motion, centres


@pytest.mark.parametrize("source", ["flow", "motion"])
@FAST
@given(down=st.floats(-0.35, 0.35), right=st.floats(-0.35, 0.35), seed=st.integers(0, 2**32))
def test_mgm_box_follows_a_square(source: str, down: float, right: float, seed: int) -> None:
    assume(max(abs(down), abs(right)) > 0.1)
    t, edge = 8, 14
    start = (5 - 7 * down, 5 - 7 * right)
    motion, centres = moving_square(t, edge, start, (down, right))
    config = MaskConfig(kind="mgm", ratio=0.3, source=source)
    rng = generator(seed, 0, 0, "mask")
    known = {"motion": motion} if source == "motion" else {"backward": motion[1:]}
    mask = make_mask(config, (t, edge, edge), rng, cell=PATCH / CELLS, **known)
    mask = mask.reshape(t, edge, edge)
    within = 0
    for tubelet in range(t):
        box = np.argwhere(mask[tubelet])
        middle = np.minimum(np.maximum(centres[2 * tubelet], 0), edge - 1)
        # A box at the border of the frame cannot be centred on the square, but must hold it.
        low, high = box.min(0) - 1, box.max(0) + 1
        within += bool((low <= middle).all() and (middle <= high).all())
    assert within >= 0.8 * t


@FAST
@given(step=st.integers(-3, 3), seed=st.integers(0, 2**32))
def test_mgmae_mask_moves_with_the_clip(step: int, seed: int) -> None:
    """The whole picture moves `step` patches a tubelet: so does the mask, where the frame
    allows."""
    t, edge = 4, 12
    back = np.zeros((2 * t - 1, CELLS * edge, CELLS * edge, 2), dtype=np.float32)
    back[..., 0] = -step * PATCH / 2
    config = MaskConfig(kind="mgmae", ratio=0.75, base="first")
    mask = make_mask(
        config, (t, edge, edge), generator(seed, 0, 0, "mask"), backward=back, cell=PATCH / CELLS
    ).reshape(t, edge, edge)
    seen = []
    for earlier, later in pairwise(mask):
        shifted = np.roll(earlier, step, axis=1)
        inside = slice(max(step, 0), edge + min(step, 0))
        seen.append((shifted[:, inside] == later[:, inside]).mean())
    assert np.mean(seen) > 0.75


@pytest.mark.parametrize("decoder", ["masked", "running_cell", "partial", "all"])
@FAST
@given(t=st.integers(1, 6), h=st.integers(2, 6), w=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_decoded_counts_do_not_vary(decoder: str, t: int, h: int, w: int, seed: int) -> None:
    grid = (t, 2 * h, 2 * w)
    config = MaskConfig(kind="random", ratio=0.75, decoder=decoder, decoder_ratio=0.5)
    counts = set()
    for epoch in range(4):
        mask = make_mask(config, grid, generator(seed, epoch, 0, "mask"))
        decoded = decoded_tokens(config, grid, mask, generator(seed, epoch, 0, "decoded"))
        counts.add(int(decoded.sum()))
        if decoder in ("masked", "partial"):
            assert not (decoded & ~mask).any()
    assert len(counts) == 1
    assert 0 < counts.pop() <= t * 4 * h * w


@FAST
@given(
    t=st.integers(2, 8),
    cells=st.integers(4, 30),
    drop=st.floats(0.1, 0.6),
    seed=st.integers(0, 2**32),
)
def test_everest_splits_what_moves_into_input_and_output(
    t: int, cells: int, drop: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed % 2**31)
    tokens = torch.randn(2, t * cells, 6, generator=draw)
    moving = int((1 - drop) * t * cells)
    ratio = 1 - 0.5 * (1 - drop)
    noise = torch.rand(2, moving, generator=draw)
    not_input, not_decoded = everest_masks(tokens, noise, drop, ratio, times=t)
    seen = int((1 - ratio) * t * cells)
    assert (~not_input).sum(1).tolist() == [seen, seen]
    assert (~not_decoded).sum(1).tolist() == [moving - seen, moving - seen]
    assert not (~not_input & ~not_decoded).any()


@FAST
@given(
    tokens=st.integers(4, 200),
    ratio=st.floats(0.3, 0.9),
    epoch=st.integers(0, 99),
    seed=st.integers(0, 2**32),
)
def test_hpm_hides_the_hardest_and_as_many_as_ever(
    tokens: int, ratio: float, epoch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    difficulty = rng.permutation(tokens).astype(np.float32)
    hard = hpm_hard_count(tokens, ratio, epoch, 100)
    mask = hpm_mask(difficulty, ratio, hard, rng)
    assert mask.sum() == tokens - int(tokens * (1 - ratio))
    assert mask[np.argsort(-difficulty)[:hard]].all()
    assert hard <= mask.sum() // 2
