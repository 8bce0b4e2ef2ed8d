"""What the command made of raw files: run it, then read the books and the stored bytes.

Payloads are read with Python's own tarfile, so that a test does not believe our reader.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typer.testing import CliRunner

from flows.command import app
from preprocessing.payloads import decode_payload

DONE, OVER_BUDGET = 0, 3


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored sample: its manifest row, and the bytes of its payload."""

    row: dict[str, Any]
    payload: bytes

    @property
    def metadata(self) -> dict[str, Any]:
        return json.loads(self.row["metadata"])

    def array(self) -> NDArray[np.generic]:
        """The array that a batch would be made of."""
        return decode_payload(self.row["ext"], self.payload)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an ingest did, by the path of each raw file."""

    report: dict[str, Any]
    rejects: dict[str, dict[str, Any]]
    samples: dict[str, list[Stored]] = field(default_factory=dict)

    def reasons(self) -> dict[str, str]:
        """Reason class of each refused file, by its last name."""
        return {uri.rpartition("/")[2]: row["reason_class"] for uri, row in self.rejects.items()}


def headrace(*words: str, store: Path) -> Any:
    """Run the command in this process; the result has exit_code, stdout and stderr."""
    return CliRunner().invoke(app, [*words, "--store", str(store)])


def run_json(*words: str, store: Path, codes: tuple[int, ...] = (DONE,)) -> dict[str, Any]:
    """Run the command with --json and return its object."""
    done = headrace(*words, "--json", store=store)
    assert done.exit_code in codes, f"{words}: exit {done.exit_code}\n{done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def ingest_all(store: Path, modality: str, *words: str) -> Outcome:
    """Ingest with the command, read its books with the command, and check that they close."""
    fixed = ("--modality", modality, "--dataset", "set", "--direct", "--workers", "1")
    report = run_json("ingest", *words, *fixed, store=store, codes=(DONE, OVER_BUDGET))
    return read_outcome(store, report)


def read_outcome(store: Path, report: dict[str, Any]) -> Outcome:
    """Read rejects and samples of the dataset `set`."""
    counted = report["written"] + report["duplicates"] + report["rejects"] + report["skipped"]
    assert report["inputs"] == counted, report
    listed = run_json("ls", "set", "--rejects", "--samples", "100000", store=store)
    rejects = {row["uri"]: row for row in listed["rejects"]}
    assert len(rejects) == len(listed["rejects"]), "a file is refused twice"
    payloads = read_payloads(store)
    samples: dict[str, list[Stored]] = defaultdict(list)
    for row in listed["samples"]:
        samples[row["source"]].append(Stored(row, payloads[f"{row['key']}.{row['ext']}"]))
    assert sum(map(len, samples.values())) == report["samples"]
    assert not rejects.keys() & samples.keys(), "a file is refused and written"
    return Outcome(report, rejects, dict(samples))


def read_payloads(store: Path) -> dict[str, bytes]:
    """Return every member of every shard by its name, which no two members share."""
    found: dict[str, bytes] = {}
    for path in sorted(store.rglob("parts/*/shard-*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                stream = tar.extractfile(info)
                assert stream is not None and info.name not in found
                found[info.name] = stream.read()
    return found


_WITH_PEAK = """
import sys
sys.argv = ["headrace", *sys.argv[1:]]
from flows.command import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    print(f"peak {peak} kB", file=sys.stderr)
"""


def run_with_peak(*words: str, limit_mb: int = 0) -> tuple[int, str, float]:
    """Run the command in a child; returns its exit code, standard error and peak memory in MB.

    Args:
        limit_mb: address space that the child may have; 0 sets no limit.
    """
    code = _WITH_PEAK
    if limit_mb:
        size = limit_mb * 2**20
        code = f"import resource\nresource.setrlimit(resource.RLIMIT_AS, ({size}, {size}))\n{code}"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    peak = next((line for line in done.stderr.splitlines() if line.startswith("peak ")), "peak 0")
    return done.returncode, done.stderr, int(peak.split()[1]) / 1024
