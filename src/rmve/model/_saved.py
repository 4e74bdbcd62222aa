"""What a fitted model knows, on disk and in the models of new cells."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Literal

import rich.pretty
from anndata import AnnData
from anndata.io import write_h5ad

from rmve import _validation as check
from rmve._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY
from rmve._serialization import DIGESTS, not_a_model, read_model, write_model
from rmve.clusters._clusters import Clusters
from rmve.clusters.levels import MergeTree
from rmve.model import _io as io
from rmve.model import _query as query
from rmve.model import _setup as setup
from rmve.model._docs import documented
from rmve.model._held_out import HeldOut
from rmve.model._novelty import Reference
from rmve.model._registered import RegisteredModel
from rmve.spatial import SpatialMap


class SavedModel(RegisteredModel):
    """A model whose knowledge can be saved, and handed on to a model of new cells.

    Parameters
    ----------
    adata
        Cells to train on; ``None`` for a model without data.
    registry
        Registry of a saved model.
    """

    def __init__(self, adata: AnnData | None, registry: dict | None):
        super().__init__(adata, registry)
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

    @property
    def _known(self) -> io.Known:
        """What is saved beside weights and attributes."""
        return io.Known(self.clusters_, self.held_out_, self.tree_, self.spatial_map_, self.given_names_)

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
        return io.to_document(self.init_params_["non_kwargs"], self.registry_, values, self._known)

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
        saved = io.read_saved(folder, prefix, where, cls)
        if adata is None:
            adata = io.read_saved_data(folder, prefix, saved.document[DIGESTS].get(io.ADATA_FILE))
        if adata is False:
            adata = None
        if adata is not None:
            check.check_anndata(adata)
            check.check_genes(adata.var_names, saved.attributes["var_names_"])
            options = {"source_registry": saved.registry, "allow_missing_labels": True}
            cls._set_up(adata, setup.description(saved.registry), saved.likelihood, **options)
        model = cls(adata, registry=saved.registry, **saved.options)
        model._restore(saved)
        model.to_device(where)
        return model

    def _restore(self, saved: io.Saved) -> None:
        """Take over the weights of a saved model, and what it knows."""
        for name in io.SAVED:
            setattr(self, name, saved.attributes[name])
        known = saved.known
        self.clusters_, self.held_out_, self.tree_ = known.clusters, known.held_out, known.tree
        self.spatial_map_, self.given_names_ = known.spatial_map, known.given_names
        io.give_components(self.module, saved.weights)
        self.module.load_state_dict(saved.weights)
        query.freeze(self.module, self.query_options_)
        self.module.eval()

    @staticmethod
    @documented
    def load_registry(dir_path: str | os.PathLike, prefix: str | None = None) -> dict:
        """How the data of a saved model was set up. Nothing in its files is executed.

        Parameters
        ----------
        %(saved)s
        """
        check.check_prefix(prefix)
        folder = check.get_folder("dir_path", dir_path)
        _, document = read_model(folder, prefix or "", "cpu")
        if not io.has_registry(document):
            raise not_a_model(folder, "it has no registry")
        return document["registry"]

    @classmethod
    @documented
    def view_setup_args(cls, dir_path: str | os.PathLike, prefix: str | None = None) -> None:
        """Print the arguments of ``setup_anndata`` of a saved model.

        Parameters
        ----------
        %(saved)s
        """
        registry = cls.load_registry(dir_path, prefix)
        rich.print(f"Setup via `{registry[MODEL_NAME_KEY]}.setup_anndata` with arguments:")
        rich.pretty.pprint(registry[SETUP_ARGS_KEY])

    @classmethod
    @documented
    def load_query_data(cls, adata: AnnData, reference_model, inplace_subset_query_vars: bool = False, **kwargs):
        """Adapt a trained model to new cells, for example of new batches (scArches).

        Parameters
        ----------
        adata
            New cells with the reference's genes.
        %(reference_model)s
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
        values = query.prepare_cells(
            adata,
            reference_model.registry_,
            reference_model.var_names_,
            reference_model.module.likelihood.name,
            subset=inplace_subset_query_vars,
            new_batches=kwargs.get("transfer_batch", True),
        )
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
    @documented
    def prepare_query_anndata(
        cls, adata: AnnData, reference_model, return_reference_var_names: bool = False, inplace=True
    ):
        """Give new cells the reference's genes, in its order, with zeros for missing ones.

        Parameters
        ----------
        adata
            New cells.
        %(reference_model)s
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
