"""A saved model: what is written beside its weights, and how it is read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData, read_h5ad

from rmve._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY
from rmve._document import check_document, check_sizes, check_weights, read_map, read_names, read_tree
from rmve._files import find, is_private
from rmve._serialization import not_a_model, read_model
from rmve.clusters._clusters import Clusters
from rmve.clusters.levels import MergeTree
from rmve.model._held_out import HeldOut
from rmve.model._query import check_saved_options
from rmve.module import RMVEModule
from rmve.spatial import SpatialMap

ADATA_FILE = "adata.h5ad"
#: Attributes of a model that are saved as they are, beside its weights, registry and options.
SAVED = (
    "is_trained_",
    "is_query_",
    "query_options_",
    "history_",
    "train_indices_",
    "validation_indices_",
    "test_indices_",
    "var_names_",
)


@dataclass(frozen=True)
class Known:
    """What a fitted model knows beside its weights.

    Attributes
    ----------
    clusters
        Clusters in use.
    held_out
        Cells whose position was held out of training, and learned.
    tree
        Merges of the components; ``None`` if they are not made yet.
    spatial_map
        Map to coordinates; ``None`` if there is none.
    given_names
        Components of each name that a user gave to a cluster.
    """

    clusters: Clusters
    held_out: HeldOut
    tree: MergeTree | None
    spatial_map: SpatialMap | None
    given_names: dict[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, as they are written to disk."""
        return {
            "clusters": self.clusters.to_dict(),
            "held_out": self.held_out.to_dict(),
            "merge_tree": None if self.tree is None else self.tree.to_dict(),
            "spatial_map": None if self.spatial_map is None else self.spatial_map.to_dict(),
            "given_names": self.given_names,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], n_components: int, n_latent: int) -> Known:
        """Inverse of :meth:`to_dict`.

        Parameters
        ----------
        values
            Content of a file.
        n_components, n_latent
            Sizes of the model.

        Raises
        ------
        ValueError
            If something does not fit the model.
        """
        return cls(
            Clusters.from_dict(values["clusters"], n_components),
            HeldOut.from_dict(values["held_out"]),
            read_tree(values["merge_tree"], n_components),
            read_map(values["spatial_map"], n_latent, n_components),
            read_names(values["given_names"], n_components),
        )


@dataclass(frozen=True)
class Saved:
    """A saved model, read and found to be whole.

    Attributes
    ----------
    weights
        State of its networks.
    document
        Everything else in its files.
    known
        What it knows.
    likelihood
        Name of its likelihood.
    """

    weights: dict[str, Any]
    document: dict[str, Any]
    known: Known
    likelihood: str

    @property
    def registry(self) -> dict[str, Any]:
        """How its data was set up."""
        return self.document["registry"]

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of its class."""
        return self.document["init_params"]

    @property
    def attributes(self) -> dict[str, Any]:
        """Values of :data:`SAVED`."""
        return self.document["attributes"]


def read_saved(folder: Path, prefix: str, device: torch.device, model_cls: Any) -> Saved:
    """A saved model of a class; nothing in its files is executed.

    Parameters
    ----------
    folder, prefix
        Where the model is.
    device
        Where to put its weights.
    model_cls
        Class of the model.

    Raises
    ------
    FileNotFoundError
        If there is no saved model.
    ValueError
        If the files are not a model of this class, or not as they were saved.
    """
    weights, document = read_model(folder, prefix, device)
    try:
        arguments = set(signature(model_cls).parameters), set(signature(model_cls.setup_anndata).parameters)
        check_document(document, SAVED, *arguments)
        check_sizes(document, weights)
        check_saved_options(document["attributes"])
    except ValueError as error:
        raise not_a_model(folder, error) from error
    check_registry(document["registry"], folder, model_cls.__name__)
    try:
        with torch.device("meta"):  # takes no memory
            empty = model_cls(None, registry=copy.deepcopy(document["registry"]), **document["init_params"]).module
            give_components(empty, weights)
        known = Known.from_dict(document, empty.n_components, empty.n_latent)
    except Exception as error:
        raise not_a_model(folder, error) from error
    return Saved(weights, document, known, empty.likelihood.name)


def to_document(options: dict, registry: dict, attributes: dict, known: Known) -> dict[str, object]:
    """All of a model but its weights.

    Parameters
    ----------
    options
        Arguments of the model's class.
    registry
        How its data was set up.
    attributes
        Values of :data:`SAVED`.
    known
        What it knows.
    """
    return {
        "rmve_version": version("rmve"),
        "init_params": options,
        "registry": registry,
        "attributes": attributes,
        **known.to_dict(),
    }


def check_registry(registry: Mapping[str, Any], folder: Path, name: str) -> None:
    """Raise ValueError if a registry is that of a model of another class."""
    if registry[MODEL_NAME_KEY] != name:
        raise ValueError(f"{str(folder)!r} holds a {registry[MODEL_NAME_KEY]} model. Load it with that class.")


def has_registry(document: Mapping[str, object]) -> bool:
    """Whether a document holds the registry of a model."""
    registry = document.get("registry")
    return isinstance(registry, dict) and {MODEL_NAME_KEY, SETUP_ARGS_KEY} <= registry.keys()


def give_components(module: RMVEModule, state_dict: Mapping) -> None:
    """Give a module as many components as saved weights have; ValueError if the weights do not fit it then."""
    mean = state_dict.get("mixture.mean")
    if mean is None or mean.ndim != 2 or not len(mean):
        raise ValueError("its weights have no components")
    if len(mean) != module.n_components:
        module.set_n_components(len(mean))
    check_weights(module.state_dict(), state_dict)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError if a folder holds something that is not to be overwritten."""
    if not overwrite and folder.exists() and any(not is_private(path) for path in folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} already exists. Choose another folder or set `overwrite=True`.")


def read_saved_data(folder: Path, prefix: str, digest: str | None) -> AnnData | None:
    """The data that was saved with a model, if any was.

    Parameters
    ----------
    folder, prefix
        Where the model is.
    digest
        SHA-256 of the file; ``None`` if there is none.
    """
    if digest is None:
        return None
    path = find(folder, f"{prefix}{ADATA_FILE}", digest)
    if path is None:
        raise ValueError(
            f"'{prefix}{ADATA_FILE}' in {str(folder)!r} is missing, or was changed since it was saved with the model. "
            "Give `adata`, or `adata=False` for the model alone."
        )
    return read_h5ad(path)
