"""Schedules on a real Prefect server: what ran, by the API's own lists."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from flows.command import app
from storage.fs import open_store
from storage.snapshots import read_snapshot
from tests.integration.lasting_server import Server, until
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("prefect"))
    told = made.begin()
    with urllib.request.urlopen(f"{told['url']}/ui-settings", timeout=60) as answer:
        assert json.load(answer)["api_url"] == made.api  # or the page would ask another port
    assert made.begin() == told
    yield made
    made.end()


@contextmanager
def serving(server: Server, place: Path) -> Iterator[subprocess.Popen[str]]:
    """Keep `headrace serve` alive; it ends by SIGTERM, as a service is stopped."""
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
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=300)


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(2400)
def test_a_cron_fires_is_paused_and_resumed(server: Server, place: Path) -> None:
    with serving(server, place):
        until(lambda: server.completed("minutely") >= 2, 600, (place / "serve.log").read_text())
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
        until(lambda: len(server.runs("minutely")) > before, 300, "resumed, and nothing came")
        listed = server.headrace("serve", "plan.yaml", "--list", cwd=place)["deployments"]
        assert listed[0]["paused"] is False
    assert read_snapshot(open_store(place / "store"), "cron") is not None


@pytest.mark.prefect
def test_a_watch_goes_on_without_its_server(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.prefect_watch import Watch
    from flows.serve_plan import NewFiles

    files = NewFiles(source="raw", every=0.1)
    watch = Watch("refresh/arrivals", files, open_store("store"))
    looks = iter([False] * 6)
    stop = SimpleNamespace(wait=lambda seconds: next(looks, True))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        watch.keep(stop)
    assert capsys.readouterr().err.count("could not look for new files") == 1


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(2400)
def test_new_files_give_a_snapshot_their_columns_and_more_training(
    server: Server, place: Path
) -> None:
    values = plan()
    del values["deployments"]["minutely"]
    (place / "plan.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    make_images(place / "incoming", count=8)
    with serving(server, place) as served:
        until(lambda: bool(server.runs("arrivals")), 600, "the first files were not seen")
        served.kill()
        served.wait()
    with serving(server, place):  # what died with serve is begun again, once
        until(lambda: server.completed("arrivals") == 1, 600, "the first files were not taken")
        time.sleep(10)
        states = [run["state_type"] for run in server.runs("arrivals")]
        assert states == ["CRASHED", "COMPLETED"]  # nothing new, nothing to do
        make_images(place / "incoming", count=12)
        until(lambda: server.completed("arrivals") == 2, 600, "new files were not taken")
    store = open_store(place / "store")
    snapshot = read_snapshot(store, "photos")
    assert snapshot is not None
    assert [entry.samples for entry in snapshot.parts] == [8, 4]
    listed = server.headrace("ls", "photos", "--store", str(place / "store"), cwd=place)
    assert listed["columns"][0]["parts"] == "2 of 2"
    made = [event for event in _events(place) if event["what"] == "derive"]
    assert [event["computed"] for event in made if event["computed"]] == [8, 4]
    told = server.told()
    for line in ("4 written", "photos hog: computed 4, reused 8", "nightly-000002: step 3, loss"):
        assert line in told
    runs = {run["run"]: run for run in server.headrace("ls", cwd=place)["runs"]}
    assert runs["nightly-000002"]["recipe"]["begin"]["run"] == "nightly-000001"
    assert runs["nightly-000002"]["provenance"]["snapshot"] == 2
    verified = server.headrace("verify", "photos", cwd=place)
    assert (verified["samples"], verified["damaged"]) == (12, [])


def _events(place: Path) -> list[dict[str, Any]]:
    files = sorted((place / "store" / "ledger" / "photos").glob("hog-*/2*.json"))
    return [json.loads(file.read_bytes()) for file in files]


def process_of(served: subprocess.Popen[str]) -> psutil.Process:
    """Return the process of the run that is under way."""
    return psutil.Process(served.pid).children()[0]


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(2400)
def test_states_tell_of_cancelled_and_killed_runs(server: Server, place: Path) -> None:
    """T7: a long training is cancelled, killed, late, and loses its `serve`; asked again, it
    finishes."""
    values = plan()
    long = {**REFRESH, "settings": {**REFRESH["settings"], "steps": 300, "save_every": 20}}
    values["deployments"] = {
        "long": {"flow": "refresh", "parameters": {"plan": long}},
        "late": {"flow": "refresh", "parameters": {"plan": long}, "timeout": 60},
    }
    (place / "plan.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    log = place / "store" / "runs" / "nightly-000001" / "checkpoints"

    def newest() -> str:
        return max((path.name for path in log.glob("*.json")), default="")

    def begin(
        served: subprocess.Popen[str], deployment: str = "refresh/long"
    ) -> tuple[str, psutil.Process]:
        """Start a run and wait until it has saved something."""
        before, run = newest(), server.start(deployment)
        until(lambda: newest() > before, 600, "no checkpoint")
        return run, process_of(served)

    with serving(server, place) as served:
        until(lambda: server.has("refresh/long"), 300, "serve does not begin")
        cancelled, process = begin(served)
        server.post(
            f"flow_runs/{cancelled}/set_state",
            {"state": {"type": "CANCELLING", "name": "Cancelling"}},
        )
        process.wait(timeout=200)
        until(lambda: server.state(cancelled) == "CANCELLED", 200, "it is not cancelled")
        killed, process = begin(served)
        process.kill()
        until(lambda: server.state(killed) == "CRASHED", 200, "it is not crashed")
        late, process = begin(served, "refresh/late")
        process.wait(timeout=200)
        until(lambda: server.state(late) == "FAILED", 200, "it is not timed out")
        assert "exceeded timeout of 60" in server.told(late)
        parts = server.post(
            "flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [killed]}}}
        )
        until(
            lambda: not any(server.state(part["id"]) == "RUNNING" for part in parts),
            200,
            "parts of a killed run stay running",
        )
        orphan, process = begin(served)
        served.kill()
        process.wait(timeout=200)
    with serving(server, place):
        until(lambda: server.state(orphan) == "CRASHED", 200, "nobody tells that it crashed")
        last = server.start("refresh/long")
        until(lambda: server.state(last) == "COMPLETED", 600, "asked again, it did not finish")
    verified = server.headrace("verify", "photos", cwd=place)
    assert (verified["samples"], verified["damaged"]) == (8, [])


def serve_again(server: Server, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", "serve", "plan.yaml"],
        cwd=place,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1200)
def test_a_second_serve_is_refused_while_the_first_lives(server: Server, place: Path) -> None:
    values = plan()
    values["deployments"] = {"asked": {"flow": "ingest", "parameters": INGEST}}
    (place / "plan.yaml").write_text(yaml.safe_dump(values))
    with serving(server, place) as first:
        until(lambda: server.has("ingest/asked"), 300, "serve does not begin")
        second = serve_again(server, place)
        assert second.returncode == 1, second.stderr
        assert f"process {first.pid}" in second.stderr and "Ctrl-C" in second.stderr
        assert "Traceback" not in second.stderr and first.poll() is None
        run = server.start("ingest/asked")
        until(lambda: server.state(run) == "COMPLETED", 300, "the first one was disturbed")
        first.kill()
        first.wait()
    with serving(server, place):  # the dead hold nothing
        run = server.start("ingest/asked")
        until(lambda: server.state(run) == "COMPLETED", 300, "the next one does not serve")


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(900)
def test_trainings_wait_for_each_other(server: Server, place: Path) -> None:
    """Two are asked for at once: both runs begin, one trains at a time."""
    server.headrace("ingest", "raw", "--modality", "image", "--dataset", "photos", cwd=place)
    words = ["data.dataset=photos", "steps=40", "batch=4", *(f"{k}={v}" for k, v in VIEW.items())]
    values = plan()
    values["deployments"] = {
        name: {
            "flow": "pretrain",
            "parameters": {"recipe": "mae_tiny", "overrides": words, "run": name, "resume": True},
        }
        for name in ("one", "two")
    }
    (place / "plan.yaml").write_text(yaml.safe_dump(values))
    with serving(server, place):
        until(lambda: server.has("pretrain/two"), 300, "serve does not begin")
        runs = [server.start(f"pretrain/{name}") for name in ("one", "two")]
        until(lambda: {server.state(run) for run in runs} == {"COMPLETED"}, 400, "not done")
    begun = sorted(run["start_time"] for run in server.runs("one") + server.runs("two"))
    (first,), (second,) = (server.tasks(run) for run in runs)
    first, second = sorted((first, second), key=lambda task: task["start_time"])
    assert begun[1] < first["end_time"], "they never met"
    assert first["end_time"] <= second["start_time"]


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ConnectionError("gone"), 3),
        (TimeoutError("late"), 3),
        (ValueError("wrong"), 1),
        (PermissionError("closed"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_pass_is_tried_again(server: Server, error: Exception, tries: int) -> None:
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.prefect_flows import _stage

    calls = []

    def work() -> dict[str, Any]:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return {}

    stage = _stage(work, "work").with_options(retry_delay_seconds=0)
    with temporary_settings({PREFECT_API_URL: server.api}):
        state = flow(name="tries")(lambda: stage())(return_state=True)
    assert len(calls) == tries
    assert state.is_completed() == (tries == 3)
