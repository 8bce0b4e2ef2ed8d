"""Stored answers of the reference implementations.

`README.md` of the folder they came from says who produced which array and how closely it must be
met; the tests repeat the tolerances. `$HEADRACE_GOLDEN` puts another folder of the same names in
their place: no test knows a size, all are read from the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, ItemsView
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

GOLDEN = Path(os.environ.get("HEADRACE_GOLDEN") or Path(__file__).parent)
TAKEN: dict[str, set[str]] = {path.stem: set() for path in sorted(GOLDEN.glob("*.npz"))}
"The arrays of each file that some test of this session took."


class Stored(dict[str, NDArray[Any]]):
    """The arrays of one file; notes which of them are taken. To look at a name takes nothing."""

    def __init__(self, name: str) -> None:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
            super().__init__({key: stored[key] for key in stored.files})
        self.taken = TAKEN[name]

    def __getitem__(self, key: str) -> NDArray[Any]:
        self.taken.add(key)
        return super().__getitem__(key)

    def items(self) -> ItemsView[str, NDArray[Any]]:
        """Take all of them."""
        self.taken.update(self)
        return super().items()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Stored]:
    """Return the reader of one file of stored answers by its name."""
    return Stored


@pytest.fixture(scope="session")
def untaken() -> Callable[[], dict[str, list[str]]]:
    """Return what tells the arrays of each file that no test took so far."""

    def tell() -> dict[str, list[str]]:
        left = {name: sorted(set(Stored(name)) - taken) for name, taken in TAKEN.items()}
        return {name: arrays for name, arrays in left.items() if arrays}

    return tell


@pytest.fixture(scope="session")
def ratio_of() -> Callable[[NDArray[Any]], float]:
    """Return how a ratio stored as float32 becomes the number that was meant: 0.9, not
    0.8999999762."""
    return lambda stored: round(float(stored), 6)
