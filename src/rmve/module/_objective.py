"""The loss: the negative evidence lower bound with its priors, and their weights for a mini-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from torch import Tensor, nn

from rmve._keys import TARGET_KEY
from rmve.maths.estimators import assignment_term
from rmve.maths.regularization import agreement, balance, entropy, potts_log_prior
from rmve.maths.repulsion import REPULSIONS, WEIGHT_SENSITIVE, default_bandwidth
from rmve.module._mixture import GaussianMixture

#: Share of the old value in the running error of held-out positions.
SPACE_VAR_MEMORY = 0.98


@dataclass(frozen=True)
class Objective:
    """What one mini-batch is trained on; the defaults give the plain evidence lower bound.

    All weights are in nats per cell. ``target`` and ``held`` make a cell's assignment *given*: in the first
    phase of training that of all cells is given by the starting partition, and that of labelled cells by their label
    throughout.
    """

    #: Weight of the divergence of ``q(z|x,y)`` from ``p(z|y)``.
    kl_weight: float = 1.0
    #: Given assignments, shape ``(B, K)``, and which cells they hold for, shape ``(B,)``.
    target: Tensor | None = None
    held: Tensor | None = None
    #: Weight of ``log q(y|x)`` of held cells (``alpha`` in equation 3), shape ``(B,)``.
    label_weight: Tensor | None = None
    #: Mean assignment of each cell's neighbours, shape ``(B, K)``, and the strength of the Potts prior.
    neighbor_mean: Tensor | None = None
    neighbor_weight: float = 0.0
    #: ``tau``: strength of the repulsion, and whether the expected overlap also pushes means and variances.
    repulsion_weight: float = 0.0
    repulsion_moves: bool = False
    #: Weight of the agreement with another view of the cells, and that view of the input, shape ``(B, G)``. The view
    #: of a held cell is compared with its given assignment.
    view_weight: float = 0.0
    view: Tensor | None = None
    #: Standardised positions, shape ``(B, p)``, rows of NaN where unknown, which of them are held out, shape ``(B,)``,
    #: and the weight of ``log p(s|z)``.
    positions: Tensor | None = None
    held_out: Tensor | None = None
    position_weight: float = 0.0
    #: Least ratio of explained to unexplained variance that a coordinate is weighed with.
    min_signal: float = 1.0
    #: Weight of the balance of the average assignment.
    balance_weight: float = 0.0
    #: Weight of the entropy of each cell's assignment.
    entropy_weight: float = 0.0


def given(log_q: Tensor, objective: Objective | None) -> Tensor:
    """``log q(y|x)``, and for held cells the log of their given assignment."""
    if objective is None or objective.held is None:
        return log_q
    assert objective.target is not None  # it comes with `held`
    return torch.where(objective.held[:, None], objective.target.clamp_min(1e-30).log(), log_q)


def not_finite(loss: LossOutput, rows: np.ndarray) -> str:
    """Name the terms of a loss that are not finite, and the cells where they are."""
    terms = {"the reconstruction": loss.reconstruction_loss, "the divergence from the prior": loss.kl_local}
    terms |= {f"the {name}": {name: value} for name, value in loss.extra_metrics.items()}
    named = []
    for name, parts in terms.items():
        for value in parts.values():
            bad = ~torch.isfinite(value.detach()).cpu().numpy()
            if bad.shape == rows.shape and 0 < bad.sum() < len(rows):
                named.append(f"{name} of {bad.sum()} cell(s), the first in row {rows[bad][0]}")
            elif bad.any():
                named.append(name)
    return f"the loss is not finite: {' and '.join(named) or 'its sum'}"


class ObjectiveMixin:
    """Part of :class:`rmve.module.RMVEModule` that makes the loss."""

    training: bool
    mixture: GaussianMixture
    repulsion: str | None
    space_head: nn.Linear
    space_var: Tensor
    log_likelihood: Callable[..., Tensor]
    _get_inference_input: Callable[..., dict[str, Any]]
    _shared: Callable[..., tuple[Tensor, Tensor | None, Tensor, Tensor]]

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
        generative_outputs: dict[str, Any],
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
        x = tensors.get(TARGET_KEY, tensors[REGISTRY_KEYS.X_KEY])
        log_q = inference_outputs["log_q"]
        kl = inference_outputs.get("kl")
        if kl is None:
            kl = self.mixture.kl(inference_outputs["z_mean"], inference_outputs["z_var"])
        log_lik = self.log_likelihood(x, generative_outputs["parameters"])
        reconstruction = -(inference_outputs["weights"] * log_lik).sum(0)

        log_weights = self.mixture.log_weights
        log_prior = log_weights
        if objective.neighbor_mean is not None:
            log_prior = potts_log_prior(log_weights, objective.neighbor_mean, objective.neighbor_weight)
        latent = assignment_term(log_q, log_prior, objective.kl_weight * kl)
        if objective.held is not None:
            assert objective.target is not None  # both come with `held`
            assert objective.label_weight is not None
            # equation 3: y is given, log p(y) - KL + alpha log q(y|x)
            of_held = objective.target * (
                objective.kl_weight * kl - log_weights - objective.label_weight[:, None] * log_q
            )
            latent = torch.where(objective.held, of_held.sum(-1), latent)

        weights = log_q.exp().mean(0)
        extra = {}
        loss = (reconstruction + latent).mean()
        if objective.positions is not None:
            assignment = log_q.exp()
            if objective.held is not None:
                assert objective.target is not None
                assignment = torch.where(objective.held[:, None], objective.target, assignment)
            assert objective.held_out is not None  # it comes with `positions`
            misplaced = self.position_loss(
                assignment, inference_outputs, objective.positions, objective.held_out, objective.min_signal
            )
            extra["position_loss"] = misplaced
            loss = loss + objective.position_weight * misplaced
        if self.repulsion is not None and objective.repulsion_weight > 0:
            mean: Tensor = self.mixture.mean
            var = self.mixture.var
            if self.repulsion in WEIGHT_SENSITIVE and not objective.repulsion_moves:
                mean, var = mean.detach(), var.detach()
            penalty = REPULSIONS[self.repulsion](weights, mean, var, default_bandwidth(weights, var))
            loss = loss + objective.repulsion_weight * penalty
            extra["repulsion"] = penalty
        if objective.view_weight > 0:
            view = self._get_inference_input({**tensors, REGISTRY_KEYS.X_KEY: objective.view})
            log_q_view, *_ = self._shared(**view)
            extra["agreement"] = agreement(given(log_q, objective), log_q_view).mean()
            loss = loss + objective.view_weight * extra["agreement"]
        if objective.balance_weight > 0:
            extra["balance"] = balance(weights)
            loss = loss + objective.balance_weight * extra["balance"]
        if objective.entropy_weight > 0:
            extra["entropy"] = entropy(log_q).mean()
            loss = loss + objective.entropy_weight * extra["entropy"]
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local=assignment_term(log_q, log_weights, kl),
            extra_metrics={name: value.detach() for name, value in extra.items()},
        )
