"""The generative model and its inference network: ``y -> z -> x`` and ``q(y|x) q(z|x,y)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, auto_move_data
from scvi.nn import FCLayers
from torch import Tensor, nn

from rmve._keys import TARGET_KEY, TARGET_SIZE_KEY
from rmve.likelihoods import get_likelihood
from rmve.maths.dropout import Dropout, use_cheap_dropout
from rmve.maths.gaussians import log_normal
from rmve.maths.sparse_rows import SparseRows
from rmve.module._encoding import EncodingMixin, full_precision, split_covariates
from rmve.module._mixture import GaussianMixture
from rmve.module._objective import ObjectiveMixin

POSTERIORS = ("full", "factorized")


class RMVEModule(EncodingMixin, ObjectiveMixin, BaseModuleClass):
    """Mixture VAE with component posteriors at the price of one encoder pass.

    ``q(y|x)`` is a linear head on the encoder's last layer ``h``, and
    ``q(z|x,y) = N(m(h) + u_y, exp(v(h) + w_y))`` with one offset ``u_y, w_y`` per component.

    Parameters
    ----------
    n_input
        Number of genes ``G``.
    n_components, n_latent, n_hidden, n_layers, dropout_rate, gene_likelihood, posterior, repulsion
        As in :class:`rmve.RMVE`.
    input_dropout
        Dropout rate on the encoder's input.
    n_spatial
        Number of physical coordinates; 0 for none.
    n_batch
        Number of batches.
    n_cats_per_cov
        Number of categories of each categorical covariate.
    n_continuous_cov
        Number of continuous covariates.
    encode_covariates
        Whether the encoder sees batch and covariates, too.
    """

    def __init__(
        self,
        n_input: int,
        n_components: int,
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        input_dropout: float = 0.2,
        gene_likelihood: str = "nb",
        posterior: str = "full",
        repulsion: str | None = "hsic",
        n_spatial: int = 0,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        encode_covariates: bool = False,
    ):
        super().__init__()
        self.likelihood = get_likelihood(gene_likelihood)
        self.posterior = posterior
        self.repulsion = repulsion
        self.n_latent = n_latent
        self.n_batch = n_batch
        self.encode_covariates = encode_covariates
        categories = [n_batch, *(n_cats_per_cov or [])]
        layers = {"n_layers": n_layers, "n_hidden": n_hidden, "dropout_rate": dropout_rate, "inject_covariates": False}

        self.input_dropout = Dropout(input_dropout)
        self.encoder = FCLayers(
            n_input,
            n_hidden,
            n_cat_list=categories if encode_covariates else None,
            n_cont=n_continuous_cov if encode_covariates else 0,
            **layers,
        )
        self.y_head = nn.Linear(n_hidden, n_components)
        self.mean_head = nn.Linear(n_hidden, n_latent)
        self.log_var_head = nn.Linear(n_hidden, n_latent)
        if posterior == "full":
            self.mean_offset = nn.Parameter(torch.zeros(n_components, n_latent))
            self.log_var_offset = nn.Parameter(torch.zeros(n_components, n_latent))

        self.mixture = GaussianMixture(n_components, n_latent)

        self.decoder = FCLayers(n_latent, n_hidden, n_cat_list=categories, n_cont=n_continuous_cov, **layers)
        self.x_head = nn.Linear(n_hidden, n_input)
        # log inverse dispersion of counts, log variance of normals
        self.log_dispersion = nn.Parameter(torch.ones(n_input)) if self.likelihood.has_dispersion else None
        for name in self.likelihood.heads:
            self.add_module(f"{name}_head", nn.Linear(n_hidden, n_input))
        use_cheap_dropout(self)

        self.n_spatial = n_spatial
        if n_spatial:
            self.space_head = nn.Linear(n_latent, n_spatial)
            self.register_buffer("space_var", torch.ones(n_spatial))
            self.register_buffer("space_center", torch.zeros(n_spatial))
            self.register_buffer("space_scale", torch.ones(n_spatial))

        # statistics of the training data, set once by `set_input_statistics`
        self.register_buffer("input_mean", torch.zeros(n_input))
        self.register_buffer("input_sd", torch.ones(n_input))
        self.register_buffer("target_sum", torch.tensor(1.0))
        self.register_buffer("size_factor_scale", torch.tensor(1.0))

    @property
    def n_components(self) -> int:
        """Number of components ``K``."""
        return self.mixture.n_components

    @torch.no_grad()
    def set_input_statistics(
        self, mean: Tensor, sd: Tensor, target_sum: float, size_factor_scale: float, output_bias: Tensor
    ) -> None:
        """Fix the standardisation of the input and start the decoder at the average profile.

        Parameters
        ----------
        mean, sd
            Per gene, of the (log-normalised) input, shape ``(G,)``.
        target_sum
            Counts are normalised to this total.
        size_factor_scale
            Counts per unit of size factor.
        output_bias
            Decoder output for an average cell, shape ``(G,)``.
        """
        self.input_mean.copy_(mean)
        self.input_sd.copy_(sd)
        self.target_sum.fill_(target_sum)
        self.size_factor_scale.fill_(size_factor_scale)
        self.x_head.bias.copy_(output_bias)
        log_dispersion = self.likelihood.start_log_dispersion(sd)
        if log_dispersion is not None and self.log_dispersion is not None:
            self.log_dispersion.copy_(log_dispersion)

    @torch.no_grad()
    def set_space_statistics(self, center: Tensor, scale: Tensor) -> None:
        """Fix the standardisation of positions.

        Parameters
        ----------
        center, scale
            Of each coordinate, in its unit, shape ``(p,)``.
        """
        self.space_center.copy_(center)
        self.space_scale.copy_(scale)

    @property
    def gene_likelihood(self) -> str:
        """Name of the likelihood, which the getters of scvi-tools read."""
        return self.likelihood.name

    def set_n_components(self, n_components: int) -> None:
        """Change the number of components of a module that is not trained yet.

        Parameters
        ----------
        n_components
            ``K``.
        """
        device = self.mixture.mean.device
        self.y_head = nn.Linear(self.y_head.in_features, n_components).to(device)
        self.mixture = GaussianMixture(n_components, self.n_latent).to(device)
        if self.posterior == "full":
            self.mean_offset = nn.Parameter(torch.zeros(n_components, self.n_latent, device=device))
            self.log_var_offset = nn.Parameter(torch.zeros(n_components, self.n_latent, device=device))

    # ---------------------------------------------------------------- inputs

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Any]:
        return {
            "x": tensors[REGISTRY_KEYS.X_KEY],
            "size_factor": tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY),
            **_covariates(tensors),
        }

    def _get_generative_input(self, tensors, inference_outputs, **kwargs) -> dict[str, Any]:
        library = inference_outputs["library"]
        if TARGET_KEY in tensors and library is not None:
            library = self.log_library(tensors[TARGET_KEY], tensors.get(TARGET_SIZE_KEY))
        return {"z": inference_outputs["z"], "library": library, **_covariates(tensors)}

    # ------------------------------------------------------------ generation

    @auto_move_data
    def generative(
        self,
        z: Tensor,
        library: Tensor | None,
        batch_index: Tensor | None = None,
        cat_covs: Tensor | None = None,
        cont_covs: Tensor | None = None,
        transform_batch: int | None = None,
        with_distribution: bool = True,
    ) -> dict[str, Any]:
        """Decode latent points.

        Parameters
        ----------
        z
            Shape ``(..., B, d)``.
        library
            Log total of each cell, shape ``(B, 1)``, for counts.
        batch_index, cat_covs, cont_covs
            As registered, each with ``B`` rows.
        transform_batch
            Decode as if all cells were of this batch.
        with_distribution
            Whether to build ``px`` as a distribution object; training only needs its parameters.

        Returns
        -------
        ``parameters`` of ``p(x|z)``, a dictionary of tensors as :class:`rmve.likelihoods.Likelihood` describes them, and,
        if asked for, the distribution ``px``.
        """
        if transform_batch is not None and batch_index is not None:
            batch_index = torch.full_like(batch_index, transform_batch)
        lead, flat = z.shape[:-2], z.reshape(-1, z.shape[-1])
        covariates = [batch_index, *split_covariates(cat_covs)]
        if lead:
            covariates = [c if c is None else c.expand(*lead, *c.shape).reshape(-1, c.shape[-1]) for c in covariates]
            cont_covs = None if cont_covs is None else cont_covs.expand(*lead, *cont_covs.shape).flatten(0, -2)
        h = self.decoder(flat, *covariates, cont=cont_covs)
        heads = {"location": self.x_head} | {name: getattr(self, f"{name}_head") for name in self.likelihood.heads}
        parameters = {name: full_precision(head(h)).reshape(*z.shape[:-1], -1) for name, head in heads.items()}
        if library is not None:
            parameters["library"] = library
        if self.log_dispersion is not None:
            parameters["log_dispersion"] = self.log_dispersion
        outputs: dict[str, Any] = {"parameters": parameters}
        if with_distribution:
            outputs["px"] = self.distribution(parameters)
        return outputs

    def distribution(self, parameters: dict[str, Tensor]) -> torch.distributions.Distribution:
        """``p(x|z)`` as a distribution of scvi-tools, from the parameters made by :meth:`generative`."""
        return self.likelihood.distribution(parameters)

    def log_likelihood(self, x: Tensor | SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` summed over genes, for ``x`` of shape ``(B, G)``; shape ``(B,)`` or ``(S, B)``."""
        return self.likelihood.log_prob(x, parameters)

    # ------------------------------------------------------------ evaluation

    @torch.inference_mode()
    @auto_move_data
    def marginal_ll(
        self, tensors: dict[str, Tensor], n_mc_samples: int, return_mean: bool = False, n_mc_samples_per_pass: int = 10
    ) -> Tensor | float:
        """Importance-sampled ``log p(x)``, proposals from ``q(z|x) = Σ_y q(y|x) q(z|x,y)``.

        Parameters
        ----------
        tensors
            A mini-batch.
        n_mc_samples
            Number of proposals.
        return_mean
            Whether to average over cells.
        n_mc_samples_per_pass
            Proposals drawn at once.

        Returns
        -------
        Tensor of shape ``(B,)`` on the CPU, or its mean as a float, in nats.
        """
        inputs = self._get_inference_input(tensors)
        log_ratios, left = [], n_mc_samples
        while left > 0:
            n = min(left, n_mc_samples_per_pass)
            left -= n
            outputs = self.inference(**inputs, n_samples=n)
            z = outputs["z"].reshape(n, -1, self.n_latent)
            outputs["z"] = z
            generated = self.generative(**self._get_generative_input(tensors, outputs), with_distribution=False)
            log_px = self.log_likelihood(tensors[REGISTRY_KEYS.X_KEY], generated["parameters"])
            log_qz = (log_normal(z[:, :, None], outputs["z_mean"], outputs["z_var"]) + outputs["log_q"]).logsumexp(-1)
            log_ratios.append(log_px + self.mixture.log_prob(z) - log_qz)
        log_px = torch.cat(log_ratios).logsumexp(0) - torch.log(torch.tensor(float(n_mc_samples)))
        return log_px.mean().item() if return_mean else log_px.cpu()

    @torch.inference_mode()
    def sample(self, tensors: dict[str, Tensor], n_samples: int = 1, generative_kwargs: dict | None = None) -> Tensor:
        """Draw from the posterior predictive distribution.

        Parameters
        ----------
        tensors
            A mini-batch.
        n_samples
            Number of draws.
        generative_kwargs
            Options of :meth:`generative`, such as ``transform_batch``.

        Returns
        -------
        Tensor on the CPU, shape ``(B, G)``, or ``(B, G, n_samples)`` for several draws.
        """
        _, outputs = self.forward(
            tensors,
            inference_kwargs={"n_samples": n_samples},
            generative_kwargs=generative_kwargs,
            compute_loss=False,
        )
        draw = outputs["px"].sample()
        return (draw if n_samples == 1 else draw.permute(1, 2, 0)).cpu()


def _covariates(tensors: dict[str, Tensor]) -> dict[str, Tensor | None]:
    return {
        "batch_index": tensors[REGISTRY_KEYS.BATCH_KEY],
        "cat_covs": tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
        "cont_covs": tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
    }
