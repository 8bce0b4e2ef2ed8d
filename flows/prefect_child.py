"""Prefect's server as a process of its own, which ends with the command that started it."""

from __future__ import annotations

import os
import sys

from flows.parent import end_with_parent
from flows.prefect_settings import be_quiet

OWN = {
    "PREFECT_SERVER_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
"As Prefect starts a server that serves one program."


def main() -> None:
    """Serve on the port, for the process, that the command line names."""
    port, parent = int(sys.argv[1]), int(sys.argv[2])
    end_with_parent(parent)
    os.environ.update(OWN)
    os.environ.pop("PREFECT_API_URL", None)
    be_quiet()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="critical",
        lifespan="on",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
