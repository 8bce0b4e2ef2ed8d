"""Prefect's server: one of the command's own where none is configured, or a lasting one.

The own server ends with its command, and is started again on the same port if it is killed: its
state is in SQLite, and clients ask again for about a minute.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO

from flows import prefect_settings
from flows.reachable import healthy

_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
LEASES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES}
"In memory, Prefect's default, a place that was taken when the server ended stays taken for ever."
LIVES = 4
"How often the own server is started before a command gives up."


def ensure_server() -> None:
    """Start a server of this command's own, unless one is configured.

    Raises:
        ConnectionError: the one that is configured does not answer.
        RuntimeError: its own did not start.
    """
    url = prefect_settings.server_url()
    if url.startswith("http://") and not healthy(url):
        raise ConnectionError(
            f"Prefect: nothing answers at {url} (PREFECT_API_URL, or the profile). Start it with "
            "'headrace up', correct the address, or unset it: each command then has its own."
        )
    if not url:
        server = OwnServer()
        server.start()
        prefect_settings.use_server(server.url)


def lasting_server(port: int) -> None:
    """Use the configured server, or the one of `headrace up`: schedules need one that stays.

    Raises:
        ConnectionError: there is none.
    """
    url = prefect_settings.server_url() or f"http://127.0.0.1:{port}/api"
    if not healthy(url):
        raise ConnectionError(
            f"Prefect: nothing answers at {url}. Start a server with 'headrace up', or set "
            "PREFECT_API_URL to the one that keeps your schedules."
        )
    prefect_settings.use_server(url)


class OwnServer:
    """A server for this process alone."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.process: subprocess.Popen[bytes] | None = None
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.ended = threading.Event()

    def start(self) -> None:
        """Start the process, wait until it answers, and keep it alive from then on.

        Raises:
            RuntimeError: it ended, or did not answer in time.
        """
        self._spawn()
        atexit.register(self.stop)
        threading.Thread(target=self._keep, name="prefect server", daemon=True).start()
        allowed = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])
        deadline = time.monotonic() + allowed
        while not healthy(self.url):
            if self.ended.is_set() or time.monotonic() > deadline:
                ended = f"ended {LIVES} times" if self.ended.is_set() else f"not in {allowed:.0f} s"
                self.stop()
                raise RuntimeError(
                    f"Prefect's server did not start ({ended}; {self._last_words()}). "
                    "See 'headrace doctor', start one with 'headrace up', or use --direct."
                )
            time.sleep(0.1)

    def _spawn(self) -> None:
        words = [sys.executable, "-m", "flows.prefect_child", str(self.port), str(os.getpid())]
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )

    def _keep(self) -> None:
        """Start the server again when it was killed."""
        for life in range(1, LIVES + 1):
            assert self.process is not None, "it was spawned"
            self.process.wait()
            if self.ended.is_set():
                return
            if life < LIVES:
                self._spawn()
        self.ended.set()

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self) -> None:
        """End the process."""
        self.ended.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_lasting(port: int, seconds: float) -> str:
    """Return the address of a local server's API: of the one that runs there, or of a new one that
    stays when this command ends.

    Raises:
        RuntimeError: it did not start.
    """
    url = f"http://127.0.0.1:{port}/api"
    if healthy(url):
        return url
    prefect_settings.be_quiet()
    words = [sys.executable, "-m", "prefect", "server", "start", "--background"]
    # Without it the page asks the server of the default port, whichever port it came from.
    environment = {"PREFECT_UI_API_URL": url, **LEASES, **os.environ}
    environment.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryFile() as log:
        started = subprocess.run(
            [*words, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
        deadline = time.monotonic() + seconds
        while not healthy(url):
            if started.returncode or time.monotonic() > deadline:
                log.seek(0)
                said = log.read().decode(errors="replace").strip()[-300:] or "it said nothing"
                raise RuntimeError(
                    f"Prefect's server does not answer at {url} ({said}). End what runs there "
                    "('prefect server stop' for a server), choose another --port or more "
                    "--seconds, or see 'headrace doctor'."
                )
            time.sleep(0.2)
    return url
