"""Settings that keep Prefect quiet and offline, and where its server is.

They are defaults, set before Prefect is imported: what the user has set in the environment stays.
"""

from __future__ import annotations

import os

DEFAULTS = {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Prefect writes a failure's traceback to the console; the command says it in a line, and the
    # run keeps the whole of it in its log.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def be_quiet() -> None:
    """Set the defaults; call it before Prefect is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def server_url() -> str:
    """Return the address of the configured server's API; empty where none is."""
    be_quiet()
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or ""


def use_server(url: str) -> None:
    """Let this process, and those that it starts, use a server."""
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
