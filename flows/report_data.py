"""Reports of a store: which chapters there are, and the table above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.report import render_report
from flows.report_dataset import dataset_section
from flows.report_parts import DatasetSection, ReportData, RunSection, Table
from flows.report_run import run_section
from storage.fs import open_store
from storage.snapshots import list_datasets


def write_report(store: str, names: Sequence[str], output: Path) -> Path:
    """Write one HTML file about datasets and runs.

    Raises:
        FileNotFoundError: the store holds nothing of such a name.
        OSError: the file cannot be written.
    """
    place = open_store(store, writable=False)
    known = set(list_datasets(place))
    for name in names:
        if name not in known and not place.exists(f"runs/{name}/run.json"):
            raise FileNotFoundError(
                f"{store}: holds no dataset and no run {name!r}. See 'headrace ls'."
            )
    datasets = tuple(dataset_section(place, name) for name in names if name in known)
    runs = tuple(run_section(place, name) for name in names if name not in known)
    data = ReportData(
        title=" · ".join(names) if len(names) <= 2 else "headrace report",
        subtitle=_subtitle(datasets, runs),
        summary=_summary(datasets, runs) if len(names) > 1 else None,
        datasets=datasets,
        runs=runs,
    )
    return save_page(render_report(data), output)


def save_page(html: str, output: Path) -> Path:
    """Write a report, and the folder it is to be in.

    Raises:
        OSError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"--output {output}: cannot be written ({error.strerror}). Choose another place."
        ) from error
    return output


def _subtitle(datasets: tuple[DatasetSection, ...], runs: tuple[RunSection, ...]) -> str:
    if len(datasets) + len(runs) > 1:
        kinds = ((datasets, "dataset"), (runs, "run"))
        return ", ".join(_count(len(some), what) for some, what in kinds if some)
    if datasets:
        return f"{datasets[0].modality} dataset of {datasets[0].samples:,} samples"
    return f"run on the dataset {runs[0].dataset}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _summary(datasets: tuple[DatasetSection, ...], runs: tuple[RunSection, ...]) -> Table:
    rows = []
    for dataset in datasets:
        run = next((run for run in runs if run.dataset == dataset.name), None)
        probe = run.probes[0] if run and run.probes else None
        rows.append(
            (
                dataset.modality,
                dataset.books.inputs,
                dataset.books.rejects,
                dataset.samples,
                ", ".join(column.name for column in dataset.columns),
                run.recipe if run else "",
                f"{probe.untrained:.1%} → {probe.trained:.1%}"
                if probe and probe.untrained is not None
                else "",
            )
        )
    heads = (
        "modality",
        "raw files",
        "rejected",
        "samples",
        "columns",
        "recipe",
        "kNN untrained → trained",
    )
    return Table(heads=heads, rows=tuple(rows))
