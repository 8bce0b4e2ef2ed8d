"""What an encoder hands to the writer of a shard."""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.encoded import Encoded
from preprocessing.statistics import Moments


@dataclass(frozen=True, slots=True)
class NewSample:
    """One sample as it goes into a shard."""

    encoded: Encoded
    metadata: dict[str, object]
    moments: Moments
    score: float = 0.0
