"""One-line summaries of what the stages did, for people."""

from __future__ import annotations

import shlex
from typing import Any

FEW = 10
"Rows of a list that a text shows."


def ingest_text(report: dict[str, Any]) -> str:
    """Return the one-line summary of an ingest, and a line for its rejects."""
    if not (report["written"] or report["duplicates"] or report["rejects"]):
        return (
            f"{report['dataset']}: nothing new; all {report['skipped']} files came before (snapshot"
            f" {report['snapshot']}). Those that were refused are taken again by --retry-rejects."
        )
    lines = [
        f"{report['dataset']}: {report['inputs']} files = {report['written']} written + "
        f"{report['duplicates']} duplicates + "
        f"{report['rejects']} rejected + {report['skipped']} known; {report['samples']} samples "
        f"in {report['shards']} "
        f"shards, {report['bytes'] / 2**20:.1f} MiB, snapshot {report['snapshot']}"
    ]
    if report["splits"]:
        lines.append(f"  split by group: {split_text(report)}")
    if report["reasons"]:
        reasons = ", ".join(f"{count} {name}" for name, count in report["reasons"].items())
        lines.append(f"  rejected: {reasons} (headrace ls {report['dataset']} --rejects)")
    return "\n".join(lines)


def split_text(about: dict[str, Any]) -> str:
    """Return how many samples, of how many groups, are trained on and held out."""
    splits, groups = about["splits"], about["groups"]
    return ", ".join(
        f"{splits.get(split, 0)} samples of {groups.get(split, 0)} groups {words}"
        for split, words in (("train", "to train"), ("heldout", "held out"))
    )


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


def cost_line(dataset: str, name: str, cost: dict[str, Any], workers: int) -> str:
    """Return what a column would cost, in one line and its advice."""
    if not cost["samples"]:
        missing = f"nothing to do, it is there ({cost['fingerprint'][:8]})"
    else:
        missing = (
            f"{cost['samples']} samples to compute, {duration(cost['seconds'] / workers)} with "
            f"{workers} workers, {cost['bytes'] / 2**20:.2f} MiB"
        )
    even = cost["break_even"]
    pays = "never pays" if even is None else f"pays from {even:.2f} epochs on"
    return (
        f"{dataset} {name}: {missing}\n"
        f"  a sample: {cost['bytes_per_sample']:,.0f} bytes, "
        f"{1000 * cost['seconds_per_sample']:.2f} CPU ms to compute, "
        f"{1000 * cost['read_seconds_per_sample']:.3f} to read, "
        f"{1000 * cost['online_seconds_per_sample']:.3f} for one look online "
        f"(by {cost['measured']} samples)\n"
        f"  storing {pays}; {cost['advice']}"
    )


def pretrain_line(report: dict[str, Any]) -> str:
    """Return the one-line summary of a run."""
    heldout = "none" if report["heldout_loss"] is None else f"{report['heldout_loss']:.4f}"
    rate, ceiling = report["samples_per_second"], report["ceiling_samples_per_second"] or 0.0
    alone = f" (the step alone {ceiling:.1f})" if ceiling > rate else ""
    return (
        f"{report['run']}: step {report['step']}, loss {report['loss']:.4f}, held-out loss "
        f"{heldout}, {rate:.1f} samples/s{alone}, "
        f"{report['data_wait_share']:.0%} of the time waiting for data"
    )


def pretrain_plan_line(told: dict[str, Any]) -> str:
    """Return what a run would do, in one line."""
    columns = ", ".join(told["columns"]) or "none"
    return (
        f"{told['run']}: {told['steps']} steps of {told['batch']} samples, {told['epochs']:.1f} "
        f"epochs of {told['batches_per_epoch']} batches; columns: {columns}. Nothing was written."
    )


def plan_text(report: dict[str, Any], words: list[str]) -> str:
    """Return what an ingest would do, and the words that do it."""
    probed = report["probed"]
    basis = "all" if report["exact"] else f"a probe of {probed['units']} of {report['units']} units"
    lines = [
        f"{report['files']} files, {report['raw_bytes'] / 2**20:.1f} MiB -> {report['samples']} "
        f"samples in {report['shards']} shards, {report['bytes'] / 2**20:.1f} MiB, "
        f"{report['bytes'] / max(report['samples'], 1):,.0f} bytes a sample "
        f"(by {basis}, {probed['seconds']:.1f} s)",
        f"time with {report['workers']} workers: {duration(report['seconds'])} "
        f"(hash {duration(report['hash_seconds'])}, encode {duration(report['encode_seconds'])})",
    ]
    if report["reasons"]:
        reasons = ", ".join(f"{count} {name}" for name, count in report["reasons"].items())
        lines.append(f"would refuse about {report['rejects']} files; found so far: {reasons}")
        lines += [
            f"  {row['reason_class']}: {row['uri']}: {row['detail']}"
            for row in report["refused"][:FEW]
        ]
    else:
        lines.append("would refuse none of the files that were looked at")
    return "\n".join((*lines, "", shlex.join(words)))


def duration(seconds: float) -> str:
    """Return a time for people: seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def verify_text(dataset: str, report: dict[str, Any]) -> str:
    """Return a line for each damage and repair, and one with their numbers."""
    lines = [f"{d['where']}: {d['sample'] or 'the file'}: {d['detail']}" for d in report["damaged"]]
    lines += [f"{path}: made again" for path in report["repaired"]]
    mended = f", {len(report['repaired'])} files made again" if report["repaired"] else ""
    lines.append(
        f"{dataset}: {report['samples']} samples checked, {len(report['damaged'])} damaged{mended}"
    )
    return "\n".join(lines)


def gc_text(report: dict[str, Any], dry_run: bool) -> str:
    """Return what was removed, or would be."""
    did = "would remove" if dry_run else "removed"
    lines = [f"  {path}" for path in report["paths"][:FEW]]
    if report["removed"] > FEW:
        lines.append(f"  … and {report['removed'] - FEW} more")
    lines.append(f"{did} {report['removed']} files, {report['bytes'] / 2**20:.1f} MiB")
    lines += [f"left to its writer: {folder}" for folder in report["kept"]]
    return "\n".join(lines)


def evaluate_line(report: dict[str, Any]) -> str:
    """Return the one-line summary of a probe, with its 95 % interval."""

    def sure(prefix: str) -> str:
        low, high = report[f"{prefix}low"], report[f"{prefix}high"]
        return f"{report[f'{prefix}accuracy']:.2%} (95 %: {low:.1%} to {high:.1%})"

    beside = f"; untrained {sure('untrained_')}" if "untrained_low" in report else ""
    excluded = f", {report['excluded']} left out as near copies" if report["excluded"] else ""
    return (
        f"{report['run']} on {report['test'] or report['dataset']}: {report['probe']} accuracy "
        f"{sure('')}{beside}; {report['queries']} samples of {report['groups']} groups asked"
        f"{excluded}"
    )
