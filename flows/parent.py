"""Processes that must not outlive the one that started them, however it ends."""

from __future__ import annotations

import os
import signal
import threading
import time

LOOK_SECONDS = 0.5
GRACE_SECONDS = 20.0
"Between the request to end and the end without one."


def end_with_parent(parent: int | None = None) -> None:
    """End this process soon after its parent has; a parent that is killed cannot say so.

    Args:
        parent: who that is, for a parent that may have ended before this call.
    """
    wanted = os.getppid() if parent is None else parent
    threading.Thread(target=_watch, args=(wanted,), name="parent watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
