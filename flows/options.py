"""Words of the command line that several commands share: `key=value` settings and errors for
people."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
import yaml

FAILED, USAGE, OVER_BUDGET, INTERRUPTED = 1, 2, 3, 130
LOG = "headrace"
"The logger of what people are told; Prefect keeps it with the run."


class UsageError(ValueError):
    """Wrong words on the command line."""


def split_settings(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate plain words from `key=value` settings; dotted keys become nested dictionaries."""
    plain = [word for word in words if "=" not in word]
    settings: dict[str, Any] = {}
    for word in words:
        if "=" in word:
            key, _, text = word.partition("=")
            place = settings
            *folders, last = key.split(".")
            for folder in folders:
                place = place.setdefault(folder, {})
                if not isinstance(place, dict):
                    raise UsageError(
                        f"{word}: {folder} has the value {place!r} already, so it has no parts. "
                        f"Leave out {folder}={place} or this."
                    )
            try:
                place[last] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise UsageError(f"{word}: {text!r} is not a YAML value ({error}).") from error
    return plain, settings


def column_settings(
    columns: list[str], settings: dict[str, Any], known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Give each column the settings that it knows; `hog.cell=4` speaks to one column, `cell=4` to
    all that have it.

    Args:
        known: for each column that exists, its parameters with their defaults.

    Raises:
        UsageError: a column that does not exist, or a setting that no named column knows.
    """
    if unknown := [name for name in columns if name not in known]:
        raise UsageError(f"column {unknown[0]!r} is unknown. Known: {', '.join(known)}.")
    asked: dict[str, dict[str, Any]] = {name: {} for name in columns}
    for key, value in settings.items():
        if key in asked and isinstance(value, dict):
            asked[key].update(_merged(known[key], value))
            continue
        takers = [name for name in columns if key in known[name]]
        if not takers:
            names = sorted({name for column in columns for name in known[column]})
            raise UsageError(
                f"{key}={value}: none of {', '.join(columns)} has a parameter {key!r}. Known: "
                f"{', '.join(names)}."
            )
        for name in takers:
            asked[name].update(_merged(known[name], {key: value}))
    return asked


def _merged(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Fill nested settings (view.size=64) with the defaults of what is not named."""
    return {
        key: {**defaults[key], **value}
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
        else value
        for key, value in values.items()
    }


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turn expected failures into one line on standard error and an exit code;
    `HEADRACE_TRACEBACK=1` shows all."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; the store is as it was or resumable: run the same command again")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("HEADRACE_TRACEBACK"):
            raise
        more = " 'headrace doctor' says what to install." if isinstance(error, ImportError) else ""
        say(f"headrace: {error}{more}")
        raise typer.Exit(USAGE if isinstance(error, UsageError) else FAILED) from None


def output_file(path: Path) -> Path:
    """Return a path that a file can be written to; folders above it are made.

    Raises:
        UsageError: it is a folder, or something above it is none.
    """
    if path.is_dir():
        raise UsageError(f"--output {path}: is a folder. Name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {path}: its folder cannot be made ({error}). Choose another place."
        ) from error
    return path


def say(text: str) -> None:
    """Print for the person: on standard error, so that standard output stays for results."""
    print(text, file=sys.stderr)
    note(text)


def note(text: str) -> None:
    """Write a line to the log of the flow run that this is, where it is one."""
    logging.getLogger(LOG).info(text)


def answer(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print the result: one JSON object, or a short text."""
    try:
        print(json.dumps(result, default=str) if as_json else text, flush=True)
    except BrokenPipeError:  # its reader has gone, as `| head` does: what was done is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
