"""Getters of scvi-tools in RMVE's way: checked before the work begins, leaving nothing behind in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve.model import _expression as expression
from rmve.model._docs import documented
from rmve.model._saved import SavedModel


class RMVEBase(SavedModel):
    """Base of :class:`rmve.RMVE`: all that is scvi-tools' own.

    Parameters
    ----------
    adata
        Cells to train on; ``None`` for a model without data.
    registry
        Registry of a saved model.
    """

    @documented
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
        %(adata)s
        %(indices)s
        transform_batch
            Batch to decode for, as scvi-tools has it.
        gene_list
            Genes to return; ``None`` is all.
        library_size
            Total to scale to, above 0, or ``"latent"``.
        %(scvi_kwargs)s

        Raises
        ------
        ValueError
            If the model has no such genes, or the library size is not positive.
        """
        if gene_list is not None:
            expression.check_gene_names(gene_list, self.var_names_)
        if library_size != "latent":
            check.check_number("library_size", library_size, with_low=False)
        if kwargs.get("n_samples") is not None:
            check.check_positive_int("n_samples", kwargs["n_samples"])
        return super().get_normalized_expression(
            adata, indices, transform_batch, gene_list=gene_list, library_size=library_size, **kwargs
        )

    @documented
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
        %(adata)s
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
        %(no_column)s
        ValueError
            If a group holds no cells, or all cells.
        """
        options = expression.comparison_options(kwargs)
        source = self.adata if adata is None else adata
        group1, group2 = expression.groups_to_compare(source, groupby, group1, group2, options["idx1"] is not None)
        manager = self.get_anndata_manager(self._validate_anndata(adata), required=True)
        getters = self.get_normalized_expression, self.get_latent_representation
        return expression.compare_expression(manager, *getters, groupby, group1, group2, options)

    @documented
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
        %(no_column)s
        ValueError
            If it has missing values.
        """
        self._check_if_trained()
        expression.check_samples(self.adata if adata is None else adata, sample_key)
        cells = self._validate_anndata(adata)
        compute = super().differential_abundance
        return expression.take_abundance(cells, lambda: compute(cells, sample_key=sample_key, **kwargs))

    @documented
    def posterior_predictive_sample(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, n_samples: int = 1, **kwargs
    ):
        """Data drawn from the model; see :meth:`scvi.model.base.RNASeqMixin.posterior_predictive_sample`.

        Parameters
        ----------
        %(adata)s
        %(indices)s
        n_samples
            Samples of each cell.
        %(scvi_kwargs)s
        """
        check.check_positive_int("n_samples", n_samples)
        return super().posterior_predictive_sample(adata, indices, n_samples=n_samples, **kwargs)

    @documented
    def get_marginal_ll(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, n_mc_samples: int = 1000, **kwargs
    ):
        """Log-likelihood of the cells; see :meth:`scvi.model.base.VAEMixin.get_marginal_ll`.

        Parameters
        ----------
        %(adata)s
        %(indices)s
        n_mc_samples
            Samples of each cell that it is estimated from.
        %(scvi_kwargs)s
        """
        check.check_positive_int("n_mc_samples", n_mc_samples)
        return super().get_marginal_ll(adata, indices, n_mc_samples=n_mc_samples, **kwargs)

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

    @classmethod
    def convert_legacy_save(cls, *args, **kwargs) -> None:
        """Not available: it would execute what a file holds, and RMVE has no models in scvi-tools' old format.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError("RMVE has no models in scvi-tools' old format. Read those that it has with `RMVE.load`.")

    @staticmethod
    def prepare_query_mudata(*args, **kwargs) -> None:
        """Not available: RMVE takes AnnData; see :meth:`prepare_query_anndata`.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError("RMVE takes AnnData, not MuData. Use `RMVE.prepare_query_anndata` with one modality.")
