"""RMVE's user interface: AnnData in, clusters and embeddings out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from rmve import _validation as check
from rmve import spatial
from rmve._compat import SETUP_ARGS_KEY
from rmve._keys import DEFAULT_KEY, Written
from rmve.clusters._clusters import Clusters
from rmve.clusters.initialization import sample_rows
from rmve.clusters.levels import MergeTree
from rmve.clusters.stability import Run as StabilityRun
from rmve.clusters.stability import Stability, compare_runs
from rmve.clusters.subclusters import choose, divide, places_of
from rmve.data.loading import IndexedDataSplitter
from rmve.model import _fit, _genes, _levels, _networks, _novelty, _places, _results, _resume, _tables
from rmve.model._base import RMVEBase
from rmve.model._call import Call, default_options
from rmve.model._cut import level_columns, own_columns
from rmve.model._docs import documented
from rmve.model._encode import Posterior, encode
from rmve.model._prepare import prepare
from rmve.model._run_file import Run
from rmve.model._setup import check_unchanged, matrix_of, median_total, names_of_labels
from rmve.model._summary import summary
from rmve.module import RMVEModule
from rmve.spatial import Quality, SpatialMap
from rmve.training import RMVETrainingPlan, TrainingOptions

#: Options of ``setup_anndata`` that hold for the cells of a cluster, too.
SUBCLUSTER_SETUP = ("layer", "batch_key", "size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")


class RMVE(RMVEBase):
    """Repulsive Mixture Variational Embedding: clusters, embedding and map of single cells in one model.

    A variational autoencoder whose latent prior is a Gaussian mixture. ``q(y|x)`` assigns a cell to a component
    and ``q(z|x,y)`` embeds it; a repulsive prior on the components' means and covariances makes redundant ones
    vanish and keeps the rest apart. With labels (``labels_key`` in :meth:`setup_anndata`) it is supervised or
    semi-supervised, cell by cell, and types without labels come out as clusters of their own.

    Parameters
    ----------
    adata
        AnnData set up with :meth:`setup_anndata`.
    registry
        Registry of a saved model, instead of ``adata``.
    n_components
        Number of clusters; ``None`` finds it. A run starts from more components than that, from small clusters
        (:func:`rmve.clusters.initialization.default_n_components`), and the repulsion empties redundant ones. Those that are left
        are the finest level; the default one merges components of one population (:mod:`rmve.levels`), and
        ``n_components`` is another level, finer or coarser. With labels, a run starts from a component for each and
        for each small cluster that is too poor in labelled cells to be of a known type, with ``None`` without repulsion.
    n_latent
        Dimension of the latent space.
    n_hidden, n_layers
        Width and number of hidden layers of encoder and decoder.
    dropout_rate
        Dropout of the hidden layers.
    gene_likelihood
        ``"nb"``, ``"zinb"`` or ``"poisson"`` for raw counts, ``"normal"`` for log-normalised values,
        ``"bernoulli"`` for values in [0, 1], or another name in :data:`rmve.likelihoods.LIKELIHOODS`.
    posterior
        ``"full"``: ``q(y|x) q(z|x,y)``; ``"factorized"``: ``q(y|x) q(z|x)``, the VaDE case.
    estimator
        Of the expectation over ``y`` in the likelihood term: ``"sample"`` (one decoder pass), ``"exact"`` (one for
        each component) or ``"gumbel"``.
    repulsion
        ``"hsic"`` (expected overlap), ``"pairwise"``, ``"dpp"``, ``"wasserstein"``, ``"means"`` or ``None``.
    encode_covariates
        Whether the encoder reads batch and covariates, too.
    input_dropout
        Dropout of the encoder's input; ``None``: see :func:`rmve.defaults.default_input_dropout`.

    Raises
    ------
    ValueError
        If an option is unknown, ``n_components`` does not fit the data, ``adata`` was not set up (or is a copy of
        one that was), or its values do not fit the likelihood.

    Examples
    --------
    >>> import rmve
    >>> adata = rmve.datasets.toy(n_cells=300, n_clusters=3, seed=0)
    >>> rmve.RMVE.setup_anndata(adata, layer="counts")
    >>> model = rmve.RMVE(adata, n_components=3)
    >>> model.train(max_epochs=10)
    >>> model.annotate()
    >>> adata.obs["rmve"].nunique()
    3
    """

    _module_cls = RMVEModule
    _training_plan_cls = RMVETrainingPlan
    _data_splitter_cls = IndexedDataSplitter

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        n_components: int | None = None,
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        gene_likelihood: str = "nb",
        posterior: Literal["full", "factorized"] = "full",
        estimator: Literal["sample", "exact", "gumbel"] = "sample",
        repulsion: Literal["hsic", "pairwise", "dpp", "wasserstein", "means"] | None = "hsic",
        encode_covariates: bool = False,
        input_dropout: float | None = None,
    ):
        _networks.check_options(locals())
        if adata is not None:
            self._check_set_up(adata)
        super().__init__(adata, registry)
        labels, layer = names_of_labels(self.registry_), self.registry_[SETUP_ARGS_KEY].get("layer")
        # the first run of training gives the module as many components as it starts from
        n_placeholder = max(1, len(labels)) if n_components is None else n_components
        # a saved model may meet fewer cells than it has components
        n_obs = adata.n_obs if adata is not None and registry is None else None
        check.check_n_components(n_placeholder, n_obs, len(labels))
        if adata is not None:
            check.check_values(adata, layer, gene_likelihood, self.adata_manager.values)
        if input_dropout is None:
            input_dropout = _networks.input_dropout_for(adata, layer, gene_likelihood, self.summary_stats.n_vars)
        self.gene_likelihood, self.estimator = gene_likelihood, estimator
        self.module = self._module_cls(
            n_components=n_placeholder,
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            input_dropout=input_dropout,
            gene_likelihood=gene_likelihood,
            posterior=posterior,
            repulsion=repulsion,
            encode_covariates=encode_covariates,
            **_networks.sizes(self.registry_, self.summary_stats),
        )
        self.clusters_ = Clusters.of(range(n_placeholder), labels)
        #: Partition that training started from, shape ``(n,)``; ``None`` before, and after loading.
        self.starting_partition_: np.ndarray | None = None
        self._model_summary_string = (
            f"RMVE with n_components={n_components}, n_latent={n_latent}, gene_likelihood={gene_likelihood!r}, "
            f"posterior={posterior!r}, repulsion={repulsion!r}"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def _n_components(self) -> int | None:
        """Number of clusters that was asked for; ``None`` if it is to be found."""
        return self.init_params_["non_kwargs"]["n_components"]

    # -------------------------------------------------------------- training

    @documented
    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int | None = None,
        early_stopping: bool = False,
        datasplitter_kwargs: dict | None = None,
        plan_kwargs: dict | None = None,
        start: Sequence[int] | None = None,
        quiet: bool = False,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_every: int = 1,
        **trainer_kwargs,
    ) -> None:
        """Train the model; the arguments are those of scvi-tools' models.

        Parameters
        ----------
        max_epochs
            Passes over the data; ``None``: see :func:`rmve.defaults.default_epochs`. All warm-ups are fractions of it.
        %(accelerator)s
        train_size, validation_size
            Shares of the cells. ``None`` trains on all cells, or on 0.9 of them with ``early_stopping``.
        shuffle_set_split, load_sparse_tensor, datasplitter_kwargs
            Passed to the data splitter.
        batch_size
            Cells in a mini-batch; ``None``: see :func:`rmve.defaults.default_batch_size`.
        early_stopping
            Stop when the bound on the validation cells has not improved for a tenth of the run (and at least 5 epochs),
            once all warm-ups are over. ``early_stopping_patience`` and ``early_stopping_warmup_epochs`` change that.
        plan_kwargs
            Options of training, for example ``{"repulsion_weight": 20.0}``: see :class:`rmve.training.TrainingOptions`.
        start
            Component of each cell to start from, integers from 0; ``None`` finds a partition. It may be finer than the
            clusters wanted: the mixture gets a component for each part. Labelled cells keep their label.
        quiet
            Whether to show neither the progress bar nor the notes of the training libraries.
        checkpoint_dir
            Folder for a checkpoint of the last epoch, from which :meth:`resume` goes on; in the end, of the trained
            model, as :meth:`save` writes it. Each folder ``epoch_...`` in it can be loaded as a model, too.
        checkpoint_every
            Epochs between checkpoints.
        **trainer_kwargs
            Passed to scvi-tools' trainer, for example ``enable_progress_bar=False``; with ``strategy="ddp"`` several
            ``devices`` train together (set ``scvi.settings.seed`` first), ``precision="bf16-mixed"`` computes matrix
            products in bfloat16.

        Raises
        ------
        RuntimeError
            If the model was loaded without data, or if the loss or a gradient is not finite.
        KeyboardInterrupt
            On Ctrl-C, after the present mini-batch; the model can be used as it is.
        FileExistsError
            If ``checkpoint_dir`` holds another run or a model.
        ValueError
            If an argument is out of range.

        Notes
        -----
        A second call goes on from where the first ended, without a new starting partition. When the loss is not finite,
        the weights from before that epoch are kept.
        """
        if self.adata is None:
            raise RuntimeError("The model has no data to train on. Load it with `RMVE.load(path, adata=adata)`.")
        if self.adata.n_obs < 2:
            raise ValueError("Training needs at least two cells; `adata` has one.")
        check_unchanged(self.adata_manager)
        call = Call(
            max_epochs,
            accelerator,
            devices,
            train_size,
            validation_size,
            shuffle_set_split,
            load_sparse_tensor,
            batch_size,
            early_stopping,
            datasplitter_kwargs,
            plan_kwargs,
            start,
            quiet,
            checkpoint_dir,
            checkpoint_every,
            trainer_kwargs,
        )
        request = call.checked(
            self.adata.n_obs, self._training_plan_cls, self.module.likelihood, trained=self.is_trained_
        )
        if self.embedding_is_fixed_:
            warnings.warn(_fit.FIXED_EMBEDDING, UserWarning, stacklevel=2)
        request.claim_folder()
        defaults = default_options(self.adata_manager, self.estimator, self._n_components, self.is_trained_)
        options = TrainingOptions.of(defaults | request.plan_kwargs)
        prepared = prepare(
            self.module,
            self.adata_manager,
            first=not self.is_trained_,
            partition=request.partition,
            n_clusters=self._n_components,
            with_graph=options.neighbor_weight > 0,
            with_positions=options.position_weight > 0 and not self.is_query_,
            with_fingerprint=request.folder is not None,
            held_out=self.held_out_,
        )
        self.held_out_ = prepared.held_out
        if prepared.start is not None:
            self.starting_partition_ = prepared.start.partition
            self.clusters_ = Clusters.of(range(prepared.start.n_components), names_of_labels(self.registry_))
        arguments = request.arguments(prepared.data, defaults, self.module.likelihood.takes_counts)
        self._fit(arguments, quiet, request.folder, checkpoint_every, prepared.cells)

    def _fit(
        self,
        arguments: dict,
        quiet: bool,
        folder: Path | None,
        every: int,
        cells: str | None = None,
        resumed: Run | None = None,
    ) -> None:
        """Train with scvi-tools, then make clusters, also if the run was stopped; see :class:`rmve.model._fit.Fit`."""
        was_trained, self.tree_ = self.is_trained_, None  # the tree of an earlier run is not one of its checkpoints
        if not self.embedding_is_fixed_:
            self.reference_ = None  # cells have moved
        before = dict(self.history_) if was_trained and isinstance(self.history_, dict) else {}
        fit = _fit.Fit.of(arguments, folder, every, cells, self.module, before, self._describe, resumed)
        if not self.is_query_:  # a trained model is in evaluation mode, in which Lightning would leave it
            self.module.train()
        try:
            fit.run(super().train, quiet)
        finally:
            self.module.eval()  # an error leaves it in training mode
        history = fit.history(getattr(self.trainer.logger, "history", None))
        if history is not None:
            self.history_: dict[str, pd.DataFrame] | None = history
        self.is_trained_: bool = was_trained or fit.has_learned
        if self.is_trained_ and not self.is_query_:  # clusters of new cells are the reference's
            self._choose_level()
            if arguments["plan_kwargs"]["data"].positions is not None:
                self.fit_spatial_map()
        fit.end(self.trainer, partial(self.save, overwrite=True), self.is_trained_)

    @classmethod
    def resume(
        cls,
        checkpoint_dir: str | os.PathLike,
        adata: AnnData,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        quiet: bool = False,
        plan_kwargs: dict | None = None,
        **trainer_kwargs,
    ):
        """Go on with a run of :meth:`train` that was stopped or killed, from its last checkpoint to its end.

        Parameters
        ----------
        checkpoint_dir
            As given to :meth:`train`.
        adata
            The data of the run; it need not be set up.
        accelerator, devices, quiet
            As in :meth:`train`.
        plan_kwargs, **trainer_kwargs
            Options to change, or to give again because a file cannot hold them: functions (such as the ``view`` of
            :class:`rmve.training.TrainingOptions`), callbacks and loggers. All others are those of the run.

        Returns
        -------
        The trained model. If the run had come to its end already, its model.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If ``adata`` has other cells or genes than the run, or the files are not those of a run.

        Notes
        -----
        Weights, the optimizer, the running assignment, the random numbers and the place in all schedules are those of
        the checkpoint: on the CPU the result is that of a run that was never stopped. Nothing in the files is executed.

        Examples
        --------
        >>> model.train(checkpoint_dir="run")  # doctest: +SKIP
        >>> model = rmve.RMVE.resume("run", adata)  # after a crash  # doctest: +SKIP
        """
        folder = check.get_folder("checkpoint_dir", checkpoint_dir).absolute()
        if _resume.is_over(folder):
            model = cls.load(folder, adata=adata, accelerator=accelerator)
            _fit.end_run(folder)  # of a process that was killed when all was done
            return model
        found = _resume.read_resumption(folder, adata, cls, accelerator, devices, quiet, plan_kwargs, trainer_kwargs)
        model = cls.load(found.checkpoint, adata=adata, accelerator=accelerator)
        model._fit(found.arguments, quiet, folder, found.every, resumed=found.run)
        return model

    # -------------------------------------------------------------- clusters

    def _posterior(self, cells: AnnData | None = None, rows=None, batch_size: int | None = None) -> Posterior:
        """Posterior of cells that :meth:`_validate_anndata` returned, of the training cells by default."""
        cells = self._validate_anndata() if cells is None else cells
        return encode(self.module, self.get_anndata_manager(cells, required=True), rows, batch_size)

    @documented
    def predict(
        self,
        adata: AnnData | None = None,
        soft: bool = False,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        unknown: str | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Cluster of each cell.

        Parameters
        ----------
        %(adata)s
        soft
            Whether to return probabilities instead of the most probable cluster.
        %(indices)s
        %(batch_size)s
        unknown
            Name for cells unlike any training cell, those whose :meth:`get_novelty` is above
            :data:`rmve.novelty.UNKNOWN`; ``None`` names all cells by their cluster.

        Returns
        -------
        A categorical series with the cluster of each cell's most probable component, or with ``soft`` a data frame of
        ``q(y|x)`` with a column for each cluster; the index holds the cells' names. Clusters are called ``"0"``,
        ``"1"``, ... from the largest to the smallest in the training data; with labels, by the labels, and new ones
        ``"new_0"``, ``"new_1"``, ...
        """
        self._check_if_trained()
        if batch_size is not None:
            check.check_positive_int("batch_size", batch_size)
        cells = self._validate_anndata(adata)
        rows = check.get_indices(indices, cells.n_obs)
        if unknown is not None:
            _novelty.check_unknown(unknown, self.clusters_.names)
        posterior = self._posterior(cells, rows, batch_size)
        index = cells.obs_names if rows is None else cells.obs_names[rows]
        if soft:
            return self.clusters_.probabilities(posterior.assignment, index)
        labels = self.clusters_.labels(posterior.assignment, index)
        if unknown is None:
            return labels
        return _novelty.name_unknown(labels, self._novelty(cells, posterior, rows), unknown)

    @property
    def n_clusters(self) -> int:
        """Number of clusters, after merging."""
        return len(self.clusters_)

    @property
    def cluster_names_(self) -> list[str]:
        """Names of the clusters in use: the categories of :meth:`predict`."""
        return list(self.clusters_.names)

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
        distance = _tables.separations(self.module.mixture)
        return _tables.component_table(self._posterior().assignment, distance, self.clusters_)

    # ------------------------------------------- what is new, names and genes

    @documented
    def get_novelty(self, adata: AnnData | None = None) -> pd.Series:
        """How unlike all training cells each cell is.

        Parameters
        ----------
        %(adata)s

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
        return self._novelty(cells, self._posterior(cells))

    def _training_cells(self, posterior: Posterior | None = None) -> _novelty.Reference | None:
        """Training cells to compare others with, kept for as long as the components are the same."""
        if self.reference_ is None and self.adata is not None and not self.is_query_:
            rows, manager = sample_rows(self.adata.n_obs), self.adata_manager
            part = self._posterior(rows=rows) if posterior is None else posterior[rows]
            target_sum = median_total(manager) if self.module.likelihood.takes_counts else None
            self.reference_ = _novelty.Reference.fit(matrix_of(manager), rows, part, target_sum, self.tree)
        return self.reference_

    def _novelty(self, cells: AnnData, posterior: Posterior, rows=None) -> pd.Series:
        """Novelty of cells whose posterior is known."""
        training = posterior if rows is None and cells is self.adata else None
        reference = _novelty.require_reference(self._training_cells(training))
        index = cells.obs_names if rows is None else cells.obs_names[rows]
        matrix = matrix_of(self.get_anndata_manager(cells, required=True))
        return reference.novelty(matrix, posterior, index, rows)

    @documented
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
        %(not_trained_on_data)s
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
        self._validate_anndata()
        return _genes.markers(self.module, self.adata_manager, self.clusters_, n)

    @documented
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
        %(no_cluster)s
        ValueError
            If two clusters would have one name.

        Examples
        --------
        >>> model.rename_clusters({"0": "T cells", "1": "B cells"})  # doctest: +SKIP
        """
        self._check_if_trained()
        old, given = self.clusters_, dict(self.given_names_)
        self.clusters_ = old.renamed(names)
        for before, now in zip(old.names, self.clusters_.names, strict=True):
            if before in names:
                given.pop(before, None)
                given[now] = old.components_of(before, self.tree.active)
        self.given_names_ = given

    @documented
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
        %(not_trained_on_data)s

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
        cells = self._validate_anndata()
        load = partial(self._make_data_loader, cells, batch_size=512)
        return _genes.programmes(self.module, self.adata_manager, load, n)

    # ---------------------------------------------------------------- levels

    @property
    @documented
    def tree(self) -> MergeTree:
        """Merges of the components; made at the end of training, and from a checkpoint when it is asked for.

        Raises
        ------
        %(not_trained)s
        """
        self._check_if_trained()
        if self.tree_ is None:
            self.tree_ = self._find_levels(self._posterior())
        return self.tree_

    def _find_levels(self, posterior: Posterior) -> MergeTree:
        """Merges of the components, from the posterior of the training cells."""
        n_known = len(names_of_labels(self.registry_))
        return _levels.find_levels(self.module, self.adata_manager, posterior, n_known)

    def _clusters_at(self, n_clusters: int, posterior: Posterior) -> Clusters:
        """Clusters of a level, from the posterior of the training cells."""
        distance, labels = _tables.separations(self.module.mixture), names_of_labels(self.registry_)
        return _levels.clusters_at(n_clusters, self.tree, posterior.assigned, distance, labels, self.given_names_)

    def _choose_level(self) -> None:
        """Find the levels of a model that was just trained, and use the default one, or that of ``n_components``."""
        posterior = self._posterior()
        self.tree_ = self._find_levels(posterior)
        self.clusters_ = self._clusters_at(_levels.number_after_training(self.tree_, self._n_components), posterior)

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
        return _tables.merge_table(self.tree)

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
        return _tables.level_table(self.tree, _tables.separations(self.module.mixture), self.clusters_)

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
        number, posterior = _levels.number_of_clusters(self.tree, n_clusters), self._posterior()
        self.clusters_ = self._clusters_at(number, posterior)
        return self.clusters_.labels(posterior.assignment, self._validate_anndata().obs_names)

    @documented
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
        %(no_cluster)s
        ValueError
            If ``adata`` lacks training cells.

        Examples
        --------
        >>> adata.obs["fine"] = model.subcluster(["0", "3"])  # doctest: +SKIP
        """
        labels = self.predict()
        chosen = choose(labels.cat.categories.tolist(), clusters)
        cells = self._validate_anndata() if adata is None else adata
        check.check_structures(cells)
        places = places_of(labels.index, cells)
        if cells.is_view and cells.isbacked:
            cells = cells.to_memory()
        setup = {name: self.registry_[SETUP_ARGS_KEY].get(name) for name in SUBCLUSTER_SETUP}
        options = self.init_params_["non_kwargs"] | {"n_components": None}

        def cluster(part: AnnData) -> pd.Series:
            type(self).setup_anndata(part, **setup)
            model = type(self)(part, **options)
            model.train(**({"quiet": True} | train_kwargs))
            return model.predict()

        return divide(labels, chosen, cells, setup["layer"], cluster, None if adata is None else places)

    @classmethod
    @documented
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
        %(train_kwargs)s
        %(model_kwargs)s

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
        check.check_positive_int("n_runs", n_runs, minimum=2)
        seeds = range(n_runs) if seeds is None else seeds
        if len(seeds) != n_runs:
            raise ValueError(f"`seeds` has {len(seeds)} entries for `n_runs={n_runs}`.")
        runs = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                model = cls(adata, **model_kwargs)
                model.train(**(train_kwargs or {}))
                runs.append(
                    StabilityRun(model._posterior().assigned, np.asarray(model.clusters_.of_component), model.tree)
                )
        return compare_runs(runs, adata.obs_names)

    # ----------------------------------------------------------------- space

    @documented
    def fit_spatial_map(
        self,
        adata: AnnData | None = None,
        spatial_key: str | None = None,
        kind: str = "linear",
        scheme: str = "folds",
        group_key: str | None = None,
    ) -> SpatialMap:
        """Fit a linear map from the latent mean to coordinates, by ridge regression.

        :meth:`train` does it if positions are registered; call it for another kind of map, or for positions that the
        model was not trained with.

        Parameters
        ----------
        adata
            Cells with positions; ``None`` is the training data.
        spatial_key
            Key of ``adata.obsm`` with the coordinates, rows of NaN where unknown; ``None`` is the one given to
            ``setup_anndata``.
        kind
            ``"linear"``: one affine map. ``"by_cluster"``: one for each component, weighted by ``q(y|x)`` and shrunk to
            the common one.
        scheme
            How the map is judged, if the model did not learn these positions: see :func:`rmve.spatial.cross_validate`.
            If it did, the cells whose positions it did not learn judge it: the tenth that was held out of training.
        %(group_key)s

        Returns
        -------
        The map with its quality; :meth:`map_to_space` and ``annotate`` use it from then on.

        Raises
        ------
        KeyError, ValueError
            If there are no usable coordinates, or fewer of them than latent dimensions, plus two; or if none of the
            positions can judge the map, because the model has learned them all.

        Warns
        -----
        UserWarning
            If cells that the map did not see are not placed better than by chance, or both sides of the tissue look alike
            along an axis.
        """
        check.check_choice("kind", kind, spatial.KINDS)
        self._check_if_trained()
        cells, registered = self._validate_anndata(adata), self.registry_[SETUP_ARGS_KEY].get("spatial_key")
        spatial_key = spatial_key or registered
        if spatial_key is None:
            raise ValueError("No coordinates: give `spatial_key` here or to `setup_anndata`.")
        judging = partial(_places.judging_cells, cells, registered, self.held_out_)
        posterior = partial(self._posterior, cells)
        self.spatial_map_ = _places.fit_map(
            cells, spatial_key, posterior, self.module.n_latent, kind, judging, scheme, group_key
        )
        return self.spatial_map_

    @documented
    def map_to_space(self, adata: AnnData | None = None) -> pd.DataFrame:
        """Predicted coordinates of each cell.

        Parameters
        ----------
        %(adata)s

        Returns
        -------
        Data frame with the columns ``"0"``, ``"1"``, ... (the axes, in the unit of the coordinates) and ``"sd"`` (root
        mean square over the axes of the predictive standard deviation, in the same unit; see
        :meth:`rmve.SpatialMap.predict_sd`).

        Raises
        ------
        %(no_map)s
        """
        spatial_map = _places.require_map(self.spatial_map_)
        cells = self._validate_anndata(adata)
        return _places.place(spatial_map, self._posterior(cells), cells.obs_names)

    @documented
    def get_spatial_genes(self, batch_size: int | None = None) -> pd.DataFrame:
        """How each gene changes along each axis of space: the linear map, followed back through the decoder.

        A step of one standard deviation of the known positions along an axis is the most probable step in the latent space
        that leads there, ``Σ A' (A Σ A')^{-1}`` times it, with the covariance ``Σ`` of the latent means; the decoder says
        what it does to each gene, on average over the training cells.

        Parameters
        ----------
        %(batch_size)s

        Returns
        -------
        Data frame with a row for each gene and a column for each axis (``"0"``, ``"1"``, ...): the change of expression
        in log2 units for counts, in the data's unit for a normal likelihood, in log-odds for a Bernoulli one.

        Raises
        ------
        %(no_map)s
        """
        spatial_map = _places.require_map(self.spatial_map_)
        cells = self._validate_anndata()
        loader = self._make_data_loader(adata=cells, batch_size=batch_size or 1024)
        return _places.genes_along_axes(self.module, spatial_map, self._posterior(cells), loader, cells.var_names)

    @classmethod
    @documented
    def cross_validate_positions(
        cls,
        adata: AnnData,
        scheme: str = "folds",
        group_key: str | None = None,
        n_folds: int = 5,
        train_kwargs: dict | None = None,
        **model_kwargs,
    ) -> tuple[pd.DataFrame, Quality]:
        """Train once for each fold with its positions hidden, and compare where the cells are put with where they are.

        Parameters
        ----------
        adata
            AnnData set up with ``spatial_key``; it is left as it is. Hidden are positions, not expression: the case of
            dissociated cells beside a spatial reference.
        scheme, n_folds
            As in :func:`rmve.spatial.cross_validate`.
        %(group_key)s
        %(train_kwargs)s
        %(model_kwargs)s

        Returns
        -------
        Predicted coordinates as :meth:`map_to_space` gives them, of all cells with a position, and their quality.

        Raises
        ------
        KeyError, ValueError
            If ``adata`` was not set up with positions, or an option is wrong.
        """
        arguments = dict(cls._check_set_up(adata)._get_setup_method_args()["setup_args"])
        if arguments["spatial_key"] is None:
            raise ValueError("Set up `adata` with `spatial_key` first: `RMVE.setup_anndata(adata, spatial_key=...)`.")

        def predict(fold: AnnData) -> pd.DataFrame:
            cls.setup_anndata(fold, **arguments)
            model = cls(fold, **model_kwargs)
            model.train(**(train_kwargs or {}))
            return model.map_to_space()

        return _places.cross_validate(adata, arguments["spatial_key"], scheme, group_key, n_folds, predict)

    # --------------------------------------------------------------- results

    @documented
    def annotate(self, adata: AnnData | None = None, key_added: str = DEFAULT_KEY, levels: Sequence[int] = ()) -> None:
        """Write the results into ``adata``: the one method that does.

        Everything is computed before anything is written; calling it again overwrites the same keys.

        Parameters
        ----------
        adata
            Where to write; ``None`` is the training data. New data is assigned first.
        key_added
            Name of the cluster column, and the stem of the other names (see the user guide):
            ``obs[key]``, ``obs[key_confidence]``, ``obs[key_novelty]`` (of a model that has its training data),
            ``obsm[X_key]``, ``obsm[key_probabilities]``, ``uns[key]``, and with a spatial map ``obsm[X_key_spatial]`` and
            ``obs[key_spatial_sd]``. From ``obs[key_finest]`` and ``uns[key]``, :func:`rmve.cut_levels` makes the clusters
            of any level.
        levels
            Numbers of clusters of other levels to write, too: ``[4, 8]`` writes ``obs[key_4]`` and ``obs[key_8]``.

        Raises
        ------
        %(not_trained)s
        ValueError
            If ``adata`` is a view or does not fit the model, or one of the names made from ``key_added`` holds something
            that RMVE did not write, or that the model reads.
        """
        self._check_if_trained()
        if adata is not None:
            check.check_anndata(adata)
        cells = self._validate_anndata(adata)
        adata = cells if adata is None else adata
        arguments, smap, names = self.registry_[SETUP_ARGS_KEY], self.spatial_map_, Written(key_added)
        registered = _results.read_names(arguments)
        check.check_key_added(adata, key_added, registered, with_map=smap is not None)
        columns = level_columns(adata, names, levels, registered["obs"])
        posterior = self._posterior(cells)
        training = posterior if self.adata is None or cells is self.adata else self._posterior()
        results = _results.cell_results(posterior, self.clusters_, adata.obs_names, names)
        if self._training_cells(None if self.adata is None else training) is not None:
            results.obs[names.novelty] = self._novelty(cells, posterior).set_axis(adata.obs_names)
        known = training, self.module.mixture, self.clusters_, self.tree
        at = partial(self._clusters_at, posterior=training)
        results.uns.update(_results.model_results(self.init_params_["non_kwargs"], arguments, *known, at))
        results.uns["level_columns"] = sorted({*columns, *own_columns(adata, names)})
        results.add_levels(names, pd.Series(posterior.assigned, index=adata.obs_names), columns)
        if smap is not None:
            results.add_places(names, _places.place(smap, posterior, adata.obs_names), smap)
            if self.adata is not None:
                results.uns["spatial_genes"] = self.get_spatial_genes()
            if len(self.held_out_):
                known_cells = _places.identify_cells(adata, arguments.get("spatial_key"))
                results.uns["held_out"] = adata.obs_names[self.held_out_.rows(known_cells)].to_numpy(dtype=str)
        results.write(adata, names)

    def __repr__(self) -> str:
        known = self.clusters_ if self.is_trained_ else None
        options, arguments = self.init_params_["non_kwargs"], self.registry_[SETUP_ARGS_KEY]
        return summary(type(self).__name__, self.adata, options, arguments, known, self.spatial_map_)
