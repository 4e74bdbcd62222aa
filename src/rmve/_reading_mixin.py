"""What a trained model says of cells, clusters and genes beyond the clusters themselves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve._known_cells import Reader, novelty_of
from rmve._level_names import renamed
from rmve.initialization import MAX_FITTED_CELLS
from rmve.markers import marker_table
from rmve.programmes import change_along_dimensions, programme_table


class ReadingMixin:
    """Part of :class:`rmve.RMVE` that says what is new in cells, and what clusters and latent dimensions stand for."""

    def get_novelty(self, adata: AnnData | None = None) -> pd.Series:
        """How unlike all training cells each cell is.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.

        Returns
        -------
        Series with a value in [0, 1] for each cell, one minus a p-value: the share of the training cells, each compared
        with the others, that are less unusual for their cluster and depth. It is about uniform for cells like those of
        training, and close to 1 for cells of a type that training did not see.

        Raises
        ------
        RuntimeError
            If the model is not trained, or was loaded without its training data.

        Notes
        -----
        See :mod:`rmve.novelty` for what is compared. A batch that training did not have differs from the training cells, too:
        compare its values with each other before types are called new.

        Examples
        --------
        >>> adata.obs["novelty"] = model.get_novelty()  # doctest: +SKIP
        """
        self._check_if_trained()
        cells = self._validate_anndata(adata)
        return novelty_of(self, cells, *self._posterior(cells), cells.obs_names)

    def get_markers(self, n: int = 10) -> pd.DataFrame:
        """Genes that mark each cluster, in the training data.

        Parameters
        ----------
        n
            Number of genes for each cluster.

        Returns
        -------
        Data frame with a row for each cluster and gene, the best first:

        - ``cluster``, ``gene``;
        - ``log_fold_change``: of mean normalised expression in the cluster to that in all other cells, in log2 units; a
          difference of means for values that are no counts;
        - ``share_inside``, ``share_outside``: share of the cells in and outside the cluster that express the gene;
        - ``probability``: that a cell of the cluster has more of the gene than a cell outside (area under the ROC curve).

        Genes come first that a tenth of the cluster's cells express, at twice the level of the others.

        Raises
        ------
        RuntimeError
            If the model is not trained, or has no data.
        ValueError
            If there is one cluster only.

        Notes
        -----
        It is a description of the data, without a correction for batches. Test differences by
        :meth:`differential_expression`. Of many cells, 20,000 drawn at random are described.

        Examples
        --------
        >>> model.get_markers(n=5)  # doctest: +SKIP
        """
        self._check_if_trained()
        check.check_positive_int("n", n)
        cells, rows = self._validate_anndata(None), None
        if cells.n_obs > MAX_FITTED_CELLS:
            rows = np.sort(np.random.default_rng(0).choice(cells.n_obs, MAX_FITTED_CELLS, replace=False))
        labels, reader = self.predict(indices=rows), Reader(self, cells)
        values, _ = reader(np.arange(cells.n_obs) if rows is None else rows)
        to_mean = np.expm1 if reader.counts else None
        return marker_table(values, labels.cat.codes.to_numpy(), self.cluster_names_, self.var_names_, n, to_mean)

    def rename_clusters(self, names: Mapping[str, str]) -> None:
        """Give names to clusters.

        A name belongs to the components of its cluster: the cluster has it again after :meth:`merge_components` went to
        another level and back, and at all levels at which it is a cluster, also after saving and loading.

        Parameters
        ----------
        names
            Dictionary from the present names of clusters to new ones; clusters that are not in it keep theirs.

        Raises
        ------
        KeyError
            If there is no cluster of a name.
        ValueError
            If two clusters would have one name.

        Examples
        --------
        >>> model.rename_clusters({"0": "T cells", "1": "B cells"})  # doctest: +SKIP
        """
        self._check_if_trained()
        found = renamed(self.cluster_names_, names)
        active = self.tree.active.tolist()
        given = dict(self.given_names_)
        for number, (old, new) in enumerate(zip(self.cluster_names_, found, strict=True)):
            if old in names:
                given.pop(old, None)
                given[new] = [k for k in active if self.component_cluster_[k] == number]
        self.given_names_, self.cluster_names_ = given, found

    def get_gene_programmes(self, n: int = 10) -> pd.DataFrame:
        """Genes that each latent dimension stands for.

        Parameters
        ----------
        n
            Number of genes for each direction of a dimension.

        Returns
        -------
        Data frame with the columns ``dimension`` (``"0"``, ``"1"``, ..., the columns of ``obsm["X_rmve"]``), ``direction``
        (``"up"`` or ``"down"``), ``gene`` and ``change``: what the decoder says of the gene as a cell moves along the
        dimension by one standard deviation of the training cells, on average over these, in log2 units for counts. Genes
        of counts are ranked by it times the root of their mean count: the change of a gene that few cells express is noise.

        Raises
        ------
        RuntimeError
            If the model is not trained, or has no data.

        Notes
        -----
        The latent space may be turned without a change of the model's fit: dimensions are no independent factors, and differ
        between runs. :meth:`get_markers` has the genes of clusters, which do not.

        Examples
        --------
        >>> model.get_gene_programmes(n=5)  # doctest: +SKIP
        """
        self._check_if_trained()
        check.check_positive_int("n", n)
        change, weight = change_along_dimensions(self)
        return programme_table(change, np.asarray(self.var_names_, dtype=object), n, weight)

    def __repr__(self) -> str:
        options = self.init_params_["non_kwargs"]
        size = "no data" if self.adata is None else f"{self.adata.n_obs:,} cells, {self.adata.n_vars:,} genes"
        if not self.is_trained_:
            state = "not trained: call `model.train()`"
        else:
            state = f"{self.n_clusters} cluster{'s' * (self.n_clusters != 1)} of {self.module.n_components} components"
            state += f": {', '.join(self.cluster_names_[:8])}{', ...' * (self.n_clusters > 8)}"
        keys = {k: self._setup_arg(k) for k in ("layer", "batch_key", "labels_key", "spatial_key")}
        given = {"gene_likelihood": self.gene_likelihood, "n_latent": options["n_latent"]} | keys
        text = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        lines = [f"{type(self).__name__} on {size}", state, text]
        if self.spatial_map_ is not None:
            lines.append(repr(self.spatial_map_))
        return "\n    ".join(lines)
