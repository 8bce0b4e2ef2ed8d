"""Series: which rows of a shard are one place, and which of them a sample draws."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from pipelines.rows import ShardRows
from pipelines.series import places_of

TIMES = {
    "north": ["2021-05-20T10:20:00", "2019-02-09", "2021-05-20T09:00:00", "2020-12-31T23:59:59"],
    "south": ["2010-01-01", "2011-01-01"],
    "alone": ["2017-07-04T12:00:00"],
}


def shard(samples: list[dict[str, object]]) -> ShardRows:
    """Return a shard whose samples say this."""
    table = pa.table(
        {
            "key": [f"sample{number:02d}" for number in range(len(samples))],
            "metadata": [json.dumps(about) for about in samples],
        }
    )
    return ShardRows("folder", "shard-000000.tar", table, {})


SAMPLES = [{"scene": scene, "time": time} for scene, times in TIMES.items() for time in times]


def test_a_draw_holds_the_sample_and_others_of_its_place_oldest_first() -> None:
    places = places_of(shard(SAMPLES), "scene", "tiles/shard-000000.tar")
    seen: set[tuple[int, ...]] = set()
    for draw in range(60):
        rows = places.draw(0, 3, np.random.default_rng(draw))
        assert 0 in rows
        assert len(set(rows)) == 3
        assert set(rows) <= {0, 1, 2, 3}
        times = [TIMES["north"][row] for row in rows]
        assert times == sorted(times)
        seen.add(tuple(rows))
    assert seen == {(1, 3, 0), (1, 2, 0), (3, 2, 0)}


def test_dates_count_from_2002_january_and_midnight() -> None:
    places = places_of(shard(SAMPLES), "scene", "tiles")
    expected = [[19, 4, 10], [17, 1, 0], [19, 4, 9], [18, 11, 23]]
    np.testing.assert_array_equal(places.dates([0, 1, 2, 3]), expected)


def test_a_place_with_fewer_pictures_gives_some_again() -> None:
    places = places_of(shard(SAMPLES), "scene", "tiles")
    drawn = {tuple(places.draw(5, 3, np.random.default_rng(draw))) for draw in range(40)}
    assert drawn == {(4, 4, 5), (4, 5, 5)}
    assert places.draw(6, 3, np.random.default_rng(0)) == [6, 6, 6]


def test_tiles_of_a_scene_are_places_of_their_own() -> None:
    tiles = [{"scene": "a", "time": time, "tile": tile} for time in ("2020-01-01", "2020-02-01")
             for tile in ([0, 0], [0, 64])]  # fmt: skip
    places = places_of(shard(tiles), "scene", "tiles")
    assert places.draw(0, 2, np.random.default_rng(0)) == [0, 2]
    assert places.draw(3, 2, np.random.default_rng(0)) == [1, 3]


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"scene": "a"}, r"tiles, sample sample01: says no time; .*group 'date' or 'time'"),
        ({"scene": "a", "time": "last spring"}, r"says the time 'last spring', which is no date"),
        ({"time": "2020-01-01"}, r"sample01: says no 'scene', .* it says time\."),
    ],
)
def test_a_sample_that_says_too_little_is_named(about: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        places_of(shard([{"scene": "a", "time": "2020-01-01"}, about]), "scene", "tiles")


def test_a_shard_that_shows_no_place_twice_is_refused() -> None:
    apart = [{"scene": scene, "time": "2020-01-01"} for scene in ("a", "b", "c")]
    with pytest.raises(ValueError, match=r"tiles: shows no place twice.*--shard-size"):
        places_of(shard(apart), "scene", "tiles")
