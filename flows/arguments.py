"""Words that several commands take: the store, the executor, and what an ingest is asked to do."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from flows.options import UsageError
from flows.reachable import silent_port


class Modality(StrEnum):
    """Kinds of raw data."""

    image = "image"
    video = "video"
    microscopy = "microscopy"
    satellite = "satellite"


Store = Annotated[
    str,
    typer.Option(
        envvar="HEADRACE_STORE", help="where datasets and runs are: a folder or a URI (s3://…)"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]
Workers = Annotated[int, typer.Option(help="processes or Ray tasks at once; 0 takes one a core")]
Direct = Annotated[
    bool, typer.Option("--direct", help="run the same functions without Prefect and Ray")
]
RayAddress = Annotated[
    str, typer.Option(help="a running Ray cluster; by default one is started here")
]
RetryRejects = Annotated[
    bool,
    typer.Option(
        "--retry-rejects",
        help="take only the files that earlier ingests refused, again; without SOURCE, all of them",
    ),
]

SPEC: dict[str, tuple[type, Any, str]] = {
    "resize": (int, 0, "short side in pixels; 0 keeps the size"),
    "pattern": (
        str,
        "",
        "groups files by named groups, e.g. "
        r"'(?P<well>[A-P]\d\d)_s(?P<site>\d)_(?P<channel>\w+)\.tif'",
    ),
    "labels": (str, "", "'parent' (folder name) or a column of the list"),
    "shard_size": (int, 0, "raw bytes that go into one shard; 0 chooses by the input"),
    "frames": (int, 16, "frames of a clip"),
    "stride": (int, 1, "source frames between two frames of a clip"),
    "fps": (float, 0.0, "clip frames a second, in place of --stride"),
    "decoder": (
        str,
        "pyav",
        "reader of videos: pyav, or decord where a probe shows it to be exact",
    ),
    "tile": (int, 0, "edge of tiles in pixels; 0 keeps fields and scenes whole"),
    "overlap": (int, 0, "pixels that neighbouring tiles share"),
    "min_valid": (float, 0.05, "least share of valid pixels of a tile"),
    "min_tissue": (float, 0.0, "least share of coloured pixels of a tile of a stained slide"),
    "channels": (str, "", "channel or band names, comma separated"),
    "cloud_band": (str, "", "the band of class codes that says which pixels are cloud"),
    "cloud_values": (str, "3,8,9,10", "the codes of cloud in --cloud-band, comma separated"),
    "max_cloud": (float, 1.0, "share of cloud above which a tile is left out"),
    "heldout": (float, 0.01, "share of groups kept for the held-out loss"),
}
"Type, default and help of each option that becomes a field of `IngestSpec`."


def takes_spec(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of an ingest; it gets them as one `spec`, ready for
    `IngestSpec`."""
    hints = get_type_hints(command, include_extras=True)
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "spec"]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, typer.Option(help=text)],
        )
        for name, (kind, default, text) in SPEC.items()
    ]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        spec = {name: values.pop(name) for name in SPEC}
        command(**values, spec=spec)

    named = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in own] + options
    with_options.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in named}
    return with_options


def spec_values(modality: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `takes_spec` as the plain fields of an `IngestSpec`.

    Raises:
        UsageError: --cloud-values holds something that is no number.
    """
    try:
        clouds = [int(code) for code in _words(spec["cloud_values"])]
    except ValueError as error:
        raise UsageError(
            f"--cloud-values is {spec['cloud_values']!r}; it must be whole numbers, such as 3,8,9."
        ) from error
    lists = {"channels": _words(spec["channels"]), "cloud_values": clouds}
    return {**spec, **lists, "modality": modality}


def spec_words(spec: dict[str, Any]) -> list[str]:
    """Return the words of the command line that say what differs from the defaults."""
    words = []
    for name, (_, default, _) in SPEC.items():
        if spec[name] != default:
            words += [f"--{name.replace('_', '-')}", str(spec[name])]
    return words


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def executor_values(workers: int, direct: bool, ray_address: str) -> dict[str, Any]:
    """Return the plain fields of an `Executor`.

    Raises:
        UsageError: a Ray address for a run without Ray.
        ConnectionError: nothing answers at the Ray address.
    """
    if direct and ray_address:
        raise UsageError(
            "--direct runs without Ray, so it cannot go with --ray-address. Leave one out."
        )
    if ray_address and (silent := silent_port(ray_address)):
        raise ConnectionError(
            f"--ray-address {ray_address}: nothing answers there ({silent}). Start the cluster, "
            "correct the address, or leave it out: Ray then runs on this machine."
        )
    if workers < 0:
        raise UsageError(f"--workers is {workers}; it must be 1 or more, or 0 for one a core.")
    count = workers or os.cpu_count() or 1
    return {"kind": "direct" if direct else "ray", "workers": count, "ray_address": ray_address}


def stages_by_name(direct: bool) -> Any:
    """Return the stages by name: plain functions, or the same ones as Prefect flows."""
    if direct:
        from flows import stages

        return {
            name.removeprefix("run_"): getattr(stages, name)
            for name in dir(stages)
            if name.startswith("run_")
        }
    from flows import prefect_flows
    from flows.prefect_server import ensure_server

    ensure_server()
    names = ("ingest", "derive", "pretrain", "evaluate", "export", "study")
    return {name: getattr(prefect_flows, name) for name in names}
