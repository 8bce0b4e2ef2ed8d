"""`headrace doctor` names faults that are really there: each test plants one and asks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.command import app
from pipelines.producers import PRODUCERS
from preprocessing import jpeg_region
from tests.faults.zygote import ROOT
from tests.integration.raw import make_images

Findings = list[dict[str, str]]


def doctor(*words: str, store: Path | str) -> tuple[int, Findings]:
    """Run the command in this process; returns its exit code and findings."""
    done = CliRunner().invoke(app, ["doctor", "--json", "--store", str(store), *words])
    assert "Traceback" not in done.stderr
    return done.exit_code, json.loads(done.stdout)["findings"]


def named(findings: Findings, check: str, *words: str) -> dict[str, str]:
    """Return the finding that says all these words; each has a fix."""
    assert all(finding["fix"] for finding in findings)
    about = [f for f in findings if f["check"] == check]
    found = [f for f in about if all(word in f["found"] for word in words)]
    assert len(found) == 1, findings
    return found[0]


def headrace(*words: str, store: Path) -> None:
    done = CliRunner().invoke(app, [*words, "--direct", "--store", str(store)])
    assert done.exit_code == 0, done.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A store with a dataset of twelve pictures and a column."""
    store, raw = tmp_path / "store", make_images(tmp_path / "raw")
    headrace("ingest", str(raw), "--modality", "image", "--dataset", "photos", store=store)
    headrace("derive", "photos", "hog", "view.size=32", store=store)
    return store


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "RAY_ADDRESS", "HEADRACE_STORE"):
        monkeypatch.delenv(name, raising=False)


def test_a_sound_machine_and_store_need_nothing(photos: Path) -> None:
    code, findings = doctor(store=photos)
    assert (code, [f for f in findings if f["level"] == "fault"]) == (0, [])


def test_it_makes_no_store(tmp_path: Path) -> None:
    code, _ = doctor(store=tmp_path / "none")
    assert code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_pair_of_versions_that_does_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_version(tmp_path / "site", "fastapi", "0.151.0")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    code, findings = doctor(store=tmp_path)
    assert code == 1
    found = named(findings, "packages", "fastapi is 0.151.0", "Prefect 3 cannot start")
    assert found["fix"] == "python -m pip install 'fastapi<0.151'"


def plant_version(site: Path, name: str, version: str) -> None:
    """Install nothing but a package's claim to be of a version."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    code, findings = doctor(store=tmp_path / "file")
    assert code == 1
    assert "a folder" in named(findings, "store", "is a file")["fix"]


@pytest.mark.slow
def test_an_s3_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    place = f"s3://bucket/store?endpoint_override=127.0.0.1:{free_port()}&scheme=http"
    code, findings = doctor(store=place)
    assert code == 1
    assert "endpoint" in named(findings, "store", "cannot be reached")["fix"]


def free_port() -> int:
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        port: int = open_socket.getsockname()[1]
        return port


def test_a_column_that_lacks_the_newest_part(photos: Path, tmp_path: Path) -> None:
    more = make_images(tmp_path / "more", count=20)
    headrace("ingest", str(more), "--modality", "image", "--dataset", "photos", store=photos)
    code, findings = doctor(store=photos)
    assert code == 1
    found = named(findings, "columns", "hog of photos", "stale: 1 of 2 parts lack it")
    headrace(*found["fix"].split()[1:], store=photos)
    assert doctor(store=photos)[0] == 0


def test_a_column_of_an_older_version(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = PRODUCERS["hog"]
    newer = replace(producer, version=producer.version + 1)
    monkeypatch.setitem(PRODUCERS, "hog", newer)
    code, findings = doctor(store=photos)
    assert code == 1
    found = named(findings, "columns", f"stale: made by version {producer.version}, now")
    assert found["fix"].startswith("headrace derive photos hog ")


def test_a_damaged_manifest(photos: Path) -> None:
    manifest = next(photos.rglob("parts/*/manifest.parquet"))
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 1
    manifest.write_bytes(data)
    code, findings = doctor(store=photos)
    assert code == 1
    found = named(findings, "manifests", "manifest.parquet is damaged")
    assert "headrace verify photos --repair" in found["fix"]


def test_a_part_that_was_never_finished(photos: Path) -> None:
    left = photos / "datasets" / "photos" / "parts" / "0123456789abcdef" / "shard-000000.tar"
    left.parent.mkdir()
    left.write_bytes(b"12345")
    code, findings = doctor(store=photos)
    assert code == 1
    found = named(findings, "unfinished parts", "0123456789abcdef was begun and not finished")
    assert "headrace gc" in found["fix"]


def test_engines_that_do_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    code, findings = doctor("--ray-address", f"127.0.0.1:{port}", store=tmp_path)
    assert code == 1
    assert "headrace up" in named(findings, "prefect", "nothing there answers")["fix"]
    assert "ray start" in named(findings, "ray", "nothing answers at 127.0.0.1")["fix"]


LINKED = """
import sys
from flows.command import app
app(["doctor", "--json", "--store", sys.argv[1]])
"""


def without(site: Path, *packages: str) -> None:
    """Make a folder of installed packages that is this one's, but for some."""
    site.mkdir()
    here = Path(next(path for path in sys.path if path.endswith("site-packages")))
    for entry in here.iterdir():
        name = entry.name.partition("-")[0].partition(".")[0].lower()
        if name not in packages and not entry.name.startswith("__editable__"):
            (site / entry.name).symlink_to(entry)


def test_a_jpeg_decoder_that_was_not_compiled_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg_region, "find_spec", lambda name: None)
    jpeg_region._function.cache_clear()
    _, findings = doctor(store=tmp_path)
    jpeg_region._function.cache_clear()
    assert (
        "C compiler" in named([f for f in findings if f["fix"]], "decoders", "not compiled")["fix"]
    )


@pytest.mark.slow
def test_packages_and_decoders_that_are_missing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    without(site, "kornia", "rasterio", "imagecodecs")
    command = [sys.executable, "-S", "-c", LINKED, str(tmp_path / "store")]
    path = {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert "kornia>=" in named(findings, "packages", "kornia is missing")["fix"]
    assert "imagecodecs" in named(findings, "decoders", "no decoder for TIFF")["fix"]
    assert "headrace[geo]" in named(findings, "decoders", "no decoder for GeoTIFF")["fix"]


SMALL = """
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount -t tmpfs -o size=2m tmpfs "$0"
dd if=/dev/zero of="$0/full" bs=1k count=1900 2>/dev/null
exec "$@"
"""


def in_a_namespace(script: str, place: Path, words: list[str]) -> Any:
    """Run a command among mounts of its own; skips where the machine does not allow any."""
    unshare = [shutil.which("unshare") or pytest.skip("no unshare"), "-rm", "sh", "-c"]
    if subprocess.run([*unshare, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespaces")
    command = [*unshare, script, str(place), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_full_disk_and_little_shared_memory(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "flows", "doctor", "--json", "--store", str(tmp_path)]
    done = in_a_namespace(SMALL, tmp_path, words)
    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert "free some" in named(findings, "disk", "for the store", "the disk is full")["fix"]
    assert "No space left" in named(findings, "store", "could not write")["found"]
    assert "--shm-size" in named(findings, "shared memory", "too little for Ray")["fix"]


@pytest.mark.slow
def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "flows", "doctor", "--json", "--store", str(tmp_path)]
    done = in_a_namespace('mount -t tmpfs -o ro tmpfs "$0" && exec "$@"', tmp_path, words)
    assert done.returncode == 1, done.stderr
    assert "larger disk" not in named(json.loads(done.stdout)["findings"], "store")["fix"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_whose_cpus_would_deadlock(tmp_path: Path) -> None:
    """A real cluster of one CPU is asked to hold four actors."""
    port, ray = free_port(), Path(sys.executable).with_name("ray")
    words = ["--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--block"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    head = subprocess.Popen([str(ray), "start", *words], env=environment, start_new_session=True)
    command = [sys.executable, "-m", "flows", "doctor", "--json", "--store", str(tmp_path)]
    command += ["--workers", "4", "--ray-address", f"127.0.0.1:{port}"]
    try:
        findings = [{"found": "answer"}]
        while any("answer" in finding["found"] for finding in findings):
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
            findings = json.loads(done.stdout)["findings"]
        assert done.returncode == 1
        assert "fewer --workers" in named(findings, "ray", "deadlock", "4 actors")["fix"]
    finally:
        head.terminate()
        head.wait(timeout=60)
