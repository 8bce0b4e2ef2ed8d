"""Settings that keep Prefect quiet and offline, and where its server is.

They are defaults, set before Prefect is imported: what the user has set in the environment stays.
"""

from __future__ import annotations

import logging
import os

from flows.options import LOG

DEFAULTS = {
    # A run keeps what people are told, progress and a failure's traceback in its log, which the
    # page shows; on the console the command itself says what there is to say.
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_EXTRA_LOGGERS": LOG,
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",  # on a machine that is busy
}


def be_quiet() -> None:
    """Set the defaults; call it before Prefect is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger(LOG).setLevel(logging.INFO)
    logging.getLogger(LOG).propagate = False
    logging.raiseExceptions = (
        False  # lines that the server did not take are no news for the console
    )


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
