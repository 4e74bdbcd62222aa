"""Likelihoods of genes against the distributions of scvi-tools."""

from __future__ import annotations

import pytest
import torch
from scvi import REGISTRY_KEYS

from rmve.likelihoods import LIKELIHOODS, CountLikelihood

# those of `make_module` and `make_batch`
B, G, K, D = 12, 9, 3, 2
X, BATCH = REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY

pytestmark = pytest.mark.usefixtures("fixed_seed")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("n_samples", [1, 3])
def test_log_likelihood_is_the_distributions(make_module, make_batch, likelihood, n_samples):
    """The fast likelihood equals the density of the distribution object, for one and several draws."""
    module, tensors = make_module(likelihood), make_batch(likelihood)
    _, generative = module(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
    ours = module.log_likelihood(tensors[X], generative["parameters"])
    theirs = generative["px"].log_prob(tensors[X]).sum(-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("likelihood", [name for name, kind in LIKELIHOODS.items() if kind.takes_counts])
def test_means_add_up_to_the_library(make_module, make_batch, likelihood):
    """The decoder's proportions are scaled to each cell's total count."""
    module, tensors = make_module(likelihood), make_batch(likelihood)
    _, generative = module(tensors, compute_loss=False)
    torch.testing.assert_close(module.likelihood.log_mean(generative["parameters"]).exp().sum(-1), tensors[X].sum(-1))
    torch.testing.assert_close(generative["px"].get_normalized("scale").sum(-1), torch.ones(B, dtype=torch.float64))


def test_counts_are_standardised():
    """A class for counts that is not to be standardised is refused where it is written."""
    with pytest.raises(TypeError, match="Raw: .*`standardizes`"):

        class Raw(CountLikelihood):
            standardizes = False
