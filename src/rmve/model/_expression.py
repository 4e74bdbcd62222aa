"""Tables of genes and samples: scvi-tools' methods, checked, on data in memory or on disk, leaving no notes behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model.base import DifferentialComputation, RNASeqMixin

from rmve import _validation as check
from rmve._compat import compare_groups
from rmve.data.on_disk import row_chunks

#: Where scvi-tools leaves the table of :meth:`rmve.RMVE.differential_abundance`, and a column of groups.
ABUNDANCE_KEY, GROUPS_KEY = "da_log_probs", "_scvi_temp_de"
#: Total that counts are scaled to in the tables' means of normalised counts.
TARGET_SUM = 1e4


def check_gene_names(genes: Sequence[str], known: Sequence[str]) -> None:
    """Raise unless genes are a list of genes of the model."""
    if isinstance(genes, str):
        raise TypeError(f"`gene_list` must be a list of genes, not {genes!r}.")
    unknown = [gene for gene in genes if gene not in set(known)]
    if unknown:
        raise ValueError(f"`gene_list` names {len(unknown)} gene(s) that the model does not have: {unknown[:5]}.")


def comparison_options(given: dict[str, object]) -> dict[str, object]:
    """Options of ``differential_expression``, those that are not given by default; TypeError for unknown ones."""
    check.check_names("`differential_expression`", given, {*_DE_DEFAULTS, *_BAYES_FACTOR_OPTIONS})
    return _DE_DEFAULTS | given


def groups_to_compare(
    adata: AnnData | None, groupby: str | None, group1: str | Sequence[str] | None, group2: str | None, by_rows: bool
) -> tuple[str | Sequence[str] | None, str | None]:
    """The two sides of a comparison; see :meth:`rmve.RMVE.differential_expression`.

    Parameters
    ----------
    adata
        Cells.
    groupby
        Column of ``adata.obs`` with the groups.
    group1, group2
        Groups to compare; ``None`` is each group that holds cells, and all other cells.
    by_rows
        Whether rows are compared.
    """
    if isinstance(adata, AnnData) and groupby is not None:
        groups = check.require_column(adata, groupby, "groupby").astype("category")
        return _groups_with_cells(groups, groupby, group1, group2, by_rows)
    if not by_rows:
        raise ValueError("Give `groupby`, a column of `adata.obs`, or `idx1`, rows or a query of it.")
    return group1, group2


def compare_expression(
    manager: AnnDataManager,
    expression: Callable,
    latent: Callable,
    groupby: str | None,
    group1: object,
    group2: object,
    options: dict[str, object],
) -> pd.DataFrame:
    """Genes that differ between groups, by scvi-tools; it leaves nothing in the cells' ``obs``.

    Parameters
    ----------
    manager
        Manager of the cells.
    expression, latent
        Getters of the model.
    groupby, group1, group2
        From :func:`groups_to_compare`.
    options
        From :func:`comparison_options`.
    """
    cells = manager.adata
    names = ("mode", "batchid1", "batchid2", "delta", "batch_correction")
    sampled = partial(
        expression, return_numpy=True, n_samples=1, batch_size=options["batch_size"], weights=options["weights"]
    )
    try:
        return compare_groups(
            manager,
            sampled,
            latent if options["filter_outlier_cells"] else None,
            groupby,
            group1,
            group2,
            options["idx1"],
            options["idx2"],
            options["all_stats"],
            raw_statistics,
            cells.var_names,
            *(options[name] for name in names),
            options["fdr_target"],
            options["silent"],
            **{name: value for name, value in options.items() if name not in _DE_DEFAULTS},
        )
    finally:
        if GROUPS_KEY in cells.obs:
            del cells.obs[GROUPS_KEY]


def check_samples(adata: AnnData | None, sample_key: str | None) -> None:
    """Raise unless a column of ``obs`` names the sample of each cell."""
    if sample_key is None:
        raise ValueError("Give `sample_key`, the column of `adata.obs` with the sample of each cell.")
    if isinstance(adata, AnnData) and check.require_column(adata, sample_key, "sample_key").isna().any():
        raise ValueError(f"`adata.obs[{sample_key!r}]` (`sample_key`) has missing values. Leave out these cells.")


def take_abundance(cells: AnnData, compute: Callable[[], object]) -> pd.DataFrame:
    """The table that scvi-tools writes into ``obsm`` when it is called, which is then as before."""
    before = cells.obsm.get(ABUNDANCE_KEY)
    try:
        compute()
        return cells.obsm[ABUNDANCE_KEY]
    finally:
        if before is not None:
            cells.obsm[ABUNDANCE_KEY] = before
        elif ABUNDANCE_KEY in cells.obsm:
            del cells.obsm[ABUNDANCE_KEY]


def _groups_with_cells(
    groups: pd.Series, groupby: str, group1: str | Sequence[str] | None, group2: str | None, by_rows: bool
) -> tuple[str | Sequence[str] | None, str | None]:
    """The groups to compare; raises ValueError if one of them holds no cells, or all."""
    present = [name for name in groups.cat.categories if (groups == name).any()]
    if by_rows:
        return group1, group2
    wanted: list[str] = (
        present if group1 is None else [group1] if isinstance(group1, str) or np.isscalar(group1) else list(group1)
    )
    for name in [*wanted, *([] if group2 is None else [group2])]:
        if name not in present:
            raise ValueError(
                f"`adata.obs[{groupby!r}]` has no cells of the group {name!r}. Its groups: {', '.join(map(repr, present))}."
            )
    if group2 is not None and wanted == [group2]:
        raise ValueError(f"`group1` and `group2` are both {group2!r}: there is nothing to compare. Give another one.")
    if len(present) < 2 and group2 is None and not groups.isna().any():
        raise ValueError(f"All cells are of one group of `adata.obs[{groupby!r}]`: there is nothing to compare with.")
    return wanted, group2


def raw_statistics(adata_manager, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Means, shares of non-zero values, and means after scaling to a common total, of two groups of cells.

    Parameters
    ----------
    adata_manager
        scvi-tools' manager of the cells.
    first, second
        Masks of the groups, shape ``(n,)``.

    Returns
    -------
    Arrays of shape ``(G,)`` under scvi-tools' names, ending in 1 and 2. The data is read in blocks.
    """
    x = adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    found: dict[str, np.ndarray] = {}
    for number, mask in ((1, first), (2, second)):
        rows = np.flatnonzero(mask)
        sums = np.zeros((3, x.shape[1]))
        for block in row_chunks(x, rows):
            total = block.sum(1, dtype=np.float64, keepdims=True)
            scale = np.divide(TARGET_SUM, total, out=np.zeros_like(total), where=total != 0)
            sums += np.stack([block.sum(0), (block != 0).sum(0), (block * scale).sum(0)])
        names = ("raw_mean", "non_zeros_proportion", "raw_normalized_mean")
        found |= {f"{name}{number}": part / max(len(rows), 1) for name, part in zip(names, sums, strict=True)}
    return found


def _defaults(function, leave_out: set[str]) -> dict[str, object]:
    parameters = signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in leave_out}


_DE_DEFAULTS = _defaults(RNASeqMixin.differential_expression, {"adata", "groupby", "group1", "group2"})
_BAYES_FACTOR_OPTIONS = _defaults(DifferentialComputation.get_bayes_factors, {"mode", "batchid1", "batchid2", "delta"})
