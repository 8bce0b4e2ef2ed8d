"""What an encoder hands to a shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as it is stored; `shape` and `dtype` are those that `decode_payload` returns."""

    ext: str
    payload: bytes
    shape: tuple[int, ...]
    dtype: str
