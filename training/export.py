"""A run's weights as others load them: safetensors with a config.json, in timm's layout, in Hugging
Face's, or with all of the model under our own names.

An encoder that a library has no class for is refused by name: it would load there, and compute
something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from storage.fs import Store
from storage.local_files import write_file
from training.export_hf import hf_files
from training.export_inputs import input_rule
from training.export_timm import timm_files
from training.frozen import Trained, read_trained
from training.recipe import resolve

WEIGHTS, CONFIG = "model.safetensors", "config.json"
VERSION = 1
"of the layout `headrace`"


def headrace_files(trained: Trained, decoder: bool = False) -> tuple[dict[str, Tensor], Any, str]:
    """Return every weight of a model under our own names, and what builds it again."""
    config = {
        "headrace_export": VERSION,
        "recipe": resolve(trained.recipe),
        "input": trained.about,
        "run": trained.run,
        "step": trained.step,
        "inputs": input_rule(trained),
    }
    load = "training.import_weights.load_exported(DIR)"
    return dict(trained.model.state_dict()), {CONFIG: config}, load


Layout = Callable[[Trained, bool], tuple[dict[str, Tensor], dict[str, dict[str, Any]], str]]
LAYOUTS: dict[str, Layout] = {"timm": timm_files, "hf": hf_files, "headrace": headrace_files}


def export_run(
    store: Store,
    run: str,
    to: str,
    output: str | Path,
    *,
    step: int | None = None,
    decoder: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a run's weights to a folder; returns `files` (their paths) and how to `load` them.

    Each file is written whole or not at all, config.json last: a folder without one is no export.

    Args:
        to: timm, hf, or headrace (all weights of any family, under our own names).
        output: a folder that is made; one that holds an export is only written over if asked.
        step: of the checkpoint; None takes the newest.
        decoder: hf: add the decoder, for `ViTMAEForPreTraining` or `VideoMAEForPreTraining`.

    Raises:
        ValueError: no such run or layout, or the layout has no class for this family.
        FileExistsError: the folder holds files.
        CheckpointError: the run has no such checkpoint.
    """
    if to not in LAYOUTS:
        raise ValueError(f"export: layout {to!r} is unknown. Known: {', '.join(LAYOUTS)}.")
    folder = _free_folder(Path(output), overwrite)
    trained = read_trained(store, run, step)
    weights, records, load = LAYOUTS[to](trained, decoder)
    data = safetensors.torch.save(
        {name: value.detach().float().contiguous() for name, value in weights.items()},
        metadata={"format": "pt"},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    write_file(folder / WEIGHTS, data)
    for name in sorted(records, key=lambda name: name == CONFIG):
        write_file(folder / name, (json.dumps(records[name], indent=2) + "\n").encode())
    return {
        "run": run,
        "step": trained.step,
        "to": to,
        "files": [str(folder / name) for name in (WEIGHTS, *records)],
        "parameters": sum(value.numel() for value in weights.values()),
        "load": load.replace("DIR", repr(str(folder))),
    }


def _free_folder(folder: Path, overwrite: bool) -> Path:
    """Return a folder that may be written to.

    Raises:
        FileExistsError: it is a file, or holds something that is not to be written over.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"export: {folder} is a file. Choose another --output.")
    taken = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if taken and not (overwrite and CONFIG in taken):
        advice = "Add --overwrite" if CONFIG in taken else "Empty it"
        raise FileExistsError(
            f"export: {folder} holds {', '.join(taken[:3])}{' …' * (len(taken) > 3)}. {advice}, or "
            "choose another --output."
        )
    return folder
