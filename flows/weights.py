"""Weights of our own runs for columns that look through an encoder: `weights=run:NAME`."""

from __future__ import annotations

from typing import Any

from storage.fingerprint import sha256_hex
from storage.fs import Store

OF_RUN = "run:"


def with_weights(
    store: Store, columns: dict[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
    """Return columns that name a run's encoder by its hash, and the bytes of each such encoder.

    Raises:
        ValueError: no such run, or its encoder is none that the column takes.
    """
    asked, artefacts = dict(columns), dict[str, bytes]()
    for name, parameters in columns.items():
        weights = str(parameters.get("weights", ""))
        if weights.startswith(OF_RUN):
            from training.frozen import encoder_bytes  # torch and the models: for these alone

            artefacts[name] = encoder_bytes(store, weights.removeprefix(OF_RUN))
            asked[name] = {**parameters, "weights": sha256_hex(artefacts[name])}
    return asked, artefacts
