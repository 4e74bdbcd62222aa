"""What AnnData holds, and where: the registration of cells to train on, and of new ones."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from rmve import _validation as check
from rmve._compat import (
    MANAGER_KEY,
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
from rmve.data.checksums import array_checksum
from rmve.model._fields import PositionsField
from rmve.model._snapshot import Snapshot, registered_columns

#: Parts of a registry that say which method was called with which arguments.
DESCRIPTION = (MODEL_NAME_KEY, SETUP_METHOD_KEY, SETUP_ARGS_KEY)
#: Beginning of the names of what scvi-tools notes in AnnData for itself.
SCVI_NOTES = "_scvi"
#: What the values of cells are like that scvi-tools is about to set up and that were looked at just before.
_LOOKED_AT: ContextVar[check.Values | None] = ContextVar("looked_at", default=None)


@contextlib.contextmanager
def looked_at(values: check.Values) -> Iterator[None]:
    """Set up cells meanwhile without another look at their values."""
    token = _LOOKED_AT.set(values)
    try:
        yield
    finally:
        _LOOKED_AT.reset(token)


def check_setup(adata: AnnData, arguments: dict, missing_labels: bool, transferred: bool) -> check.Values:
    """What the values are like; raise unless arguments of ``setup_anndata`` fit the data.

    Parameters
    ----------
    adata
        Cells.
    arguments
        Arguments of :meth:`rmve.RMVE.setup_anndata` but ``adata``.
    missing_labels
        Whether the column of labels may be missing.
    transferred
        Whether the cells are registered like those of a model: they need neither graph nor positions.
    """
    check.check_anndata(adata)
    layer, batch_key, labels_key = (arguments[name] for name in ("layer", "batch_key", "labels_key"))
    for name in ("layer", "batch_key", "labels_key", "size_factor_key", "spatial_key", "neighbors_key"):
        if arguments[name] is not None:
            check.check_string(name, arguments[name])
    values = _LOOKED_AT.get() or check.check_finite(adata, layer)
    check.check_columns(
        adata,
        batch_key,
        None if missing_labels and labels_key not in adata.obs else labels_key,
        arguments["size_factor_key"],
        arguments["categorical_covariate_keys"],
        arguments["continuous_covariate_keys"],
    )
    if labels_key is not None:
        check.check_labels(adata, labels_key, arguments["unlabeled_category"])
    if transferred:
        return values
    if arguments["spatial_key"] is not None:
        check.get_coordinates(adata, arguments["spatial_key"])
        if batch_key is not None:
            check.warn_of_mixed_units(adata, arguments["spatial_key"], batch_key)
    if arguments["neighbors_key"] is not None:
        check.find_graph(adata, arguments["neighbors_key"])
    return values


def register_training_cells(adata: AnnData, values: check.Values, setup_method_args: dict, **kwargs) -> AnnDataManager:
    """Manager of cells to train on, with a snapshot of what was registered, and what the values are like.

    Parameters
    ----------
    adata
        Cells.
    values
        From :func:`check_setup`.
    setup_method_args
        Name and arguments of the set-up, as scvi-tools notes them.
    **kwargs
        Passed to scvi-tools' ``register_fields``.
    """
    arguments = setup_method_args[SETUP_ARGS_KEY]
    manager = AnnDataManager(fields=_fields(arguments), setup_method_args=setup_method_args)
    with _used_categories(adata, registered_columns(arguments)):
        manager.register_fields(adata, **kwargs)
    manager.snapshot, manager.values = Snapshot.take(adata, arguments), values
    manager.notes, manager.uuid = _notes(manager), adata.uns[UUID_KEY]
    return manager


@contextlib.contextmanager
def _used_categories(adata: AnnData, keys: Iterable[str]) -> Iterator[None]:
    """Hide the categories that no cell has: a batch or type without cells is nothing that a model could learn."""
    columns = {key: adata.obs[key] for key in keys if key in adata.obs}
    unused = {
        key: column
        for key, column in columns.items()
        if isinstance(column.dtype, pd.CategoricalDtype) and column.nunique() < len(column.cat.categories)
    }
    try:
        for key, column in unused.items():
            adata.obs[key] = column.cat.remove_unused_categories()
        yield
    finally:
        for key, column in unused.items():
            adata.obs[key] = column


def register_new_cells(adata: AnnData, registry: dict) -> AnnDataManager:
    """Manager of new cells, registered like those of a model; ``adata`` gets no notes of it.

    Parameters
    ----------
    adata
        New cells that :func:`check_new_cells` has passed.
    registry
        Registry of the model.

    Returns
    -------
    Manager of an AnnData of its own, which shares the matrices and has neither graphs nor ``uns``.
    """
    if adata.is_view:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    parts = {name: dict(getattr(adata, name)) for name in ("layers", "obsm")}
    obs = adata.obs[[name for name in adata.obs if not str(name).startswith(SCVI_NOTES)]].copy()
    own = AnnData(adata.X, obs=obs, var=adata.var, **parts)
    manager = AnnDataManager(fields=_fields(registry[SETUP_ARGS_KEY]), setup_method_args=description(registry))
    manager.register_fields(own, registry, allow_missing_labels=True)
    return manager


def check_new_cells(
    adata: AnnData, registry: dict, var_names: list[str], likelihood: str, new_batches: bool = False
) -> check.Values:
    """What the values are like; raise unless new cells have a model's genes, layer, columns, and known batches and labels.

    Parameters
    ----------
    adata
        New cells; they may be a view.
    registry
        Registry of the model.
    var_names
        Genes of the model.
    likelihood
        ``gene_likelihood`` of the model.
    new_batches
        Whether batches may be unknown to the model.
    """
    arguments, states = registry[SETUP_ARGS_KEY], registry["field_registries"]
    check.check_anndata(adata, allow_view=True)
    check.check_genes(adata.var_names, var_names)
    layer, batch_key, labels_key = (arguments.get(name) for name in ("layer", "batch_key", "labels_key"))
    values = check.check_finite(adata, layer)
    check.check_values(adata, layer, likelihood, values)
    check.check_columns(
        adata,
        batch_key,
        labels_key if labels_key in adata.obs else None,
        arguments.get("size_factor_key"),
        arguments.get("categorical_covariate_keys"),
        arguments.get("continuous_covariate_keys"),
    )
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
    return values


def description(registry: dict) -> dict:
    """Class, method and arguments by which the data of a registry was set up."""
    return {name: value for name, value in registry.items() if name in DESCRIPTION}


def check_unchanged(manager: AnnDataManager) -> None:
    """Raise ValueError if data is not as it was when it was set up; put back what scvi-tools noted in it then."""
    arguments = manager.registry[SETUP_ARGS_KEY]
    changed = manager.snapshot.changes(Snapshot.take(manager.adata, arguments))
    if changed:
        places = ", ".join(f"`{place}`" for place in changed)
        raise ValueError(
            f"`adata` changed since `setup_anndata`: {places}. Call `RMVE.setup_anndata` again and make a new model; to "
            "ask a trained one about the cells as they are now, give it `adata.copy()`."
        )
    known = {UUID_KEY: manager.uuid, MANAGER_KEY: manager.id}
    if _notes(manager) == manager.notes and all(manager.adata.uns.get(name) == value for name, value in known.items()):
        return
    manager.adata.uns[UUID_KEY] = manager.uuid
    adata, manager.adata = manager.adata, None
    # categories keep their numbers, also if they are in another order by now
    manager.register_fields(adata, copy.deepcopy(manager.registry), allow_missing_labels=True)


def _notes(manager: AnnDataManager) -> dict[tuple[str, str], object]:
    """Checksums of what scvi-tools noted in ``obs`` and ``obsm``; another set-up, of whatever model, writes over it."""
    fields = [field for field in manager.data_registry.values() if str(field.attr_key).startswith(SCVI_NOTES)]
    parts = {(field.attr_name, field.attr_key): getattr(manager.adata, field.attr_name) for field in fields}
    return {place: array_checksum(part[place[1]]) if place[1] in part else None for place, part in parts.items()}


def names_of_labels(registry: dict) -> tuple[str, ...]:
    """Known cell types, in the order of their components; empty without labels."""
    if registry[SETUP_ARGS_KEY].get("labels_key") is None:
        return ()
    state = registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
    return tuple(str(name) for name in state["categorical_mapping"] if name != state["unlabeled_category"])


def label_codes(manager: AnnDataManager) -> np.ndarray:
    """Component of each labelled cell, -1 for the others, shape ``(n,)``."""
    n_labels = len(names_of_labels(manager.registry))
    if n_labels == 0:
        return np.full(manager.adata.n_obs, -1)
    codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
    return np.where(codes < n_labels, codes, -1)


def matrix_of(manager: AnnDataManager):
    """Matrix of the values of cells, in memory or on disk."""
    return check.get_matrix(manager.adata, manager.registry[SETUP_ARGS_KEY].get("layer"))


def median_total(manager: AnnDataManager) -> float:
    """Median number of counts of the training cells, which counts are normalised to."""
    return float(np.median(manager.values.totals))


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
