"""Centroids of patches, and the nearest centroid of each patch: discrete codes as targets.

Source: centroid tokenizers (CCViT, Yan et al. 2023, arXiv:2303.04664): k-means over raw patches; a
patch's code is the number of its nearest centroid. Everything is float64 and in a fixed order, so
that equal patches give equal centroids and codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


def patch_vectors(frames: NDArray[Any], patch: int) -> Vectors:
    """Return the patches of (T, H, W, C) as (T * N, patch * patch * C), row, column, channel.

    uint8 is scaled to [0, 1]; other types are taken as they are.
    """
    t, height, width, c = frames.shape
    if height % patch or width % patch:
        raise ValueError(
            f"codes: {height}x{width} px do not divide into patches of {patch} px. "
            "Use a view size that is a multiple of the patch."
        )
    split = frames.reshape(t, height // patch, patch, width // patch, patch, c)
    vectors = split.transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * c).astype(np.float64)
    return vectors / 255 if frames.dtype == np.uint8 else vectors


def nearest(vectors: Vectors, centroids: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of the nearest centroid of each vector; ties go to the smaller number."""
    return np.asarray(_distances(vectors, centroids.astype(np.float64)).argmin(1))


def _distances(vectors: Vectors, centroids: Vectors) -> Vectors:
    """Return |c|^2 - 2 x.c: the squared distances but for |x|^2, which changes no order."""
    return np.asarray((centroids**2).sum(1) - 2 * (vectors @ centroids.T))


def fit_centroids(
    vectors: Vectors, count: int, rng: np.random.Generator, rounds: int = 20
) -> NDArray[np.float32]:
    """Return the centroids of k-means: (count, D) float32.

    Starts from distinct vectors drawn by `rng`; a centroid that loses all its vectors moves to the
    vector that is farthest from its own.

    Raises:
        ValueError: fewer distinct vectors than centroids.
    """
    distinct = np.unique(vectors, axis=0)
    if len(distinct) < count:
        raise ValueError(
            f"codes.codes is {count}, the sample holds {len(distinct)} distinct patches. "
            "Ask for fewer codes, or fit on more samples (codes.fit_samples)."
        )
    centroids = distinct[np.sort(rng.permutation(len(distinct))[:count])]
    squares = (vectors**2).sum(1)
    for _ in range(rounds):
        distances = _distances(vectors, centroids)
        owner = distances.argmin(1)
        moved = _means(vectors, owner, centroids)
        empty = np.flatnonzero(np.bincount(owner, minlength=count) == 0)
        farthest = np.argsort(-(distances.min(1) + squares), kind="stable")
        moved[empty] = vectors[farthest[: len(empty)]]
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids.astype(np.float32)


def _means(vectors: Vectors, owner: NDArray[np.int64], centroids: Vectors) -> Vectors:
    """Return the mean of each centroid's vectors; one without vectors stays where it was."""
    order = np.argsort(owner, kind="stable")
    numbers, begins = np.unique(owner[order], return_index=True)
    sums = np.add.reduceat(vectors[order], begins, axis=0)
    counts = np.diff(begins, append=len(owner))
    means = centroids.copy()
    means[numbers] = sums / counts[:, None]
    return means
