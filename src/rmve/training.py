"""How RMVE is trained: phases, warm-ups as fractions of the run, learning rates, diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
import torch.distributed as dist
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan
from torch import Tensor

from rmve._keys import INDEX_KEY
from rmve._random_numbers import random_state, set_order, set_random_state
from rmve._validation import check_choice
from rmve.maths.gaussians import between_components, bhattacharyya
from rmve.maths.sparse_rows import SparseRows
from rmve.module import RMVEModule
from rmve.objective import Objective, not_finite
from rmve.predictive import split_batch
from rmve.schedules import LR_SCHEDULES, one_cycle, ramp

#: A component is in use if the mean of its ``q(y|x)`` is at least this.
MIN_USAGE = 1e-3
#: Least weight of a coordinate, as a ratio of explained to unexplained variance, in the first phase, where it is to become
#: learned, and in the joint one, where it has shown whether it can be.
FIRST_SIGNAL, MIN_SIGNAL = 1.0, 0.01


@dataclass(frozen=True)
class TrainingData:
    """What the plan knows of each cell; rows are those of the registered AnnData.

    Parameters
    ----------
    start
        Starting assignment ``r``, shape ``(n, K)``, rows on the simplex.
    labelled
        Cells whose assignment is given, shape ``(n,)``.
    graph
        Neighbour graph whose rows sum to one (or to zero), shape ``(n, n)``; ``None`` for no Potts prior.
    positions
        Standardised coordinates, shape ``(n, p)``, rows of NaN where unknown; ``None`` for no spatial term.
    held_out
        Cells whose position is not to be learned, shape ``(n,)``.
    """

    start: np.ndarray
    labelled: np.ndarray
    graph: sp.csr_matrix | None = None
    positions: np.ndarray | None = None
    held_out: np.ndarray | None = None


class RMVETrainingPlan(TrainingPlan):
    """Trains :class:`~rmve.module.RMVEModule` in two phases.

    First the assignment is held to the starting partition while encoder, decoder and components form; then
    the joint bound is trained with the Potts prior and the repulsion, both warmed up.

    Parameters
    ----------
    module
        The module.
    data
        Starting assignment and neighbour graph; ``RMVE.train`` makes it.
    lr, mixture_lr
        Learning rates of the networks and of the mixture's parameters.
    weight_decay
        Of AdamW, on the networks only.
    lr_drop, lr_drop_fraction
        In the last ``lr_drop_fraction`` of the run both rates are multiplied by ``lr_drop``.
    lr_schedule
        ``"drop"``: as just said. ``"one-cycle"``: both rates rise to their value over the first fifth of the run and fall
        to zero along a cosine.
    warmup_fraction
        Share of the run in which the assignment is held to the start.
    kl_warmup_fraction
        Share of the held phase over which the weight of ``KL[q(z|x,y) || p(z|y)]`` rises to ``kl_weight``.
    kl_weight
        Final weight of that divergence; 1 is the evidence lower bound.
    warmup_alpha
        Weight of ``log q(y|x)`` for cells held to the start. Large values keep small clusters of the start alive; 1 lets
        redundant components vanish.
    smoothing
        Probability spread evenly over the components in the starting assignment.
    potts, potts_ramp_fraction
        Strength ``eta`` of the neighbourhood prior, and the share of the joint phase over which it rises.
    repulsion, repulsion_ramp_fraction
        Strength ``tau`` in nats per cell, and the share of the joint phase over which it rises.
    repulsion_moves
        Whether the expected overlap (``"hsic"``) also moves means and variances, and not the weights alone. When it
        does, redundant components escape to places of their own instead of vanishing. The other kinds always move them.
    alpha
        Weight of ``log q(y|x)`` for labelled cells.
    agreement, view
        Weight of the agreement between two views of a cell, and the function that makes the second view of a
        ``(B, G)`` tensor; the default view of counts keeps each molecule with probability 1/2. While a cell is held to
        the start or to its label, its view is, too.
    balance
        Weight of the balance of the average assignment, in the joint phase.
    confidence
        Weight of the entropy of each cell's assignment, in the joint phase. Equal to ``balance``, the two are the
        mutual information between a cell and its component.
    spatial
        Weight of the positions, for cells that have one: see :meth:`rmve.module.RMVEModule.position_loss`. 0 is none.
    dirichlet
        Concentration of the symmetric Dirichlet prior on ``p(y)``.
    estimator
        Of the expectation over ``y``: ``"sample"``, ``"exact"`` or ``"gumbel"``.
    momentum
        Share of the old value in the running average of ``q(y|x)`` that neighbours are told.
    split
        Division of each cell into the part that is read and the part that is scored, drawn anew in each step
        (:func:`rmve.predictive.split_batch`). ``"binomial"``: half of the molecules each, independent if counts are
        Poisson; ``"negative_binomial"``: independent if they have the likelihood's dispersion; ``"normal"``: two noisy
        copies of log-normalised values; ``None``: the whole cell is read and scored, the plain evidence lower bound;
        ``"auto"``: ``"binomial"`` for counts and ``None`` for other data.
    """

    def __init__(
        self,
        module: RMVEModule,
        *,
        data: TrainingData,
        lr: float = 1e-3,
        mixture_lr: float = 5e-3,
        weight_decay: float = 1e-2,
        lr_drop: float = 0.3,
        lr_drop_fraction: float = 0.2,
        lr_schedule: str = "drop",
        warmup_fraction: float = 1 / 3,
        kl_warmup_fraction: float = 0.7,
        kl_weight: float = 1.0,
        warmup_alpha: float = 1.0,
        smoothing: float = 0.1,
        potts: float = 3.0,
        potts_ramp_fraction: float = 0.6,
        repulsion: float = 50.0,
        repulsion_moves: bool = False,
        repulsion_ramp_fraction: float = 0.5,
        alpha: float = 10.0,
        agreement: float = 0.0,
        view: Callable[[Tensor], Tensor] | None = None,
        balance: float = 0.0,
        confidence: float = 0.0,
        spatial: float = 50.0,
        dirichlet: float = 1.0,
        estimator: str = "sample",
        momentum: float = 0.5,
        split: str | None = "auto",
    ):
        super().__init__(module, lr=lr, weight_decay=weight_decay, optimizer="AdamW")
        view = view or module.likelihood.default_view
        if agreement > 0 and view is None:
            raise ValueError(
                f"`agreement={agreement}` needs `view` with the likelihood {module.likelihood.name!r}: "
                "a function that returns another view of a batch of cells. Only counts have a default."
            )
        check_choice("lr_schedule", lr_schedule, LR_SCHEDULES)
        splits = module.likelihood.splits
        check_choice("split", split, ("auto", *splits))
        self.split = splits[0] if split == "auto" else split
        self.mixture_lr, self.lr_drop, self.lr_drop_fraction = mixture_lr, lr_drop, lr_drop_fraction
        self.lr_schedule = lr_schedule
        self.warmup_fraction, self.kl_warmup_fraction = warmup_fraction, kl_warmup_fraction
        self.final_kl_weight, self.smoothing, self.warmup_alpha = kl_weight, smoothing, warmup_alpha
        self.potts, self.potts_ramp_fraction = potts, potts_ramp_fraction
        self.repulsion, self.repulsion_ramp_fraction = repulsion, repulsion_ramp_fraction
        self.repulsion_moves = repulsion_moves
        self.alpha, self.agreement, self.view = alpha, agreement, view
        self.balance, self.confidence, self.dirichlet = balance, confidence, dirichlet
        self.estimator, self.momentum = estimator, momentum
        self.labelled = torch.as_tensor(data.labelled)
        self.any_labelled = bool(data.labelled.any())
        self.spatial, self.positions = spatial, None
        if spatial > 0 and data.positions is not None:
            self.positions = torch.as_tensor(data.positions, dtype=torch.float32)
            self.held_out = torch.as_tensor(data.held_out)
        start = torch.as_tensor(data.start, dtype=torch.float32)
        smooth = torch.where(self.labelled, 0.0, smoothing)[:, None]
        self.start = (1.0 - smooth) * start + smooth / start.shape[1]
        self.graph = SparseRows.from_scipy(data.graph) if potts > 0 and data.graph is not None else None
        #: Running average of ``q(y|x)``, which the Potts prior reads.
        self.assignment = self.start.clone()
        #: Latest part of the run, as a share, at which a strength is still rising.
        self.settled = warmup_fraction + (1.0 - warmup_fraction) * max(
            potts_ramp_fraction if self.graph is not None else 0.0,
            repulsion_ramp_fraction if module.repulsion is not None and repulsion > 0 else 0.0,
        )
        #: Random numbers of the run that this one goes on with; ``None`` for a new one.
        self.resumed: dict[str, object] | None = None
        #: What was not finite in a step, in words.
        self.failure: str | None = None

    # ------------------------------------------------------------- schedule

    @property
    def progress(self) -> float:
        """Share of the run that is done, in ``[0, 1]``."""
        total = self.trainer.estimated_stepping_batches
        return min(self.global_step / total, 1.0) if 0 < total < float("inf") else 0.0

    def objective(self, rows: np.ndarray, device: torch.device) -> Objective:
        """The objective of a mini-batch at this point of the run.

        Parameters
        ----------
        rows
            Row numbers of the cells.
        device
            Where the tensors are wanted.
        """
        progress, warmup = self.progress, self.warmup_fraction
        common = {
            "kl_weight": self.final_kl_weight * ramp(progress, 0.0, warmup * self.kl_warmup_fraction),
            "agreement": self.agreement,
            "dirichlet": self.dirichlet,
            "n_obs": self.n_obs_training or len(self.start),
        }
        if self.positions is not None:
            common |= {
                "positions": self.positions[rows].to(device),
                "held_out": self.held_out[rows].to(device),
                "spatial": self.spatial,
                "min_signal": FIRST_SIGNAL if progress < warmup else MIN_SIGNAL,
            }
        labelled = self.labelled[rows]
        given = {"target": self.start[rows].to(device)}
        if progress < warmup:
            return Objective(
                **common,
                **given,
                held=torch.ones(len(rows), dtype=torch.bool, device=device),
                alpha=torch.where(labelled, self.alpha, self.warmup_alpha).to(device),
            )
        joint = 1.0 - warmup
        common |= {
            "repulsion": self.repulsion * ramp(progress, warmup, joint * self.repulsion_ramp_fraction),
            "repulsion_moves": self.repulsion_moves,
            "balance": self.balance,
            "confidence": self.confidence,
        }
        if self.any_labelled:
            common |= given | {
                "held": labelled.to(device),
                "alpha": torch.full((len(rows),), self.alpha, device=device),
            }
        if self.graph is not None:
            near = self.graph.take(torch.as_tensor(rows)).times(self.assignment)
            common |= {
                "neighbor_mean": near.to(device),
                "potts": self.potts * ramp(progress, warmup, joint * self.potts_ramp_fraction),
            }
        return Objective(**common)

    # ---------------------------------------------------------------- steps

    def _forward(self, batch: dict[str, Tensor], objective: Objective):
        return self.module(
            batch,
            inference_kwargs={"estimator": self.estimator, "objective": objective},
            generative_kwargs={"with_distribution": False},
            loss_kwargs={"objective": objective},
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One gradient step; also updates the running average of the assignments."""
        rows = batch.pop(INDEX_KEY).cpu().numpy()
        batch = split_batch(batch, self.split, self.module.log_dispersion)
        objective = self.objective(rows, self.device)
        if objective.agreement > 0:
            x = batch[REGISTRY_KEYS.X_KEY]
            objective = _with_view(objective, self.view(x.dense() if isinstance(x, SparseRows) else x))
        inference, _, loss = self._forward(batch, objective)
        if not torch.isfinite(loss.loss):
            self.failure = not_finite(loss, rows)
        new = inference["log_q"].detach().exp()
        self.usage += new.sum(0)
        if objective.neighbor_mean is not None:
            rows, new = self._from_all_processes(torch.as_tensor(rows), new)
            self.assignment[rows] = self.momentum * self.assignment[rows] + (1.0 - self.momentum) * new.cpu()
        self._add_up(loss)
        return loss.loss

    def _from_all_processes(self, rows: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and assignments of the mini-batches of all processes, so that their running averages stay the same."""
        if not dist.is_initialized():
            return rows, new
        # batches differ by one cell at most, messages must not: the last cell comes twice
        last = torch.arange(self.trainer.train_dataloader.sampler.largest).clamp(max=len(rows) - 1)
        rows, new = rows[last].to(new.device), new[last.to(new.device)]
        all_rows, all_new = ([torch.empty_like(t) for _ in range(dist.get_world_size())] for t in (rows, new))
        dist.all_gather(all_rows, rows)
        dist.all_gather(all_new, new)
        return torch.cat(all_rows).cpu(), torch.cat(all_new)

    def on_train_start(self) -> None:
        """Let each process draw noise of its own from here on."""
        if self.resumed is not None:
            set_order(self.resumed, self.trainer.train_dataloader)
        elif dist.is_initialized() and dist.get_rank() > 0:
            torch.manual_seed(torch.initial_seed() + dist.get_rank())

    def on_train_end(self) -> None:
        """Give all processes the statistics of batch normalisation of the first."""
        if dist.is_initialized():
            for buffer in self.module.buffers():
                dist.broadcast(buffer, 0)

    @torch.no_grad()
    def _add_up(self, loss: LossOutput) -> None:
        """Add the parts of a step's loss to the epoch's: on the device, and far cheaper than to log them."""
        n = loss.n_obs_minibatch
        parts = {"reconstruction_loss": loss.reconstruction_loss_sum, "kl_local": loss.kl_local_sum}
        parts |= {name: value * n for name, value in {"loss": loss.loss, **loss.extra_metrics}.items()}
        for name, value in parts.items():
            self.epoch_sums[name] = self.epoch_sums.get(name, 0.0) + value.detach()
        self.epoch_cells += n

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The bound on validation cells, split like those for training, without the terms that tie cells together."""
        batch.pop(INDEX_KEY)
        batch = split_batch(batch, self.split, self.module.log_dispersion)
        _, _, loss = self._forward(batch, Objective())
        self.log("validation_loss", loss.loss, on_epoch=True, batch_size=loss.n_obs_minibatch)
        self.compute_and_log_metrics(loss, self.val_metrics, "validation")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add the running assignment and the state of the random numbers."""
        rng = random_state(self.device, self.trainer.train_dataloader)
        checkpoint |= {"assignment": self.assignment, "rng": rng}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take both from a checkpoint. Next, Lightning draws the order of the cells, as at the start of any epoch."""
        self.assignment, self.resumed = checkpoint["assignment"], checkpoint["rng"]
        set_random_state(self.resumed, self.device)

    def on_train_epoch_start(self) -> None:
        """Start to count how much each component is used."""
        self.usage = torch.zeros(self.module.n_components, device=self.device)
        self.epoch_sums, self.epoch_cells = {}, 0

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss and its parts, the number of components in use and how far apart they are."""
        if not self.epoch_cells:  # stopped before the first mini-batch
            return
        means = {f"{name}_train": value / self.epoch_cells for name, value in self.epoch_sums.items()}
        self.log("train_loss", means.pop("loss_train"), prog_bar=True, sync_dist=self.use_sync_dist)
        # names and meaning as in scvi-tools' models
        means |= {"elbo_train": means["reconstruction_loss_train"] + means["kl_local_train"], "kl_global_train": 0.0}
        self.log_dict(means, sync_dist=self.use_sync_dist)
        if dist.is_initialized():
            dist.all_reduce(self.usage)
        used = self.usage / self.usage.sum() >= MIN_USAGE
        self.log("n_components", float(used.sum()), sync_dist=self.use_sync_dist)
        if used.sum() > 1:
            mixture = self.module.mixture
            distance = between_components(bhattacharyya, mixture.mean[used], mixture.var[used])
            distance.fill_diagonal_(float("inf"))
            self.log("min_separation", float(distance.min()), sync_dist=self.use_sync_dist)

    # ------------------------------------------------------------ optimizer

    def configure_optimizers(self) -> dict:
        """AdamW with a faster group for the mixture, and the schedule of both rates."""
        mixture = {id(p) for p in self.module.mixture.parameters()}
        trainable = [p for p in self.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if id(p) not in mixture], "lr": self.lr},
            {"params": [p for p in trainable if id(p) in mixture], "lr": self.mixture_lr, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        # one pass over all parameters, where there is such a kernel
        fused = all(p.device.type in ("cpu", "cuda") for p in trainable)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=fused)
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            if self.lr_schedule == "one-cycle":
                return one_cycle((step + 1) / total)
            return self.lr_drop if step >= (1.0 - self.lr_drop_fraction) * total else 1.0

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _with_view(objective: Objective, view: Tensor) -> Objective:
    return Objective(**{**objective.__dict__, "view": view})
