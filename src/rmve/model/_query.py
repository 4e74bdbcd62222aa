"""What training leaves alone in a query: the networks of its reference, but for the parts that read new batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData
from scvi.nn import FCLayers

from rmve import _validation as check
from rmve._compat import freeze_for_query
from rmve.model._setup import check_new_cells
from rmve.module import RMVEModule

#: Options of scvi-tools' ``load_query_data`` that say what is left alone, and what they are if they are not given.
FREEZING = {
    "unfrozen": False,
    "freeze_dropout": False,
    "freeze_expression": True,
    "freeze_decoder_first_layer": True,
    "freeze_batchnorm_encoder": True,
    "freeze_batchnorm_decoder": False,
    "freeze_classifier": True,
}
#: Those of them that RMVE's networks have no part for: only their default is taken.
WITHOUT_PART = ("freeze_decoder_first_layer", "freeze_classifier")
OTHERS = ("accelerator", "device", "transfer_batch")


def check_query_options(options: Mapping[str, object]) -> dict[str, bool]:
    """What is left alone in a query, by the options of ``load_query_data``.

    Raises
    ------
    TypeError
        If there is no such option, or it is neither True nor False.
    ValueError
        If RMVE cannot honour it.
    """
    check.check_names("`load_query_data`", options, {*FREEZING, *OTHERS})
    for name in options.keys() - {"accelerator", "device"}:
        check.check_flag(name, options[name])
    for name in WITHOUT_PART:
        if not options.get(name, True):
            raise ValueError(
                f"`{name}=False` is not supported: RMVE has no such part. Give `unfrozen=True` to train all."
            )
    check.check_device(options.get("accelerator", "auto"), options.get("device", "auto"), single=True)
    return {name: bool(options.get(name, default)) for name, default in FREEZING.items()}


def prepare_cells(
    adata: AnnData, registry: dict, genes: list[str], likelihood: str, subset: bool, new_batches: bool
) -> check.Values:
    """What the values of new cells are like, which get a reference's genes, in its order, if they may be changed.

    Parameters
    ----------
    adata
        New cells.
    registry, genes, likelihood
        Registry, genes and ``gene_likelihood`` of the reference.
    subset
        Whether to reduce ``adata`` to these genes. It is left as it was if a check fails.
    new_batches
        Whether batches may be unknown to the reference.

    Raises
    ------
    TypeError, ValueError
        If the cells do not fit the reference, or are on disk and would have to be changed.
    """
    check.check_anndata(adata)
    if not subset or adata.var_names.equals(pd.Index(genes)):
        return check_new_cells(adata, registry, genes, likelihood, new_batches)
    if adata.isbacked:
        raise ValueError("`adata` is on disk, where its genes stay as they are. Call `adata.to_memory()` first.")
    check.check_genes(adata.var_names[adata.var_names.isin(genes)].sort_values(), sorted(genes))
    values = check_new_cells(adata[:, genes], registry, genes, likelihood, new_batches)
    adata._inplace_subset_var(genes)
    return values


def check_saved_options(attributes: Mapping[str, Any]) -> None:
    """Raise ValueError unless the attributes of a file hold what :func:`check_query_options` returns, or are no query's."""
    options = attributes["query_options_"]
    known = isinstance(options, dict) and options.keys() == FREEZING.keys()
    if not (options is None or (known and all(isinstance(value, bool) for value in options.values()))):
        raise ValueError("what its training leaves alone is unknown")
    if attributes["is_query_"] != (options is not None):
        raise ValueError("it is half a query")


def freeze(module: RMVEModule, options: Mapping[str, bool] | None) -> None:
    """Have training leave alone what options say; ``None`` is for a model that is no query."""
    if options is not None:
        freeze_for_query(module, **options)


def without_hooks(module: RMVEModule) -> RMVEModule:
    """A copy of a query's networks that can be pickled; :func:`freeze` makes it a query's again."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, FCLayers):
            part.hooks = []
    return module


def is_embedding_fixed(module: RMVEModule, options: Mapping[str, bool] | None) -> bool:
    """Whether training moves no cell, since the encoder is a reference's."""
    if options is None or options["unfrozen"] or module.encode_covariates:
        return False
    return options["freeze_expression"] and options["freeze_batchnorm_encoder"]
