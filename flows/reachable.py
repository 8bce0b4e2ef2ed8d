"""Whether somebody answers at an address, asked once and briefly."""

from __future__ import annotations

import socket
import urllib.request
from urllib.parse import urlsplit

ANSWER_SECONDS = 5.0
RAY_PORT = 6379


def silent_port(address: str) -> str:
    """Return why nothing answers at host:port or ray://host:port; empty where something does."""
    if address == "auto":
        return ""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = place.port or RAY_PORT
        with socket.create_connection((place.hostname or "", port), timeout=ANSWER_SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return str(error)


def healthy(url: str) -> bool:
    """Say whether a Prefect server answers at the address of its API."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False
