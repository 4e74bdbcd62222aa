"""What AnnData holds, and where: the registration of a model's data."""

from __future__ import annotations

from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from rmve import _validation as check
from rmve._compat import (
    MODEL_NAME_KEY,
    SETUP_ARGS_KEY,
    SETUP_METHOD_KEY,
    UUID_KEY,
    CategoricalJointObsField,
    CategoricalObsField,
    LabelsWithUnlabeledObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)
from rmve._fields import PositionsField
from rmve._snapshot import Snapshot

#: Parts of a registry that say which method was called with which arguments.
DESCRIPTION = (MODEL_NAME_KEY, SETUP_METHOD_KEY, SETUP_ARGS_KEY)
#: Beginning of the names of what scvi-tools notes in AnnData for itself.
SCVI_NOTES = "_scvi"


class SetupMixin:
    """Part of :class:`rmve.RMVE` that is told where things are in AnnData, and looks them up."""

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
            Columns of ``adata.obs`` that the decoder is told, beside the batch.
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
        check.check_anndata(adata)
        keys = {"layer": layer, "batch_key": batch_key, "labels_key": labels_key, "size_factor_key": size_factor_key}
        for name, key in (keys | {"spatial_key": spatial_key, "neighbors_key": neighbors_key}).items():
            if key is not None:
                check.check_string(name, key)
        if "source_registry" not in kwargs:  # who sets up new data for an old model has looked at its values
            check.check_finite(adata, layer)
        check.check_columns(
            adata,
            batch_key,
            None if kwargs.get("allow_missing_labels") and labels_key not in adata.obs else labels_key,
            size_factor_key,
            categorical_covariate_keys,
            continuous_covariate_keys,
        )
        if labels_key is not None:
            check.check_labels(adata, labels_key, unlabeled_category)
        if "source_registry" not in kwargs:  # new data for an old model needs neither graph nor positions
            if spatial_key is not None:
                check.get_coordinates(adata, spatial_key)
                if batch_key is not None:
                    check.warn_of_mixed_units(adata, spatial_key, batch_key)
            if neighbors_key is not None:
                check.find_graph(adata, neighbors_key)
        arguments = setup_method_args[SETUP_ARGS_KEY]
        manager = AnnDataManager(fields=_fields(arguments), setup_method_args=setup_method_args)
        _forget_the_original(cls, adata)
        manager.register_fields(adata, **kwargs)
        manager.snapshot = Snapshot.take(adata, arguments)
        cls.register_manager(manager)

    @classmethod
    def _check_set_up(cls, adata: AnnData) -> None:
        """Raise unless this very object went through ``setup_anndata`` of this class, and is as it was then."""
        check.check_anndata(adata)
        try:
            manager = cls._get_most_recent_anndata_manager(adata, required=False)
        except ValueError:
            raise ValueError(
                "`adata` is a copy of an AnnData that was set up. Call `RMVE.setup_anndata` on the copy, too."
            ) from None
        if manager is None:
            raise ValueError("`adata` is not set up. Call `RMVE.setup_anndata(adata, ...)` first.")
        _check_unchanged(manager)

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

    def _check_unchanged(self) -> None:
        """Raise ValueError if the model's data is not as it was when it was set up."""
        _check_unchanged(self.adata_manager)

    def _register_new_cells(self, adata: AnnData) -> AnnData:
        """New cells in an object of the model's own, registered like its data; ``adata`` gets no notes of it.

        The object shares the matrices, and lives as long as the method that asked for it needs it.
        """
        if adata.is_view:
            adata = adata.to_memory() if adata.isbacked else adata.copy()
        parts = {name: dict(getattr(adata, name)) for name in ("layers", "obsm")}
        obs = adata.obs[[name for name in adata.obs if not str(name).startswith(SCVI_NOTES)]].copy()
        own = AnnData(adata.X, obs=obs, var=adata.var, **parts)
        arguments = self.registry_[SETUP_ARGS_KEY]
        described = {name: value for name, value in self.registry_.items() if name in DESCRIPTION}
        manager = AnnDataManager(fields=_fields(arguments), setup_method_args=described)
        manager.register_fields(own, self.registry_, allow_missing_labels=True)
        self._register_manager_for_instance(manager)
        return own

    def _setup_arg(self, name: str) -> object:
        return self.registry_["setup_args"].get(name)

    def _label_names(self) -> list[str]:
        """Known cell types, in the order of their components; empty without labels."""
        if self._setup_arg("labels_key") is None:
            return []
        state = self.registry_["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
        return [str(name) for name in state["categorical_mapping"] if name != state["unlabeled_category"]]


def _fields(arguments: dict) -> list:
    """What scvi-tools registers for arguments of ``setup_anndata``."""
    labels_key, spatial_key = arguments.get("labels_key"), arguments.get("spatial_key")
    if labels_key is None:
        labels = CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, None)
    else:
        labels = LabelsWithUnlabeledObsField(REGISTRY_KEYS.LABELS_KEY, labels_key, arguments["unlabeled_category"])
    fields = [
        # `RMVE` checks the values once it knows the likelihood
        LayerField(REGISTRY_KEYS.X_KEY, arguments.get("layer"), is_count_data=False),
        CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, arguments.get("batch_key")),
        labels,
        NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, arguments.get("size_factor_key"), required=False),
        CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, arguments.get("categorical_covariate_keys")),
        NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, arguments.get("continuous_covariate_keys")),
    ]
    return fields if spatial_key is None else [*fields, PositionsField(spatial_key)]


def _forget_the_original(cls: type, adata: AnnData) -> None:
    """Remove the identity that a copy took over: scvi-tools would take the copy's place for the original's."""
    known = cls._setup_adata_manager_store.get(adata.uns.get(UUID_KEY))
    if known is not None and known.adata is not adata:
        del adata.uns[UUID_KEY]


def _check_unchanged(manager: AnnDataManager) -> None:
    arguments = manager.registry[SETUP_ARGS_KEY]
    changed = manager.snapshot.changes(Snapshot.take(manager.adata, arguments))
    if changed:
        places = ", ".join(f"`{place}`" for place in changed)
        raise ValueError(
            f"`adata` changed since `setup_anndata`: {places}. Call `RMVE.setup_anndata` again and make a new model; to "
            "ask a trained one about the cells as they are now, give it `adata.copy()`."
        )
