"""Names for bytes and values: fingerprints that decide what is stale, checksums that find damage."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import xxhash


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a number that JSON does not have (NaN, infinity).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def fingerprint(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the SHA-256 (64 hex digits) of a value's canonical JSON."""
    return sha256_hex(canonical_json(value))


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def checksum(data: bytes) -> int:
    """Return the 64-bit xxh3 of bytes: finds damage at memory speed; it is no defence against forgery."""
    return xxhash.xxh3_64_intdigest(data)
