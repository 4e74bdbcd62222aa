"""The generative model and its inference network: ``y -> z -> x`` and ``q(y|x) q(z|x,y)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from scvi.nn import FCLayers
from torch import Tensor, nn

from rmve.maths import count_likelihoods, likelihoods
from rmve.maths.dropout import Dropout, use_cheap_dropout
from rmve.maths.estimators import assignment_term, nodes_over_y
from rmve.maths.gaussians import log_normal
from rmve.maths.latent import LOG_VAR_RANGE, draw_of_component, offset_kl
from rmve.maths.regularization import agreement, balance, dirichlet_log_prior, entropy, potts_log_prior
from rmve.maths.repulsion import REPULSIONS, WEIGHT_SENSITIVE, default_bandwidth
from rmve.maths.sparse_input import first_layer, standardized
from rmve.maths.sparse_rows import SparseRows
from rmve.mixture import GaussianMixture

COUNT_LIKELIHOODS = ("nb", "zinb", "poisson")
GENE_LIKELIHOODS = (*COUNT_LIKELIHOODS, "normal", "bernoulli")
POSTERIORS = ("full", "factorized")

#: Standardised inputs are clipped here, as ``scanpy.pp.scale(max_value=10)`` does.
INPUT_CLIP = 10.0
#: Share of the old value in the running error of held-out positions.
SPACE_VAR_MEMORY = 0.98


class Bernoulli(torch.distributions.Bernoulli):
    """torch's Bernoulli with the accessor that scvi-tools expects of a likelihood."""

    def get_normalized(self, key: str) -> Tensor:
        """Success probability, whichever of scvi-tools' keys is asked for."""
        return self.probs


@dataclass(frozen=True)
class Objective:
    """What one mini-batch is trained on; the defaults give the plain evidence lower bound.

    All weights are in nats per cell. ``target`` and ``held`` make a cell's assignment *given*: in the first
    phase of training all cells are held to the starting partition, and labelled cells are held to their
    label throughout.
    """

    #: Weight of the divergence of ``q(z|x,y)`` from ``p(z|y)``.
    kl_weight: float = 1.0
    #: Given assignments, shape ``(B, K)``, and which cells they hold for, shape ``(B,)``.
    target: Tensor | None = None
    held: Tensor | None = None
    #: ``alpha``: weight of ``log q(y|x)`` of held cells, per cell, shape ``(B,)``.
    alpha: Tensor | None = None
    #: Mean assignment of each cell's neighbours, shape ``(B, K)``, and the strength of the Potts prior.
    neighbor_mean: Tensor | None = None
    potts: float = 0.0
    #: ``tau``: strength of the repulsion, and whether the expected overlap also pushes means and variances.
    repulsion: float = 0.0
    repulsion_moves: bool = False
    #: Weight of the agreement with another view of the cells, and that view of the input, shape ``(B, G)``. The view
    #: of a held cell is compared with its given assignment.
    agreement: float = 0.0
    view: Tensor | None = None
    #: Standardised positions, shape ``(B, p)``, rows of NaN where unknown, which of them are held out, shape ``(B,)``,
    #: and the weight of ``log p(s|z)``.
    positions: Tensor | None = None
    held_out: Tensor | None = None
    spatial: float = 0.0
    #: Least ratio of explained to unexplained variance that a coordinate is weighed with.
    min_signal: float = 1.0
    #: Weight of the balance of the average assignment.
    balance: float = 0.0
    #: Weight of the entropy of each cell's assignment.
    confidence: float = 0.0
    #: Concentration of the Dirichlet prior on ``p(y)``, counted once per ``n_obs`` cells.
    dirichlet: float = 1.0
    n_obs: int = 1


class RMVEModule(BaseModuleClass):
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
        self.gene_likelihood = gene_likelihood
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
        if gene_likelihood in ("nb", "zinb", "normal"):
            # log inverse dispersion of counts, log variance of normals
            self.log_dispersion = nn.Parameter(torch.ones(n_input))
        if gene_likelihood == "zinb":
            self.zero_head = nn.Linear(n_hidden, n_input)
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
        if self.gene_likelihood == "normal":
            self.log_dispersion.copy_(2.0 * sd.log())

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

    def log_library(self, x: Tensor | SparseRows, size_factor: Tensor | None) -> Tensor:
        """Log of the total that the decoder's proportions are scaled to, shape ``(B, 1)``."""
        if size_factor is None:
            total = x.row_sums()[:, None] if isinstance(x, SparseRows) else x.sum(-1, keepdim=True)
            return total.log()
        return size_factor.log() + self.size_factor_scale.log()

    def standardize(self, x: Tensor | SparseRows, log_library: Tensor | None) -> Tensor:
        """Encoder input: library-size-normalised, log1p, z-scored and clipped for counts, z-scored for normals.

        Parameters
        ----------
        x
            Shape ``(B, G)``.
        log_library
            Shape ``(B, 1)``; used for counts only.
        """
        if self.gene_likelihood == "bernoulli":
            return x
        if isinstance(x, SparseRows):
            return standardized(x, *self._input_constants(log_library))
        if self.gene_likelihood in COUNT_LIKELIHOODS:
            x = torch.log1p(x * self._input_scale(log_library))
        return ((x - self.input_mean) / self.input_sd).clamp(-INPUT_CLIP, INPUT_CLIP)

    def _input_scale(self, log_library: Tensor) -> Tensor:
        return self.target_sum * (-log_library).exp()

    def _input_constants(self, log_library: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        return self._input_scale(log_library), self.input_mean, self.input_sd, INPUT_CLIP

    def _hidden(self, x: Tensor | SparseRows, library: Tensor | None, *covariates: Tensor, cont: Tensor | None):
        """Last hidden layer of the encoder, shape ``(B, n_hidden)``."""
        if isinstance(x, SparseRows) and not (self.training or self.encode_covariates or torch.is_grad_enabled()):
            first, *others = self.encoder.fc_layers
            h = first_layer(x, *self._input_constants(library), first[0].weight, first[0].bias)
            for layer in (*first[1:], *(layer for block in others for layer in block)):
                h = h if layer is None else layer(h)
            return h
        inputs = self.input_dropout(self.standardize(x, library))
        return self.encoder(inputs, *covariates, cont=cont) if self.encode_covariates else self.encoder(inputs)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Tensor | None]:
        return {
            "x": tensors[REGISTRY_KEYS.X_KEY],
            "size_factor": tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY),
            **_covariates(tensors),
        }

    def _get_generative_input(self, tensors, inference_outputs, **kwargs) -> dict[str, Tensor | None]:
        return {"z": inference_outputs["z"], "library": inference_outputs["library"], **_covariates(tensors)}

    # ------------------------------------------------------------- inference

    def encode(
        self,
        x: Tensor | SparseRows,
        size_factor: Tensor | None = None,
        batch_index: Tensor | None = None,
        cat_covs: Tensor | None = None,
        cont_covs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Parameters of ``q(y|x)`` and of ``q(z|x,y)`` for every component.

        Parameters
        ----------
        x
            Data, shape ``(B, G)``, dense or (counts) sparse.
        size_factor, batch_index, cat_covs, cont_covs
            As registered, each with ``B`` rows.

        Returns
        -------
        ``log_q`` of shape ``(B, K)``, ``z_mean`` and ``z_var`` of shape ``(B, K, d)`` (``(B, 1, d)`` for the
        factorised posterior), ``library`` of shape ``(B, 1)`` or ``None``.
        """
        log_q, library, mean, log_var = self._shared(x, size_factor, batch_index, cat_covs, cont_covs)
        return {"log_q": log_q, "library": library, **self._moments(mean, log_var)}

    def _moments(self, mean: Tensor, log_var: Tensor) -> dict[str, Tensor]:
        """Means and variances of ``q(z|x,y)`` for every ``y``, from what they have in common."""
        mean, log_var = mean[:, None], log_var[:, None]
        if self.posterior == "full":
            mean, log_var = mean + self.mean_offset, log_var + self.log_var_offset
        return {"z_mean": mean, "z_var": log_var.clamp(*LOG_VAR_RANGE).exp()}

    def _shared(
        self,
        x: Tensor | SparseRows,
        size_factor: Tensor | None = None,
        batch_index: Tensor | None = None,
        cat_covs: Tensor | None = None,
        cont_covs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """``log q(y|x)``, log library, and what ``q(z|x,y)`` has in common for all ``y``: ``m`` and ``v``, ``(B, d)``."""
        library = self.log_library(x, size_factor) if self.gene_likelihood in COUNT_LIKELIHOODS else None
        h = self._hidden(x, library, batch_index, *_split(cat_covs), cont=cont_covs)
        logits, mean, log_var = (_full(head(h)) for head in (self.y_head, self.mean_head, self.log_var_head))
        return logits.log_softmax(-1), library, mean, log_var

    def _offsets(self) -> tuple[Tensor, Tensor]:
        if self.posterior == "full":
            return self.mean_offset, self.log_var_offset
        zero = torch.zeros_like(self.mixture.mean)
        return zero, zero

    def _infer_one(self, inputs: dict[str, Tensor], objective: Objective) -> dict[str, Tensor]:
        """:meth:`inference` with one draw of ``y``, for training: nothing of shape ``(B, K, d)`` but one divergence."""
        log_q, library, mean, log_var = self._shared(**inputs)
        y, weights = nodes_over_y(_given(log_q, objective), "sample")
        offsets = self._offsets()
        outputs = {} if objective.positions is None else self._moments(mean, log_var)
        return outputs | {
            "log_q": log_q,
            "library": library,
            "weights": weights,
            "z": draw_of_component(mean, log_var, *offsets, y[0].argmax(-1)),
            "kl": offset_kl(mean, log_var, *offsets, self.mixture.mean, self.mixture.bounded_log_var),
        }

    @auto_move_data
    def inference(
        self,
        x: Tensor | SparseRows,
        size_factor: Tensor | None = None,
        batch_index: Tensor | None = None,
        cat_covs: Tensor | None = None,
        cont_covs: Tensor | None = None,
        n_samples: int = 1,
        estimator: str = "sample",
        objective: Objective | None = None,
    ) -> dict[str, Tensor]:
        """Encode cells and draw latent points.

        Parameters
        ----------
        x, size_factor, batch_index, cat_covs, cont_covs
            As in :meth:`encode`.
        n_samples
            Number of draws; more than one adds a leading axis. Not used by the other estimators.
        estimator
            How the expectation over ``y`` is taken: ``"sample"``, ``"exact"`` or ``"gumbel"``.
        objective
            Held cells draw ``y`` from their given assignment.

        Returns
        -------
        With an ``objective`` and one draw: ``log_q``, ``library``, ``z``, ``weights``, and ``kl``, the divergence of
        ``q(z|x,y)`` from ``p(z|y)``, shape ``(B, K)``. Else those of :meth:`encode`, and ``z`` of shape ``(B, d)``, or ``(S, B, d)`` for several draws, with
        ``weights`` of shape ``(S, B)`` under which the expectation over ``y`` is their weighted sum; ``qz`` is
        the normal with the mean and variance of ``q(z|x)``.
        """
        inputs = {
            "x": x,
            "size_factor": size_factor,
            "batch_index": batch_index,
            "cat_covs": cat_covs,
            "cont_covs": cont_covs,
        }
        if objective is not None and estimator == "sample" and n_samples == 1:
            return self._infer_one(inputs, objective)
        outputs = self.encode(**inputs)
        log_y = _given(outputs["log_q"], objective)
        if estimator == "sample" and n_samples > 1:
            log_y = log_y.expand(n_samples, *log_y.shape).reshape(-1, log_y.shape[-1])
        y, weights = nodes_over_y(log_y, estimator)
        y = y.reshape(-1, x.shape[0], y.shape[-1])
        z = self.draw_z(outputs["z_mean"], outputs["z_var"], y)
        probs = outputs["log_q"].exp()[..., None]
        qz_mean = (probs * outputs["z_mean"]).sum(1)
        qz_var = (probs * (outputs["z_var"] + (outputs["z_mean"] - qz_mean[:, None]).square())).sum(1)
        outputs |= {
            "z": z[0] if z.shape[0] == 1 else z,
            "weights": weights,
            "qz": torch.distributions.Normal(qz_mean, qz_var.sqrt(), validate_args=False),
            "ql": None,
        }
        return outputs

    @staticmethod
    def draw_z(z_mean: Tensor, z_var: Tensor, y: Tensor) -> Tensor:
        """Reparameterised draw from ``q(z|x,y)``.

        Parameters
        ----------
        z_mean, z_var
            Shape ``(B, K, d)`` or ``(B, 1, d)``.
        y
            One-hot or relaxed, shape ``(S, B, K)``; a relaxed ``y`` interpolates mean and variance.

        Returns
        -------
        Tensor of shape ``(S, B, d)``.
        """
        if z_mean.shape[1] == 1:
            mean, var = z_mean[None, :, 0], z_var[None, :, 0]
        else:
            mean = torch.einsum("sbk,bkd->sbd", y, z_mean)
            var = torch.einsum("sbk,bkd->sbd", y, z_var)
        return mean + var.sqrt() * torch.randn(y.shape[0], *mean.shape[1:], dtype=mean.dtype, device=mean.device)

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
        as_logits: bool = False,
    ) -> dict[str, object]:
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
        as_logits
            Whether to leave the softmax of counts to :meth:`log_likelihood`, which then takes sparse counts.

        Returns
        -------
        ``parameters`` of ``p(x|z)`` (a dictionary of tensors) and, if asked for, the distribution ``px``.
        """
        if transform_batch is not None:
            batch_index = torch.full_like(batch_index, transform_batch)
        lead, flat = z.shape[:-2], z.reshape(-1, z.shape[-1])
        covariates = [batch_index, *_split(cat_covs)]
        if lead:
            covariates = [c.expand(*lead, *c.shape).reshape(-1, c.shape[-1]) for c in covariates]
            cont_covs = None if cont_covs is None else cont_covs.expand(*lead, *cont_covs.shape).flatten(0, -2)
        h = self.decoder(flat, *covariates, cont=cont_covs)
        parameters = {"location": _full(self.x_head(h)).reshape(*z.shape[:-1], -1)}
        if as_logits:
            parameters = {"logits": parameters["location"], "library": library}
        elif self.gene_likelihood in COUNT_LIKELIHOODS:
            parameters["log_mu"] = parameters.pop("location").log_softmax(-1) + library
        if self.gene_likelihood == "zinb":
            parameters["zero_logits"] = _full(self.zero_head(h)).reshape(*z.shape[:-1], -1)
        outputs: dict[str, object] = {"parameters": parameters}
        if with_distribution:
            outputs["px"] = self.distribution(parameters, library)
        return outputs

    def distribution(self, parameters: dict[str, Tensor], library: Tensor | None) -> torch.distributions.Distribution:
        """``p(x|z)`` as a distribution of scvi-tools, from the parameters made by :meth:`generative`."""
        if self.gene_likelihood == "bernoulli":
            return Bernoulli(logits=parameters["location"])
        if self.gene_likelihood == "normal":
            mean = parameters["location"]
            return Normal(mean, (0.5 * self.log_dispersion).exp(), normal_mu=mean)
        mu, scale = parameters["log_mu"].exp(), (parameters["log_mu"] - library).exp()
        if self.gene_likelihood == "poisson":
            return Poisson(rate=mu, scale=scale)
        theta = self.log_dispersion.exp()
        if self.gene_likelihood == "nb":
            return NegativeBinomial(mu=mu, theta=theta, scale=scale)
        return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=parameters["zero_logits"], scale=scale)

    def log_likelihood(self, x: Tensor | SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` summed over genes, for ``x`` of shape ``(B, G)``; shape ``(B,)`` or ``(S, B)``.

        Sparse counts go with parameters that :meth:`generative` made ``as_logits``.
        """
        if "logits" in parameters:
            return self._sparse_log_likelihood(x, parameters)
        first = next(iter(parameters.values()))
        shape = first.shape[:-1]
        x = x.expand(first.shape).reshape(-1, x.shape[-1])
        flat = {name: value.reshape(-1, value.shape[-1]) for name, value in parameters.items()}
        match self.gene_likelihood:
            case "nb":
                value = likelihoods.negative_binomial(x, flat["log_mu"], self.log_dispersion)
            case "zinb":
                value = likelihoods.zero_inflated_negative_binomial(
                    x, flat["log_mu"], self.log_dispersion, flat["zero_logits"]
                )
            case "poisson":
                value = likelihoods.poisson(x, flat["log_mu"])
            case "normal":
                value = likelihoods.normal(x, flat["location"], self.log_dispersion)
            case _:
                value = likelihoods.bernoulli(x, flat["location"])
        return value.reshape(shape)

    def _sparse_log_likelihood(self, counts: SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        def one(logits: Tensor, zero_logits: Tensor | None) -> Tensor:
            arguments = counts, logits, parameters["library"]
            match self.gene_likelihood:
                case "nb":
                    return count_likelihoods.negative_binomial(*arguments, self.log_dispersion)
                case "zinb":
                    return count_likelihoods.zero_inflated_negative_binomial(
                        *arguments, self.log_dispersion, zero_logits
                    )
                case _:
                    return count_likelihoods.poisson(*arguments)

        logits, zero_logits = parameters["logits"], parameters.get("zero_logits")
        if logits.dim() == 2:
            return one(logits, zero_logits)
        draws = range(len(logits))
        return torch.stack([one(logits[s], None if zero_logits is None else zero_logits[s]) for s in draws])

    # ------------------------------------------------------------- objective

    def position_loss(
        self,
        assignment: Tensor,
        inference_outputs: dict[str, Tensor],
        positions: Tensor,
        held_out: Tensor,
        min_signal: float = 1.0,
    ) -> Tensor:
        """Squared error of ``A z + b``, expected under ``q(y,z|x)`` exactly, each coordinate weighed by its signal.

        That is ``-log p(s|z)`` of ``p(s|z) = N(A z + b, diag)`` times the share of the variance that is explained. Both
        come from held-out cells: judged by the cells it learns from, the variance would shrink with every position that
        is memorised, and each would weigh more. A coordinate that cannot be predicted then hardly shapes the latent
        space.

        Parameters
        ----------
        assignment
            Probability of each component, shape ``(B, K)``.
        inference_outputs
            From :meth:`inference`.
        positions
            Standardised, shape ``(B, p)``; rows of NaN are left out.
        held_out
            Cells whose position is not to be learned, shape ``(B,)``. While training, their error updates
            ``space_var``, as batch normalisation updates its statistics.
        min_signal
            Least ratio of explained to unexplained variance that a coordinate is weighed with, so that it can start to be
            learned.

        Returns
        -------
        Sum over the cells with a position divided by the size of the mini-batch, in nats.
        """
        known = positions.isfinite().all(-1)
        held_out = held_out[known]
        mean = self.space_head(inference_outputs["z_mean"][known])  # (B', K or 1, p)
        spread = inference_outputs["z_var"][known] @ self.space_head.weight.square().T
        squared = (positions[known][:, None] - mean).square() + spread
        if squared.shape[1] > 1:
            squared = (assignment[known][..., None] * squared).sum(1, keepdim=True)
        squared = squared[:, 0]
        if self.training and held_out.any():
            with torch.no_grad():
                self.space_var.lerp_(squared[held_out].mean(0), 1.0 - SPACE_VAR_MEMORY)
        signal = ((1.0 - self.space_var) / self.space_var).clamp_min(min_signal)
        return 0.5 * (squared * signal)[~held_out].sum() / len(positions)

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, object],
        objective: Objective | None = None,
        kl_weight: float = 1.0,
    ) -> LossOutput:
        """Negative evidence lower bound (equations 3 and 5) with the prior and regularisation terms.

        Parameters
        ----------
        tensors
            The mini-batch.
        inference_outputs, generative_outputs
            From :meth:`inference` and :meth:`generative`.
        objective
            Weights and given assignments; ``None`` is the plain unsupervised bound.
        kl_weight
            Weight of the divergence of ``q(z|x,y)`` when there is no ``objective`` (scvi-tools passes it).

        Returns
        -------
        The mean loss per cell. ``reconstruction_loss`` and ``kl_local`` are per cell and unweighted, so that
        their sum is the negative bound; ``kl_global`` is 0, since the strengths of priors on parameters are in
        nats per cell and reported on their own as extra metrics.
        """
        objective = objective or Objective(kl_weight=kl_weight)
        x = tensors[REGISTRY_KEYS.X_KEY]
        log_q = inference_outputs["log_q"]
        kl = inference_outputs.get("kl")
        if kl is None:
            kl = self.mixture.kl(inference_outputs["z_mean"], inference_outputs["z_var"])
        log_lik = self.log_likelihood(x, generative_outputs["parameters"])
        reconstruction = -(inference_outputs["weights"] * log_lik).sum(0)

        log_weights = self.mixture.log_weights
        log_prior = log_weights
        if objective.neighbor_mean is not None:
            log_prior = potts_log_prior(log_weights, objective.neighbor_mean, objective.potts)
        latent = assignment_term(log_q, log_prior, objective.kl_weight * kl)
        if objective.held is not None:
            # equation 3: y is given, log p(y) - KL + alpha log q(y|x)
            given = objective.target * (objective.kl_weight * kl - log_weights - objective.alpha[:, None] * log_q)
            latent = torch.where(objective.held, given.sum(-1), latent)

        weights = log_q.exp().mean(0)
        extra = {}
        loss = (reconstruction + latent).mean()
        if objective.positions is not None:
            assignment = log_q.exp()
            if objective.held is not None:
                assignment = torch.where(objective.held[:, None], objective.target, assignment)
            misplaced = self.position_loss(
                assignment, inference_outputs, objective.positions, objective.held_out, objective.min_signal
            )
            extra["position_loss"] = misplaced
            loss = loss + objective.spatial * misplaced
        if self.repulsion is not None and objective.repulsion > 0:
            mean, var = self.mixture.mean, self.mixture.var
            if self.repulsion in WEIGHT_SENSITIVE and not objective.repulsion_moves:
                mean, var = mean.detach(), var.detach()
            penalty = REPULSIONS[self.repulsion](weights, mean, var, default_bandwidth(weights, var))
            loss = loss + objective.repulsion * penalty
            extra["repulsion"] = penalty
        if objective.agreement > 0:
            view = self._get_inference_input({**tensors, REGISTRY_KEYS.X_KEY: objective.view})
            log_q_view, *_ = self._shared(**view)
            extra["agreement"] = agreement(_given(log_q, objective), log_q_view).mean()
            loss = loss + objective.agreement * extra["agreement"]
        if objective.balance > 0:
            extra["balance"] = balance(weights)
            loss = loss + objective.balance * extra["balance"]
        if objective.confidence > 0:
            extra["entropy"] = entropy(log_q).mean()
            loss = loss + objective.confidence * extra["entropy"]
        if objective.dirichlet != 1.0:
            loss = loss - dirichlet_log_prior(log_weights, objective.dirichlet) / objective.n_obs
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local=assignment_term(log_q, log_weights, kl),
            extra_metrics={name: value.detach() for name, value in extra.items()},
        )

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


def _full(x: Tensor) -> Tensor:
    """In single precision, if it is in less: under mixed precision densities are computed so, products are not."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _given(log_q: Tensor, objective: Objective | None) -> Tensor:
    """``log q(y|x)``, and for held cells the log of their given assignment."""
    if objective is None or objective.held is None:
        return log_q
    return torch.where(objective.held[:, None], objective.target.clamp_min(1e-30).log(), log_q)


def _split(cat_covs: Tensor | None) -> tuple[Tensor, ...]:
    """One ``(B, 1)`` column per categorical covariate."""
    return () if cat_covs is None else torch.split(cat_covs, 1, dim=1)
