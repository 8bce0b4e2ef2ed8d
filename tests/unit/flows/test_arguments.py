"""The options of an ingest are the fields of its spec, with the same defaults."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from flows.arguments import SPEC, spec_values, spec_words
from flows.options import UsageError
from pipelines.ingest_spec import IngestSpec

DEFAULTS = {name: default for name, (_, default, _) in SPEC.items()}


def test_every_field_of_a_spec_is_an_option() -> None:
    values = spec_values("image", DEFAULTS)
    for field in fields(IngestSpec):
        if field.default is not MISSING:
            found = values[field.name]
            assert (tuple(found) if isinstance(found, list) else found) == field.default


def test_a_command_holds_only_what_differs_from_the_defaults() -> None:
    asked = {**DEFAULTS, "resize": 96, "channels": "DNA, ER", "cloud_values": "3"}
    words = ["--resize", "96", "--channels", "DNA, ER", "--cloud-values", "3"]
    assert spec_words(asked) == words
    assert spec_values("microscopy", asked)["channels"] == ["DNA", "ER"]


def test_codes_of_clouds_are_numbers() -> None:
    with pytest.raises(UsageError, match="--cloud-values is 'many'"):
        spec_values("satellite", {**DEFAULTS, "cloud_values": "many"})
