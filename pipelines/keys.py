"""Names of samples: readable keys for people and tars, numbers for generators."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from pipelines.grouping import Unit
from storage.fingerprint import checksum

_BITS = 2**63 - 1


def sample_key(unit: Unit, content_hash: str, index: int) -> str:
    """Return the key of a unit's sample: readable, ASCII, without dots, unique by content.

    The raw file's place is not part of it, so the same bytes have the same key wherever they lie.
    """
    name = PurePosixPath(unit.files[0].path).name
    stem = name.rsplit(".", 1)[0] if "." in name else name
    if unit.fields:
        stem = "_".join(unit.fields[key] for key in sorted(unit.fields) if unit.fields[key])
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_")[:40] or "sample"
    return f"{slug}-{content_hash[:16]}-{index:04d}"


def sample_id(key: str | memoryview) -> int:
    """Return the number (63 bits) that keys every random choice about a sample, by its key: a text
    or that in UTF-8."""
    return checksum(key.encode() if isinstance(key, str) else key) & _BITS
