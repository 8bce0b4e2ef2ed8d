"""A Prefect server as `headrace up` starts it, and what its API says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.prefect_server import free_port
from tests.faults.zygote import ROOT


class Server:
    """A server of its own port and folder; commands that it runs here use it once it began."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.url}/api"
        self.environment = {**os.environ, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.environment["PYTHONPATH"] = str(ROOT)
        self.environment.pop("PREFECT_API_URL", None)

    def begin(self) -> dict[str, Any]:
        """Start it, or find it; returns what `headrace up` tells."""
        words = ["up", "--port", str(self.port), "--seconds", "600"]
        told = self.headrace(*words, cwd=self.home)
        assert told["url"] == self.url
        self.environment["PREFECT_API_URL"] = self.api
        return told

    def end(self) -> None:
        """Stop it."""
        command = [sys.executable, "-m", "prefect", "server", "stop"]
        subprocess.run(command, env=self.environment, capture_output=True, timeout=60)

    def headrace(self, *words: str, cwd: Path) -> dict[str, Any]:
        """Run a command against this server; returns its JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "flows", *words, "--json"],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=700,
        )
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def get(self, path: str) -> Any:
        """Ask the API."""
        return self._ask(urllib.request.Request(f"{self.api}/{path}"))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send JSON to the API."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(f"{self.api}/{path}", data=data, headers=headers))

    def _ask(self, request: urllib.request.Request) -> Any:
        """Return the answer; a server that is busy is asked again, as its clients do."""
        for _ in range(10):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
            except TimeoutError:
                pass
            time.sleep(3)
        raise AssertionError(f"{request.full_url}: busy ten times")

    def start(self, deployment: str) -> str:
        """Start a deployment, as its button on the page does; returns the run."""
        number = self.get(f"deployments/name/{deployment}")["id"]
        run: str = self.post(f"deployments/{number}/create_flow_run", {})["id"]
        return run

    def has(self, deployment: str) -> bool:
        """Say whether there is a deployment."""
        try:
            return bool(self.get(f"deployments/name/{deployment}"))
        except urllib.error.HTTPError:
            return False

    def state(self, run: str) -> str:
        """Return the type of state that a flow run is in."""
        state: str = self.get(f"flow_runs/{run}")["state_type"]
        return state

    def all_runs(self) -> list[dict[str, Any]]:
        """Return the newest flow runs, the newest last."""
        found: list[dict[str, Any]] = self.post("flow_runs/filter", {"sort": "START_TIME_DESC"})
        return found[::-1]

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment that began, by the API."""
        body = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
        return [run for run in self.post("flow_runs/filter", body) if run["start_time"]]

    def completed(self, deployment: str) -> int:
        """Return how many runs of a deployment are completed."""
        return sum(run["state_type"] == "COMPLETED" for run in self.runs(deployment))

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Return the task runs of a flow run."""
        asked = {"task_runs": {"flow_run_id": {"any_": [run]}}}
        found: list[dict[str, Any]] = self.post("task_runs/filter", asked)
        return found

    def told(self, run: str = "") -> str:
        """Return the log of a flow run, or the newest lines of all."""
        asked = {"logs": {"flow_run_id": {"any_": [run]}}} if run else {}
        lines = self.post("logs/filter", {**asked, "sort": "TIMESTAMP_DESC"})
        return "\n".join(line["message"] for line in lines)


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait, or fail with a word of what did not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(1)
