"""The command line of RMVE: its commands and options. What they do is imported when they are called."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import rmve
from rmve._keys import DEFAULT_KEY, SPATIAL_KEY

#: As in ``rmve.likelihoods`` and ``rmve.spatial``, which would import torch and scikit-learn.
Likelihood = Enum(
    "Likelihood", {"nb": "nb", "zinb": "zinb", "poisson": "poisson", "normal": "normal", "bernoulli": "bernoulli"}
)
MapKind = Enum("MapKind", {"linear": "linear", "by_cluster": "by_cluster"})
GENE_LIKELIHOODS = tuple(likelihood.value for likelihood in Likelihood)
KINDS = tuple(kind.value for kind in MapKind)

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


def _csv(path: Path | None) -> Path | None:
    if path is not None and path.suffix != ".csv":
        raise typer.BadParameter(f"{str(path)!r} does not end in .csv.")
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
CsvFile = Annotated[
    Path | None,
    typer.Option(metavar="CLUSTERS.csv", dir_okay=False, callback=_csv, help="File for the cluster of each cell."),
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
Backed = Annotated[
    bool, typer.Option("--backed", help="Leave the matrices in the input file, and read them from there in pieces.")
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
    subcluster: Annotated[
        list[str] | None,
        typer.Option(metavar="CLUSTER|all", help="Cluster to divide further; may be repeated. all divides each."),
    ] = None,
    n_top_genes: Annotated[
        int | None,
        typer.Option(min=1, show_default="all genes", help="Train on the most variable genes; all stay in the output."),
    ] = None,
    umap: Annotated[bool, typer.Option("--umap", help="Write a UMAP of the embedding, too.")] = False,
    csv: CsvFile = None,
    markers: Annotated[
        Path | None,
        typer.Option(
            metavar="MARKERS.csv", dir_okay=False, callback=_csv, help="File for the markers of each cluster."
        ),
    ] = None,
    compare_with: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of obs to compare the clusters with; not used in training."),
    ] = None,
    report: ReportFile = None,
    checkpoint_dir: CheckpointDir = None,
    resume: Resume = False,
    backed: Backed = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Cluster the cells of an h5ad file and write them, with the results, to another.

    The input is the raw counts of a few thousand variable genes (--n-top-genes chooses them), unless --likelihood says
    otherwise.

    rmve cluster cells.h5ad -o clustered.h5ad --layer counts --report report.html
    """
    from rmve._pipeline import Extras, Training, from_file_to_file

    setup = {"layer": layer, "batch_key": batch_key, "labels_key": labels_key}
    training = Training(n_components, likelihood.value, max_epochs, seed, checkpoint_dir, resume, n_top_genes, backed)
    extras = Extras(tuple(level or ()), tuple(subcluster or ()), umap, csv, markers, compare_with)
    from_file_to_file(source, output, setup, training, key_added, report, force, quiet, extras=extras)


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
    backed: Backed = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Place the cells of an h5ad file in space, by a linear map from the latent space, and cluster them.

    Some cells need positions, in obsm; the others are placed. A tenth of the positions is held out to judge the map.

    rmve map cells.h5ad -o placed.h5ad --layer counts --spatial-key spatial --report report.html
    """
    from rmve._pipeline import Training, from_file_to_file

    setup = {"layer": layer, "batch_key": batch_key, "labels_key": labels_key, "spatial_key": spatial_key}
    training = Training(n_components, likelihood.value, max_epochs, seed, checkpoint_dir, resume, backed=backed)
    from_file_to_file(source, output, setup, training, key_added, report, force, quiet, kind.value)


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to; made if missing.")] = Path(),
    max_epochs: MaxEpochs = None,
    seed: Seed = 0,
) -> None:
    """Cluster 700 blood cells that come with scanpy, and report.

    Writes rmve_demo.h5ad and rmve_demo.png, over those of an earlier demo.
    """
    from rmve._pipeline import run_demo

    run_demo(output_dir, max_epochs, seed)
