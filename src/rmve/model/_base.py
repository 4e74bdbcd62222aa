"""What scvi-tools asks of a model, in RMVE's way: registration, saving, queries, tables of genes."""

from __future__ import annotations

import copy
import os
import weakref
from abc import abstractmethod
from collections.abc import Sequence
from inspect import signature
from typing import Literal
from uuid import uuid4

import numpy as np
import pandas as pd
import rich.pretty
import torch
from anndata import AnnData
from anndata.io import write_h5ad
from scvi.data import AnnDataManager
from scvi.model.base import ArchesMixin, BaseModelClass, RNASeqMixin, UnsupervisedTrainingMixin, VAEMixin

from rmve import _validation as check
from rmve._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY, UUID_KEY
from rmve._document import check_document, check_sizes
from rmve._serialization import DIGESTS, not_a_model, read_model, write_model
from rmve.clusters._clusters import Clusters
from rmve.clusters.levels import MergeTree
from rmve.model import _expression as expression
from rmve.model import _io as io
from rmve.model import _managers as managers
from rmve.model import _query as query
from rmve.model import _setup as setup
from rmve.model._held_out import HeldOut
from rmve.model._novelty import Reference
from rmve.spatial import SpatialMap


class RMVEBase(RNASeqMixin, VAEMixin, ArchesMixin, UnsupervisedTrainingMixin, BaseModelClass):
    """Base of :class:`rmve.RMVE`: what it overrides of scvi-tools.

    Parameters
    ----------
    adata
        Cells to train on; ``None`` for a model without data.
    registry
        Registry of a saved model.
    """

    def __init__(self, adata: AnnData | None, registry: dict | None):
        super().__init__(adata, registry)
        self.var_names_: list[str] = [] if adata is None else adata.var_names.astype(str).to_list()
        self.is_query_ = False
        #: What training leaves alone in a query; ``None`` for other models.
        self.query_options_: dict[str, bool] | None = None
        #: Clusters in use.
        self.clusters_ = Clusters((), ())
        #: Cells whose position was held out of training, and learned.
        self.held_out_ = HeldOut()
        #: Merges of the components; ``None`` before they are asked for.
        self.tree_: MergeTree | None = None
        #: Map to coordinates; ``None`` if there is none.
        self.spatial_map_: SpatialMap | None = None
        #: Components of each name that :meth:`rename_clusters` gave.
        self.given_names_: dict[str, list[int]] = {}
        #: Training cells that :meth:`get_novelty` compares with; ``None`` before they are asked for.
        self.reference_: Reference | None = None

    # --------------------------------------------------------- registration

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: str = "Unknown",
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        spatial_key: str | None = None,
        neighbors_key: str | None = None,
        **kwargs,
    ) -> None:
        """Tell RMVE where things are in ``adata``.

        Parameters
        ----------
        adata
            Cells in rows, genes in columns.
        layer
            Layer with the data (raw counts, for a count likelihood); ``None`` is ``adata.X``.
        batch_key
            Column of ``adata.obs`` with the batch of each cell.
        labels_key
            Column of ``adata.obs`` with known cell types.
        unlabeled_category
            Value in ``labels_key`` of cells whose type is unknown.
        size_factor_key
            Column of ``adata.obs`` with size factors, used in place of total counts.
        categorical_covariate_keys, continuous_covariate_keys
            Columns of ``adata.obs`` that the decoder reads beside the batch.
        spatial_key
            Key of ``adata.obsm`` with 1 to 3 physical coordinates; rows of NaN mean "position unknown".
        neighbors_key
            Name in ``adata.uns`` or ``adata.obsp`` of a neighbour graph for the assignment's prior; ``None`` builds
            one from the data.

        Raises
        ------
        KeyError
            If a key is missing.
        TypeError, ValueError
            If ``adata`` is empty or a view, holds NaN or infinite values, or a column is incomplete.

        Notes
        -----
        All checks come first: when one fails, ``adata`` is as it was.
        """
        categorical_covariate_keys = check.get_keys("categorical_covariate_keys", categorical_covariate_keys)
        continuous_covariate_keys = check.get_keys("continuous_covariate_keys", continuous_covariate_keys)
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(adata, setup_method_args, None, **kwargs)

    @classmethod
    def _set_up(cls, adata: AnnData, setup_method_args: dict, likelihood: str | None, **kwargs) -> None:
        """Register cells; with a likelihood, after a check that their values fit it."""
        transferred, arguments = "source_registry" in kwargs, setup_method_args[SETUP_ARGS_KEY]
        values = setup.check_setup(adata, arguments, kwargs.get("allow_missing_labels", False), transferred)
        if likelihood is not None:
            check.check_values(adata, arguments["layer"], likelihood, values)
        known = cls._setup_adata_manager_store.get(adata.uns.get(UUID_KEY))
        if known is not None and known.adata is not adata:
            # a copy took over the identity of its original, whose place it would get
            del adata.uns[UUID_KEY]
        cls.register_manager(setup.register_training_cells(adata, values, setup_method_args, **kwargs))

    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None:
        """Note the manager of data that was set up, until the data is gone."""
        cls._setup_adata_manager_store = managers.weak(cls._setup_adata_manager_store)
        managers.keep(adata_manager, cls.__qualname__)
        super().register_manager(adata_manager)

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        """Note the manager of data that this model has met, until one of the two is gone."""
        store = self._per_instance_manager_store
        if self.id not in store:
            store[self.id] = managers.weak({})
            weakref.finalize(self, store.pop, self.id, None)
        managers.keep(adata_manager, self.id)
        super()._register_manager_for_instance(adata_manager)

    def __getstate__(self) -> dict[str, object]:
        """All but the trainer, which belongs to this process."""
        state = {name: value for name, value in vars(self).items() if name != "trainer"}
        if self.is_query_:
            state["module"] = query.without_hooks(self.module)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        """A model of its own, on data of its own."""
        self.__dict__.update(state, id=str(uuid4()))
        query.freeze(self.module, self.query_options_)
        if self._adata_manager is not None:
            self._register_manager_for_instance(self._adata_manager)

    @classmethod
    def _check_set_up(cls, adata: AnnData) -> AnnDataManager:
        """Manager of data that went through ``setup_anndata`` of this class and is as it was then."""
        check.check_anndata(adata)
        try:
            manager = cls._get_most_recent_anndata_manager(adata, required=False)
        except ValueError:
            raise ValueError(
                "`adata` is a copy of an AnnData that was set up. Call `RMVE.setup_anndata` on the copy, too."
            ) from None
        if manager is None:
            raise ValueError("`adata` is not set up. Call `RMVE.setup_anndata(adata, ...)` first.")
        setup.check_unchanged(manager)
        return manager

    @property
    def embedding_is_fixed_(self) -> bool:
        """Whether training moves no cell, since the encoder is a reference's."""
        return query.is_embedding_fixed(self.module, self.query_options_)

    @property
    def adata(self) -> AnnData | None:
        """The cells that the model was made or loaded with."""
        return self._adata

    @adata.setter
    def adata(self, adata: AnnData) -> None:
        raise AttributeError(
            "A model keeps its cells. Give others to its methods, as in `model.predict(adata)`, or save the model and load "
            "it with them: `RMVE.load(path, adata=adata)`."
        )

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray:
        """Genes of the model, in its order."""
        return np.asarray(self.var_names_)

    # --------------------------------------------------------- cells to read

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """Cells that the getters can read; new ones are checked and registered first."""
        if adata is None:
            if self.adata is None:
                raise ValueError("The model was loaded without data. Give `adata`.")
            adata = self.adata
        if adata is self.adata:
            setup.check_unchanged(self.adata_manager)
            return super()._validate_anndata(adata, copy_if_view=copy_if_view)
        mine = self._per_instance_manager_store.get(self.id, {})
        if any(manager.adata is adata for manager in mine.values()):  # the model's own object for new cells
            return adata
        setup.check_new_cells(adata, self.registry_, self.var_names_, self.gene_likelihood)
        manager = setup.register_new_cells(adata, self.registry_)
        self._register_manager_for_instance(manager)
        return manager.adata

    def _make_data_loader(self, adata: AnnData, indices=None, batch_size: int | None = None, **kwargs):
        """scvi-tools' loader, after a check of the rows; every getter comes by here."""
        self._check_if_trained()
        if batch_size is not None:
            check.check_positive_int("batch_size", batch_size)
        indices = check.get_indices(indices, adata.n_obs)
        return super()._make_data_loader(adata=adata, indices=indices, batch_size=batch_size, **kwargs)

    def _check_if_trained(self, warn: bool = True, message: str = "") -> None:
        """Raise unless the model is trained: scvi-tools warns, and returns what means nothing."""
        if not self.is_trained_:
            raise RuntimeError("The model is not trained. Call `model.train()` first.")

    # --------------------------------------------------------- save and load

    def save(
        self,
        dir_path: str | os.PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs,
    ) -> None:
        """Save the model into a folder: ``model.pt`` (tensors) and ``model.json`` (everything else).

        Whatever happens meanwhile, the folder holds the model that was there before or this one.

        Parameters
        ----------
        dir_path
            Folder to make.
        prefix
            Prepended to the file names.
        overwrite
            Whether to write into an existing folder that is not empty.
        save_anndata
            Whether to write the training data there, too.
        **anndata_write_kwargs
            Passed to :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        FileExistsError
            If the folder exists, is not empty, and ``overwrite`` is not set.
        ValueError
            If ``save_anndata`` is asked of a model without data.
        """
        folder = check.get_folder("dir_path", dir_path)
        check.check_prefix(prefix)
        io.check_free(folder, overwrite)
        if save_anndata and self.adata is None:
            raise ValueError("The model has no data to save.")
        others = {}
        if save_anndata:
            # the function, for the method would make a file on disk that is written elsewhere the one that is read
            others[io.ADATA_FILE] = lambda path: write_h5ad(path, self.adata, **anndata_write_kwargs)
        write_model(folder, prefix or "", self.module.state_dict(), self._describe(), others)

    def _describe(self, **attributes) -> dict[str, object]:
        """All of the model but its weights; ``attributes`` take the place of its own."""
        values = {name: getattr(self, name) for name in io.SAVED} | attributes
        known = io.Known(self.clusters_, self.held_out_, self.tree_, self.spatial_map_, self.given_names_)
        return io.to_document(self.init_params_["non_kwargs"], self.registry_, values, known)

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: AnnData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ):
        """Load a saved model. Nothing in its files is executed.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` made.
        adata
            Data with the model's genes; it need not be set up. ``None`` reads the data saved with the model, if
            there is any; ``False`` loads the model alone.
        accelerator, device
            Where to put the model.
        prefix
            As given to :meth:`save`.

        Returns
        -------
        The model.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If the files are not a model of this class, or not as they were saved, or ``adata`` does not fit it.
        """
        where = check.check_device(accelerator, device, single=True)
        check.check_prefix(prefix)
        folder, prefix = check.get_folder("dir_path", dir_path), prefix or ""
        state_dict, document = read_model(folder, prefix, where)
        try:
            arguments = set(signature(cls).parameters), set(signature(cls.setup_anndata).parameters)
            check_document(document, io.SAVED, *arguments)
            check_sizes(document, state_dict)
            query.check_saved_options(document["attributes"])
        except ValueError as error:
            raise not_a_model(folder, error) from error
        registry, init_params, attributes = document["registry"], document["init_params"], document["attributes"]
        io.check_registry(registry, folder, cls.__name__)
        try:
            with torch.device("meta"):  # takes no memory
                empty = cls(None, registry=copy.deepcopy(registry), **init_params).module
                io.give_components(empty, state_dict)
            known = io.Known.from_dict(document, empty.n_components, empty.n_latent)
        except Exception as error:
            raise not_a_model(folder, error) from error
        if adata is None:
            adata = io.read_saved_data(folder, prefix, document[DIGESTS].get(io.ADATA_FILE))
        if adata is False:
            adata = None
        if adata is not None:
            check.check_anndata(adata)
            check.check_genes(adata.var_names, attributes["var_names_"])
            described = setup.description(registry)
            options = {"source_registry": registry, "allow_missing_labels": True}
            cls._set_up(adata, described, empty.likelihood.name, **options)
        model = cls(adata, registry=registry, **init_params)
        for name in io.SAVED:
            setattr(model, name, attributes[name])
        model.clusters_, model.held_out_ = known.clusters, known.held_out
        model.tree_, model.spatial_map_ = known.tree, known.spatial_map
        model.given_names_ = known.given_names
        io.give_components(model.module, state_dict)
        model.module.load_state_dict(state_dict)
        query.freeze(model.module, model.query_options_)
        model.to_device(where)
        model.module.eval()
        return model

    @staticmethod
    def load_registry(dir_path: str | os.PathLike, prefix: str | None = None) -> dict:
        """How the data of a saved model was set up. Nothing in its files is executed.

        Parameters
        ----------
        dir_path, prefix
            As given to :meth:`save`.
        """
        check.check_prefix(prefix)
        folder = check.get_folder("dir_path", dir_path)
        _, document = read_model(folder, prefix or "", "cpu")
        if not io.has_registry(document):
            raise not_a_model(folder, "it has no registry")
        return document["registry"]

    @classmethod
    def view_setup_args(cls, dir_path: str | os.PathLike, prefix: str | None = None) -> None:
        """Print the arguments of ``setup_anndata`` of a saved model.

        Parameters
        ----------
        dir_path, prefix
            As given to :meth:`save`.
        """
        registry = cls.load_registry(dir_path, prefix)
        rich.print(f"Setup via `{registry[MODEL_NAME_KEY]}.setup_anndata` with arguments:")
        rich.pretty.pprint(registry[SETUP_ARGS_KEY])

    @classmethod
    def convert_legacy_save(cls, *args, **kwargs) -> None:
        """Not available: it would execute what a file holds, and RMVE has no models in scvi-tools' old format.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError("RMVE has no models in scvi-tools' old format. Read those that it has with `RMVE.load`.")

    # -------------------------------------------------------------- new cells

    @classmethod
    def load_query_data(cls, adata: AnnData, reference_model, inplace_subset_query_vars: bool = False, **kwargs):
        """Adapt a trained model to new cells, for example of new batches (scArches).

        Parameters
        ----------
        adata
            New cells with the reference's genes.
        reference_model
            A trained model, or the folder it was saved in.
        inplace_subset_query_vars
            Whether to reduce ``adata`` to the reference's genes, in their order.
        **kwargs
            Options of scvi-tools' ``load_query_data``, for example ``unfrozen=True`` to train all weights.

        Returns
        -------
        A model on ``adata``, which can be used as it is. Components and clusters are the reference's; training it (with
        ``plan_kwargs={"weight_decay": 0.0}``) adapts the weights of the networks that belong to new batches.

        Raises
        ------
        ValueError
            If genes are missing, or ``adata`` has a label that the reference does not know. ``adata`` is then as it was.

        Notes
        -----
        The encoder is the reference's and is not trained. Training adapts the decoder's weights of a new batch, and
        with them expression and likelihood; embedding and clusters change only if the reference was made with
        ``encode_covariates=True``, and :meth:`train` warns if it was not.
        """
        options = query.check_query_options(kwargs)
        if not isinstance(reference_model, cls):
            reference_model = cls.load(reference_model, adata=False)
        reference_model._check_if_trained()
        check.check_anndata(adata)
        genes = pd.Index(reference_model.get_var_names())
        reorder = inplace_subset_query_vars and not adata.var_names.equals(genes)
        if reorder:
            if adata.isbacked:
                raise ValueError(
                    "`adata` is on disk, where its genes stay as they are. Call `adata.to_memory()` first."
                )
            check.check_genes(adata.var_names[adata.var_names.isin(genes)].sort_values(), genes.sort_values())
        values = setup.check_new_cells(
            adata[:, genes] if reorder else adata,
            reference_model.registry_,
            reference_model.var_names_,
            reference_model.gene_likelihood,
            new_batches=kwargs.get("transfer_batch", True),
        )
        if reorder:
            adata._inplace_subset_var(genes)
        with setup.looked_at(values):
            model = super().load_query_data(adata, reference_model, **kwargs)
        model.is_trained_ = model.is_query_ = True
        model.reference_ = reference_model._training_cells()
        model.query_options_ = options
        return model

    @abstractmethod
    def _training_cells(self) -> Reference | None:
        """Training cells to compare others with; ``None`` if the model does not have them."""

    def _get_user_attributes(self) -> list[tuple[str, object]]:
        """What a query takes over from its reference; it has as many components as there are, whatever was asked for."""
        attributes = dict(super()._get_user_attributes())
        kinds = {name: getattr(type(self), name, None) for name in attributes}
        for name, kind in kinds.items():
            if isinstance(kind, property) and kind.fset is None:  # it follows from others
                del attributes[name]
        options = self.init_params_["non_kwargs"] | {"n_components": self.module.n_components}
        attributes["init_params_"] = self.init_params_ | {"non_kwargs": options}
        return list(attributes.items())

    @classmethod
    def prepare_query_anndata(
        cls, adata: AnnData, reference_model, return_reference_var_names: bool = False, inplace=True
    ):
        """Give new cells the reference's genes, in its order, with zeros for missing ones.

        Parameters
        ----------
        adata
            New cells.
        reference_model
            A trained model, or the folder it was saved in.
        return_reference_var_names
            Whether to return the reference's genes and do nothing else.
        inplace
            Whether to change ``adata`` or to return a new one.
        """
        if isinstance(reference_model, str | os.PathLike):
            reference_model = cls.load(reference_model, adata=False)
        if not return_reference_var_names:
            check.check_anndata(adata, allow_view=not inplace)
            if adata.isbacked:
                raise ValueError("`adata` is on disk, where no genes can be added. Call `adata.to_memory()` first.")
            check.check_structures(adata)
        return super().prepare_query_anndata(adata, reference_model, return_reference_var_names, inplace)

    @staticmethod
    def prepare_query_mudata(*args, **kwargs) -> None:
        """Not available: RMVE takes AnnData; see :meth:`prepare_query_anndata`.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError("RMVE takes AnnData, not MuData. Use `RMVE.prepare_query_anndata` with one modality.")

    # -------------------------------------------------------- tables of genes

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
            expression.check_gene_names(gene_list, self.var_names_)
        if library_size != "latent":
            check.check_number("library_size", library_size, with_low=False)
        if kwargs.get("n_samples") is not None:
            check.check_positive_int("n_samples", kwargs["n_samples"])
        return super().get_normalized_expression(
            adata, indices, transform_batch, gene_list=gene_list, library_size=library_size, **kwargs
        )

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
        options = expression.comparison_options(kwargs)
        source = self.adata if adata is None else adata
        group1, group2 = expression.groups_to_compare(source, groupby, group1, group2, options["idx1"] is not None)
        manager = self.get_anndata_manager(self._validate_anndata(adata), required=True)
        getters = self.get_normalized_expression, self.get_latent_representation
        return expression.compare_expression(manager, *getters, groupby, group1, group2, options)

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
        expression.check_samples(self.adata if adata is None else adata, sample_key)
        cells = self._validate_anndata(adata)
        compute = super().differential_abundance
        return expression.take_abundance(cells, lambda: compute(cells, sample_key=sample_key, **kwargs))

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
