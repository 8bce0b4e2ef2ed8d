"""One text for a value, whatever made it."""

from __future__ import annotations

import pytest

from storage.fingerprint import canonical_json, checksum, fingerprint, sha256_hex


def test_canonical_json_is_sorted_and_dense() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "x", "d": (3,)}}
    assert canonical_json(value) == '{"a":{"d":[3],"é":"x"},"b":[1,2.5,null,true]}'.encode()
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "value", [float("nan"), [float("inf")], {1: 2}, [{"a": {None: 1}}], "\ud800"]
)
def test_values_without_one_text_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical_json(value)


def test_known_answers() -> None:
    assert checksum(b"") == 0x2D06800538D394C2
    assert sha256_hex(b"abc").startswith("ba7816bf8f01cfea")
