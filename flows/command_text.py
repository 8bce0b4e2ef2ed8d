"""One-line summaries of what the stages did, for people."""

from __future__ import annotations

from typing import Any


def ingest_text(report: dict[str, Any]) -> str:
    """Return the one-line summary of an ingest, and a line for its rejects."""
    if not (report["written"] or report["duplicates"] or report["rejects"]):
        known = f"all {report['skipped']} files are in it (snapshot {report['snapshot']})"
        return f"{report['dataset']}: nothing new; {known}"
    lines = [
        f"{report['dataset']}: {report['inputs']} files = {report['written']} written + "
        f"{report['duplicates']} duplicates + "
        f"{report['rejects']} rejected + {report['skipped']} known; {report['samples']} samples "
        f"in {report['shards']} "
        f"shards, {report['bytes'] / 2**20:.1f} MiB, snapshot {report['snapshot']}"
    ]
    if report["reasons"]:
        reasons = ", ".join(f"{count} {name}" for name, count in report["reasons"].items())
        lines.append(f"  rejected: {reasons} (headrace ls {report['dataset']} --rejects)")
    return "\n".join(lines)


def derive_line(dataset: str, name: str, about: dict[str, Any]) -> str:
    """Return the one-line summary of a column."""
    if not about["computed"]:
        there = f"all {about['reused']} samples are there ({about['fingerprint'][:8]})"
        return f"{dataset} {name}: nothing to do, {there}"
    return (
        f"{dataset} {name}: computed {about['computed']}, reused {about['reused']}, "
        f"{about['seconds']:.1f} CPU s, "
        f"{about['bytes'] / 2**20:.2f} MiB ({about['fingerprint'][:8]})"
    )


def pretrain_line(report: dict[str, Any]) -> str:
    """Return the one-line summary of a run."""
    heldout = "none" if report["heldout_loss"] is None else f"{report['heldout_loss']:.4f}"
    return (
        f"{report['run']}: step {report['step']}, loss {report['loss']:.4f}, held-out loss "
        f"{heldout}, "
        f"{report['samples_per_second']:.1f} samples/s, {report['data_wait_share']:.0%} of the "
        "time waiting for data"
    )
