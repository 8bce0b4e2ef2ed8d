"""Members of columns: there and back, and nothing else is let in."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest

from pipelines.column_codec import pack_array, unpack_array


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(3, 4), (0, 5), (1,), (2, 3, 4, 5)])
def test_arrays_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape).astype(dtype)
    data = pack_array(array)
    assert data == pack_array(np.asfortranarray(array))
    back = unpack_array(data)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable
    plain = np.load(io.BytesIO(imagecodecs.zstd_decode(data)), allow_pickle=False)
    np.testing.assert_array_equal(back, plain)


@pytest.mark.parametrize("size", [0, 1, 196, 3967, 3968, 3969, 100_000])
def test_small_members_are_raw_frames_that_any_zstd_reads(size: int) -> None:
    array = np.full(size, 7, np.uint8)
    data = pack_array(array)
    assert (len(data) == size + 140) == (size <= 4096 - 128)  # .npy has 128 bytes before values
    np.testing.assert_array_equal(unpack_array(data), array)
    np.testing.assert_array_equal(unpack_array(zipped(array)), array)
    assert imagecodecs.zstd_decode(data)[-size:] == array.tobytes() or not size
    with pytest.raises(ValueError):
        unpack_array(data[:-1])


def zipped(array: np.ndarray, **how: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return imagecodecs.zstd_encode(buffer.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not zstd",
        imagecodecs.zstd_encode(b"not npy at all"),
        imagecodecs.zstd_encode(b""),
        imagecodecs.zstd_encode(imagecodecs.zstd_decode(pack_array(np.zeros(9)))[:-8]),
        imagecodecs.zstd_encode(imagecodecs.zstd_decode(pack_array(np.zeros(9)))[:60]),
        zipped(np.array([{}], dtype=object), allow_pickle=True),
        zipped(np.asfortranarray(np.zeros((3, 4)))),
    ],
)
def test_what_is_no_member_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack_array(data)
