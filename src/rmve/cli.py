"""RMVE from the command line: read, train, write, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import anndata as ad
import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import rmve
from rmve import _cells_file
from rmve._callbacks import list_epochs, silence
from rmve._command import Training, check_output, fit
from rmve._files import replacing
from rmve._keys import DEFAULT_KEY, SPATIAL_KEY, Written
from rmve._validation import check_key_added, foreign_names
from rmve.likelihoods import LIKELIHOODS
from rmve.model._fit import TrainingStopped
from rmve.report import make_report
from rmve.spatial import KINDS

#: What the demonstration writes, and the column of its data that it compares with.
DEMO_STEM, DEMO_LABELS = "rmve_demo", "bulk_labels"
#: Layer that stands for the counts in ``adata.raw``.
RAW = "raw"
Likelihood = Enum("Likelihood", {name: name for name in LIKELIHOODS})
MapKind = Enum("MapKind", {name: name for name in KINDS})

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rmve {rmve.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Cell types from single-cell data with RMVE."""


# --------------------------------------------------------------------- commands


def _h5ad(path: Path) -> Path:
    if path.suffix != ".h5ad":
        raise typer.BadParameter(f"{str(path)!r} does not end in .h5ad.")
    return path


def _html(path: Path | None) -> Path | None:
    if path is not None and path.suffix != ".html":
        raise typer.BadParameter(f"{str(path)!r} does not end in .html.")
    return path


def _component_number(value: str) -> str:
    if value != "auto" and not (value.isdecimal() and int(value) >= 1):
        raise typer.BadParameter(f"{value!r} is neither 'auto' nor a whole number of at least 1.")
    return value


Source = Annotated[
    Path, typer.Argument(metavar="INPUT.h5ad", exists=True, dir_okay=False, callback=_h5ad, help="Cells x genes.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUTPUT.h5ad", dir_okay=False, callback=_h5ad, help="File to write.")
]
Layer = Annotated[
    str | None, typer.Option(show_default="X", help="Layer with the counts; 'raw' takes those of adata.raw.")
]
BatchKey = Annotated[str | None, typer.Option(help="Column of obs with the batch.")]
LabelsKey = Annotated[
    str | None, typer.Option(help="Column of obs with known types to train on; 'Unknown' marks unlabelled cells.")
]
NComponents = Annotated[
    str, typer.Option(metavar="auto|INTEGER", callback=_component_number, help="Number of clusters; auto finds it.")
]
OfGene = Annotated[Likelihood, typer.Option(help="Of a gene's value.")]
MaxEpochs = Annotated[
    int | None, typer.Option(min=1, show_default="fewer for more cells", help="Passes over the data.")
]
Seed = Annotated[
    int,
    typer.Option(
        min=0, max=2**32 - 1, help="Of the random numbers: the same seed and number of threads give the same result."
    ),
]
KeyAdded = Annotated[str, typer.Option(help="Prefix of the names written.")]
ReportFile = Annotated[
    Path | None,
    typer.Option(metavar="REPORT.html", dir_okay=False, callback=_html, help="File for a report with figures, too."),
]
CheckpointDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        file_okay=False,
        help="Folder for a checkpoint after each epoch, and in the end for the model.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the last checkpoint in --checkpoint-dir; where there is none, begin."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file and existing results.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


@app.command()
def cluster(
    source: Source,
    output: Output,
    layer: Layer = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    n_components: NComponents = "auto",
    likelihood: OfGene = Likelihood.nb,
    max_epochs: MaxEpochs = None,
    seed: Seed = 0,
    key_added: KeyAdded = DEFAULT_KEY,
    level: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of clusters of another level to write, too; may be repeated."),
    ] = None,
    report: ReportFile = None,
    checkpoint_dir: CheckpointDir = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Cluster the cells of an h5ad file and write them, with the results, to another.

    The input is the raw counts of a few thousand variable genes, unless --likelihood says otherwise.

    rmve cluster cells.h5ad -o clustered.h5ad --layer counts --report report.html
    """
    setup = {"layer": layer, "batch_key": batch_key, "labels_key": labels_key}
    training = Training(n_components, likelihood.value, max_epochs, seed, checkpoint_dir, resume)
    _from_file_to_file(source, output, setup, training, key_added, report, force, quiet, levels=level or ())


@app.command("map")
def map_to_space(
    source: Source,
    output: Output,
    spatial_key: Annotated[
        str, typer.Option(help="Key of obsm with 1 to 3 coordinates; rows of NaN for cells of unknown position.")
    ] = SPATIAL_KEY,
    kind: Annotated[MapKind, typer.Option(help="One map for all cells, or one for each component.")] = MapKind.linear,
    layer: Layer = None,
    batch_key: BatchKey = None,
    labels_key: LabelsKey = None,
    n_components: NComponents = "auto",
    likelihood: OfGene = Likelihood.nb,
    max_epochs: MaxEpochs = None,
    seed: Seed = 0,
    key_added: KeyAdded = DEFAULT_KEY,
    report: ReportFile = None,
    checkpoint_dir: CheckpointDir = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Place the cells of an h5ad file in space, by a linear map from the latent space, and cluster them.

    Some cells need positions, in obsm; the others are placed. A tenth of the positions is held out to judge the map.

    rmve map cells.h5ad -o placed.h5ad --layer counts --spatial-key spatial --report report.html
    """
    setup = {"layer": layer, "batch_key": batch_key, "labels_key": labels_key, "spatial_key": spatial_key}
    training = Training(n_components, likelihood.value, max_epochs, seed, checkpoint_dir, resume)
    _from_file_to_file(source, output, setup, training, key_added, report, force, quiet, kind.value)


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to; made if missing.")] = Path(),
    max_epochs: MaxEpochs = None,
    seed: Seed = 0,
) -> None:
    """Cluster 700 blood cells that come with scanpy, and report.

    Writes rmve_demo.h5ad and rmve_demo.png, over those of an earlier demo.
    """
    with _errors_in_one_line(), silence(everything=True):
        output_dir.mkdir(parents=True, exist_ok=True)
        data, figure = (output_dir / f"{DEMO_STEM}{ending}" for ending in (".h5ad", ".png"))
        check_output(data, force=True)
        start = time.perf_counter()
        adata = rmve.datasets.pbmc68k_reduced()
        fit(adata, {"layer": "counts"}, Training(max_epochs=max_epochs, seed=seed), DEFAULT_KEY, quiet=False)
        with replacing(data) as temporary:
            _cells_file.write(temporary, adata)
        with replacing(figure) as temporary:
            _draw(adata, temporary)
        truth, found = adata.obs[DEMO_LABELS], adata.obs[Written().cluster]
        rows = _summary(adata, DEFAULT_KEY, start)
        agreement = {
            "ARI": f"{adjusted_rand_score(truth, found):.3f}",
            "NMI": f"{normalized_mutual_info_score(truth, found):.3f}",
        }
        _report({**rows, **agreement, "seed": seed})
        _say(f"ARI and NMI compare with the labels in obs[{DEMO_LABELS!r}], which are used for scoring only.")
        _say("The data has no coordinates, so nothing is mapped to space.")
        _say(f"Wrote {data} and {figure}.")


# ------------------------------------------------------------------------ parts


def _from_file_to_file(
    source: Path,
    output: Path,
    setup: dict[str, str | None],
    training: Training,
    key_added: str,
    report: Path | None,
    force: bool,
    quiet: bool,
    kind: str | None = None,
    levels: Sequence[int] = (),
) -> None:
    """What ``cluster`` and ``map`` do; ``kind`` is that of the map to space."""
    if training.resume and training.checkpoint_dir is None:
        raise typer.BadParameter("--resume needs the --checkpoint-dir of the run.")
    with _errors_in_one_line(training.checkpoint_dir), silence(everything=True):
        for path in filter(None, (output, report)):
            check_output(path, force)
        start = time.perf_counter()
        adata = _cells_file.read(source)
        from_raw = setup["layer"] == RAW and RAW not in adata.layers
        if from_raw:
            _cells_file.take_raw_counts(adata, RAW)
        _make_room(adata, setup, key_added, force, with_map=kind is not None)
        _cells_file.check_writable(adata)
        model = fit(adata, setup, training, key_added, quiet, kind, levels)
        if from_raw:
            del adata.layers[RAW]
        rows = {**_summary(adata, key_added, start), "seed": training.seed}
        if kind is not None:
            rows |= _place_summary(model.spatial_map_)
        with replacing(output) as temporary:
            _cells_file.write(temporary, adata)
        if report is not None:
            about = {"file": source.name, **rows}
            _write_report(
                report, output, lambda: make_report(adata, key_added, setup["labels_key"], model.history, about)
            )
        if not quiet:
            _report(rows)
            _say(f"Wrote {output}." if report is None else f"Wrote {output} and {report}.")


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
    rmve.pl.embedding(adata, color=DEMO_LABELS, ax=axes[1]).set_title("labels in the file")
    rmve.pl.embedding(adata, ax=axes[0]).set_title("RMVE's clusters")
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
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        if isinstance(error, MemoryError):
            message = f"The memory does not suffice. {error}"
        line = Text.assemble(("Error: ", "bold red"), " ".join(str(message).split()))
        Console(stderr=True).print(line, soft_wrap=True)
        raise typer.Exit(1) from None
