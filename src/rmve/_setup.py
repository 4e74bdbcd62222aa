"""What AnnData holds, and where: the registration of a model's data."""

from __future__ import annotations

from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from rmve import _validation as check
from rmve._compat import (
    CategoricalJointObsField,
    CategoricalObsField,
    LabelsWithUnlabeledObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)
from rmve._fields import PositionsField


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
        setup_method_args = cls._get_setup_method_args(**locals())
        check.check_anndata(adata)
        keys = {"layer": layer, "batch_key": batch_key, "labels_key": labels_key, "size_factor_key": size_factor_key}
        for name, key in (keys | {"spatial_key": spatial_key, "neighbors_key": neighbors_key}).items():
            if key is not None:
                check.check_string(name, key)
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
        if labels_key is None:
            labels = CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, None)
        else:
            labels = LabelsWithUnlabeledObsField(REGISTRY_KEYS.LABELS_KEY, labels_key, unlabeled_category)
        fields = [
            # `RMVE` checks the values once it knows the likelihood
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            labels,
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, categorical_covariate_keys),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, continuous_covariate_keys),
        ]
        if spatial_key is not None:
            fields.append(PositionsField(spatial_key))
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def _setup_arg(self, name: str) -> object:
        return self.registry_["setup_args"].get(name)

    def _label_names(self) -> list[str]:
        """Known cell types, in the order of their components; empty without labels."""
        if self._setup_arg("labels_key") is None:
            return []
        state = self.registry_["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
        return [str(name) for name in state["categorical_mapping"] if name != state["unlabeled_category"]]
