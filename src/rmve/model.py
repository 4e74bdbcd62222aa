"""RMVE's user interface: AnnData in, clusters and embeddings out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import ArchesMixin, BaseModelClass, RNASeqMixin, UnsupervisedTrainingMixin, VAEMixin

from rmve import _validation as check
from rmve._annotate import AnnotateMixin
from rmve._clusters import ClustersMixin
from rmve._expression_mixin import ExpressionMixin
from rmve._held_out import HeldOut
from rmve._managers import ManagersMixin
from rmve._options import check_limits, check_options, check_split_of_rows
from rmve._persistence import PersistenceMixin
from rmve._run import RunMixin, check_no_run, is_first_process, options_of_processes
from rmve._setup import SetupMixin
from rmve._spatial_mixin import SpatialMixin
from rmve._stability_mixin import StabilityMixin
from rmve._start import StartMixin
from rmve.dataloading import IndexedDataSplitter
from rmve.defaults import FROM_LABELS, WITH_POSITIONS, default_batch_size, default_epochs, default_input_dropout
from rmve.initialization import share_of_zeros
from rmve.likelihoods import get_likelihood
from rmve.maths.estimators import ESTIMATORS
from rmve.maths.repulsion import REPULSIONS
from rmve.module import POSTERIORS, RMVEModule
from rmve.training import RMVETrainingPlan


class RMVE(
    ManagersMixin,
    PersistenceMixin,
    SetupMixin,
    AnnotateMixin,
    ClustersMixin,
    SpatialMixin,
    StabilityMixin,
    StartMixin,
    RunMixin,
    ExpressionMixin,
    RNASeqMixin,
    VAEMixin,
    ArchesMixin,
    UnsupervisedTrainingMixin,
    BaseModelClass,
):
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
        (:func:`rmve.initialization.default_n_components`), and the repulsion empties redundant ones. Those that are left
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
        Whether the encoder, too, is told batch and covariates.
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
        likelihood = get_likelihood(gene_likelihood)
        check.check_choice("posterior", posterior, POSTERIORS)
        check.check_choice("estimator", estimator, ESTIMATORS)
        check.check_choice("repulsion", repulsion, (*REPULSIONS, None))
        for name, value in (("n_latent", n_latent), ("n_hidden", n_hidden), ("n_layers", n_layers)):
            check.check_positive_int(name, value)
        check.check_number("dropout_rate", dropout_rate, 0.0, 1.0, with_high=False)
        if input_dropout is not None:
            check.check_number("input_dropout", input_dropout, 0.0, 1.0, with_high=False)
        check.check_flag("encode_covariates", encode_covariates)
        if adata is not None:
            self._check_set_up(adata)
        super().__init__(adata, registry)
        self.var_names_ = None if adata is None else adata.var_names.astype(str).to_list()
        self.label_names_ = self._label_names()
        self.n_clusters_wanted_ = n_components
        if n_components is None:
            n_components = max(1, len(self.label_names_))  # `train` knows how many it starts from
        # a saved model may meet fewer cells than it has components
        n_obs = adata.n_obs if adata is not None and registry is None else None
        check.check_n_components(n_components, n_obs, len(self.label_names_))
        if adata is not None:
            check.check_values(adata, self._setup_arg("layer"), gene_likelihood)
        self.gene_likelihood, self.estimator = gene_likelihood, estimator
        if input_dropout is None:
            counts = adata is not None and likelihood.takes_counts
            zeros = share_of_zeros(check.get_matrix(adata, self._setup_arg("layer"))) if counts else 1.0
            input_dropout = default_input_dropout(gene_likelihood, self.summary_stats.n_vars, zeros)
        categorical = self.registry_["field_registries"][REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]
        self.module = self._module_cls(
            n_input=self.summary_stats.n_vars,
            n_components=n_components,
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            input_dropout=input_dropout,
            gene_likelihood=gene_likelihood,
            posterior=posterior,
            repulsion=repulsion,
            n_spatial=self.summary_stats.get("n_spatial", 0),
            n_batch=self.summary_stats.n_batch,
            n_cats_per_cov=categorical.get("n_cats_per_key"),
            n_continuous_cov=self.summary_stats.get("n_extra_continuous_covs", 0),
            encode_covariates=encode_covariates,
        )
        self.set_clusters(np.arange(n_components))
        #: Partition that training started from, shape ``(n,)``; ``None`` before, and after loading.
        self.starting_partition_ = None
        self.tree_ = None
        self.spatial_map_ = None
        self.held_out_ = HeldOut()
        self.is_query_ = False
        self._model_summary_string = (
            f"RMVE with n_components={n_components}, n_latent={n_latent}, gene_likelihood={gene_likelihood!r}, "
            f"posterior={posterior!r}, repulsion={repulsion!r}"
        )
        self.init_params_ = self._get_init_params(locals())

    # -------------------------------------------------------------- training

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
        accelerator, devices
            As in PyTorch Lightning.
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
            Options of :class:`rmve.training.RMVETrainingPlan`, for example ``{"repulsion": 50.0}``.
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
        self._check_unchanged()
        check.check_training_options(trainer_kwargs.get("precision", "32-true"), plan_kwargs)
        check_options(self._training_plan_cls, plan_kwargs, trainer_kwargs, datasplitter_kwargs, early_stopping)
        if "split" in (plan_kwargs or {}):
            check.check_choice("split", plan_kwargs["split"], ("auto", *self.module.likelihood.splits))
        check.check_device(accelerator, devices)
        if max_epochs is not None:
            check.check_positive_int("max_epochs", max_epochs)
        check.check_positive_int("checkpoint_every", checkpoint_every)
        if batch_size is None:
            batch_size = default_batch_size(self.adata.n_obs)
        check.check_positive_int("batch_size", batch_size, minimum=2)  # of one cell, batch normalisation is undefined
        if any(getattr(callback, "load_best_on_end", False) for callback in trainer_kwargs.get("callbacks") or []):
            raise ValueError(
                "`SaveCheckpoint(load_best_on_end=True)` reads scvi-tools' own format, which can execute code. Use "
                "`early_stopping=True`, or `checkpoint_dir`."
            )
        folder = None if checkpoint_dir is None else check.get_folder("checkpoint_dir", checkpoint_dir)
        if start is not None:
            if self.is_trained_:
                raise ValueError("`start` is for the first call of `train`; a trained model goes on from where it is.")
            start = check.check_start(start, self.adata.n_obs)
        if load_sparse_tensor:
            raise ValueError("`load_sparse_tensor` is not needed: counts are loaded sparse. Leave it out.")
        trainer_kwargs |= options_of_processes(trainer_kwargs.get("strategy"), early_stopping)
        check.check_split(train_size, validation_size, early_stopping, self.adata.n_obs)
        indexing = (datasplitter_kwargs or {}).get("external_indexing")
        check_split_of_rows(indexing, self.adata.n_obs)
        check_limits(trainer_kwargs, math.ceil(self.adata.n_obs * (train_size or 0.9) / batch_size))
        self._warn_of_fixed_embedding()
        if train_size is None and not early_stopping and not indexing:
            train_size = 1.0 - (validation_size or 0.0)
        if folder is not None and is_first_process(trainer_kwargs.get("strategy")):
            check_no_run(folder)
        defaults = {"estimator": self.estimator}
        if self.label_names_ and self.n_clusters_wanted_ is None and (self._label_codes() < 0).any():
            defaults |= FROM_LABELS
        if self.is_trained_:
            defaults |= dict.fromkeys(("warmup_fraction", "potts_ramp_fraction", "repulsion_ramp_fraction"), 0.0)
        plan_kwargs = plan_kwargs or {}
        data = self._training_data(
            start,
            with_graph=plan_kwargs.get("potts", 1.0) > 0,
            with_positions=plan_kwargs.get("spatial", 1.0) > 0,
        )
        with_positions = data.positions is not None
        if with_positions:
            defaults |= WITH_POSITIONS
        if max_epochs is None:
            max_epochs = default_epochs(self.adata.n_obs, batch_size, with_positions)
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_patience", max(5, round(max_epochs / 10)))
        fit = {
            "max_epochs": max_epochs,
            "accelerator": accelerator,
            "devices": devices,
            "train_size": train_size,
            "validation_size": validation_size,
            "shuffle_set_split": shuffle_set_split,
            "batch_size": batch_size,
            "early_stopping": early_stopping,
            "datasplitter_kwargs": {
                "as_counts": self.module.likelihood.takes_counts,
                **(datasplitter_kwargs or {}),
            },
            "plan_kwargs": {**defaults, **plan_kwargs, "data": data},
            **trainer_kwargs,
        }
        self._run(fit, quiet, folder, checkpoint_every)

    # ------------------------------------------------------- scvi-tools' methods

    def _check_if_trained(self, warn: bool = True, message: str = "") -> None:
        """Raise unless the model is trained: scvi-tools warns, and returns what means nothing."""
        if not self.is_trained_:
            raise RuntimeError("The model is not trained. Call `model.train()` first.")
