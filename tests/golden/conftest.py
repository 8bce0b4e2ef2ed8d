"""Stored answers of the reference implementations.

`README.md` of the folder they came from says who produced which array and how closely it must be
met; the tests repeat the tolerances. `$HEADRACE_GOLDEN` puts another folder of the same names in
their place: no test knows a size, all are read from the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

GOLDEN = Path(os.environ.get("HEADRACE_GOLDEN") or Path(__file__).parent)
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Arrays]:
    """Return the reader of one file of stored answers by its name."""

    def read(name: str) -> Arrays:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    return read


@pytest.fixture(scope="session")
def ratio_of() -> Callable[[NDArray[Any]], float]:
    """Return how a ratio stored as float32 becomes the number that was meant: 0.9, not
    0.8999999762."""
    return lambda stored: round(float(stored), 6)
