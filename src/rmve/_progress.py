"""How far a training run is, where no terminal can show a bar: a line for each tenth."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Tenths(Callback):
    """Prints a line whenever another tenth of the epochs is done; a resumed run counts those before it."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a line if a tenth ends with this epoch."""
        done, wanted = trainer.current_epoch + 1, trainer.max_epochs or 0
        if wanted > 0 and trainer.is_global_zero and 10 * done // wanted > 10 * (done - 1) // wanted:
            print(f"{100 * done // wanted:3d} % of the training: epoch {done} of {wanted}", flush=True)


def progress_options(quiet: bool) -> dict[str, Any]:
    """Arguments of ``train``: a progress bar on a terminal, lines elsewhere, and neither for ``quiet``."""
    if quiet or sys.stdout.isatty():
        return {"enable_progress_bar": not quiet}
    return {"enable_progress_bar": False, "callbacks": [Tenths()]}
