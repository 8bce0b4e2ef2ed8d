"""Masks as bits: eight tokens a byte, the first token in the highest bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_masks(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return (..., N) bool as (..., ceil(N / 8)) uint8: 25 bytes for the 196 tokens of 14x14."""
    return np.packbits(masks, axis=-1)


def unpack_mask(packed: NDArray[Any], tokens: int) -> NDArray[np.bool_]:
    """Return the (..., tokens) mask of packed bits.

    Raises:
        ValueError: the bits are not those of so many tokens.
    """
    if packed.shape[-1] != -(-tokens // 8):
        raise ValueError(
            f"unpack_mask: {packed.shape[-1]} bytes hold up to {8 * packed.shape[-1]} tokens, the "
            f"grid has {tokens}. The masks belong to another grid; derive them again."
        )
    bits = np.unpackbits(packed.astype(np.uint8, copy=False), axis=-1, count=tokens)
    return bits.view(np.bool_)
