"""Masks from patterns and scores: ColorMAE's coloured noise, EVEREST's changes, HPM's
difficulty."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.mask_random import Grid, Mask, kept, smallest

SIGMAS = {"red": (2.0,), "blue": (1.0,), "green": (0.5, 2.0), "purple": (0.5, 2.0)}
"Blurs of each colour, in tokens; the authors' own are not public."
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
    white: NDArray[Any], colour: str, sigmas: tuple[float, ...] | None = None
) -> NDArray[np.float32]:
    """Return white noise filtered to a colour, each slice scaled to [0, 1] (ColorMAE).

    Args:
        white: (..., H, W) uniform noise.
        colour: red is low-pass, blue high-pass, green a band, purple all but that band.
        sigmas: blurs in place of the colour's own `SIGMAS`.
    """
    if colour not in SIGMAS:
        raise ValueError(f"mask.colour is {colour!r}; it must be one of {', '.join(SIGMAS)}.")
    first, *others = sigmas or SIGMAS[colour]
    noise = blur(white, first)
    for wide in others:
        noise = noise - blur(white, wide)
    if colour in ("blue", "purple"):
        noise = white - noise
    low, high = noise.min((-2, -1), keepdims=True), noise.max((-2, -1), keepdims=True)
    return np.asarray((noise - low) / (high - low), dtype=np.float32)


def colour_mask(window: NDArray[Any], ratio: float) -> Mask:
    """Return the (..., h*w) mask that leaves the largest values of (..., h, w) visible."""
    flat = window.reshape(*window.shape[:-2], -1)
    return ~smallest(-flat, kept(flat.shape[-1], ratio))


def colormae_mask(
    grid: Grid, ratio: float, rng: np.random.Generator, colour: str = "green"
) -> Mask:
    """Return a mask from fresh coloured noise, the same at all times of a clip.

    A pattern is drawn for each sample, so that none is used twice; the released stack of 3072
    patterns and its sigmas are not public.
    """
    t, h, w = grid
    size = max(_PATTERN, h, w)
    noise = coloured_noise(rng.random((size, size)), colour)
    return np.tile(colour_mask(noise[:h, :w], ratio), t)


def hpm_hard_count(tokens: int, ratio: float, epoch: int, epochs: int) -> int:
    """Return how many of the hardest tokens are forced into the mask: 0 at first, half of it at the
    end (HPM)."""
    return int((tokens - kept(tokens, ratio)) * (0.5 * (epoch + 1) / epochs))


def hpm_mask(
    difficulty: NDArray[np.float32], ratio: float, hard: int, rng: np.random.Generator
) -> Mask:
    """Return a mask with the `hard` most difficult tokens and, up to the ratio, others at random
    (HPM).

    Args:
        difficulty: (N,) predicted difficulty of each token.
    """
    forced = smallest(-difficulty, hard)
    order = np.where(forced, -1.0, rng.random(len(difficulty)))
    return smallest(order, len(difficulty) - kept(len(difficulty), ratio))
