"""Masks from patterns and scores: ColorMAE's coloured noise, EVEREST's changes, HPM's difficulty."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.mask_random import Grid, Mask, kept, smallest

COLOURS = ("red", "blue", "green", "purple")
_PATTERN = 64
"Edge of a drawn noise pattern; larger windows draw larger ones."


@lru_cache(maxsize=32)
def _blur_spectrum(size: int, sigma: float) -> NDArray[np.complex128]:
    """Return the spectrum of a gaussian, cut at 4 sigma, on a ring of `size` values."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    ring = np.zeros(size)
    np.add.at(ring, offsets % size, weights / weights.sum())
    return np.fft.fft(ring)


def blur(noise: NDArray[Any], sigma: float) -> NDArray[np.float64]:
    """Return (..., H, W) noise blurred by a gaussian, with periodic borders."""
    rows = _blur_spectrum(noise.shape[-2], sigma)[:, None]
    columns = _blur_spectrum(noise.shape[-1], sigma)
    return np.asarray(np.fft.ifft2(np.fft.fft2(noise) * rows * columns).real)


def coloured_noise(
    white: NDArray[Any], colour: str, sigma: float = 2.0, wide: float = 4.0
) -> NDArray[np.float32]:
    """Return white noise filtered to a colour, each slice scaled to [0, 1] (ColorMAE).

    Args:
        white: (..., H, W) uniform noise.
        colour: red is low-pass and blue high-pass at `sigma`; green is the band from `sigma` to `wide`, purple the rest.
    """
    if colour not in COLOURS:
        raise ValueError(f"mask.colour is {colour!r}; it must be one of {', '.join(COLOURS)}.")
    noise = blur(white, sigma)
    if colour == "blue":
        noise = white - noise
    elif colour != "red":
        noise = noise - blur(white, wide)
        noise = white - noise if colour == "purple" else noise
    low, high = noise.min((-2, -1), keepdims=True), noise.max((-2, -1), keepdims=True)
    return ((noise - low) / (high - low)).astype(np.float32)


def colour_mask(window: NDArray[Any], ratio: float) -> Mask:
    """Return the mask that keeps the int(h*w*(1-r)) largest values of (..., h, w) visible: (..., h*w)."""
    flat = window.reshape(*window.shape[:-2], -1)
    return ~smallest(-flat, kept(flat.shape[-1], ratio))


def colormae_mask(
    grid: Grid, ratio: float, rng: np.random.Generator, colour: str = "green"
) -> Mask:
    """Return a mask from fresh coloured noise, the same at all times of a clip.

    A pattern is drawn for each sample, so that none is used twice; the released stack of 3072 patterns and
    its sigmas are not public.
    """
    t, h, w = grid
    size = max(_PATTERN, h, w)
    noise = coloured_noise(rng.random((size, size)), colour)
    return np.tile(colour_mask(noise[:h, :w], ratio), t)


def everest_masks(
    tokens: NDArray[np.float32],
    noise: NDArray[np.float32],
    drop: float,
    ratio: float,
    times: int = 8,
) -> tuple[Mask, Mask]:
    """Return which tokens are not input and which are not decoded (EVEREST).

    Args:
        tokens: (B, times * L, D) patch embeddings without positions.
        noise: (B, int((1 - drop) * times * L)) uniform.
        drop: share of tokens dropped as unchanging. ratio: share of all tokens hidden from the encoder.

    Returns:
        Two (B, times * L) bool: False = encoder input; False = decoded.
    """
    count = tokens.shape[1]
    frames = tokens.reshape(len(tokens), times, count // times, -1)
    change = np.linalg.norm(np.diff(frames, axis=1), axis=-1)
    importance = np.concatenate([change[:, :1], change], axis=1).reshape(len(tokens), count)
    moving = np.argsort(-importance, axis=1, kind="stable")[:, : int((1 - drop) * count)]
    shuffled = np.take_along_axis(moving, np.argsort(noise, axis=1, kind="stable"), axis=1)
    encoded = int((1 - ratio) * count)
    not_input, not_decoded = np.ones((2, len(tokens), count), dtype=np.bool_)
    np.put_along_axis(not_input, shuffled[:, :encoded], False, axis=1)
    np.put_along_axis(not_decoded, shuffled[:, encoded:], False, axis=1)
    return not_input, not_decoded


def hpm_hard_count(tokens: int, ratio: float, epoch: int, epochs: int) -> int:
    """Return how many of the hardest tokens are forced into the mask: 0 at first, half of it at the end (HPM)."""
    return int((tokens - kept(tokens, ratio)) * (0.5 * (epoch + 1) / epochs))


def hpm_mask(
    difficulty: NDArray[np.float32], ratio: float, hard: int, rng: np.random.Generator
) -> Mask:
    """Return a mask with the `hard` most difficult tokens and, up to the ratio, others at random (HPM).

    Args:
        difficulty: (N,) predicted difficulty of each token.
    """
    forced = smallest(-difficulty, hard)
    order = np.where(forced, -1.0, rng.random(len(difficulty)))
    return smallest(order, len(difficulty) - kept(len(difficulty), ratio))
