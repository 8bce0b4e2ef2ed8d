"""Values of Arrow columns and memory of batches: quick ways, as right as the slow ones."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.memory import Blocks
from pipelines.rows import ShardRows
from pipelines.values import values_of

COLUMNS = {
    "text": pa.array(["", "a", "größer", "x" * 300]),
    "text with a gap": pa.array(["a", None, "b", "c"]),
    "large": pa.array([0, 2**64 - 1, 7, 2**63], pa.uint64()),
    "signed": pa.array([-(2**63), 5, -1, 2**63 - 1], pa.int64()),
    "small": pa.array([-7, 1, 2, 3], pa.int32()),
    "number with a gap": pa.array([1, None, 3, 4], pa.int64()),
    "shape": pa.array([[1, 2], [], [3, 4, 5], [6]], pa.list_(pa.int32())),
    "list with a gap": pa.array([[1, 2], None, [3], []], pa.list_(pa.int32())),
    "item with a gap": pa.array([[1, None], [2], [3], []], pa.list_(pa.int32())),
    "real": pa.array([0.5, -1.0, 2.0, 3.0]),
    "empty": pa.array([None] * 4, pa.string()),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(("begin", "length"), [(0, 4), (1, 3), (2, 1), (3, 0)])
def test_values_are_those_of_arrow(name: str, begin: int, length: int) -> None:
    array = COLUMNS[name].slice(begin, length)
    values = values_of(array)
    assert [values[number] for number in range(length)] == array.to_pylist()


def test_rows_that_were_looked_at_go_to_another_process() -> None:
    rows = ShardRows("folder", "shard", pa.table({"key": ["a", "b"], "size": [1, 2]}), {})
    assert dict(rows.row(1)) == {"key": "b", "size": 2}
    again = pickle.loads(pickle.dumps(rows))
    assert dict(again.row(0)) == {"key": "a", "size": 1}


def test_memory_is_taken_again_only_when_nobody_holds_it() -> None:
    blocks = Blocks()
    first = blocks.take((2, 3), torch.float32)
    place = first.data_ptr()
    part = first[1:].numpy()
    part[:] = 5
    del first
    second = blocks.take((2, 3), torch.float32)
    assert second.data_ptr() != place
    second.zero_()
    np.testing.assert_array_equal(part, [[5, 5, 5]])
    del part
    third = blocks.take((24,), torch.uint8)
    assert third.data_ptr() == place


def test_memory_of_other_sizes_and_of_many_holders_is_fresh() -> None:
    blocks = Blocks()
    held = [blocks.take((4,), torch.uint8) for _ in range(9)]
    held.append(blocks.take((5,), torch.uint8))
    assert len({one.data_ptr() for one in held}) == 10
    assert len(blocks._blocks) <= 4
