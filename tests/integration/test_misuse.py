"""What a new user does wrong: each wrong command gives one clear error with the next step, and no
traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.command import app
from tests.faults.zygote import ROOT
from tests.integration.raw import make_images, make_videos

STORE = "store"
INGEST = "ingest raw --modality image --dataset new"
MISTAKES: dict[str, tuple[str, int, str]] = {
    # what: (the command, its exit code, what the error says)
    "a command with a typo": ("ingst raw", 2, "Did you mean 'ingest'?"),
    "an option with a typo": (f"{INGEST} --resise 8", 2, "--resize"),
    "an option without its value": (f"{INGEST} --resize big", 2, "'--resize'"),
    "no source": ("ingest --modality image --dataset new", 2, "at least one SOURCE"),
    "no dataset name": ("ingest raw --modality image", 2, "'--dataset'"),
    "no modality": ("ingest raw --dataset new", 2, "microscopy"),
    "an unknown modality": ("ingest raw --modality sound --dataset new", 2, "'sound'"),
    "a source that is not there": (
        "ingest nowhere --modality image --dataset new",
        1,
        "nowhere",
    ),
    "a source of another modality": (
        "ingest clips --modality image --dataset new",
        3,
        "headrace ls new --rejects",
    ),
    "a dataset of another modality": (
        "ingest clips --modality video --dataset photos",
        1,
        "choose another --dataset",
    ),
    "a name that is no folder": (
        "ingest raw --modality image --dataset a/b",
        1,
        "beginning with a letter or digit",
    ),
    "a pattern that is none": (f"{INGEST} --pattern ((", 1, "not a regular expression"),
    "a negative size": (f"{INGEST} --resize -5", 1, "--resize is -5"),
    "a share above one": (f"{INGEST} --max-reject 7", 2, "from 0 to 1"),
    "a held-out share above one": (f"{INGEST} --heldout 2", 1, "--heldout is 2.0"),
    "fewer than no workers": (f"{INGEST} --workers -1", 2, "1 or more"),
    "Ray without Ray": (f"{INGEST} --ray-address 1.2.3.4:1", 2, "Leave one out"),
    "codes that are words": (
        "ingest raw --modality satellite --dataset new --cloud-values a,b",
        2,
        "whole numbers",
    ),
    "a list without paths": (
        "ingest paths.csv --modality image --dataset new",
        1,
        "paths.csv",
    ),
    "labels that are not there": (f"{INGEST} --labels colour", 1, "colour"),
    "a store that cannot be": (f"{INGEST} --store ftp://x", 1, "s3://bucket/path"),
    "a store that is a file": (f"{INGEST} --store text.txt", 1, "Give --store the folder"),
    "a store that is not there": ("ls --store nowhere", 1, "Correct --store"),
    "a plan of nothing": ("plan nowhere --modality image", 1, "nowhere"),
    "a probe of nothing": ("plan raw --modality image --probe-files 0", 2, "1 or more"),
    "no such dataset": ("derive nothing hog", 1, "headrace ingest SOURCE"),
    "no column": ("derive photos", 2, "name at least one column"),
    "a column with a typo": ("derive photos hgo", 2, "Known: flow"),
    "a column with a typo and a setting": ("derive photos hgo hgo.cell=4", 2, "Known: flow"),
    "a setting that is a value and a group": ("derive photos hog view=1 view.size=8", 2, "view=1"),
    "a parameter with a typo": ("derive photos hog sell=4", 2, "Known:"),
    "a parameter of the wrong type": ("derive photos hog cell=many", 1, "cell is 'many'"),
    "a value that is none": ("derive photos hog cell=[", 2, "not a YAML value"),
    "a value that cannot be": ("derive photos hog cell=0", 1, "divide 16 px"),
    "columns beside a recipe": ("derive photos hog --for mae_tiny", 2, "Leave out hog"),
    "a column of another modality": ("derive photos flow", 1, "needs video samples"),
    "a column without its weights": ("derive photos features", 1, "features.weights="),
    "weights of no run": ("derive photos features weights=run:none", 1, "headrace ls"),
    "epochs that are none": ("derive photos hog --plan --epochs 0", 2, "above 0"),
    "two columns to explain": ("why photos hog flow", 2, "exactly one column"),
    "no such recipe": ("pretrain may_tiny", 1, "mae_tiny"),
    "a recipe file that is not there": ("pretrain none.yaml", 1, "path of a YAML file"),
    "a recipe that is no YAML": ("pretrain broken.yaml", 1, "Correct it there"),
    "a recipe that is a list": ("pretrain list.yaml", 1, "a recipe is a mapping"),
    "a setting with a typo": ("pretrain mae_tiny mask.ration=0.5", 1, "mask.ratio"),
    "a setting without a value": ("pretrain mae_tiny steps", 1, "key=value"),
    "a setting of the wrong type": ("pretrain mae_tiny steps=many", 1, "steps is 'many'"),
    "no steps": ("pretrain mae_tiny steps=0", 1, "1 or more"),
    "a ratio in per cent": ("pretrain mae_tiny mask.ratio=75", 1, "strictly between 0 and 1"),
    "a view that cuts patches": ("pretrain mae_tiny view.size=100", 1, "Use view.size=96"),
    "a batch above the data": (
        "pretrain mae_tiny data.dataset=photos batch=1000",
        1,
        "Use a batch of at most",
    ),
    "a recipe of another modality": (
        "pretrain videomae_tiny data.dataset=photos",
        1,
        "use a recipe for image",
    ),
    "a column that was not derived": (
        "pretrain maskfeat_image_tiny data.dataset=photos batch=4",
        1,
        "Run 'headrace derive photos hog",
    ),
    "no such snapshot": (
        "pretrain mae_tiny data.dataset=photos data.snapshot=9",
        1,
        "no snapshot 9",
    ),
    "workers below none": ("pretrain mae_tiny --workers -1", 2, "not be negative"),
    "an unknown feed": ("pretrain mae_tiny --feed spark", 2, "'ray'"),
    "no such run": ("evaluate nothing --dataset photos", 1, "headrace ls"),
    "an unknown probe": ("evaluate x --dataset photos --probe svm", 2, "'linear'"),
    "an export of nothing": ("export nothing --to timm --output out", 1, "headrace ls"),
    "an unknown layout": ("export x --to onnx --output out", 2, "'timm'"),
    "a report of nothing": ("report nothing", 1, "headrace ls"),
    "a report into a file": ("report photos --output text.txt/a.html", 2, "another place"),
    "a study that is not there": ("study nowhere.yaml", 1, "examples/"),
    "a study that is no YAML": ("study broken.yaml", 1, "Correct it there"),
    "nothing to list": ("ls nothing", 1, "headrace ls"),
    "whose rejects": ("ls --rejects", 2, "need the name of a dataset"),
    "rejects of nothing": ("ls nothing --rejects", 1, "only datasets have rejects"),
    "fewer than no samples": ("ls photos --samples -1", 2, "not be negative"),
    "nothing to verify": ("verify nothing", 1, "headrace ingest SOURCE"),
    "an age below zero": ("gc --older-than -1", 2, "not be negative"),
    "an age in words": ("gc --older-than soon", 2, "'--older-than'"),
    "a port that cannot be": ("up --port 99999", 2, "'--port'"),
    "a demo of sounds": ("demo --modality sound", 2, "'satellite'"),
}
STAGES = ("ingest", "derive", "pretrain", "evaluate", "export", "study", "demo")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: raw files, a store with one dataset, files of other kinds."""
    place = tmp_path_factory.mktemp("desk")
    make_images(place / "raw")
    make_videos(place / "clips", count=2)
    (place / "text.txt").write_text("no folder")
    (place / "broken.yaml").write_text("a: [1")
    (place / "list.yaml").write_text("- a")
    (place / "paths.csv").write_text("pfad,label\na.jpg,b\n")
    words = ["ingest", str(place / "raw"), "--modality", "image", "--dataset", "photos"]
    done = CliRunner().invoke(app, [*words, "--direct", "--store", str(place / STORE)])
    assert done.exit_code == 0, done.stderr
    return place


def test_there_are_enough() -> None:
    assert len(MISTAKES) >= 30


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_error(
    name: str, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, code, said = MISTAKES[name]
    monkeypatch.chdir(desk)
    words = command.split()
    words += ["--direct"] if words[0] in STAGES else []
    # What a mistake leaves in a store must not change what the next one meets.
    store = tmp_path / "store" if code == 3 else desk / STORE
    words += [] if "--store" in words else ["--store", str(store)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, done.stderr
    check_error(done.stderr, said)
    assert done.stdout == "" or code == 3


def check_error(stderr: str, said: str) -> None:
    """One error that says this; no traceback."""
    assert said in stderr
    assert "Traceback" not in stderr and 'File "' not in stderr
    errors = [line for line in stderr.splitlines() if line.startswith(("headrace: ", "Error: "))]
    assert len(errors) == 1, stderr


def in_a_process(words: list[str], desk: Path, **environment: str) -> Any:
    command = [sys.executable, "-m", "flows", *words, "--store", str(desk / STORE)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, cwd=desk, env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ingest nowhere --modality image --dataset new", "nowhere"),
        ("derive photos hog cell=0", "divide 16 px"),
        ("pretrain maskfeat_image_tiny data.dataset=photos batch=4", "Run 'headrace derive"),
    ],
)
def test_a_mistake_within_a_flow_is_one_clear_error_too(
    command: str, said: str, desk: Path, tmp_path: Path
) -> None:
    done = in_a_process(command.split(), desk, PREFECT_HOME=str(tmp_path / "prefect"))
    assert done.returncode == 1
    check_error(done.stderr, said)
    assert done.stdout == ""


@pytest.mark.prefect
def test_a_server_that_is_gone_is_told_at_once(desk: Path, tmp_path: Path) -> None:
    """PREFECT_API_URL names one that was killed, or never was."""
    url = "http://127.0.0.1:9/api"
    words = ["derive", "photos", "hog"]
    done = in_a_process(words, desk, PREFECT_API_URL=url, PREFECT_HOME=str(tmp_path))
    assert done.returncode == 1
    check_error(done.stderr, f"nothing answers at {url}")
    assert "headrace up" in done.stderr


@pytest.mark.prefect
def test_a_port_that_is_taken_is_told_at_once(desk: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = in_a_process(["up", "--port", port], desk, PREFECT_HOME=str(tmp_path))
    assert done.returncode == 1
    check_error(done.stderr, "another --port")


def test_a_cluster_that_is_gone_is_told_at_once(desk: Path) -> None:
    words = ["derive", "photos", "hog", "--ray-address", "127.0.0.1:9", "--store"]
    done = CliRunner().invoke(app, [*words, str(desk / STORE)])
    assert done.exit_code == 1
    check_error(done.stderr, "--ray-address 127.0.0.1:9: nothing answers")


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_json_and_a_store(name: str) -> None:
    command = COMMANDS[name]
    assert command.epilog.startswith("Example") and f"headrace {name}" in command.epilog
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--store"} <= options


def test_a_dry_run_of_a_training_writes_nothing(desk: Path) -> None:
    before = sorted((desk / STORE).rglob("*"))
    words = ["pretrain", "mae_tiny", "data.dataset=photos", "batch=4", "--dry-run", "--json"]
    done = CliRunner().invoke(app, [*words, "--store", str(desk / STORE)])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["batches_per_epoch"] == 2
    assert sorted((desk / STORE).rglob("*")) == before
