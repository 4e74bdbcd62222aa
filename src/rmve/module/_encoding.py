"""The inference network: from cells to ``q(y|x)``, ``q(z|x,y)`` and draws from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from scvi.module.base import auto_move_data
from scvi.nn import FCLayers
from torch import Tensor, nn

from rmve.likelihoods import Likelihood
from rmve.maths.dropout import Dropout
from rmve.maths.estimators import nodes_over_y
from rmve.maths.latent import LOG_VAR_RANGE, draw_of_component, offset_kl
from rmve.maths.sparse_input import differences_from_zero, first_layer, standardized_zero
from rmve.maths.sparse_rows import SparseRows
from rmve.module._mixture import GaussianMixture
from rmve.module._objective import Objective, given

#: Standardised inputs are clipped here, as ``scanpy.pp.scale(max_value=10)`` does.
INPUT_CLIP = 10.0


class EncodingMixin:
    """Part of :class:`rmve.module.RMVEModule` that encodes."""

    likelihood: Likelihood
    posterior: str
    training: bool
    encode_covariates: bool
    encoder: FCLayers
    input_dropout: Dropout
    y_head: nn.Linear
    mean_head: nn.Linear
    log_var_head: nn.Linear
    mean_offset: Tensor
    log_var_offset: Tensor
    mixture: GaussianMixture
    input_mean: Tensor
    input_sd: Tensor
    target_sum: Tensor
    size_factor_scale: Tensor

    # ---------------------------------------------------------------- inputs

    def log_library(self, x: Tensor | SparseRows, size_factor: Tensor | None) -> Tensor:
        """Log of the total that the decoder's proportions are scaled to, shape ``(B, 1)``."""
        if size_factor is None:
            total = x.row_sums()[:, None] if isinstance(x, SparseRows) else x.sum(-1, keepdim=True)
            return total.clamp_min(1.0).log()  # half of the molecules of a cell can be none
        return size_factor.log() + self.size_factor_scale.log()

    def standardize(self, x: Tensor | SparseRows, log_library: Tensor | None) -> Tensor:
        """Encoder input: counts are normalised by library size and log1p-transformed; all but zeros and ones are z-scored.

        Parameters
        ----------
        x
            Shape ``(B, G)``.
        log_library
            Shape ``(B, 1)``; used for counts only.
        """
        if not self.likelihood.standardizes:
            assert not isinstance(x, SparseRows)  # only counts are loaded sparse
            return x
        if isinstance(x, SparseRows):
            return self._differences(x, log_library).dense().add_(self._zero())
        if self.likelihood.takes_counts:
            x = torch.log1p(x * self._input_scale(log_library))
        return ((x - self.input_mean) / self.input_sd).clamp(-INPUT_CLIP, INPUT_CLIP)

    def _input_scale(self, log_library: Tensor | None) -> Tensor:
        assert log_library is not None  # counts have one
        return self.target_sum * (-log_library).exp()

    def _zero(self) -> Tensor:
        """What a count of zero is to the encoder, shape ``(G,)``."""
        return standardized_zero(self.input_mean, self.input_sd, INPUT_CLIP)

    def _drop(self, inputs: Tensor) -> Tensor:
        """Dropout of the encoder's input: a dropped count is taken for a zero, another value for the mean."""
        if not self.likelihood.takes_counts or not self.training:
            return self.input_dropout(inputs)
        zero = self._zero()
        return zero + self.input_dropout(inputs - zero)

    def _differences(self, x: SparseRows, log_library: Tensor | None) -> SparseRows:
        return differences_from_zero(x, self._input_scale(log_library), self.input_mean, self.input_sd, INPUT_CLIP)

    def _hidden(self, x: Tensor | SparseRows, library: Tensor | None, *covariates: Tensor | None, cont: Tensor | None):
        """Last hidden layer of the encoder, shape ``(B, n_hidden)``."""
        if self.encode_covariates or not (isinstance(x, SparseRows) and x.device.type == "cpu"):
            inputs = self._drop(self.standardize(x, library))
            return self.encoder(inputs, *covariates, cont=cont) if self.encode_covariates else self.encoder(inputs)
        first, *others = self.encoder.fc_layers
        differences = self._differences(x, library)
        differences = replace(differences, values=self.input_dropout(differences.values))
        h = first_layer(first[0].weight, first[0].bias, self._zero(), differences)
        for layer in (*first[1:], *(layer for block in others for layer in block)):
            h = h if layer is None else layer(h)
        return h

    # ------------------------------------------------------------- inference

    def encode(
        self,
        x: Tensor | SparseRows,
        size_factor: Tensor | None = None,
        batch_index: Tensor | None = None,
        cat_covs: Tensor | None = None,
        cont_covs: Tensor | None = None,
    ) -> dict[str, Any]:
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
        library = self.log_library(x, size_factor) if self.likelihood.takes_counts else None
        h = self._hidden(x, library, batch_index, *split_covariates(cat_covs), cont=cont_covs)
        logits, mean, log_var = (full_precision(head(h)) for head in (self.y_head, self.mean_head, self.log_var_head))
        return logits.log_softmax(-1), library, mean, log_var

    def _offsets(self) -> tuple[Tensor, Tensor]:
        if self.posterior == "full":
            return self.mean_offset, self.log_var_offset
        zero = torch.zeros_like(self.mixture.mean)
        return zero, zero

    def _infer_one(self, inputs: dict[str, Any], objective: Objective) -> dict[str, Any]:
        """:meth:`inference` with one draw of ``y``, for training: nothing of shape ``(B, K, d)`` but one divergence."""
        log_q, library, mean, log_var = self._shared(**inputs)
        y, weights = nodes_over_y(given(log_q, objective), "sample")
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
    ) -> dict[str, Any]:
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
        ``q(z|x,y)`` from ``p(z|y)``, shape ``(B, K)``. Else those of :meth:`encode`, and ``z`` of shape ``(B, d)``, or
        ``(S, B, d)`` for several draws, with ``weights`` of shape ``(S, B)`` under which the expectation over ``y`` is
        their weighted sum; ``qz`` is the normal with the mean and variance of ``q(z|x)``.
        """
        inputs: dict[str, Any] = {
            "x": x,
            "size_factor": size_factor,
            "batch_index": batch_index,
            "cat_covs": cat_covs,
            "cont_covs": cont_covs,
        }
        if objective is not None and estimator == "sample" and n_samples == 1:
            return self._infer_one(inputs, objective)
        outputs = self.encode(**inputs)
        log_y = given(outputs["log_q"], objective)
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


def full_precision(x: Tensor) -> Tensor:
    """In single precision, if it is in less: under mixed precision densities are computed so, products are not."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def split_covariates(cat_covs: Tensor | None) -> tuple[Tensor, ...]:
    """One ``(B, 1)`` column per categorical covariate."""
    return () if cat_covs is None else torch.split(cat_covs, 1, dim=1)
