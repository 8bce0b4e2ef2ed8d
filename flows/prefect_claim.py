"""Who serves a deployment: one `headrace serve` at a time, told by a variable on the server.

A second one would take the runs of the first for lost. A claim holds who made it and a number that
grows while that process lives, so no clocks of two machines are compared.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from flows.prefect_settings import be_quiet

be_quiet()

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import PrefectException

from flows.options import say

BEAT_SECONDS = 10.0
SILENT_SECONDS = 35.0
"After which a claim from another machine, whose number did not grow, is that of the dead."
Claim = dict[str, Any]


@contextmanager
def claimed(deployments: Iterable[str]) -> Iterator[None]:
    """Hold deployments (flow/name) for this process until the block ends.

    Raises:
        RuntimeError: a living process holds one of them.
    """
    names = {_variable(deployment): deployment for deployment in deployments}
    with get_client(sync_client=True) as client:
        _refuse_if_held(client, names)
        mine = {"host": socket.gethostname(), "process": os.getpid(), "born": _born(os.getpid())}
        for name in names:
            _write(client, name, {**mine, "beat": 0})
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(list(names), mine, stop), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join(timeout=BEAT_SECONDS)
        with get_client(sync_client=True) as client:
            for name in names:
                if _is(mine, _read(client, name)):
                    client.delete_variable_by_name(name)


def _variable(deployment: str) -> str:
    plain = re.sub(r"[^a-z0-9]", lambda found: f"_{ord(found[0]):x}_", deployment.lower())
    return f"headrace_served_{plain}"


def _refuse_if_held(client: SyncPrefectClient, names: dict[str, str]) -> None:
    held = {name: claim for name in names if (claim := _read(client, name)) is not None}
    here = socket.gethostname()
    far = [name for name, claim in held.items() if claim["host"] != here]
    if far:
        say(f"claimed on {held[far[0]]['host']}: looking for {SILENT_SECONDS:.0f} s if it lives")
        time.sleep(SILENT_SECONDS)
    for name, claim in held.items():
        alive = (
            _read(client, name) not in (None, claim)
            if name in far
            else claim["born"] == _born(claim["process"])
        )
        if alive:
            raise RuntimeError(
                f"deployment {names[name]}: the 'headrace serve' that is process "
                f"{claim['process']} on {claim['host']} runs it. End that one (Ctrl-C there), or "
                "give the deployments of this file other names."
            )


def _born(process: int) -> float | None:
    """Return when a process of this machine began; None where it has ended."""
    try:
        return float(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None


def _is(mine: Claim, claim: Claim | None) -> bool:
    return claim is not None and all(claim[name] == value for name, value in mine.items())


def _keep(names: list[str], mine: Claim, stop: threading.Event) -> None:
    """Let the number of the claims grow; end this process where another one has taken them."""
    beat = 0
    while not stop.wait(BEAT_SECONDS):
        beat += 1
        try:
            with get_client(sync_client=True) as client:
                for name in names:
                    if (found := _read(client, name)) is not None and not _is(mine, found):
                        say(f"process {found['process']} on {found['host']} serves now; this ends")
                        os.kill(os.getpid(), signal.SIGTERM)
                        return
                    _write(client, name, {**mine, "beat": beat})
        except (HTTPError, PrefectException, RuntimeError):
            continue  # the server may be back at the next beat


def _read(client: SyncPrefectClient, name: str) -> Claim | None:
    found = client.read_variable_by_name(name)
    return found.value if found is not None and isinstance(found.value, dict) else None


def _write(client: SyncPrefectClient, name: str, claim: Claim) -> None:
    if client.read_variable_by_name(name) is None:
        client.create_variable(VariableCreate(name=name, value=claim))
    else:
        client.update_variable(VariableUpdate(name=name, value=claim))
