"""The commands between their options and their output: read, train, write, report."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import anndata as ad
import numpy as np
import typer
from anndata.abc import CSCDataset
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

import rmve
from rmve._command import Training, check_output, fit
from rmve._extras import (
    Extras,
    add_umap,
    check_files,
    choose_genes,
    compare,
    divide_clusters,
    in_flags,
    make_room_for_extras,
    write_clusters,
    write_markers,
)
from rmve._files import replacing
from rmve._keys import DEFAULT_KEY, Written
from rmve._validation import check_key_added, foreign_names
from rmve.data import h5ad
from rmve.model._fit import TrainingStopped
from rmve.report import make_report
from rmve.training._callbacks import list_epochs, silence

#: What the demonstration writes, and the column of its data that it compares with.
DEMO_STEM, DEMO_LABELS = "rmve_demo", "bulk_labels"
#: Layer that stands for the counts in ``adata.raw``.
RAW = "raw"


def run_demo(output_dir: Path, max_epochs: int | None, seed: int) -> None:
    """Cluster the cells that come with scanpy, and write and report."""
    with _errors_in_one_line(), silence(everything=True):
        output_dir.mkdir(parents=True, exist_ok=True)
        data, figure = (output_dir / f"{DEMO_STEM}{ending}" for ending in (".h5ad", ".png"))
        check_output(data, force=True)
        start = time.perf_counter()
        adata = rmve.datasets.pbmc68k_reduced()
        fit(adata, {"layer": "counts"}, Training(max_epochs=max_epochs, seed=seed), DEFAULT_KEY, quiet=False)
        with replacing(data) as temporary:
            h5ad.write(temporary, adata)
        with replacing(figure) as temporary:
            _draw(adata, temporary)
        rows = _summary(adata, DEFAULT_KEY, start)
        _report({**rows, **compare(adata, DEFAULT_KEY, DEMO_LABELS), "seed": seed})
        _say(f"ARI and NMI compare with the labels in obs[{DEMO_LABELS!r}], which are used for scoring only.")
        _say("The data has no coordinates, so nothing is mapped to space.")
        _say(f"Wrote {data} and {figure}.")


def from_file_to_file(
    source: Path,
    output: Path,
    setup: dict[str, str | None],
    training: Training,
    key_added: str,
    report: Path | None,
    force: bool,
    quiet: bool,
    kind: str | None = None,
    extras: Extras | None = None,
) -> None:
    """What ``cluster`` and ``map`` do; ``kind`` is that of the map to space."""
    if training.resume and training.checkpoint_dir is None:
        raise typer.BadParameter("--resume needs the --checkpoint-dir of the run.")
    if training.backed and training.n_top_genes is not None:
        raise typer.BadParameter(
            "--n-top-genes does not go with --backed: the chosen genes would be read into memory. Leave one of them out, or "
            "give a file with the chosen genes."
        )
    extras = extras or Extras()
    with _errors_in_one_line(training.checkpoint_dir), silence(everything=True), ExitStack() as stack:
        outputs = [output, *extras.files(), *([] if report is None else [report])]
        check_files(outputs)
        for path in outputs:
            check_output(path, force)
        start = time.perf_counter()
        adata = stack.enter_context(h5ad.opened(source)) if training.backed else h5ad.read(source)
        from_raw = setup["layer"] == RAW and RAW not in adata.layers
        if from_raw:
            h5ad.take_raw_counts(adata, RAW)
        if training.backed:
            _check_rows(adata, setup["layer"])
        _make_room(adata, setup, key_added, force, with_map=kind is not None)
        make_room_for_extras(adata, extras, key_added, force)
        h5ad.check_writable(adata)
        cells = adata
        if training.n_top_genes is not None:
            cells = choose_genes(adata, training.n_top_genes, setup["layer"], setup["batch_key"], training.likelihood)
        problems, markers = [], []

        def finish(model: rmve.RMVE) -> None:
            """What needs the model and its data."""
            if extras.subclusters:
                problems.append(divide_clusters(model, extras.subclusters, key_added, training.max_epochs))
            if extras.markers is not None or report is not None:
                try:
                    markers.append(model.get_markers())
                except ValueError as error:  # one cluster
                    if extras.markers is not None:
                        problems.append(f"--markers: {error}".rstrip("."))

        model = fit(cells, setup, training, key_added, quiet, kind, extras.levels, finish)
        if cells is not adata:
            _copy_results(cells, adata)
        if from_raw:
            del adata.layers[RAW]
        if extras.umap:
            add_umap(adata, key_added, training.seed)
        rows = {**_summary(cells, key_added, start), "seed": training.seed}
        if extras.compare_with is not None:
            rows |= {"compared with": extras.compare_with, **compare(adata, key_added, extras.compare_with)}
        if kind is not None:
            assert model.spatial_map_ is not None  # the cells have coordinates
            rows |= _place_summary(model.spatial_map_)
        with replacing(output) as temporary:
            h5ad.write(temporary, adata)
        written = [output]
        if extras.csv is not None:
            write_clusters(extras.csv, adata, key_added)
            written.append(extras.csv)
        if markers and extras.markers is not None:
            write_markers(extras.markers, markers[0])
            written.append(extras.markers)
        if report is not None:
            about = {
                "file": source.name,
                **rows,
                "date": f"{datetime.now():%Y-%m-%d %H:%M}",
                "command": _command_line(),
            }
            labels = extras.compare_with or setup["labels_key"]
            table = markers[0] if markers else None
            _write_report(
                report,
                output,
                lambda: make_report(adata, key_added, labels, model.history, about, markers=table),
            )
            written.append(report)
        if not quiet:
            _report(rows)
            *before, last = map(str, written)
            _say(f"Wrote {', '.join(before)} and {last}." if before else f"Wrote {last}.")
        if any(problems):
            raise ValueError(f"Wrote {output}, but {'; '.join(filter(None, problems))}.")


def _check_rows(adata: ad.AnnData, layer: str | None) -> None:
    """Raise ValueError if the values to train on are in the file by columns."""
    x = adata.X if layer is None else adata.layers.get(layer)
    if isinstance(x, CSCDataset):
        where = "`adata.X`" if layer is None else f"`layer={layer!r}`"
        raise ValueError(
            f"`backed` needs values that are stored by rows, and {where} is stored by columns. Leave `backed` out, or "
            "store it by rows with `scipy.sparse.csr_matrix`."
        )


def _copy_results(cells: ad.AnnData, adata: ad.AnnData) -> None:
    """Copy what was written to cells with fewer genes to those with all."""
    adata.obs = cells.obs
    for part in ("obsm", "uns"):
        getattr(adata, part).update(getattr(cells, part))


def _make_room(adata: ad.AnnData, setup: dict[str, str | None], key_added: str, force: bool, with_map: bool) -> None:
    """Raise unless results can be written under their names; with ``force``, remove what others wrote there."""
    registered = {
        "obs": {setup["batch_key"], setup["labels_key"]} - {None},
        "obsm": {setup.get("spatial_key")} - {None},
    }
    if isinstance(key_added, str) and key_added and "/" not in key_added:
        for part, name in foreign_names(adata, key_added, with_map):
            if name in registered.get(part, ()):
                continue  # refused below
            if not force:
                raise ValueError(
                    f"`adata.{part}[{name!r}]` is there already, and not from RMVE. "
                    "Choose another --key-added, or replace it with --force."
                )
            del getattr(adata, part)[name]
    check_key_added(adata, key_added, registered, with_map)


def _write_report(path: Path, output: Path, make: Callable[[], str]) -> None:
    """Make and write the report of results that are safe in ``output``."""
    try:
        page = make()
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="replace")
    except Exception as error:  # of drawing, whatever it is
        raise ValueError(f"Wrote {output}, but the report could not be made: {error}") from error


def _command_line() -> str:
    """The command as it was typed, with the program's name alone."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _place_summary(smap: rmve.SpatialMap) -> dict[str, object]:
    """Quality of a map, on cells that it did not see."""
    verdict = "" if smap.has_signal_ else " (no better than chance: do not read them as places)"
    return {
        "R² by axis": " ".join(f"{value:.3f}" for value in smap.r2_),
        "median error": f"{smap.error_:.4g}, {100 * smap.error_fraction_:.1f} % of the diameter{verdict}",
        "judged by cells": smap.n_judged_,
    }


def _summary(adata: ad.AnnData, key_added: str, start: float) -> dict[str, object]:
    names = Written(key_added)
    return {
        "cells": f"{adata.n_obs:,}",
        "genes": f"{adata.n_vars:,}",
        "clusters found": adata.obs[names.cluster].nunique(),
        "components started from": len(adata.uns[names.uns]["components"]),
        "mean confidence": f"{np.mean(adata.obs[names.confidence]):.3f}",
        "seconds": f"{time.perf_counter() - start:.0f}",
    }


def _draw(adata: ad.AnnData, path: Path) -> None:
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
    rmve.pl.confusion(adata, DEMO_LABELS, ax=axes[2])
    rmve.pl.embedding(adata, color=DEMO_LABELS, ax=axes[1], title="labels in the file")
    rmve.pl.embedding(adata, ax=axes[0], title="RMVE's clusters")
    figure.savefig(path, dpi=150)


def _report(rows: dict[str, object]) -> None:
    table = Table(title="RMVE", title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)


def _say(text: str) -> None:
    Console().print(Text(text), soft_wrap=True)


@contextmanager
def _errors_in_one_line(checkpoint_dir: Path | None = None) -> Iterator[None]:
    """Errors that the user can mend as one line and exit status 1, Ctrl-C as 130; others keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        message = "Interrupted: nothing was written."
        if checkpoint_dir is not None and list_epochs(checkpoint_dir):
            message = (
                "Interrupted: no output was written. The same command with --resume goes on from the last checkpoint."
            )
        Console(stderr=True).print(message, soft_wrap=True)
        raise typer.Exit(130) from None
    except (ValueError, KeyError, TypeError, OSError, MemoryError, RecursionError, TrainingStopped) as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        if isinstance(error, MemoryError):
            reason = f"The memory does not suffice. {error}"
        line = Text.assemble(("Error: ", "bold red"), in_flags(" ".join(str(reason).split())))
        Console(stderr=True).print(line, soft_wrap=True)
        raise typer.Exit(1) from None
