"""What a command does beyond clustering when it is asked to: variable genes, sub-clusters, UMAP, tables as CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import rmve
from rmve._files import replacing
from rmve._keys import Written
from rmve.likelihoods import get_likelihood

#: Stands for all clusters in ``--subcluster``.
ALL = "all"
UMAP = "X_umap"
#: Option of the command line for each argument that errors name in another way.
OPTIONS = {"gene_likelihood": "likelihood", "levels": "level", "n_clusters": "level"}
ARGUMENTS = "layer|batch_key|labels_key|spatial_key|n_components|max_epochs|key_added|checkpoint_dir|kind|backed"


@dataclass(frozen=True)
class Extras:
    """Options of ``rmve cluster`` beyond those of the model."""

    levels: tuple[int, ...] = ()
    subclusters: tuple[str, ...] = ()
    umap: bool = False
    csv: Path | None = None
    markers: Path | None = None
    compare_with: str | None = None

    def files(self) -> list[Path]:
        """Files to write beside the output."""
        return [path for path in (self.csv, self.markers) if path is not None]


def subcluster_column(key_added: str) -> str:
    """Column of ``obs`` with the sub-clusters."""
    return f"{key_added}_sub"


def check_files(outputs: Iterable[Path]) -> None:
    """Raise ValueError if two options name one file."""
    seen = set()
    for path in outputs:
        if path.resolve() in seen:
            raise ValueError(f"{path} is named twice. Give each output a file of its own.")
        seen.add(path.resolve())


def compare(adata: AnnData, key_added: str, column: str) -> dict[str, str]:
    """ARI and NMI of the clusters and a column of ``obs``, on the cells that have a value there."""
    known = adata.obs[column].notna().to_numpy()
    truth, found = (adata.obs[name].astype(str)[known] for name in (column, Written(key_added).cluster))
    return {
        "ARI": f"{adjusted_rand_score(truth, found):.3f}",
        "NMI": f"{normalized_mutual_info_score(truth, found):.3f}",
    }


def make_room_for_extras(adata: AnnData, extras: Extras, key_added: str, force: bool) -> None:
    """Raise ValueError if an extra would overwrite something, unless ``force``, or lacks its column."""
    if extras.compare_with is not None and extras.compare_with not in adata.obs:
        raise ValueError(f"--compare-with {extras.compare_with!r} is not in `adata.obs`, which has {list(adata.obs)}.")
    entry = adata.uns.get(key_added)
    ours = hasattr(entry, "get") and entry.get("subclusters") is not None
    column = subcluster_column(key_added)
    if extras.subclusters and column in adata.obs and not (force or ours):
        raise ValueError(
            f"--subcluster would overwrite `adata.obs[{column!r}]`. Choose another --key-added, or replace it with --force."
        )
    if extras.umap and UMAP in adata.obsm and not force:
        raise ValueError(f"--umap would overwrite `adata.obsm[{UMAP!r}]`. Replace it with --force.")


def choose_genes(
    adata: AnnData, n_top_genes: int, layer: str | None, batch_key: str | None, likelihood: str
) -> AnnData:
    """The cells with their most variable genes, as scanpy's ``seurat_v3`` ranks them on counts.

    Raises
    ------
    ValueError
        If there are fewer genes, or the values are no counts.
    """
    if not get_likelihood(likelihood).takes_counts:
        raise ValueError(f"--n-top-genes needs counts, and --likelihood {likelihood} is for other values.")
    if n_top_genes > adata.n_vars:
        raise ValueError(f"--n-top-genes {n_top_genes} is more than the {adata.n_vars} genes of the file.")
    if layer is not None and layer not in adata.layers:
        raise ValueError(f"--layer {layer!r} is not in `adata.layers`, which has {list(adata.layers)}.")
    if batch_key is not None and batch_key not in adata.obs:
        raise ValueError(f"--batch-key {batch_key!r} is not in `adata.obs`, which has {list(adata.obs)}.")
    found = sc.pp.highly_variable_genes(
        adata, n_top_genes=n_top_genes, flavor="seurat_v3", layer=layer, batch_key=batch_key, inplace=False
    )
    return adata[:, found["highly_variable"].to_numpy()].copy()


def divide_clusters(model: rmve.RMVE, chosen: tuple[str, ...], key_added: str, max_epochs: int | None) -> str | None:
    """Write the sub-clusters of the chosen clusters into ``obs``; return what is wrong with the choice, or None."""
    adata = model.adata
    assert adata is not None  # the model was trained on it
    names = adata.obs[Written(key_added).cluster].cat.categories.tolist()
    wanted = names if ALL in chosen and ALL not in names else list(chosen)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        return f"--subcluster {unknown[0]}: there is no such cluster. The clusters are {', '.join(map(str, names))}"
    options = {} if max_epochs is None else {"max_epochs": max_epochs}
    adata.obs[subcluster_column(key_added)] = model.subcluster(wanted, **options)
    adata.uns[key_added]["subclusters"] = wanted
    return None


def add_umap(adata: AnnData, key_added: str, seed: int) -> None:
    """UMAP of the latent space, into ``obsm["X_umap"]``."""
    cells = AnnData(obs=pd.DataFrame(index=adata.obs_names), obsm={"latent": adata.obsm[Written(key_added).latent]})
    sc.pp.neighbors(cells, use_rep="latent", n_neighbors=min(15, adata.n_obs - 1), random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    adata.obsm[UMAP] = cells.obsm[UMAP]


def write_clusters(path: Path, adata: AnnData, key_added: str) -> None:
    """Write a row for each cell: cell, cluster, confidence, novelty, and its sub-cluster if there is one."""
    names = Written(key_added)
    columns = {"cluster": names.cluster, "confidence": names.confidence, "novelty": names.novelty}
    if "subclusters" in adata.uns[names.uns]:
        columns["subcluster"] = subcluster_column(key_added)
    table = pd.DataFrame({title: adata.obs[name] for title, name in columns.items() if name in adata.obs})
    with replacing(path) as temporary:
        table.to_csv(temporary, index_label="cell")


def write_markers(path: Path, table: pd.DataFrame) -> None:
    """Write the markers of each cluster, the best first."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def in_flags(message: str) -> str:
    """An error in the words of the command line: ``--n-components 7`` for `` `n_components=7` ``."""

    def flag(found: re.Match) -> str:
        name, value = found.groups()
        option = "--" + OPTIONS.get(name, name).replace("_", "-")
        return option if value is None else f"{option} {value}"

    return re.sub(rf"`({ARGUMENTS}|{'|'.join(OPTIONS)})(?:=([^`]*))?`", flag, message)
