"""Toy data with known truth, real cells that need no download, and loaders of atlases."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from rmve._atlases import gut_cells, hcl_profiles, heart_nuclei
from rmve._validation import check_positive_int
from rmve.body import add_organ_positions
from rmve.data.download import cache_folder, retrieve

__all__ = [
    "census",
    "fetch_h5ad",
    "gut_cells",
    "hcl_profiles",
    "heart_nuclei",
    "mnist",
    "pbmc68k_reduced",
    "recover_counts",
    "simulate",
    "toy",
]

#: Largest distance from an integer at which a recovered count is believed.
MAX_RESIDUAL = 0.25
#: The digits as Keras distributes them, the checksum of that file, and that of what is in it.
MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_FILE_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
MNIST_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"


def toy(n_cells: int = 600, n_genes: int = 200, n_clusters: int = 4, n_batches: int = 1, seed: int = 0) -> ad.AnnData:
    """Small, well separated clusters with positions: for examples and tests.

    Parameters
    ----------
    n_cells, n_genes, n_clusters, n_batches
        Sizes.
    seed
        Of the random numbers.

    Returns
    -------
    AnnData with counts in ``X`` and ``layers["counts"]`` (sparse), ``obs["cell_type"]``, ``obs["batch"]`` and
    ``obsm["spatial"]``, a linear function of the latent truth in ``obsm["true_latent"]``.
    """
    check_positive_int("n_genes", n_genes)
    adata = simulate(
        n_cells=n_cells,
        n_genes=n_genes,
        n_clusters=n_clusters,
        n_batches=n_batches,
        separation=6.0,
        depth=3.0 * n_genes,
        seed=seed,
    )
    rng = np.random.default_rng([seed, 1])
    latent = adata.obsm["true_latent"]
    adata.obsm["spatial"] = 100.0 + 20.0 * latent @ rng.normal(size=(latent.shape[1], 2))
    return adata


def simulate(
    n_cells: int = 3000,
    n_genes: int = 1000,
    n_clusters: int = 8,
    n_latent: int = 8,
    separation: float = 3.0,
    imbalance: float = 0.0,
    shape_contrast: float = 0.0,
    depth: float = 2000.0,
    dispersion: float = 3.0,
    n_batches: int = 1,
    batch_effect: float = 0.3,
    seed: int = 0,
) -> ad.AnnData:
    """Counts from overlapping Gaussian components in a latent space, with known truth.

    ``y`` is drawn from the weights, ``z | y ~ N(mu_y, diag sigma_y²)``, log-rates are a random two-layer function of
    ``z``, and counts are negative binomial around rates scaled to a log-normal library size.

    Parameters
    ----------
    n_cells, n_genes, n_clusters, n_latent
        Sizes.
    separation
        Root-mean-square distance between two component means, in standard deviations of a component; 0 gives
        equal means.
    imbalance
        Weights fall like ``exp(-imbalance * k)``; 0 gives equal weights.
    shape_contrast
        Standard deviations of a component are ``exp(±shape_contrast)``, with signs drawn per component and
        dimension; 0 gives unit spheres.
    depth
        Median total count of a cell.
    dispersion
        Inverse dispersion of the negative binomial.
    n_batches
        Batches, drawn independently of the cluster.
    batch_effect
        Standard deviation of the batches' shifts of the log-rates.
    seed
        Of the random numbers.

    Returns
    -------
    AnnData with counts in ``X`` and ``layers["counts"]`` (sparse), ``obs["cell_type"]``, ``obs["batch"]``, the latent
    truth in ``obsm["true_latent"]`` and the components in ``uns["simulation"]``.
    """
    for name, size in (
        ("n_cells", n_cells),
        ("n_genes", n_genes),
        ("n_clusters", n_clusters),
        ("n_latent", n_latent),
        ("n_batches", n_batches),
    ):
        check_positive_int(name, size)
    rng = np.random.default_rng(seed)
    weights = np.exp(-imbalance * np.arange(n_clusters))
    weights /= weights.sum()
    directions = rng.normal(size=(n_clusters, n_latent))
    means = separation * directions / np.sqrt(2 * n_latent)
    sds = np.exp(shape_contrast * rng.choice([-1.0, 1.0], size=(n_clusters, n_latent)))
    y = rng.choice(n_clusters, size=n_cells, p=weights)
    z = means[y] + sds[y] * rng.normal(size=(n_cells, n_latent))

    n_hidden = 32
    first = rng.normal(size=(n_latent, n_hidden)) / np.sqrt(n_latent)
    second = rng.normal(size=(n_hidden, n_genes)) / np.sqrt(n_hidden)
    log_rate = np.tanh(0.5 * z @ first) @ second * 1.5 + rng.normal(scale=1.0, size=n_genes)
    batch = rng.integers(n_batches, size=n_cells)
    if n_batches > 1:
        log_rate = log_rate + rng.normal(scale=batch_effect, size=(n_batches, n_genes))[batch]
    rate = np.exp(log_rate)
    rate *= (depth * np.exp(0.3 * rng.normal(size=n_cells)) / rate.sum(1))[:, None]
    counts = rng.poisson(rate * rng.gamma(dispersion, 1.0 / dispersion, size=rate.shape))
    empty = counts.sum(1) == 0
    counts[empty, rate[empty].argmax(1)] = 1

    counts = sp.csr_matrix(counts.astype(np.float32))
    return ad.AnnData(
        X=counts,
        layers={"counts": counts.copy()},
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical([f"type {k}" for k in y]),
                "batch": pd.Categorical([f"batch {b}" for b in batch]),
            },
            index=[f"cell {i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"gene {j}" for j in range(n_genes)]),
        obsm={"true_latent": z},
        uns={"simulation": {"weights": weights, "means": means, "sds": sds}},
    )


def pbmc68k_reduced() -> ad.AnnData:
    """700 blood cells x 765 genes with raw counts, from the file that scanpy ships.

    scanpy's ``pbmc68k_reduced`` keeps in ``.raw`` the log1p of counts scaled to 10,000 per cell, rounded to three
    digits; ``obs["n_counts"]`` is the total of each cell over all genes. Undoing both gives the counts of the 765
    genes, which is checked: every value must come out within 0.25 of an integer.

    Returns
    -------
    AnnData with counts in ``X`` and ``layers["counts"]`` (sparse); the labels ``obs["bulk_labels"]`` and
    ``obsm["X_umap"]`` are scanpy's.

    Raises
    ------
    ValueError
        If the values are not log1p of scaled counts.
    """
    import scanpy as sc

    source = sc.datasets.pbmc68k_reduced()
    counts = recover_counts(source.raw.X, source.obs["n_counts"].to_numpy(), target_sum=1e4)
    return ad.AnnData(
        X=counts,
        layers={"counts": counts.copy()},
        obs=source.obs[["bulk_labels", "louvain"]].copy(),
        var=pd.DataFrame(index=source.raw.var_names),
        obsm={"X_umap": source.obsm["X_umap"]},
    )


def recover_counts(log_normalized, totals: np.ndarray, target_sum: float) -> sp.csr_matrix:
    """Integer counts from ``log1p(counts / total * target_sum)``.

    Parameters
    ----------
    log_normalized
        Shape ``(n, G)``, dense or sparse.
    totals
        Total count of each cell before genes were dropped, shape ``(n,)``.
    target_sum
        Total that the cells were scaled to.

    Returns
    -------
    Sparse matrix of counts, ``float32``.

    Raises
    ------
    ValueError
        If a value comes out further than :data:`MAX_RESIDUAL` from an integer.
    """
    matrix = sp.csr_matrix(log_normalized, dtype=np.float64, copy=True)
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    values = np.expm1(matrix.data) * totals[row] / target_sum
    residual = np.abs(values - np.round(values))
    if residual.size and residual.max() > MAX_RESIDUAL:
        raise ValueError(
            f"The values are not log1p of counts scaled to {target_sum:g}: one comes out {residual.max():.2f} from an integer."
        )
    matrix.data = np.round(values)
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)


def fetch_h5ad(url: str, sha256: str, folder: str | Path | None = None, progressbar: bool = True) -> ad.AnnData:
    """Read an h5ad file from the network, through a cache; what is there already is not downloaded again.

    For example a data set of the Human Cell Atlas from CELLxGENE: its page on https://cellxgene.cziscience.com shows the
    link of the file.

    Parameters
    ----------
    url
        Address of the file, ending in ``.h5ad``.
    sha256
        Checksum of the file, 64 hexadecimal digits. A file that has another one is not read.
    folder
        Cache; ``None`` is ``RMVE_CACHE`` in the environment, or the usual place for caches of the operating system.
    progressbar
        Whether to show the progress of the download.

    Returns
    -------
    The AnnData.

    Raises
    ------
    ValueError
        If the address or the checksum is not of that form, or the file has another checksum.
    OSError
        If the file cannot be had, has more than 200 GB or more than the disk has room for, or takes more than a day.
    """
    try:
        parts = urlsplit(url)
    except (ValueError, AttributeError):
        raise ValueError(f"`url` must be the http or https address of an .h5ad file; got {url!r}.") from None
    name = unquote(parts.path).rsplit("/", 1)[-1]
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w][\w.+-]*\.h5ad", name):
        raise ValueError(f"`url` must be the http or https address of an .h5ad file; got {url!r}.")
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"`sha256` must be 64 hexadecimal digits, the checksum of the file; got {sha256!r}.")
    return ad.read_h5ad(retrieve(url, sha256, f"{sha256[:12].lower()}-{name}", cache_folder(folder), progressbar))


def mnist(n_digits: int = 70_000, folder: str | Path | None = None, progressbar: bool = True) -> ad.AnnData:
    """Handwritten digits: images whose clusters everybody can judge.

    The 60,000 and 10,000 images of LeCun, Cortes and Burges (CC BY-SA 3.0), one after the other. The file of 11 MB is
    downloaded once; a file ``mnist.npz`` in the cache is taken if it holds the same images and labels.

    Parameters
    ----------
    n_digits
        Number of images; fewer than all are drawn at random, always the same ones.
    folder, progressbar
        As in :func:`fetch_h5ad`.

    Returns
    -------
    AnnData with the 28 x 28 pixels of each image in ``X``, from 0 (paper) to 1 (ink), and ``obs["digit"]``.

    Raises
    ------
    ValueError
        If ``n_digits`` is not between 1 and 70,000, or the file holds something else.
    OSError
        If the file cannot be had.
    """
    check_positive_int("n_digits", n_digits)
    path = cache_folder(folder) / "mnist.npz"
    if not path.exists():
        retrieve(MNIST_URL, MNIST_FILE_SHA256, path.name, path.parent, progressbar)
    with np.load(path) as file:  # pickled objects are refused
        parts = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    if hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest() != MNIST_SHA256:
        raise ValueError(f"{path} does not hold the MNIST digits. Delete it to have it downloaded.")
    images, labels = np.concatenate(parts[::2]), np.concatenate(parts[1::2])
    if n_digits > len(images):
        raise ValueError(f"`n_digits` must be at most {len(images):,}; got {n_digits:,}.")
    rows = np.sort(np.random.default_rng(0).choice(len(images), n_digits, replace=False))
    return ad.AnnData(
        X=images[rows].reshape(n_digits, -1).astype(np.float32) / 255,
        obs=pd.DataFrame({"digit": pd.Categorical(labels[rows].astype(str))}, index=[f"image {i}" for i in rows]),
        var=pd.DataFrame(index=[f"pixel {row},{column}" for row in range(28) for column in range(28)]),
    )


def census(
    obs_value_filter: str,
    organism: str = "Homo sapiens",
    var_names: Sequence[str] | None = None,
    census_version: str = "stable",
    organ_key: str = "tissue_general",
) -> ad.AnnData:
    """Cells of CELLxGENE Census, which holds the Human Cell Atlas, with the place of their organ in the body.

    Needs the package ``cellxgene-census`` (``pip install "rmve[census]"``) and the network.

    Parameters
    ----------
    obs_value_filter
        Which cells, in the language of the census, for example
        ``"is_primary_data == True and tissue_general in ['lung', 'liver']"``.
    organism
        As in the census.
    var_names
        Ensembl identifiers of the genes to read; ``None`` is all.
    census_version
        A date, or ``"stable"``. A date makes a result repeatable.
    organ_key
        Column with the organ, from which positions are made; see :func:`rmve.body.add_organ_positions`.

    Returns
    -------
    AnnData with raw counts in ``X``, gene names as ``var_names``, and the position of each cell's organ in
    ``obsm["spatial"]``, NaN for blood and other tissues without a place.

    Raises
    ------
    ImportError
        If ``cellxgene-census`` is not installed.
    ValueError
        If no cell passes the filter, or none of the organs has a position.
    """
    try:
        import cellxgene_census
    except ImportError as error:
        raise ImportError('`rmve.datasets.census` needs another package: pip install "rmve[census]"') from error
    with cellxgene_census.open_soma(census_version=census_version) as opened:
        adata = cellxgene_census.get_anndata(
            opened,
            organism=organism,
            obs_value_filter=obs_value_filter,
            var_value_filter=None if var_names is None else f"feature_id in {list(var_names)!r}",
        )
    if adata.n_obs == 0:
        raise ValueError(f"No cell of the census passes {obs_value_filter!r}.")
    adata.obs_names = adata.obs["soma_joinid"].astype(str).to_numpy()
    adata.var_names = adata.var["feature_name"].astype(str).to_numpy()
    adata.var_names_make_unique()
    add_organ_positions(adata, organ_key)
    return adata
