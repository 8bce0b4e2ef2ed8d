"""Keyed permutations that are computed a place at a time, and so cost no memory.

A permutation of n is a generalised Feistel network on a grid of at least n cells, walked until it
lands below n again. Every round adds to one coordinate a hash of the other, which can be undone; so
it is a permutation whatever the hash is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(numbers: Numbers) -> Numbers:
    """Return a hash of each number: the finaliser of SplitMix64, a permutation of 64 bits."""
    x = numbers + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def keys_of(seed: int, *names: int, numbers: tuple[Numbers, ...]) -> Numbers:
    """Return a key for each tuple of `numbers`, under a seed and the names of the purpose."""
    words = np.random.SeedSequence([seed, *names]).generate_state(1, np.uint64)
    keys: Numbers = np.broadcast_to(words, numbers[0].shape)
    for number in numbers:
        keys = mix(keys ^ mix(number))
    return keys


def permuted(places: NDArray[np.int64], sizes: NDArray[np.int64], keys: Numbers) -> Numbers:
    """Return where each place goes under the permutation of `size` that its key names.

    Args:
        places: (n,) with 0 <= place < size.
        sizes: (n,) at least 1.
        keys: (n,) uint64; places of one permutation have the same key.
    """
    limit = sizes.astype(np.uint64)
    high = np.ceil(np.sqrt(limit.astype(np.float64))).astype(np.uint64)
    low = (limit + high - np.uint64(1)) // high
    rounds = [mix(keys + np.uint64(number)) for number in range(_ROUNDS)]
    found = _feistel(places.astype(np.uint64), high, low, rounds)
    outside = np.flatnonzero(found >= limit)
    while len(outside):  # the grid is less than a row larger than n: few places, few walks
        some = [one[outside] for one in rounds]
        found[outside] = _feistel(found[outside], high[outside], low[outside], some)
        outside = outside[found[outside] >= limit[outside]]
    return found


def _feistel(places: Numbers, high: Numbers, low: Numbers, rounds: list[Numbers]) -> Numbers:
    """Permute the cells of `high` x `low` grids."""
    row, column = places // low, places % low
    for number, key in enumerate(rounds):
        if number % 2:
            column = (column + mix(row ^ key) % low) % low
        else:
            row = (row + mix(column ^ key) % high) % high
    return row * low + column
