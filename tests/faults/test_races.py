"""Two operations on one dataset at once, whatever the moment: as if one came after the other."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults import scenes
from tests.faults.races import Operation, race
from tests.faults.zygote import Outcome, Zygote

SAMPLES = 1


@dataclass(frozen=True, slots=True)
class Race:
    """Two operations, and the store that they begin with."""

    prepare: Operation
    first: Operation
    second: Operation


RACES = {
    "ingests of two sources": Race(scenes.begin, scenes.take_a, scenes.take_b),
    "ingests of one source": Race(scenes.begin, scenes.take_a, scenes.take_a),
    "ingests that overlap": Race(scenes.begin, scenes.take_a_and_b, scenes.take_b),
    "a second part, twice": Race(scenes.take_a, scenes.take_a_and_b, scenes.take_b),
    "gc meets an ingest": Race(scenes.leave_garbage, scenes.take_b, scenes.sweep),
    "an ingest meets gc": Race(scenes.leave_garbage, scenes.sweep, scenes.take_b),
    "gc meets a derive": Race(scenes.leave_garbage, scenes.derive_hog, scenes.sweep),
    "a derive meets gc": Race(scenes.leave_garbage, scenes.sweep, scenes.derive_hog),
    "two derives": Race(scenes.take_a, scenes.derive_hog, scenes.derive_hog),
    "a derive meets an ingest": Race(scenes.take_a, scenes.take_a_and_b, scenes.derive_hog),
}
QUICK = ("ingests that overlap", "a second part, twice", "gc meets an ingest", "a derive meets gc")
"Races of the fast suite."
LAST_OF_ALL = "gc"
"Races with gc end in the same store once gc ran after both."


class Course:
    """A race with the stores in which its two operations, one after the other, end."""

    def __init__(self, name: str, place: Path, zygote: Zygote) -> None:
        self.name, self.race, self.place, self.zygote = name, RACES[name], place, zygote
        self.raw, self.before = scenes.make_raw(place / "raw"), place / "before"
        self._do(self.race.prepare, self.before)
        self.wanted = []
        for operations in (self._both(), self._both()[::-1]):
            root = self.copy()
            for operation in operations:
                self._do(operation, root)
            self.wanted.append(self._tree(root))
        self.calls = int(self._run(self.copy(), 10**9)[1])

    def _both(self) -> tuple[Operation, Operation]:
        return self.race.first, self.race.second

    def copy(self) -> Path:
        root = self.place / "store"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.before, root)
        return root

    def _do(self, operation: Operation, root: Path) -> None:
        done: Outcome = self.zygote.run(operation, root, self.raw)
        assert done.error == ""

    def _run(self, root: Path, at: int) -> tuple[int, int, bool]:
        done = self.zygote.run(race, root, self.raw, *self._both(), at)
        assert (done.code, done.error) == (0, ""), (self.name, at)
        result: tuple[int, int, bool] = done.result
        return result

    def _tree(self, root: Path) -> dict[str, str]:
        if LAST_OF_ALL in self.name:
            self._do(scenes.sweep, root)
        return scenes.tree(root)

    def meet(self, at: int) -> None:
        """Let the two meet at a call of the first, and look at what they leave."""
        root = self.copy()
        code, _, _ = self._run(root, at)
        assert code == 0, (self.name, at)
        found = self._tree(root)
        if found not in self.wanted:
            names = sorted(scenes.differences(self.wanted[0], found))
            pytest.fail(f"{self.name}, at call {at}: differs in {names}")
        scenes.check_clean(root)


@pytest.fixture(scope="module")
def courses(zygote: Zygote) -> Iterator[Callable[[str], Course]]:
    with TemporaryDirectory(prefix="races-") as place:

        @cache
        def course(name: str) -> Course:
            (Path(place) / name).mkdir()
            return Course(name, Path(place) / name, zygote)

        yield course


@pytest.mark.parametrize("name", QUICK)
def test_two_that_meet_at_some_calls_end_as_one_after_the_other(
    courses: Callable[[str], Course], name: str
) -> None:
    """G2, G3: the loser of a race reads the winner's snapshot; gc leaves what is being written."""
    course = courses(name)
    for at in random.Random(name).sample(range(2, course.calls), SAMPLES):
        course.meet(at)


@pytest.mark.slow
@pytest.mark.parametrize("name", RACES)
def test_two_that_meet_at_any_call_end_as_one_after_the_other(
    courses: Callable[[str], Course], name: str
) -> None:
    course = courses(name)
    for at in range(1, course.calls + 1):
        course.meet(at)


def together(zygotes: tuple[Zygote, Zygote], course: Course, seconds: float) -> Path:
    """Run both operations in two processes, the second so much later."""
    root = course.copy()

    def later(number: int) -> Outcome:
        time.sleep(seconds * number)
        operation = (course.race.first, course.race.second)[number]
        return zygotes[number].run(operation, root, course.raw)

    with ThreadPoolExecutor(2) as pool:
        assert [done.error for done in pool.map(later, (0, 1))] == ["", ""]
    return root


INGESTS = [name for name in RACES if name.startswith("ingests")]


def start_together(course: Course, other: Zygote, rounds: int) -> None:
    rng = random.Random(course.name)
    other.run(scenes.take_a, course.copy(), course.raw)  # what it imports stays
    for number in range(rounds):
        root = together((course.zygote, other), course, rng.uniform(0, 0.1) * (number > 0))
        assert scenes.tree(root) in course.wanted, number
        scenes.check_clean(root)


@pytest.mark.parametrize("name", ["ingests that overlap"])
def test_two_that_start_together_end_as_one_after_the_other(
    courses: Callable[[str], Course], other_zygote: Zygote, name: str
) -> None:
    start_together(courses(name), other_zygote, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", INGESTS)
def test_two_that_start_at_about_the_same_time_end_as_one_after_the_other(
    courses: Callable[[str], Course], other_zygote: Zygote, name: str
) -> None:
    start_together(courses(name), other_zygote, 40)
