"""Several runs on the same data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from anndata import AnnData

from rmve._validation import check_positive_int
from rmve.stability import Run, Stability, compare_runs


class StabilityMixin:
    """Part of :class:`rmve.RMVE` that compares runs."""

    @classmethod
    def stability(
        cls,
        adata: AnnData,
        n_runs: int = 5,
        seeds: Sequence[int] | None = None,
        train_kwargs: dict | None = None,
        **model_kwargs,
    ) -> Stability:
        """Train several times from different seeds and compare the clusters, at every number of them.

        Parameters
        ----------
        adata
            Set up with :meth:`setup_anndata`; it stays as it is.
        n_runs
            Number of runs.
        seeds
            Seed of each run; ``None`` is ``0, 1, ...``.
        train_kwargs
            Passed to :meth:`train`.
        **model_kwargs
            Passed to :class:`RMVE`.

        Returns
        -------
        Agreement of each pair of runs, consensus clusters, the stability of each cell, the agreement at every number
        of clusters, and the number that it recommends.

        Raises
        ------
        ValueError
            If ``n_runs`` is below two or does not match ``seeds``.

        Notes
        -----
        The number of clusters can be recommended among the levels of the runs, no others. See
        :func:`rmve.stability.recommend_number` for the rule and its limits.
        """
        check_positive_int("n_runs", n_runs, minimum=2)
        seeds = range(n_runs) if seeds is None else seeds
        if len(seeds) != n_runs:
            raise ValueError(f"`seeds` has {len(seeds)} entries for `n_runs={n_runs}`.")
        runs = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                model = cls(adata, **model_kwargs)
                model.train(**(train_kwargs or {}))
                assigned = model._posterior()[0].argmax(1)
                runs.append(Run(assigned, model.component_cluster_, model.tree))
        return compare_runs(runs, adata.obs_names)
