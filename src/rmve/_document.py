"""What ``model.json`` must hold, checked before it is used: a file of a stranger gives an error, not a model that fails later."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch

from rmve._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY
from rmve.clusters.levels import MergeTree
from rmve.spatial import KINDS, SpatialMap

#: Fields of the registry without which no model can be built.
FIELDS = ("X", "batch", "labels", "size_factor", "extra_categorical_covs", "extra_continuous_covs")
#: Dimensions of the arrays of a spatial map: axes, latent dimensions and components.
MAP_SHAPES = {
    "coef_": "ad",
    "intercept_": "a",
    "mean_": "d",
    "leverage_": "dd",
    "slope_": "a",
    "residual_sd_": "a",
    "r2_": "a",
    "cluster_sd_": "ka",
    "cluster_coef_": "kad",
    "cluster_intercept_": "ka",
}


def check_document(
    document: dict, attributes: tuple[str, ...], init_options: set[str], setup_options: set[str]
) -> None:
    """Raise ValueError unless a document has all parts of a model, each of its kind.

    Parameters
    ----------
    document
        From :func:`rmve._serialization.read_model`.
    attributes
        Names of the attributes that are saved.
    init_options, setup_options
        Arguments of the class and of its ``setup_anndata``.
    """
    registry: Any = document.get("registry")
    init_params: Any = document.get("init_params")
    _require(isinstance(registry, dict) and isinstance(registry.get("field_registries"), dict), "it has no registry")
    _require(isinstance(registry.get(MODEL_NAME_KEY), str), "it has no class")
    setup_args: Any = registry.get(SETUP_ARGS_KEY)
    _require(isinstance(setup_args, dict) and set(setup_args) <= setup_options, "it was set up with unknown options")
    for name in FIELDS:
        field = registry["field_registries"].get(name)
        parts = ("data_registry", "state_registry", "summary_stats")
        fits = isinstance(field, dict) and all(isinstance(field.get(part), dict) for part in parts)
        _require(fits, f"its registry has no {name!r}")
    _require(isinstance(init_params, dict), "it has no options")
    unknown = sorted(map(str, set(init_params) - init_options))
    _require(not unknown, f"unknown options {unknown}")
    values: Any = document.get("attributes")
    _require(isinstance(values, dict) and set(attributes) <= set(values), "it lacks attributes")
    _check_attributes(values)
    known = {"clusters", "held_out", "merge_tree", "spatial_map", "given_names"}
    _require(known <= set(document), "it lacks parts, or was saved by an earlier version of RMVE")


def _check_attributes(values: Mapping[str, Any]) -> None:
    for name in ("is_trained_", "is_query_"):
        _require(isinstance(values[name], bool), f"{name!r} is not true or false")
    history = values["history_"]
    frames = isinstance(history, dict) and all(isinstance(frame, pd.DataFrame) for frame in history.values())
    _require(history is None or frames, "its history is none")
    for name in ("train_indices_", "validation_indices_", "test_indices_"):
        rows = values[name]
        _require(rows is None or (isinstance(rows, np.ndarray) and rows.ndim == 1), f"{name!r} are no rows")
        _require(
            rows is None or not rows.size or (rows.dtype.kind in "iu" and rows.min() >= 0), f"{name!r} are no rows"
        )
    genes = values["var_names_"]
    _require(_are_names(genes) and len(genes) > 0, "its genes are no names, or some are there twice")


def check_sizes(document: dict, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if a document asks for more than there are weights: before memory is taken for a network."""
    most = max((tensor.numel() for tensor in state_dict.values()), default=0)
    fields = document["registry"]["field_registries"]
    sizes = dict(document["init_params"])
    for field in fields.values():
        stats = field.get("summary_stats") if isinstance(field, dict) else None
        sizes |= {name: value for name, value in (stats or {}).items() if name not in ("n_cells", "n_labels")}
    numbers = fields["extra_categorical_covs"]["state_registry"].get("n_cats_per_key", [])
    _require(isinstance(numbers, list | np.ndarray) and len(numbers) <= most, "its covariates do not fit its weights")
    sizes |= {f"categories {i}": value for i, value in enumerate(numbers)}
    for name, value in sizes.items():
        limit = len(state_dict) if name == "n_layers" else most
        if isinstance(value, int | float) and not isinstance(value, bool):
            _require(abs(value) <= limit, f"`{name}={value}` does not fit its weights")


def check_weights(expected: Mapping[str, torch.Tensor], state_dict: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless weights have the names, shapes and types of a network's, and are finite numbers."""
    _require(set(expected) == set(state_dict), "its weights have other names than its network's")
    for name, tensor in state_dict.items():
        _require(
            tensor.shape == expected[name].shape and tensor.layout == torch.strided,
            f"{name!r} has the shape {tuple(tensor.shape)}, and the network {tuple(expected[name].shape)}",
        )
        _require(tensor.is_floating_point() == expected[name].is_floating_point(), f"{name!r} has another type")
        _require(bool(torch.isfinite(tensor).all()), f"{name!r} holds NaN or infinite values")


def read_tree(values: Any, n_components: int) -> MergeTree | None:
    """The merge tree of a document, if it is one of as many components; ``None`` if it has none.

    Raises
    ------
    ValueError
        If it is not.
    """
    if values is None:
        return None
    tree = MergeTree.from_dict(values)
    _require(tree.n_components == n_components, "its merge tree does not fit its components")
    return tree


def read_map(values: Any, n_latent: int, n_components: int) -> SpatialMap | None:
    """The spatial map of a document, whose arrays fit together and to the model; ``None`` if it has none.

    Raises
    ------
    ValueError
        If they do not.
    """
    if values is None:
        return None
    try:
        smap = SpatialMap.from_dict(values)
    except (KeyError, TypeError) as error:
        raise ValueError("its spatial map has another layout") from error
    _require(smap.kind in KINDS, "its spatial map is of no known kind")
    arrays = {name: getattr(smap, name) for name in MAP_SHAPES}
    plain = all(isinstance(array, np.ndarray) and array.dtype.kind in "fiu" for array in arrays.values())
    _require(plain and smap.coef_.ndim == 2, "its spatial map holds no numbers")
    sizes = {"a": len(smap.coef_), "d": n_latent, "k": n_components}
    for name, array in arrays.items():
        without_clusters = array.size == 0 and "k" in MAP_SHAPES[name] and smap.kind == "linear"
        fits = without_clusters or array.shape == tuple(sizes[axis] for axis in MAP_SHAPES[name])
        finite = name == "r2_" or np.isfinite(array).all()
        _require(array.ndim > 0 and fits and finite, f"{name!r} of its spatial map does not fit the model")
    for name in ("error_", "error_fraction_", "distance_correlation_", "p_value_", "n_judged_", "n_cells_"):
        _require(isinstance(getattr(smap, name), Real), f"{name!r} of its spatial map is no number")
    return smap


def read_names(values: Any, n_components: int) -> dict[str, list[int]]:
    """Names that were given to clusters, each with its components.

    Raises
    ------
    ValueError
        If they are none.
    """
    fits = isinstance(values, dict) and all(
        isinstance(part, list) and all(type(number) is int and 0 <= number < n_components for number in part)
        for part in values.values()
    )
    _require(fits, "the names given to its clusters are none")
    return values


def _are_names(values: object) -> bool:
    return (
        isinstance(values, list) and all(isinstance(name, str) for name in values) and len(set(values)) == len(values)
    )


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise ValueError(reason)
