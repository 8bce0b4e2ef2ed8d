"""Schedules on a real Prefect server: what ran, by the API's own lists."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from flows.command import app
from flows.prefect_server import free_port
from storage.fs import open_store
from storage.snapshots import read_snapshot
from tests.faults.zygote import ROOT
from tests.integration.raw import make_images

VIEW = {"view.size": 32, "model.depth": 1, "model.decoder_depth": 1}
REFRESH = {
    "dataset": "photos",
    "ingest": {"source": "raw", "modality": "image", "options": {"heldout": 0.2}},
    "columns": {"hog": {"view": {"size": 32}}},
    "recipe": "mae_tiny",
    "settings": {"steps": 3, "batch": 4, "optim.schedule": "infinite", **VIEW},
    "run": "nightly",
}
INGEST = {"sources": ["raw"], "dataset": "cron", "spec": {"modality": "image"}}


def plan(direct: bool = True) -> dict[str, Any]:
    return {
        "store": "store",
        "direct": direct,
        "workers": 1,
        "deployments": {
            "minutely": {"flow": "ingest", "cron": "* * * * *", "parameters": INGEST},
            "arrivals": {
                "flow": "refresh",
                "new_files": {"source": "incoming", "every": 2},
                "parameters": {
                    "plan": {**REFRESH, "ingest": {**REFRESH["ingest"], "source": "incoming"}}
                },
            },
        },
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures and a file of deployments, in which commands run."""
    make_images(tmp_path / "raw", count=8)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan(), sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_refresh_takes_what_is_new_and_trains_on(place: Path) -> None:
    from flows.arguments import executor_values, stages_by_name
    from flows.refresh import RefreshPlan, run_refresh

    words = RefreshPlan.model_validate(REFRESH), stages_by_name(True), executor_values(1, True, "")
    first = run_refresh("store", *words)
    assert (first["snapshot"], first["run"], first["before"]) == (1, "nightly-000001", None)
    again = run_refresh("store", *words)
    assert (again["new"], again["run"], again["steps"]) == (0, "nightly-000001", 3)
    make_images(place / "raw", count=12)
    then = run_refresh("store", *words)
    assert (then["snapshot"], then["new"]) == (2, 4)
    assert then["columns"]["hog"]["computed"] == 4
    assert (then["run"], then["before"], then["steps"]) == ("nightly-000002", "nightly-000001", 6)
    record = json.loads((place / "store/runs/nightly-000002/run.json").read_bytes())
    assert record["recipe"]["begin"]["run"] == "nightly-000001"
    assert record["provenance"]["snapshot"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flow": "ingst"}, "ingst"),
        ({"cron": "every night"}, "five fields"),
        ({"interval": 10}, "one of cron, interval"),
        ({"crom": "* * * * *"}, "did you mean cron?"),
    ],
)
def test_a_mistake_in_the_file_is_told(place: Path, change: dict[str, Any], said: str) -> None:
    values = plan()
    values["deployments"]["minutely"] |= change
    (place / "plan.yaml").write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(app, ["serve", "plan.yaml", "--dry-run"])
    assert done.exit_code == 1
    assert said in done.stderr and "Traceback" not in done.stderr


class Server:
    """A lasting Prefect server, as `headrace up` starts it, and what its API says."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {**os.environ, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.environment["PYTHONPATH"] = str(ROOT)
        self.environment.pop("PREFECT_API_URL", None)

    def headrace(self, *words: str, cwd: Path) -> dict[str, Any]:
        """Run a command against this server; returns its JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "flows", *words, "--json"],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment that began, by the API."""
        body = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
        request = urllib.request.Request(
            f"{self.api}/flow_runs/filter",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return [run for run in json.load(answer) if run["start_time"]]

    def completed(self, deployment: str) -> int:
        return sum(run["state_type"] == "COMPLETED" for run in self.runs(deployment))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("prefect"))
    told = made.headrace("up", "--port", str(made.port), cwd=made.home)
    assert told["url"] == f"http://127.0.0.1:{made.port}"
    with urllib.request.urlopen(f"{told['url']}/ui-settings", timeout=60) as answer:
        assert json.load(answer)["api_url"] == made.api  # or the page would ask another port
    assert made.headrace("up", "--port", str(made.port), cwd=made.home) == told
    made.environment["PREFECT_API_URL"] = made.api
    yield made
    command = [sys.executable, "-m", "prefect", "server", "stop"]
    subprocess.run(command, env=made.environment, capture_output=True, timeout=60)


@contextmanager
def serving(server: Server, place: Path) -> Iterator[subprocess.Popen[str]]:
    """Keep `headrace serve` alive; it ends by SIGINT, as by Ctrl-C."""
    with (place / "serve.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve", "plan.yaml"],
            cwd=place,
            env=server.environment,
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1200)
def test_a_cron_fires_is_paused_and_resumed(server: Server, place: Path) -> None:
    with serving(server, place):
        until(lambda: server.completed("minutely") >= 2, 300, (place / "serve.log").read_text())
        told = server.headrace("serve", "plan.yaml", "--pause", "minutely", cwd=place)
        assert [d["paused"] for d in told["deployments"]] == [True, False]
        time.sleep(20)  # what had begun may end
        before = len(server.runs("minutely"))
        time.sleep(120)
        assert len(server.runs("minutely")) == before
    with serving(server, place):  # what a person paused stays so when serve begins anew
        time.sleep(20)
        listed = server.headrace("serve", "plan.yaml", "--list", cwd=place)["deployments"]
        assert listed[0]["paused"] is True
        server.headrace("serve", "plan.yaml", "--resume", "minutely", cwd=place)
        until(lambda: len(server.runs("minutely")) > before, 150, "resumed, and nothing came")
        listed = server.headrace("serve", "plan.yaml", "--list", cwd=place)["deployments"]
        assert listed[0]["paused"] is False
    assert read_snapshot(open_store(place / "store"), "cron") is not None


@pytest.mark.prefect
def test_a_watch_goes_on_without_its_server(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import prefect_serve
    from flows.serve_plan import NewFiles

    files = NewFiles(source="raw", every=0.1)
    watch = prefect_serve._Watch("refresh/arrivals", files, open_store("store"))
    stop = threading.Event()
    threading.Timer(3, stop.set).start()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        watch.keep(stop)
    assert capsys.readouterr().err.count("could not look for new files") == 1


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1200)
def test_new_files_give_a_snapshot_their_columns_and_more_training(
    server: Server, place: Path
) -> None:
    values = plan()
    del values["deployments"]["minutely"]
    (place / "plan.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    make_images(place / "incoming", count=8)
    with serving(server, place):
        until(lambda: server.completed("arrivals") == 1, 240, "the first files were not taken")
        time.sleep(10)
        assert len(server.runs("arrivals")) == 1  # nothing new, nothing to do
        make_images(place / "incoming", count=12)
        until(lambda: server.completed("arrivals") == 2, 240, "new files were not taken")
    store = open_store(place / "store")
    snapshot = read_snapshot(store, "photos")
    assert snapshot is not None
    assert [entry.samples for entry in snapshot.parts] == [8, 4]
    listed = server.headrace("ls", "photos", "--store", str(place / "store"), cwd=place)
    assert listed["columns"][0]["parts"] == "2 of 2"
    made = [event for event in _events(place) if event["what"] == "derive"]
    assert [event["computed"] for event in made] == [8, 4]
    runs = {run["run"]: run for run in server.headrace("ls", cwd=place)["runs"]}
    assert runs["nightly-000002"]["recipe"]["begin"]["run"] == "nightly-000001"
    assert runs["nightly-000002"]["provenance"]["snapshot"] == 2
    verified = server.headrace("verify", "photos", cwd=place)
    assert (verified["samples"], verified["damaged"]) == (12, [])


def _events(place: Path) -> list[dict[str, Any]]:
    files = sorted((place / "store" / "ledger" / "photos").glob("hog-*/2*.json"))
    return [json.loads(file.read_bytes()) for file in files]


def state_of(server: Server, run: str) -> str:
    with urllib.request.urlopen(f"{server.api}/flow_runs/{run}", timeout=60) as answer:
        state: str = json.load(answer)["state_type"]
        return state


def process_of(served: subprocess.Popen[str]) -> psutil.Process:
    """Return the process of the run that is under way."""
    return psutil.Process(served.pid).children()[0]


def ask_for(server: Server, deployment: str) -> str:
    """Start a deployment, as its button on the page does; returns the run."""
    url = f"{server.api}/deployments/name/{deployment}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        number = json.load(answer)["id"]
    made: str = post(f"{server.api}/deployments/{number}/create_flow_run", {})["id"]
    return made


def is_there(server: Server, deployment: str) -> bool:
    try:
        with urllib.request.urlopen(f"{server.api}/deployments/name/{deployment}", timeout=60):
            return True
    except urllib.error.HTTPError:
        return False


def post(url: str, body: dict[str, Any]) -> Any:
    """Send JSON; a server whose database is busy (503) is asked again, as its clients do."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    for _ in range(10):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(3)
    raise AssertionError(f"{url}: busy ten times")


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1200)
def test_states_tell_of_cancelled_and_killed_runs(server: Server, place: Path) -> None:
    """T7: a long training is cancelled, killed, and loses its `serve`; asked again, it finishes."""
    values = plan()
    long = {**REFRESH, "settings": {**REFRESH["settings"], "steps": 300, "save_every": 20}}
    values["deployments"] = {"long": {"flow": "refresh", "parameters": {"plan": long}}}
    (place / "plan.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    log = place / "store" / "runs" / "nightly-000001" / "checkpoints"

    def newest() -> str:
        return max((path.name for path in log.glob("*.json")), default="")

    def begin(served: subprocess.Popen[str]) -> tuple[str, psutil.Process]:
        """Start a run and wait until it has saved something."""
        before, run = newest(), ask_for(server, "refresh/long")
        until(lambda: newest() > before, 300, "no checkpoint")
        return run, process_of(served)

    with serving(server, place) as served:
        until(lambda: is_there(server, "refresh/long"), 120, "serve does not begin")
        cancelled, process = begin(served)
        post(
            f"{server.api}/flow_runs/{cancelled}/set_state",
            {"state": {"type": "CANCELLING", "name": "Cancelling"}},
        )
        process.wait(timeout=90)
        until(lambda: state_of(server, cancelled) == "CANCELLED", 60, "it is not cancelled")
        killed, process = begin(served)
        process.kill()
        until(lambda: state_of(server, killed) == "CRASHED", 90, "it is not crashed")
        orphan, process = begin(served)
        served.kill()
        process.wait(timeout=60)
    with serving(server, place):
        until(lambda: state_of(server, orphan) == "CRASHED", 90, "nobody tells that it crashed")
        last = ask_for(server, "refresh/long")
        until(lambda: state_of(server, last) == "COMPLETED", 300, "asked again, it did not finish")
    verified = server.headrace("verify", "photos", cwd=place)
    assert (verified["samples"], verified["damaged"]) == (8, [])
