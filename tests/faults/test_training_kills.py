"""T6: a run that was killed, whenever and however often, ends as one that never was (G9)."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.faults.training_runs import (
    RUNS,
    STEPS,
    batches_of,
    equal,
    left_by,
    make_store,
    train_run,
)
from tests.faults.zygote import Zygote


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """A store with three datasets, and a run of each that nothing interrupted."""
    folder = tmp_path_factory.mktemp("training")
    assert zygote.run(make_store, folder).code == 0
    for kind in RUNS:
        outcome = zygote.run(train_run, folder, kind, f"{kind}-whole", 0, [])
        assert outcome.code == 0, outcome.error
    return folder


@pytest.mark.parametrize("kind", RUNS)
def test_killed_at_random_steps_and_resumed(kind: str, made: Path, zygote: Zygote) -> None:
    rng = random.Random(kind)
    for kill in [*(rng.randint(1, STEPS - 1) for _ in range(3)), 0]:
        outcome = zygote.run(train_run, made, kind, f"{kind}-killed", kill, [])
        assert outcome.code in (0, -signal.SIGKILL), outcome.error
    whole, killed = left_by(made, f"{kind}-whole"), left_by(made, f"{kind}-killed")
    assert equal(whole, killed)
    assert batches_of(made, f"{kind}-whole") == batches_of(made, f"{kind}-killed")
