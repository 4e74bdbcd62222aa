"""From components to clusters: assignment of cells, table of components, merging."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor
from torch.utils.data import default_convert

from rmve import components
from rmve._cluster_names import name_clusters
from rmve._find_levels import find_levels
from rmve._validation import check_clusters, check_positive_int, check_structures, get_indices
from rmve.dataloading import IndexedDataset
from rmve.levels import MergeTree
from rmve.maths.gaussians import between_components, bhattacharyya
from rmve.subclusters import divide

#: Cells that are encoded at once, unless told otherwise.
INFERENCE_BATCH = 1024
#: What the tables of merges and levels show of each merge.
MERGE_COLUMNS = ("kept", "merged", "confusion", "distance", "effect", "support")
#: Options of ``setup_anndata`` that hold for the cells of a cluster, too.
SUBCLUSTER_SETUP = ("layer", "batch_key", "size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")


class ClustersMixin:
    """Part of :class:`rmve.RMVE` that turns the mixture's components into clusters."""

    @torch.inference_mode()
    def _posterior(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``q(y|x)`` over components, shape ``(n, K)``, and the latent mean, shape ``(n, d)``, in one pass."""
        if adata is None:  # others were checked by the method that was given them
            adata = self._validate_anndata()
        wanted = np.arange(adata.n_obs) if indices is None else np.arange(adata.n_obs)[indices]
        probabilities = np.empty((len(wanted), self.module.n_components), dtype=np.float32)
        latent = np.empty((len(wanted), self.module.n_latent), dtype=np.float32)
        for at, tensors in self._batches(adata, wanted, batch_size):
            probabilities[at], latent[at] = self._encode(tensors)
        return probabilities, latent

    def _batches(
        self, adata: AnnData, wanted: np.ndarray, batch_size: int | None = None
    ) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Mini-batches of the rows ``wanted``, each with its places among them; backed data is read in order."""
        # Apple's GPUs lack the sparse product
        as_counts = self.module.likelihood.takes_counts and self.device.type != "mps"
        cells = IndexedDataset(self.get_anndata_manager(adata, required=True), as_counts)
        order, size = np.argsort(wanted, kind="stable"), batch_size or INFERENCE_BATCH
        for at in (order[start : start + size] for start in range(0, len(wanted), size)):
            yield at, default_convert(cells[wanted[at]])

    def _encode(self, tensors: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """``q(y|x)`` and the latent mean of a mini-batch."""
        inputs = self.module._get_inference_input(tensors)
        inputs = {k: v if v is None else v.to(self.device) for k, v in inputs.items()}
        outputs = self.module.encode(**inputs)
        q = outputs["log_q"].exp()
        return q.cpu().numpy(), (q[..., None] * outputs["z_mean"]).sum(1).cpu().numpy()

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

    # ---------------------------------------------------------------- levels

    @property
    def tree(self) -> MergeTree:
        """Merges of the components; made at the end of training, and from a checkpoint when it is asked for.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained()
        if self.tree_ is None:
            self.tree_ = find_levels(self, *self._posterior())
        return self.tree_

    def get_merge_tree(self) -> pd.DataFrame:
        """All merges from the components that hold cells down to one cluster.

        Returns
        -------
        Data frame with a row for each merge: ``kept`` and ``merged`` (components; the union is called ``kept``),
        ``confusion`` (how often the two halves of a cell's molecules fall into the two clusters, relative to the halves
        of different cells: 1 for one population, 0 for clusters that share no cell), ``distance`` (increase of the
        within-cluster sum of squares per cell), ``effect`` and ``support`` (gain in nats per molecule from telling the two
        apart, on molecules and cells that were not used for it, and that gain over its standard error) and
        ``n_clusters`` (left after it).
        """
        tree = self.tree
        columns = {name: getattr(tree, name) for name in MERGE_COLUMNS}
        return pd.DataFrame(columns | {"n_clusters": np.arange(tree.n_finest - 1, tree.n_coarsest - 1, -1)})

    def get_resolutions(self) -> pd.DataFrame:
        """The nested levels of the clustering, from the finest to one cluster.

        Returns
        -------
        Data frame with a row for each level:

        - ``n_clusters``: clusters of the level;
        - ``kept``, ``merged``: components whose merge led there (-1 in the first row: none);
        - ``confusion``, ``distance``, ``effect``, ``support``: of that merge, as in :meth:`get_merge_tree` (NaN in the
          first row);
        - ``separation``: least Bhattacharyya distance, in nats, between components of different clusters (infinite for
          one cluster);
        - ``in_use``: whether these are the model's clusters now;
        - ``recommended``: the default level, the finest one whose clusters are different populations
          (:data:`rmve.levels.MIN_CONFUSION`).

        Notes
        -----
        The recommendation rests on this one run. :meth:`RMVE.stability` says which levels other runs agree on.
        """
        tree = self.tree
        in_use = np.asarray(self.component_cluster_)[tree.active]
        numbers = range(tree.n_finest, tree.n_coarsest - 1, -1)
        table = pd.DataFrame({"n_clusters": numbers})
        for name in MERGE_COLUMNS:
            table[name] = np.concatenate([[-1 if name in ("kept", "merged") else np.nan], getattr(tree, name)])
        table = table.astype({"kept": int, "merged": int})
        table["separation"] = components.separation_at_levels(tree, self._separations())
        table["in_use"] = [components.same_partition(tree.cut(number)[tree.active], in_use) for number in numbers]
        table["recommended"] = table["n_clusters"] == tree.n_default
        table.index = table.index.astype(str)
        return table

    def merge_components(self, n_clusters: int | Literal["auto"] | None = None) -> pd.Series:
        """Choose the level of the clusters, finer or coarser, without retraining.

        Parameters
        ----------
        n_clusters
            Number of clusters, from 1 to that of the finest level; ``"auto"`` is the default level, ``None`` the finest.

        Returns
        -------
        The cluster of each cell of the training data, which :meth:`predict` and ``annotate`` also use from then on.

        Raises
        ------
        ValueError
            If there is no level with ``n_clusters``.
        """
        self._check_if_trained()
        tree = self.tree
        if n_clusters is None:
            n_clusters = tree.n_finest
        elif n_clusters == "auto":
            n_clusters = tree.n_default
        else:
            check_positive_int("n_clusters", n_clusters)
            if n_clusters > tree.n_finest:
                raise ValueError(
                    f"`n_clusters={n_clusters}` is more than the {tree.n_finest} clusters of the finest level. Train with "
                    f"`n_components={n_clusters}`, or divide clusters with `model.subcluster()`."
                )
        assignment, _ = self._posterior()
        self.number_clusters(tree.cut(n_clusters), assignment)
        return self._hard_labels(assignment, self.adata.obs_names)

    def subcluster(
        self, clusters: str | Sequence[str] | None = None, adata: AnnData | None = None, **train_kwargs
    ) -> pd.Series:
        """Divide clusters further: train again on the cells of each, with the genes that vary among them.

        A cluster that is one population stays whole, since the repulsion leaves one component of it.

        Parameters
        ----------
        clusters
            Name or names of the clusters to divide; ``None`` divides all.
        adata
            The training cells, in any order, with more genes than the model has; ``None`` is the training data. It needs
            the layer and the columns of ``obs`` that were registered.
        **train_kwargs
            Passed to :meth:`train`.

        Returns
        -------
        Categorical series over the training cells: ``"3.0"``, ``"3.1"``, ... in place of a cluster ``"3"`` that was
        divided, so that the result is nested below the clusters in use. Nothing is written.

        Raises
        ------
        KeyError
            If there is no cluster of a name.
        ValueError
            If ``adata`` lacks training cells.

        Examples
        --------
        >>> adata.obs["fine"] = model.subcluster(["0", "3"])  # doctest: +SKIP
        """
        labels = self.predict()
        names = labels.cat.categories.tolist()
        chosen = names if clusters is None else [clusters] if isinstance(clusters, str) else list(clusters)
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise KeyError(f"There is no cluster {unknown[0]!r}. The clusters are {', '.join(map(repr, names))}.")
        cells = self.adata if adata is None else adata
        check_structures(cells)
        missing = labels.index.difference(cells.obs_names)
        if len(missing):
            raise ValueError(f"`adata` lacks {len(missing)} training cells, for example {missing[0]!r}.")
        if cells.is_view and cells.isbacked:
            cells = cells.to_memory()
        places = None if adata is None else cells.obs_names.get_indexer(labels.index)
        options = {name: self._setup_arg(name) for name in SUBCLUSTER_SETUP}
        kwargs = {name: value for name, value in self.init_params_["non_kwargs"].items() if name != "n_components"}

        def cluster(part: AnnData) -> pd.Series:
            type(self).setup_anndata(part, **options)
            model = type(self)(part, **kwargs)
            model.train(**({"quiet": True} | train_kwargs))
            return model.predict()

        return divide(labels, chosen, cells, self._setup_arg("layer"), cluster, places)

    def _choose_level(self) -> None:
        """Find the levels of a model that was just trained, and use the default one, or that of ``n_components``."""
        assignment, latent = self._posterior()
        self.tree_ = tree = find_levels(self, assignment, latent)
        n_clusters = self.n_clusters_wanted_ or tree.n_default
        if n_clusters > tree.n_finest:
            warnings.warn(
                f"`n_components={n_clusters}` clusters were asked for, and the cells support {tree.n_finest}. Lower "
                "`plan_kwargs={'repulsion': ...}` for finer clusters.",
                stacklevel=2,
            )
        self.number_clusters(tree.cut(min(max(n_clusters, tree.n_coarsest), tree.n_finest)), assignment)
