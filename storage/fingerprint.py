"""Names for bytes and values: fingerprints decide what is stale, checksums find damage."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import xxhash


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a number that JSON does not have (NaN, infinity), a key that is no text, or text
            that is not Unicode.
    """
    _check_keys(value)
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def _check_keys(value: Any) -> None:
    """Refuse keys that JSON would turn into text, so that two values could share one text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"canonical_json: key {key!r} is no text. Use text keys only.")
            if isinstance(inner, dict | list | tuple):
                _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            if isinstance(inner, dict | list | tuple):
                _check_keys(inner)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of a value's canonical JSON."""
    return sha256_hex(canonical_json(value))


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def checksum(data: bytes | memoryview) -> int:
    """Return the 64-bit xxh3 of bytes: finds damage at memory speed, no defence against forgery."""
    return xxhash.xxh3_64_intdigest(data)
