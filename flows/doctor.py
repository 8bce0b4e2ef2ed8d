"""`headrace doctor`: what is wrong with this machine, this environment and this store, and what to
do about it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows.arguments import Json, Store
from flows.findings import FAULT, NOTE, OK, Check, Examined, Finding, fault
from flows.options import FAILED, answer, errors_for_people, say

EXAMPLE = (
    "Examples: headrace doctor; headrace doctor --store s3://bucket/store; headrace doctor "
    "--ray-address 10.0.0.1:6379 --workers 8"
)
CHECKS = (
    ("packages", "flows.doctor_packages", "packages"),
    ("decoders", "flows.doctor_packages", "decoders"),
    ("gpu", "flows.doctor_machine", "gpu"),
    ("memory", "flows.doctor_machine", "memory"),
    ("disk", "flows.doctor_machine", "disk"),
    ("ray", "flows.doctor_engines", "ray"),
    ("prefect", "flows.doctor_engines", "prefect"),
    ("store", "flows.doctor_store", "access"),
    ("datasets", "flows.doctor_store", "datasets"),
)
"Name, module and function of each check: imported one by one, for a missing package to stop only "
"its own."
MARKS = {OK: "ok  ", NOTE: "note", FAULT: "MEND"}


def examine(about: Examined) -> Iterator[Finding]:
    """Yield what each check finds."""
    for name, module, function in CHECKS:
        try:
            check: Check = getattr(importlib.import_module(module), function)
            yield from check(about)
        except ImportError as error:
            missing = error.name or "a package"
            yield fault(
                name,
                f"could not be looked at: {error}",
                f"python -m pip install {missing.split('.')[0]}, or 'make setup' in the checkout",
            )


def doctor(
    store: Store = "./store",
    ray_address: Annotated[
        str, typer.Option(help="a running Ray cluster to look at; by default this machine alone")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Ray tasks or actors at once that the cluster must have room for")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Look for what is wrong with this machine and this store; exit code 1 if anything needs
    mending."""
    found = []
    with errors_for_people():
        for finding in examine(Examined(store=store, ray_address=ray_address, workers=workers)):
            found.append(finding)
            if not as_json:
                say(_text(finding))
    faults = [finding for finding in found if finding.level == FAULT]
    report: dict[str, Any] = {
        "findings": [asdict(finding) for finding in found if finding.level != OK],
        "fine": [asdict(finding) for finding in found if finding.level == OK],
    }
    answer(report, as_json, _summary(len(faults), len(found)))
    if faults:
        raise typer.Exit(FAILED)


def _text(finding: Finding) -> str:
    line = f"{MARKS[finding.level]}  {finding.check}: {finding.found}"
    return f"{line}\n      -> {finding.fix}" if finding.fix else line


def _summary(faults: int, looked_at: int) -> str:
    if not faults:
        return f"nothing needs mending ({looked_at} things looked at)"
    return f"{faults} of {looked_at} things need mending: see the lines that begin with MEND"
