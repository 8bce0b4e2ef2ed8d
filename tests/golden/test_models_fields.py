"""Fields and scenes against their references: whole losses as the loop takes them, and sensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.schedules import one_cycle

Read = Callable[[str], dict[str, NDArray[Any]]]


def test_one_cycle_of_microscopy(golden: Read) -> None:
    wanted = golden("lr_schedules")["onecycle_micro"]
    total, top = len(wanted), int(wanted.argmax()) + 1
    found = [
        one_cycle(step, peak=float(wanted.max()), rise=top, total=total) for step in range(total)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
