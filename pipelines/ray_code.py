"""The code that Ray's workers run: the driver's, sent along; a worker with other code refuses.

A node may have another version of headrace installed, or none. Two versions in one job would give
bytes that no version gives alone, so what is equal is decided by the source files themselves.
"""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from storage.fs import Store, StoreError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("storage", "preprocessing", "pipelines", "training", "flows", "recipes")


class OtherCodeError(RuntimeError):
    """A worker runs other code than the driver."""


def shipped() -> dict[str, Any]:
    """Return the runtime environment that sends this process's headrace to every worker.

    It is their working directory, which Python searches before what a node has installed.
    """
    others = sorted(path.name for path in ROOT.iterdir() if path.name not in PACKAGES)
    excludes = ["__pycache__", *(f"/{name}" for name in others)]
    return {"working_dir": str(ROOT), "excludes": excludes}


@cache
def code_hash() -> str:
    """Return the hash of the source files that this process's headrace has, in hexadecimal."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        for path in sorted((ROOT / name).rglob("*.py")):
            data = path.read_bytes()
            digest.update(f"{path.relative_to(ROOT).as_posix()} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Driver:
    """What a worker must have in common with the driver, so that it does the same."""

    code: str
    "hash of its source files; empty where the worker can have no other"
    folder: str
    "where it runs: relative paths of raw files begin there"

    def be_like(self) -> None:
        """Check that this worker runs the driver's code, and go where the driver is.

        Raises:
            OtherCodeError: it runs other code.
        """
        if self.code and code_hash() != self.code:
            raise OtherCodeError(
                f"ray: the worker on {socket.gethostname()} runs headrace {code_hash()} from "
                f"{ROOT}, the driver {self.code}. Let headrace connect to the cluster itself "
                "(--ray-address, or RAY_ADDRESS), which sends its code along, or install the same "
                "version on each node."
            )
        if os.path.isdir(self.folder):
            os.chdir(self.folder)


def refuse_missing(store_uri: str) -> None:
    """Check, in a worker, that it sees the driver's store.

    Raises:
        StoreError: it is a folder that this machine does not have.
    """
    folder = Store(store_uri).local_path()
    if folder is not None and not folder.is_dir():
        raise StoreError(
            f"{folder}: there is no such folder on {socket.gethostname()}, where a Ray worker "
            "runs. Keep the store where all nodes see it: a shared file system at the same path, "
            "or s3://."
        )
