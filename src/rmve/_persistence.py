"""Saving, loading, and meeting new data."""

from __future__ import annotations

import copy
import os
import warnings
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import rich.pretty
import torch
from anndata import AnnData, read_h5ad
from anndata.io import write_h5ad
from scvi.model.base import ArchesMixin

from rmve import _validation as check
from rmve._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY
from rmve._document import check_document, check_sizes, check_weights, read_map, read_tree
from rmve._files import PRIVATE, find
from rmve._held_out import HeldOut
from rmve._known_cells import known_cells
from rmve._serialization import DIGESTS, not_a_model, read_model, write_model

ADATA_FILE = "adata.h5ad"
#: Attributes of a model that are saved beside its weights, registry and constructor arguments.
SAVED = (
    "is_trained_",
    "is_query_",
    "history_",
    "train_indices_",
    "validation_indices_",
    "test_indices_",
    "var_names_",
    "label_names_",
    "n_clusters_wanted_",
    "held_out_",
    "component_cluster_",
    "cluster_names_",
)


class PersistenceMixin:
    """Part of :class:`rmve.RMVE` that saves and loads models and checks new data."""

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray:
        """Genes of the model, in its order."""
        return np.asarray(self.var_names_)

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """Check new data against the model before scvi-tools registers it."""
        if adata is None:
            if self.adata is None:
                raise ValueError("The model was loaded without data. Give `adata`.")
            adata = self.adata
        if adata is self.adata:
            self._check_unchanged()
            return super()._validate_anndata(adata, copy_if_view=copy_if_view)
        mine = self._per_instance_manager_store.get(self.id, {})
        if any(manager.adata is adata for manager in mine.values()):  # the model's own object for new cells
            return adata
        self._check_new_data(adata)
        return self._register_new_cells(adata)

    def _make_data_loader(self, adata: AnnData, indices=None, batch_size: int | None = None, **kwargs):
        """scvi-tools' loader, after a check of the rows; every getter comes by here."""
        self._check_if_trained()
        if batch_size is not None:
            check.check_positive_int("batch_size", batch_size)
        indices = check.get_indices(indices, adata.n_obs)
        return super()._make_data_loader(adata=adata, indices=indices, batch_size=batch_size, **kwargs)

    def _check_new_data(self, adata: AnnData, new_batches: bool = False) -> None:
        """Raise unless new data has the model's genes, layer, columns, known batches and labels."""
        check.check_anndata(adata, allow_view=True)
        check.check_genes(adata.var_names, self.var_names_)
        layer, batch_key, labels_key = (self._setup_arg(name) for name in ("layer", "batch_key", "labels_key"))
        check.check_finite(adata, layer)
        check.check_values(adata, layer, self.gene_likelihood)
        check.check_columns(
            adata,
            batch_key,
            labels_key if labels_key in adata.obs else None,
            self._setup_arg("size_factor_key"),
            self._setup_arg("categorical_covariate_keys"),
            self._setup_arg("continuous_covariate_keys"),
        )
        states = self.registry_["field_registries"]
        if batch_key is not None:
            known = states["batch"]["state_registry"]["categorical_mapping"]
            if new_batches:
                check.check_same_type(batch_key, "batch_key", adata.obs[batch_key].unique(), known)
            else:
                advice = "Map new batches with `RMVE.load_query_data(adata, model)`."
                check.check_known(adata, batch_key, "batch_key", known, advice)
        if labels_key is not None and labels_key in adata.obs:
            advice = "Mark these cells with the `unlabeled_category` to find their cluster."
            known = states["labels"]["state_registry"]["categorical_mapping"]
            check.check_known(adata, labels_key, "labels_key", known, advice)
        if not new_batches:
            check.check_known_covariates(adata, states["extra_categorical_covs"]["state_registry"].get("mappings", {}))

    # ---------------------------------------------------------- save and load

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
        if not overwrite and folder.exists() and any(not path.name.startswith(PRIVATE) for path in folder.iterdir()):
            raise FileExistsError(f"{str(folder)!r} already exists. Choose another folder or set `overwrite=True`.")
        if save_anndata and self.adata is None:
            raise ValueError("The model has no data to save.")
        others = {}
        if save_anndata:
            # the function, for the method would make a file on disk that is written elsewhere the one that is read
            others[ADATA_FILE] = lambda path: write_h5ad(path, self.adata, **anndata_write_kwargs)
        write_model(folder, prefix or "", self.module.state_dict(), self._document(), others)

    def _document(self, **attributes) -> dict[str, object]:
        """All of a model but its weights; ``attributes`` take the place of the model's own."""
        values = {name: getattr(self, name) for name in SAVED} | attributes
        return {
            "rmve_version": version("rmve"),
            "init_params": self.init_params_["non_kwargs"],
            "registry": self.registry_,
            "attributes": values | {"held_out_": self.held_out_.to_dict(), "given_names_": self.given_names_},
            "merge_tree": None if self.tree_ is None else self.tree_.to_dict(),
            "spatial_map": None if self.spatial_map_ is None else self.spatial_map_.to_dict(),
        }

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: AnnData | bool | None = None,
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
            check_document(
                document, SAVED, set(signature(cls).parameters), set(signature(cls.setup_anndata).parameters)
            )
            check_sizes(document, state_dict)
        except ValueError as error:
            raise not_a_model(folder, error) from error
        registry, init_params, attributes = document["registry"], document["init_params"], document["attributes"]
        setup_args = registry[SETUP_ARGS_KEY]
        if registry[MODEL_NAME_KEY] != cls.__name__:
            raise ValueError(f"{str(folder)!r} holds a {registry[MODEL_NAME_KEY]} model. Load it with that class.")
        try:
            with torch.device("meta"):  # takes no memory
                empty = cls(None, registry=copy.deepcopy(registry), **init_params)
            check_weights(empty.module.state_dict(), state_dict)
            if len(attributes["component_cluster_"]) != empty.module.n_components:
                raise ValueError("its clusters do not fit its components")
            tree = read_tree(document["merge_tree"], empty.module.n_components)
            spatial_map = read_map(document["spatial_map"], empty.module.n_latent, empty.module.n_components)
        except Exception as error:
            raise not_a_model(folder, error) from error
        if adata is None:
            adata = cls._read_saved_data(folder, prefix, document[DIGESTS].get(ADATA_FILE))
        if adata is False:
            adata = None
        if adata is not None:
            check.check_anndata(adata)
            check.check_genes(adata.var_names, attributes["var_names_"])
            check.check_finite(adata, setup_args.get("layer"))
            check.check_values(adata, setup_args.get("layer"), init_params.get("gene_likelihood", "nb"))
            cls.setup_anndata(adata, source_registry=registry, allow_missing_labels=True, **setup_args)
        model = cls(adata, registry=registry, **init_params)
        for name in SAVED:
            setattr(model, name, attributes[name])
        model.given_names_ = attributes.get("given_names_", {})
        model.held_out_ = HeldOut.from_dict(attributes["held_out_"])
        model.tree_, model.spatial_map_ = tree, spatial_map
        model.module.load_state_dict(state_dict)
        model.to_device(where)
        model.module.eval()
        return model

    @staticmethod
    def _read_saved_data(folder: Path, prefix: str, digest: str | None) -> AnnData | None:
        """The data that was saved with a model, if any was; ``digest`` is its SHA-256."""
        if digest is None:
            return None
        path = find(folder, f"{prefix}{ADATA_FILE}", digest)
        if path is None:
            raise ValueError(
                f"'{prefix}{ADATA_FILE}' in {str(folder)!r} is missing, or was changed since it was saved with the model. "
                "Give `adata`, or `adata=False` for the model alone."
            )
        return read_h5ad(path)

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
        registry = document.get("registry")
        if not isinstance(registry, dict) or not {MODEL_NAME_KEY, SETUP_ARGS_KEY} <= registry.keys():
            raise not_a_model(folder, "it has no registry")
        return registry

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
            Passed to scvi-tools, for example ``unfrozen=True`` to train all weights.

        Returns
        -------
        A model on ``adata``, which can be used as it is. Components and clusters are the reference's; training it (with
        ``plan_kwargs={"weight_decay": 0.0}``) adapts what the networks are told of new batches.

        Raises
        ------
        ValueError
            If genes are missing, or ``adata`` has a label that the reference does not know. ``adata`` is then as it was.

        Notes
        -----
        The encoder is the reference's and is not trained. What training adapts is what the decoder is told of a new
        batch, and with it expression and likelihood; embedding and clusters change only if the reference was made with
        ``encode_covariates=True``, and :meth:`train` warns if it was not.
        """
        if not isinstance(reference_model, cls):
            reference_model = cls.load(reference_model, adata=False)
        reference_model._check_if_trained()
        check.check_anndata(adata)
        genes = pd.Index(reference_model.get_var_names())
        if inplace_subset_query_vars and not adata.var_names.equals(genes):
            if adata.isbacked:
                raise ValueError(
                    "`adata` is on disk, where its genes stay as they are. Call `adata.to_memory()` first."
                )
            check.check_genes(adata.var_names[adata.var_names.isin(genes)].sort_values(), genes.sort_values())
            reference_model._check_new_data(adata[:, genes], new_batches=True)
            adata._inplace_subset_var(genes)
        else:
            reference_model._check_new_data(adata, new_batches=True)
        model = super().load_query_data(adata, reference_model, **kwargs)
        # components and clusters are the reference's
        model.is_trained_ = model.is_query_ = True
        model._reference_cells = known_cells(reference_model)
        encoder_is_frozen = not kwargs.get("unfrozen") and kwargs.get("freeze_expression", True)
        model._embedding_is_fixed = encoder_is_frozen and not model.module.encode_covariates
        return model

    def _warn_of_fixed_embedding(self) -> None:
        """Warn before the training of a query that can move no cell."""
        if getattr(self, "_embedding_is_fixed", False):
            warnings.warn(
                "Training this query changes neither embedding nor clusters: its encoder is the reference's and is not "
                "told of batches. It adapts the decoder, so expression and likelihood. Make the reference with "
                "`encode_covariates=True`, or give `unfrozen=True` to `load_query_data`, to adapt the embedding, too.",
                UserWarning,
                stacklevel=3,
            )

    @staticmethod
    def prepare_query_anndata(adata: AnnData, reference_model, return_reference_var_names: bool = False, inplace=True):
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
            from rmve.model import RMVE

            reference_model = RMVE.load(reference_model, adata=False)
        if not return_reference_var_names:
            check.check_anndata(adata, allow_view=not inplace)
            if adata.isbacked:
                raise ValueError("`adata` is on disk, where no genes can be added. Call `adata.to_memory()` first.")
            check.check_structures(adata)
        return ArchesMixin.prepare_query_anndata(adata, reference_model, return_reference_var_names, inplace)

    @staticmethod
    def prepare_query_mudata(*args, **kwargs) -> None:
        """Not available: RMVE takes AnnData; see :meth:`prepare_query_anndata`.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError("RMVE takes AnnData, not MuData. Use `RMVE.prepare_query_anndata` with one modality.")
