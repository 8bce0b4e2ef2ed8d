"""The values of an Arrow column one by one, as Python objects.

Arrow makes an object of its own for each value first, which takes longer than to read the sample
that a row is about. Here the bytes of the column are looked at where they lie.
"""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

_WIDTHS = {1: "bB", 2: "hH", 4: "iI", 8: "qQ"}


class Values(Protocol):
    """Values by their number."""

    def __getitem__(self, number: int, /) -> Any: ...


class Texts:
    """Texts, or the bytes that they are stored as."""

    __slots__ = ("data", "ends")

    def __init__(self, array: pa.StringArray) -> None:
        self.ends = _ends(array)
        self.data = memoryview(array.buffers()[2] or b"")

    def __getitem__(self, number: int) -> str:
        return str(self.data[self.ends[number] : self.ends[number + 1]], "utf-8")

    def raw(self, number: int) -> memoryview:
        """Return a text in UTF-8, where it lies."""
        return self.data[self.ends[number] : self.ends[number + 1]]


class _Lists:
    __slots__ = ("ends", "items")

    def __init__(self, array: pa.ListArray, items: memoryview[int]) -> None:
        self.ends, self.items = _ends(array), items

    def __getitem__(self, number: int) -> list[int]:
        return self.items[self.ends[number] : self.ends[number + 1]].tolist()


class _Others:
    __slots__ = ("array",)

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    def __getitem__(self, number: int) -> Any:
        return self.array[number].as_py()


def _ends(array: pa.Array) -> memoryview[int]:
    """Return where each value of a text or list ends, the first after where all begin."""
    return memoryview(array.buffers()[1]).cast("i")[array.offset : array.offset + len(array) + 1]


def _integers(array: pa.Array) -> memoryview[int]:
    letter = _WIDTHS[array.type.bit_width // 8][pa.types.is_unsigned_integer(array.type)]
    data = memoryview(array.buffers()[1] or b"").cast(letter)
    return data[array.offset : array.offset + len(array)]


def values_of(array: pa.Array) -> Values:
    """Return the values of one chunk: those of `array[number].as_py()`."""
    kind = array.type
    if not len(array) or array.null_count:
        return _Others(array)
    if pa.types.is_integer(kind):
        return _integers(array)
    if pa.types.is_string(kind):
        return Texts(array)
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
        items = array.values
        return _Others(array) if items.null_count else _Lists(array, _integers(items))
    return _Others(array)
