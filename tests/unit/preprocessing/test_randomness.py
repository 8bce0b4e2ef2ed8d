"""Generators depend on their four numbers and on nothing else."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from preprocessing.randomness import PURPOSES, generator


def test_same_numbers_same_draws() -> None:
    one, two = generator(3, 1, -5, "view"), generator(3, 1, -5, "view")
    np.testing.assert_array_equal(one.random(100), two.random(100))


def test_neighbouring_numbers_share_no_draw() -> None:
    draws = {
        int(generator(seed, epoch, sample, purpose).integers(2**62))
        for seed, epoch, sample in product(range(4), repeat=3)
        for purpose in PURPOSES
    }
    assert len(draws) == 4**3 * len(PURPOSES)


def test_stored_draws() -> None:
    """Frozen: a change of these numbers changes every view and mask of every run."""
    drawn = generator(7, 2, 123456789, "mask").integers(1000, size=6).tolist()
    assert drawn == [887, 291, 650, 253, 280, 848]


def test_signed_and_unsigned_ids_are_one() -> None:
    assert generator(0, 0, -1, "mask").random() == generator(0, 0, 2**64 - 1, "mask").random()


def test_numbers_are_uniform() -> None:
    drawn = np.array([generator(0, 0, sample, "view").random() for sample in range(2000)])
    assert abs(drawn.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.07


def test_unknown_purpose() -> None:
    with pytest.raises(ValueError, match=r"purpose 'color' is unknown\. Known: view, mask"):
        generator(0, 0, 0, "color")


def test_purposes_have_numbers_of_their_own() -> None:
    assert len(set(PURPOSES.values())) == len(PURPOSES)
