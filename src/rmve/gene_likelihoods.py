"""What a cell's data are drawn from, given the decoder's output: the likelihoods of genes, by name."""

from __future__ import annotations

import torch
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from torch import Tensor

from rmve.maths import count_likelihoods, likelihoods
from rmve.maths.sparse_rows import SparseRows

COUNT_LIKELIHOODS = ("nb", "zinb", "poisson")
GENE_LIKELIHOODS = (*COUNT_LIKELIHOODS, "normal", "bernoulli")


class Bernoulli(torch.distributions.Bernoulli):
    """torch's Bernoulli with the accessor that scvi-tools expects of a likelihood."""

    def get_normalized(self, key: str) -> Tensor:
        """Success probability, whichever of scvi-tools' keys is asked for."""
        return self.probs


def distribution_of(
    kind: str, parameters: dict[str, Tensor], library: Tensor | None, log_dispersion: Tensor | None
) -> torch.distributions.Distribution:
    """``p(x|z)`` as a distribution of scvi-tools.

    Parameters
    ----------
    kind
        One of :data:`GENE_LIKELIHOODS`.
    parameters
        From :meth:`rmve.module.RMVEModule.generative`.
    library
        Log total of each cell, shape ``(B, 1)``, for counts.
    log_dispersion
        Log inverse dispersion of counts, log variance of normals, shape ``(G,)``; ``None`` for the others.
    """
    if kind == "bernoulli":
        return Bernoulli(logits=parameters["location"])
    if kind == "normal":
        mean = parameters["location"]
        return Normal(mean, (0.5 * log_dispersion).exp(), normal_mu=mean)
    mu, scale = parameters["log_mu"].exp(), (parameters["log_mu"] - library).exp()
    if kind == "poisson":
        return Poisson(rate=mu, scale=scale)
    theta = log_dispersion.exp()
    if kind == "nb":
        return NegativeBinomial(mu=mu, theta=theta, scale=scale)
    return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=parameters["zero_logits"], scale=scale)


def log_likelihood_of(
    kind: str, x: Tensor | SparseRows, parameters: dict[str, Tensor], log_dispersion: Tensor | None
) -> Tensor:
    """``log p(x|z)`` summed over genes.

    Parameters
    ----------
    kind, log_dispersion
        As for :func:`distribution_of`.
    x
        Shape ``(B, G)``. Sparse counts go with parameters that hold the logits of a softmax.
    parameters
        From :meth:`rmve.module.RMVEModule.generative`, for one draw or ``S`` of them.

    Returns
    -------
    Tensor of shape ``(B,)`` or ``(S, B)``, in nats.
    """
    if "logits" in parameters:
        return _of_sparse_counts(kind, x, parameters, log_dispersion)
    first = next(iter(parameters.values()))
    shape = first.shape[:-1]
    x = x.expand(first.shape).reshape(-1, x.shape[-1])
    flat = {name: value.reshape(-1, value.shape[-1]) for name, value in parameters.items()}
    match kind:
        case "nb":
            value = likelihoods.negative_binomial(x, flat["log_mu"], log_dispersion)
        case "zinb":
            value = likelihoods.zero_inflated_negative_binomial(x, flat["log_mu"], log_dispersion, flat["zero_logits"])
        case "poisson":
            value = likelihoods.poisson(x, flat["log_mu"])
        case "normal":
            value = likelihoods.normal(x, flat["location"], log_dispersion)
        case _:
            value = likelihoods.bernoulli(x, flat["location"])
    return value.reshape(shape)


def _of_sparse_counts(
    kind: str, counts: SparseRows, parameters: dict[str, Tensor], log_dispersion: Tensor | None
) -> Tensor:
    def one(logits: Tensor, zero_logits: Tensor | None) -> Tensor:
        arguments = counts, logits, parameters["library"]
        match kind:
            case "nb":
                return count_likelihoods.negative_binomial(*arguments, log_dispersion)
            case "zinb":
                return count_likelihoods.zero_inflated_negative_binomial(*arguments, log_dispersion, zero_logits)
            case _:
                return count_likelihoods.poisson(*arguments)

    logits, zero_logits = parameters["logits"], parameters.get("zero_logits")
    if logits.dim() == 2:
        return one(logits, zero_logits)
    draws = range(len(logits))
    return torch.stack([one(logits[s], None if zero_logits is None else zero_logits[s]) for s in draws])
