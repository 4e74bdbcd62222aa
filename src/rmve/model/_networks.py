"""Options of a model, and the sizes of its networks that follow from its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anndata import AnnData
from scvi import REGISTRY_KEYS

from rmve import _validation as check
from rmve.data.on_disk import share_of_zeros
from rmve.defaults import default_input_dropout
from rmve.likelihoods import get_likelihood
from rmve.maths.estimators import ESTIMATORS
from rmve.maths.repulsion import REPULSIONS
from rmve.module import POSTERIORS


def check_options(options: Mapping[str, Any]) -> None:
    """Raise unless the options of a model exist and are in their range; ``n_components`` is checked with the data.

    Raises
    ------
    TypeError, ValueError
        If not.
    """
    get_likelihood(options["gene_likelihood"])
    check.check_choice("posterior", options["posterior"], POSTERIORS)
    check.check_choice("estimator", options["estimator"], ESTIMATORS)
    check.check_choice("repulsion", options["repulsion"], (*REPULSIONS, None))
    for name in ("n_latent", "n_hidden", "n_layers"):
        check.check_positive_int(name, options[name])
    for name in ("dropout_rate", "input_dropout"):
        if name == "dropout_rate" or options[name] is not None:
            check.check_number(name, options[name], 0.0, 1.0, with_high=False)
    check.check_flag("encode_covariates", options["encode_covariates"])


def input_dropout_for(adata: AnnData | None, layer: str | None, gene_likelihood: str, n_vars: int) -> float:
    """Default of ``input_dropout``, which for counts depends on how many of them are zero.

    Parameters
    ----------
    adata, layer
        Cells to train on, ``None`` for a model without data, and where their values are.
    gene_likelihood
        Option of the model.
    n_vars
        Number of genes.
    """
    counts = adata is not None and get_likelihood(gene_likelihood).takes_counts
    zeros = share_of_zeros(check.get_matrix(adata, layer)) if counts else 1.0
    return default_input_dropout(gene_likelihood, n_vars, zeros)


def sizes(registry: Mapping[str, Any], summary: Any) -> dict[str, Any]:
    """Arguments of :class:`rmve.module.RMVEModule` that follow from the data.

    Parameters
    ----------
    registry
        Registry of the data.
    summary
        scvi-tools' summary of it.
    """
    categorical = registry["field_registries"][REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]
    return {
        "n_input": summary.n_vars,
        "n_spatial": summary.get("n_spatial", 0),
        "n_batch": summary.n_batch,
        "n_cats_per_cov": categorical.get("n_cats_per_key"),
        "n_continuous_cov": summary.get("n_extra_continuous_covs", 0),
    }
