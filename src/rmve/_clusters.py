"""From components to clusters: assignment of cells, table of components, merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch.utils.data import default_convert

from rmve import components
from rmve._cluster_names import name_clusters
from rmve._validation import check_clusters, check_positive_int, get_indices
from rmve.dataloading import IndexedDataset
from rmve.gene_likelihoods import COUNT_LIKELIHOODS
from rmve.maths.gaussians import between_components, bhattacharyya

#: Cells that are encoded at once, unless told otherwise.
INFERENCE_BATCH = 1024
#: Latent points whose density under each component is computed at once.
MIXTURE_BATCH = 65_536


class ClustersMixin:
    """Part of :class:`rmve.RMVE` that turns the mixture's components into clusters."""

    @torch.inference_mode()
    def _posterior(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``q(y|x)`` over components, shape ``(n, K)``, and the latent mean, shape ``(n, d)``, in one pass."""
        if adata is None:  # others were checked by the method that was given them
            adata = self._validate_anndata()
        # Apple's GPUs lack the sparse product
        as_counts = self.gene_likelihood in COUNT_LIKELIHOODS and self.device.type != "mps"
        cells = IndexedDataset(self.get_anndata_manager(adata, required=True), as_counts)
        wanted = np.arange(adata.n_obs) if indices is None else np.arange(adata.n_obs)[indices]
        n, order, size = len(wanted), np.argsort(wanted, kind="stable"), batch_size or INFERENCE_BATCH
        probabilities = np.empty((n, self.module.n_components), dtype=np.float32)
        latent = np.empty((n, self.module.n_latent), dtype=np.float32)
        for at in (order[start : start + size] for start in range(0, n, size)):  # in order: backed data is read once
            tensors = default_convert(cells[wanted[at]])
            inputs = self.module._get_inference_input(tensors)
            inputs = {k: v if v is None else v.to(self.device) for k, v in inputs.items()}
            outputs = self.module.encode(**inputs)
            q = outputs["log_q"].exp()
            probabilities[at] = q.cpu()
            latent[at] = (q[..., None] * outputs["z_mean"]).sum(1).cpu()
        return probabilities, latent

    # -------------------------------------------------------------- clusters

    def set_clusters(self, cluster_of: np.ndarray) -> None:
        """Declare which components make up a cluster.

        Parameters
        ----------
        cluster_of
            Cluster number of each component, shape ``(K,)``; numbers ``0, 1, ...`` without a gap. Components
            of labels keep the name of the label, if no two labels share a cluster.

        Raises
        ------
        ValueError
            If the numbers are not of that form.
        """
        cluster_of = check_clusters(cluster_of, self.module.n_components)
        self.cluster_names_ = name_clusters(cluster_of, self.label_names_)
        self.component_cluster_ = cluster_of.tolist()

    def number_clusters(self, merged: np.ndarray | None = None, assignment: np.ndarray | None = None) -> None:
        """Number clusters by size on the training data; components without cells join the nearest cluster.

        Parameters
        ----------
        merged
            Component that each component was merged into, shape ``(K,)``; ``None`` leaves each on its own.
        assignment
            ``q(y|x)`` of the training data, shape ``(n, K)``, if it is at hand.
        """
        if assignment is None:
            assignment, _ = self._posterior()
        n_components = assignment.shape[1]
        belongs = np.arange(n_components) if merged is None else np.array(merged)
        hard = belongs[assignment.argmax(1)]
        keep = np.bincount(hard, minlength=n_components) > 0
        keep[belongs[: len(self.label_names_)]] = True  # a known type stays, even if no cell was given to it
        roots, distance = np.flatnonzero(keep), self._separations()
        for k in np.flatnonzero(~keep[belongs]):
            belongs[k] = roots[distance[k, roots].argmin()]
        order = [k for k in components.order_by_size(hard, n_components) if keep[k]]
        rank = {component: number for number, component in enumerate(order)}
        self.set_clusters(np.array([rank[component] for component in belongs]))

    def _cluster_probabilities(self, assignment: np.ndarray, index: pd.Index) -> pd.DataFrame:
        """``q(y|x)`` summed over the components of each cluster; rows sum to one."""
        together = np.eye(len(self.cluster_names_), dtype=assignment.dtype)[self.component_cluster_]
        probabilities = np.minimum(assignment @ together, 1.0)  # a rounded sum can exceed 1
        return pd.DataFrame(probabilities, index=index, columns=self.cluster_names_)

    def _hard_labels(self, assignment: np.ndarray, index: pd.Index) -> pd.Series:
        """Cluster of the most probable component: partitions of a merge tree are then nested."""
        codes = np.asarray(self.component_cluster_)[assignment.argmax(1)]
        return pd.Series(pd.Categorical.from_codes(codes, categories=self.cluster_names_), index=index)

    def predict(
        self,
        adata: AnnData | None = None,
        soft: bool = False,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Cluster of each cell.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.
        soft
            Whether to return probabilities instead of the most probable cluster.
        indices
            Rows of ``adata``, or a mask; ``None`` is all.
        batch_size
            Cells in a mini-batch.

        Returns
        -------
        A categorical series with the cluster of each cell's most probable component, or with ``soft`` a data frame of
        ``q(y|x)`` with a column for each cluster; the index holds the cells' names. Clusters are called ``"0"``,
        ``"1"``, ... from the largest to the smallest in the training data; with labels, by the labels, and new ones
        ``"new_0"``, ``"new_1"``, ...
        """
        self._check_if_trained()
        if batch_size is not None:
            check_positive_int("batch_size", batch_size)
        adata = self._validate_anndata(adata)
        indices = get_indices(indices, adata.n_obs)
        assignment, _ = self._posterior(adata, indices, batch_size)
        index = adata.obs_names if indices is None else adata.obs_names[indices]
        return self._cluster_probabilities(assignment, index) if soft else self._hard_labels(assignment, index)

    @property
    def n_clusters(self) -> int:
        """Number of clusters, after merging."""
        return len(self.cluster_names_)

    # ------------------------------------------------------------ components

    @torch.inference_mode()
    def _separations(self) -> np.ndarray:
        """Bhattacharyya distance of each pair of components, shape ``(K, K)``, infinite on the diagonal."""
        mixture = self.module.mixture
        distance = between_components(bhattacharyya, mixture.mean, mixture.var).cpu().numpy().astype(float)
        np.fill_diagonal(distance, np.inf)
        return distance

    @property
    def component_means(self) -> pd.DataFrame:
        """Means of the components, ``(K, n_latent)``."""
        return pd.DataFrame(self.module.mixture.mean.detach().cpu().numpy())

    @property
    def component_variances(self) -> pd.DataFrame:
        """Variances of the components, ``(K, n_latent)``."""
        return pd.DataFrame(self.module.mixture.var.detach().cpu().numpy())

    def get_components(self) -> pd.DataFrame:
        """Table of the mixture's components, used or not.

        Returns
        -------
        Data frame with a row for each component: ``weight`` (mean of ``q(y|x)`` over the training data), ``n_cells``
        (cells most probably of it), ``separation`` (Bhattacharyya distance in nats to the nearest active component;
        infinite if there is none), ``nearest`` (that component, -1 if none), ``active`` (holds cells) and
        ``cluster``. Means and covariances are in :attr:`component_means` and :attr:`component_variances`.
        """
        self._check_if_trained()
        assignment, _ = self._posterior()
        return self._component_table(assignment)

    def _component_table(self, assignment: np.ndarray) -> pd.DataFrame:
        n_cells = np.bincount(assignment.argmax(1), minlength=assignment.shape[1])
        active = n_cells > 0
        distance = np.where(active[None], self._separations(), np.inf)
        nearest = distance.argmin(1)
        separation = distance[np.arange(len(distance)), nearest]
        return pd.DataFrame(
            {
                "weight": assignment.mean(0),
                "n_cells": n_cells,
                "separation": separation,
                "nearest": np.where(np.isfinite(separation), nearest, -1),
                "active": active,
                "cluster": [self.cluster_names_[cluster] for cluster in self.component_cluster_],
            },
            index=pd.RangeIndex(len(n_cells)).astype(str),
        )

    def get_merge_tree(self) -> pd.DataFrame:
        """All merges from the active components down to one cluster, the most overlapping first.

        Returns
        -------
        Data frame with a row for each merge: ``kept`` and ``merged`` (components; the union is called ``kept``),
        ``overlap`` (share of the smaller one's cells that the mixture would give to the other, and back), ``distance``
        (increase of the within-cluster sum of squares per cell) and ``n_clusters`` (left after it).
        """
        self._check_if_trained()
        tree = self._merge_tree(*self._posterior())
        frame = pd.DataFrame(tree, columns=["kept", "merged", "overlap", "distance"])
        frame = frame.astype({"kept": int, "merged": int})
        frame["n_clusters"] = np.arange(len(frame), 0, -1)
        return frame

    def get_resolutions(self) -> pd.DataFrame:
        """Every number of clusters that merging can give, and what tells the clusters apart there.

        Returns
        -------
        Data frame with a row for each cut of :meth:`get_merge_tree`, from the active components down to one cluster:

        - ``n_clusters``: clusters after the cut;
        - ``kept``, ``merged``: components whose merge led there (-1 in the first row: none);
        - ``overlap``, ``distance``: of that merge, as in :meth:`get_merge_tree` (NaN in the first row);
        - ``separation``: least Bhattacharyya distance, in nats, between active components of different clusters
          (infinite for one cluster);
        - ``in_use``: whether these are the model's clusters now (in no row, if they are not a cut of the tree);
        - ``recommended``: the finest clusters that do not overlap, those of ``merge_components("auto")``; with labels,
          the active components.

        Notes
        -----
        The recommendation rests on this one run. :meth:`RMVE.stability` says which of the numbers other runs agree
        on.
        """
        self._check_if_trained()
        return self._resolution_table(*self._posterior())

    def _resolution_table(self, assignment: np.ndarray, latent: np.ndarray) -> pd.DataFrame:
        tree = self._merge_tree(assignment, latent)
        n_components = assignment.shape[1]
        active = np.bincount(assignment.argmax(1), minlength=n_components) > 0
        in_use = np.asarray(self.component_cluster_)[active]
        cuts = [components.cut_tree(tree, n_components, n_merges)[active] for n_merges in range(len(tree) + 1)]
        first = np.array([[-1, -1, np.nan, np.nan]])
        table = pd.DataFrame(np.concatenate([first, tree]), columns=["kept", "merged", "overlap", "distance"])
        table = table.astype({"kept": int, "merged": int})
        table.insert(0, "n_clusters", np.arange(len(cuts), 0, -1))
        table["separation"] = components.separation_after(tree, self._separations(), active)
        table["in_use"] = [components.same_partition(cut, in_use) for cut in cuts]
        n_merges = 0 if self.label_names_ else components.n_overlapping_merges(tree)
        table["recommended"] = np.arange(len(cuts)) == n_merges
        table.index = table.index.astype(str)
        return table

    @torch.inference_mode()
    def _merge_tree(self, assignment: np.ndarray, latent: np.ndarray) -> np.ndarray:
        mixture, blocks = self.module.mixture, torch.from_numpy(latent).split(MIXTURE_BATCH)
        r = torch.cat([mixture.log_responsibilities(block.to(self.device)).exp().cpu() for block in blocks])
        return components.merge_tree(assignment.argmax(1), r.numpy(), latent)

    def merge_components(self, n_clusters: int | Literal["auto"] | None = None) -> pd.Series:
        """Make coarser clusters by merging overlapping components, without retraining.

        Parameters
        ----------
        n_clusters
            Clusters to keep; ``"auto"`` merges while two overlap by at least
            :data:`rmve.components.MIN_OVERLAP`; ``None`` undoes all merges.

        Returns
        -------
        The new cluster of each cell of the training data, which :meth:`predict` and ``annotate`` also use
        from then on.

        Raises
        ------
        ValueError
            If there are fewer active components than ``n_clusters``.
        """
        self._check_if_trained()
        if n_clusters not in (None, "auto"):
            check_positive_int("n_clusters", n_clusters)
        return self._merge(n_clusters)

    def _merge(self, n_clusters: int | str | None, at_most: bool = False) -> pd.Series:
        """:meth:`merge_components`; with ``at_most``, fewer active components than ``n_clusters`` are no error."""
        assignment, latent = self._posterior()
        tree = self._merge_tree(assignment, latent)
        n_active = len(tree) + 1
        if n_clusters is None:
            n_merges = 0
        elif n_clusters == "auto":
            n_merges = components.n_overlapping_merges(tree)
        elif n_clusters > n_active and not at_most:
            raise ValueError(f"`n_clusters={n_clusters}` is more than the {n_active} components that hold cells.")
        else:
            n_merges = max(n_active - n_clusters, 0)
        self.number_clusters(components.cut_tree(tree, self.module.n_components, n_merges), assignment)
        return self._hard_labels(assignment, self.adata.obs_names)
