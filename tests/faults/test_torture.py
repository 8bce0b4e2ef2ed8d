"""T1: killed, without power, or refused at any call, the command ends in the same store (G3)."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.scenes import SCENES, check_clean, differences, make_raw, tree
from tests.faults.torture import FAILURES, KILLS, Fault, Watch
from tests.faults.zygote import Outcome, Zygote

QUICK = ("kill", "power", "EIO", "ENOSPC")
LAST_NAMES = 3
"Files after whose naming the fast suite kills; of a first ingest it takes all."


class Stage:
    """A scene with its raw files, the store before it, and the store after it without faults."""

    def __init__(self, name: str, place: Path, zygote: Zygote) -> None:
        self.scene, self.place, self.zygote = SCENES[name], place, zygote
        self.raw = make_raw(place / "raw")
        self.before = place / "before"
        prepared = zygote.run(self.scene.prepare, self.before, self.raw)
        assert prepared.error == ""
        root = self.copy()
        done = self.run(root, Fault())
        assert (done.code, done.error) == (0, "")
        self.calls, self.written, self.trace = done.calls, done.written, done.trace
        self.after = tree(root)
        self.added = sum((root / name).stat().st_size for name in self.after.keys() - self.old())

    def sample(self, how: str) -> list[int]:
        """Return a few calls, always the same: the whole state changes where a name does."""
        points = random.Random(f"{self.scene.name} {how}").sample(range(2, self.calls), 1)
        if how == "kill":
            names = [at for at, name in enumerate(self.trace, 2) if name in ("replace", "link")]
            points += names if self.scene.name == "first" else names[-LAST_NAMES:]
            points += [at - 1 for at in names[:1]]  # a whole file that has no name yet
        return points

    def old(self) -> set[str]:
        return set(tree(self.before))

    def copy(self) -> Path:
        """Return the store as it was before, a fresh one each time."""
        root = self.place / "store"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.before, root)
        return root

    def run(self, root: Path, fault: Fault, *, cut_at_end: bool = False) -> Outcome:
        watch = Watch(root, fault, cut_at_end=cut_at_end)
        return self.zygote.run(self.scene.work, root, self.raw, watch=watch)

    def interrupt(self, fault: Fault) -> list[str]:
        """Run with a fault, then again without one; returns in what the store differs."""
        root = self.copy()
        hurt = self.run(root, fault)
        again = self.run(root, Fault())
        wrong = sorted(differences(self.after, tree(root)))
        if fault.how in KILLS and hurt.code != (-signal.SIGKILL if fault.at <= self.calls else 0):
            wrong.append(f"was not killed but ended with {hurt.code} {hurt.error}")
        if again.error:
            wrong.append(f"run again: {again.error}")
        if not wrong:
            check_clean(root)
        return [f"{fault}: {what}" for what in wrong]


@pytest.fixture(scope="module")
def stages(zygote: Zygote) -> Iterator[Callable[[str], Stage]]:
    with TemporaryDirectory(prefix="torture-") as place:

        @cache
        def stage(name: str) -> Stage:
            (Path(place) / name).mkdir()
            return Stage(name, Path(place) / name, zygote)

        yield stage


@pytest.mark.parametrize("name", SCENES)
def test_every_byte_of_a_store_goes_through_the_counted_calls(
    stages: Callable[[str], Stage], name: str
) -> None:
    stage = stages(name)
    assert stage.written >= stage.added > 0 or name == "gc"


@pytest.mark.parametrize("how", QUICK)
@pytest.mark.parametrize("name", SCENES)
def test_interrupted_at_some_calls_the_store_ends_the_same(
    stages: Callable[[str], Stage], name: str, how: str
) -> None:
    """G3: a sample of calls."""
    stage = stages(name)
    points = stage.sample(how)
    assert [wrong for at in points for wrong in stage.interrupt(Fault(at, how))] == []


@pytest.mark.parametrize("how", ["power", "names"])
@pytest.mark.parametrize("name", ["first", "derive", "repair"])
def test_what_was_told_as_done_outlasts_a_power_cut(
    stages: Callable[[str], Stage], name: str, how: str
) -> None:
    """The power goes as the command ends: no file of it is lost (but one that went may be back)."""
    stage = stages(name)
    root = stage.copy()
    assert stage.run(root, Fault(0, how), cut_at_end=True).code == -signal.SIGKILL
    left = tree(root)
    assert {name for name, digest in stage.after.items() if left.get(name) != digest} == set()


@pytest.mark.slow
@pytest.mark.parametrize("how", KILLS + FAILURES)
@pytest.mark.parametrize("name", SCENES)
def test_interrupted_at_any_call_the_store_ends_the_same(
    stages: Callable[[str], Stage], name: str, how: str
) -> None:
    """G3: every call, and after the last."""
    stage = stages(name)
    points = range(1, stage.calls + 2)
    assert [wrong for at in points for wrong in stage.interrupt(Fault(at, how))] == []
