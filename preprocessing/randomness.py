"""Random numbers that depend on what they are for, never on who draws them.

A generator is a function of (seed, epoch, sample, purpose) alone. The four numbers are the key and
the high half of the counter of Philox, a counter-based generator: different numbers give streams
that cannot meet before 2**128 draws, however alike the numbers are.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

PURPOSES = {
    "view": 1,
    "mask": 2,
    "decoded": 3,
    "noise": 4,
    "substitute": 5,
    "frames": 6,
    "season": 7,
    "heldout": 8,
    "demo": 9,
    "codes": 10,
    "probe": 11,
    "path": 12,
}
"What numbers are drawn for. A number, once given, is never given to another purpose."

_WORD = 2**64 - 1


def generator(seed: int, epoch: int, sample: int, purpose: str) -> np.random.Generator:
    """Return the generator of one random choice.

    Args:
        seed: seed of the run.
        epoch: pass over the data, or the number of a frozen view.
        sample: id of the sample, 64 bits, signed or not.
        purpose: one of `PURPOSES`.

    Raises:
        ValueError: the purpose is unknown.
    """
    if purpose not in PURPOSES:
        raise ValueError(
            f"purpose {purpose!r} is unknown. Known: {', '.join(PURPOSES)}. "
            "Give it a number of its own in preprocessing/randomness.py."
        )
    key = np.array([int(seed) & _WORD, PURPOSES[purpose]], dtype=np.uint64)
    counter = np.array([0, 0, int(epoch) & _WORD, int(sample) & _WORD], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(_Key(key), counter=counter))  # type: ignore[arg-type]


def borrowed(seed: int, epoch: int, sample: int, purpose: str) -> np.random.Generator:
    """Return `generator`'s numbers from a generator of this thread, in a third of its time.

    It is set anew by the thread's next call for the same purpose: draw at once, and let it go.
    """
    kept = _borrowed.generators.get(purpose)
    if kept is None:
        kept = generator(seed, epoch, sample, purpose)
        state = kept.bit_generator.state
        numbers = state["state"]
        _borrowed.generators[purpose] = kept
        _borrowed.states[purpose] = state, numbers["key"], numbers["counter"]
        return kept
    state, key, counter = _borrowed.states[purpose]
    key[0] = int(seed) & _WORD
    counter[2], counter[3] = int(epoch) & _WORD, int(sample) & _WORD
    kept.bit_generator.state = state
    return kept


class _Borrowed(threading.local):
    """The generators of a thread, and the states from which they begin."""

    def __init__(self) -> None:
        self.generators: dict[str, np.random.Generator] = {}
        self.states: dict[str, tuple[Any, NDArray[np.uint64], NDArray[np.uint64]]] = {}


_borrowed = _Borrowed()


class _Key(ISeedSequence):
    """Hands Philox its key as it is; `Philox(key=…)` would ask the system for entropy first."""

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        """Return the key."""
        return self.key
