"""Tables of genes and samples: scvi-tools' methods, checked, on data in memory or on disk, leaving no notes behind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from inspect import signature
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import DifferentialComputation, RNASeqMixin

from rmve import _validation as check
from rmve._compat import compare_groups
from rmve.initialization import row_chunks

#: Where scvi-tools leaves the table of :meth:`ExpressionMixin.differential_abundance`, and a column of groups.
ABUNDANCE_KEY, GROUPS_KEY = "da_log_probs", "_scvi_temp_de"
#: Total that counts are scaled to in the tables' means of normalised counts.
TARGET_SUM = 1e4


class ExpressionMixin:
    """Part of :class:`rmve.RMVE` that tells what genes and samples do."""

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1,
        **kwargs,
    ) -> pd.DataFrame | np.ndarray:
        """Decoded expression of each gene; see :meth:`scvi.model.base.RNASeqMixin.get_normalized_expression`.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.
        indices
            Rows of ``adata``; ``None`` is all.
        transform_batch
            Batch to decode for, as scvi-tools has it.
        gene_list
            Genes to return; ``None`` is all.
        library_size
            Total to scale to, above 0, or ``"latent"``.
        **kwargs
            Passed to scvi-tools.

        Raises
        ------
        ValueError
            If the model has no such genes, or the library size is not positive.
        """
        if gene_list is not None:
            self._check_gene_names(gene_list)
        if library_size != "latent":
            check.check_number("library_size", library_size, with_low=False)
        return super().get_normalized_expression(
            adata, indices, transform_batch, gene_list=gene_list, library_size=library_size, **kwargs
        )

    def _check_gene_names(self, genes: Sequence[str]) -> None:
        if isinstance(genes, str):
            raise TypeError(f"`gene_list` must be a list of genes, not {genes!r}.")
        unknown = [gene for gene in genes if gene not in set(self.var_names_)]
        if unknown:
            raise ValueError(f"`gene_list` names {len(unknown)} gene(s) that the model does not have: {unknown[:5]}.")

    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        **kwargs,
    ) -> pd.DataFrame:
        """Genes that differ between groups of cells; see scvi-tools' user guide.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.
        groupby
            Column of ``adata.obs`` with the groups, for example ``"rmve"`` after :meth:`annotate`.
        group1, group2
            Groups to compare; ``None`` is each group that holds cells, and all other cells.
        **kwargs
            Further arguments of :meth:`scvi.model.base.RNASeqMixin.differential_expression`.

        Returns
        -------
        A row for each gene and comparison.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If a group holds no cells, or all cells.
        """
        options = dict(_DE_DEFAULTS)
        check.check_names("`differential_expression`", kwargs, {*options, *_BAYES_FACTOR_OPTIONS})
        options |= kwargs
        source = self.adata if adata is None else adata
        if isinstance(source, AnnData) and groupby is not None:
            groups = check.require_column(source, groupby, "groupby").astype("category")
            group1, group2 = _groups_with_cells(groups, groupby, group1, group2, options["idx1"] is not None)
        elif options["idx1"] is None:
            raise ValueError("Give `groupby`, a column of `adata.obs`, or `idx1`, rows or a query of it.")
        cells = self._validate_anndata(adata)
        expression = partial(
            self.get_normalized_expression,
            return_numpy=True,
            n_samples=1,
            batch_size=options["batch_size"],
            weights=options["weights"],
        )
        names = ("mode", "batchid1", "batchid2", "delta", "batch_correction")
        try:
            return compare_groups(
                self.get_anndata_manager(cells, required=True),
                expression,
                self.get_latent_representation if options["filter_outlier_cells"] else None,
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

    def differential_abundance(
        self, adata: AnnData | None = None, sample_key: str | None = None, **kwargs
    ) -> pd.DataFrame:
        """Where in the latent space the cells of each sample are; see scvi-tools' user guide.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data. Nothing is written into it.
        sample_key
            Column of ``adata.obs`` with the sample of each cell.
        **kwargs
            Further arguments of :meth:`scvi.model.base.VAEMixin.differential_abundance`.

        Returns
        -------
        Log-density of each sample (columns) at each cell (rows).

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If it has missing values.
        """
        self._check_if_trained()
        source = self.adata if adata is None else adata
        if sample_key is None:
            raise ValueError("Give `sample_key`, the column of `adata.obs` with the sample of each cell.")
        if isinstance(source, AnnData) and check.require_column(source, sample_key, "sample_key").isna().any():
            raise ValueError(f"`adata.obs[{sample_key!r}]` (`sample_key`) has missing values. Leave out these cells.")
        cells = self._validate_anndata(adata)
        before = cells.obsm.get(ABUNDANCE_KEY)
        try:
            super().differential_abundance(cells, sample_key=sample_key, **kwargs)
            return cells.obsm[ABUNDANCE_KEY]
        finally:
            if before is not None:
                cells.obsm[ABUNDANCE_KEY] = before
            elif ABUNDANCE_KEY in cells.obsm:
                del cells.obsm[ABUNDANCE_KEY]

    def get_importance_weights(self, *args, **kwargs) -> None:
        """Not available: scvi-tools' importance weights hold for a standard normal prior only.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            "`weights='importance'` assumes a standard normal prior, which RMVE does not have. Use `weights='uniform'`."
        )


def _groups_with_cells(
    groups: pd.Series, groupby: str, group1: str | Sequence[str] | None, group2: str | None, by_rows: bool
) -> tuple[list | None, object]:
    """The groups to compare; raises ValueError if one of them holds no cells, or all."""
    present = [name for name in groups.cat.categories if (groups == name).any()]
    if by_rows:
        return group1, group2
    wanted = present if group1 is None else [group1] if np.isscalar(group1) else list(group1)
    for name in [*wanted, *([] if group2 is None else [group2])]:
        if name not in present:
            raise ValueError(
                f"`adata.obs[{groupby!r}]` has no cells of the group {name!r}. Its groups: {', '.join(map(repr, present))}."
            )
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
    found = {}
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
