"""A model and the cells that it meets: registered before training, checked whenever a method reads them."""

from __future__ import annotations

import weakref
from uuid import uuid4

import numpy as np
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.model.base import ArchesMixin, BaseModelClass, RNASeqMixin, UnsupervisedTrainingMixin, VAEMixin

from rmve import _validation as check
from rmve._compat import SETUP_ARGS_KEY, UUID_KEY
from rmve.model import _managers as managers
from rmve.model import _query as query
from rmve.model import _setup as setup


class RegisteredModel(RNASeqMixin, VAEMixin, ArchesMixin, UnsupervisedTrainingMixin, BaseModelClass):
    """A model of scvi-tools that checks all cells it is given, and keeps none of them.

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
        setup.check_new_cells(adata, self.registry_, self.var_names_, self.module.likelihood.name)
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
