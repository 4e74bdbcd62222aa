"""Getters of scvi-tools that draw samples, after a check of how many."""

from __future__ import annotations

from collections.abc import Sequence

from anndata import AnnData

from rmve import _validation as check


class SampledGetters:
    """Goes before scvi-tools' mixins among the bases of a model."""

    def posterior_predictive_sample(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, n_samples: int = 1, **kwargs
    ):
        """Data drawn from the model; see :meth:`scvi.model.base.RNASeqMixin.posterior_predictive_sample`.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.
        indices
            Rows of ``adata``; ``None`` is all.
        n_samples
            Samples of each cell.
        **kwargs
            Passed to scvi-tools.
        """
        check.check_positive_int("n_samples", n_samples)
        return super().posterior_predictive_sample(adata, indices, n_samples=n_samples, **kwargs)

    def get_marginal_ll(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, n_mc_samples: int = 1000, **kwargs
    ):
        """Log-likelihood of the cells; see :meth:`scvi.model.base.VAEMixin.get_marginal_ll`.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.
        indices
            Rows of ``adata``; ``None`` is all.
        n_mc_samples
            Samples of each cell that it is estimated from.
        **kwargs
            Passed to scvi-tools.
        """
        check.check_positive_int("n_mc_samples", n_mc_samples)
        return super().get_marginal_ll(adata, indices, n_mc_samples=n_mc_samples, **kwargs)
