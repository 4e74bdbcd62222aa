"""Likelihoods of genes by name. A new one is a class in :data:`LIKELIHOODS`; see the guide, *Extending RMVE*."""

from rmve.likelihoods._base import Likelihood
from rmve.likelihoods._bernoulli import Bernoulli
from rmve.likelihoods._counts import CountLikelihood
from rmve.likelihoods._negative_binomial import NegativeBinomial
from rmve.likelihoods._normal import Normal
from rmve.likelihoods._poisson import Poisson
from rmve.likelihoods._zero_inflated import ZeroInflatedNegativeBinomial

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "CountLikelihood",
    "Likelihood",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "get_likelihood",
]

#: Class of each likelihood by its name, the default first.
LIKELIHOODS: dict[str, type[Likelihood]] = {
    likelihood.name: likelihood
    for likelihood in (NegativeBinomial, ZeroInflatedNegativeBinomial, Poisson, Normal, Bernoulli)
}


def get_likelihood(name: str) -> Likelihood:
    """The likelihood of a name.

    Parameters
    ----------
    name
        Key of :data:`LIKELIHOODS`.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in tuple(LIKELIHOODS):
        raise ValueError(
            f"`gene_likelihood` must be one of {', '.join(map(repr, LIKELIHOODS))}; got {name!r}. Register another one in "
            "`rmve.likelihoods.LIKELIHOODS` first."
        )
    return LIKELIHOODS[name]()
