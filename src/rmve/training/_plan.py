"""How RMVE is trained: phases, warm-ups as fractions of the run, learning rates, diagnostics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan
from torch import Tensor

from rmve._keys import INDEX_KEY
from rmve.maths.gaussians import between_components, bhattacharyya
from rmve.maths.sparse_rows import SparseRows
from rmve.module import RMVEModule
from rmve.module._objective import Objective, not_finite
from rmve.predictive import read_less, split_batch
from rmve.training._data import TrainingData
from rmve.training._options import TrainingOptions, translated
from rmve.training._random_numbers import random_state, set_order, set_random_state
from rmve.training._schedules import one_cycle, ramp

#: A component is in use if the mean of its ``q(y|x)`` is at least this.
MIN_USAGE = 1e-3
#: Least weight of a coordinate, as a ratio of explained to unexplained variance, in the first phase, where it is to become
#: learned, and in the joint one, where it has shown whether it can be.
FIRST_SIGNAL, MIN_SIGNAL = 1.0, 0.01


class RMVETrainingPlan(TrainingPlan):
    """Trains :class:`~rmve.module.RMVEModule` in two phases.

    In the first phase each cell keeps its starting assignment while encoder, decoder and components form. In the second
    the joint bound is trained. The Potts prior and the repulsion rise in it.

    Parameters
    ----------
    module
        Module to train.
    data
        Starting assignment, neighbour graph and positions; ``RMVE.train`` makes it.
    **options
        Options of :class:`~rmve.training.TrainingOptions`.

    Raises
    ------
    TypeError, ValueError
        If an option does not exist, or its value is not possible with the likelihood.
    """

    def __init__(self, module: RMVEModule, *, data: TrainingData, **options: Any):
        chosen = TrainingOptions(**translated(options))
        super().__init__(module, lr=chosen.lr, weight_decay=chosen.weight_decay, optimizer="AdamW")
        self.options, likelihood = chosen, module.likelihood
        chosen.check_likelihood(likelihood)
        self.view = chosen.view or likelihood.default_view
        self.split = likelihood.splits[0] if chosen.split == "auto" else chosen.split
        #: Fewest molecules that the encoder reads of a cell that has more, or ``None``.
        self.reads_less = chosen.min_molecules if likelihood.takes_counts and self.split is not None else None
        self.labelled = torch.as_tensor(data.labelled)
        self.any_labelled = bool(data.labelled.any())
        self.positions = None
        if chosen.position_weight > 0 and data.positions is not None:
            self.positions = torch.as_tensor(data.positions, dtype=torch.float32)
            self.held_out = torch.as_tensor(data.held_out)
        start = torch.as_tensor(data.start, dtype=torch.float32)
        smooth = torch.where(self.labelled, 0.0, chosen.start_smoothing)[:, None]
        self.start = (1.0 - smooth) * start + smooth / start.shape[1]
        with_graph = chosen.neighbor_weight > 0 and data.graph is not None
        self.graph = SparseRows.from_scipy(data.graph) if with_graph else None
        #: Running average of ``q(y|x)``, which the Potts prior reads.
        self.assignment = self.start.clone()
        repels = module.repulsion is not None and chosen.repulsion_weight > 0
        #: Latest part of the run, as a share, at which a strength is still rising.
        self.settled = chosen.warmup_fraction + (1.0 - chosen.warmup_fraction) * max(
            chosen.neighbor_ramp_fraction if with_graph else 0.0,
            chosen.repulsion_ramp_fraction if repels else 0.0,
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
        options, progress, warmup = self.options, self.progress, self.options.warmup_fraction
        common: dict[str, Any] = {
            "kl_weight": options.kl_weight * ramp(progress, 0.0, warmup * options.kl_warmup_fraction),
            "view_weight": options.view_weight,
        }
        if self.positions is not None:
            common |= {
                "positions": self.positions[rows].to(device),
                "held_out": self.held_out[rows].to(device),
                "position_weight": options.position_weight,
                "min_signal": FIRST_SIGNAL if progress < warmup else MIN_SIGNAL,
            }
        labelled = self.labelled[rows]
        given: dict[str, Any] = {"target": self.start[rows].to(device)}
        if progress < warmup:
            return Objective(
                **common,
                **given,
                held=torch.ones(len(rows), dtype=torch.bool, device=device),
                label_weight=torch.where(labelled, options.label_weight, options.start_weight).to(device),
            )
        joint = 1.0 - warmup
        common |= {
            "repulsion_weight": options.repulsion_weight
            * ramp(progress, warmup, joint * options.repulsion_ramp_fraction),
            "repulsion_moves": options.repulsion_moves,
            "balance_weight": options.balance_weight,
            "entropy_weight": options.entropy_weight,
        }
        if self.any_labelled:
            common |= given | {
                "held": labelled.to(device),
                "label_weight": torch.full((len(rows),), options.label_weight, device=device),
            }
        if self.graph is not None:
            near = self.graph.take(torch.as_tensor(rows)).times(self.assignment)
            common |= {
                "neighbor_mean": near.to(device),
                "neighbor_weight": options.neighbor_weight
                * ramp(progress, warmup, joint * options.neighbor_ramp_fraction),
            }
        return Objective(**common)

    # ---------------------------------------------------------------- steps

    def _forward(self, batch: dict[str, Tensor], objective: Objective):
        return self.module(
            batch,
            inference_kwargs={"estimator": self.options.estimator, "objective": objective},
            generative_kwargs={"with_distribution": False},
            loss_kwargs={"objective": objective},
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One gradient step; also updates the running average of the assignments."""
        rows = batch.pop(INDEX_KEY).cpu().numpy()
        batch = split_batch(batch, self.split, self.module.log_dispersion)
        if self.reads_less is not None:
            batch = read_less(batch, self.reads_less)
        objective = self.objective(rows, self.device)
        if self.view is not None and objective.view_weight > 0:
            x = batch[REGISTRY_KEYS.X_KEY]
            objective = replace(objective, view=self.view(x.dense() if isinstance(x, SparseRows) else x))
        inference, _, loss = self._forward(batch, objective)
        if not torch.isfinite(loss.loss):
            self.failure = not_finite(loss, rows)
        new = inference["log_q"].detach().exp()
        self.usage += new.sum(0)
        if objective.neighbor_mean is not None:
            at, new = self._from_all_processes(torch.as_tensor(rows), new)
            momentum = self.options.assignment_momentum
            self.assignment[at] = momentum * self.assignment[at] + (1.0 - momentum) * new.cpu()
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
        self.epoch_sums: dict[str, Tensor] = {}
        self.epoch_cells = 0

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss and its parts, the number of components in use and how far apart they are."""
        if not self.epoch_cells:  # stopped before the first mini-batch
            return
        means: dict[str, Tensor | float] = {
            f"{name}_train": value / self.epoch_cells for name, value in self.epoch_sums.items()
        }
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
            {"params": [p for p in trainable if id(p) in mixture], "lr": self.options.mixture_lr, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        # one pass over all parameters, where there is such a kernel
        fused = all(p.device.type in ("cpu", "cuda") for p in trainable)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=fused)
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            if self.options.lr_schedule == "one-cycle":
                return one_cycle((step + 1) / total)
            last = step >= (1.0 - self.options.lr_drop_fraction) * total
            return self.options.lr_drop if last else 1.0

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
