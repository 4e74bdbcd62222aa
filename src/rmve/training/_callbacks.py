"""What surrounds a run of training: a safe stop, checkpoints, and silence. Nothing here knows AnnData."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO

from rmve._files import locked, remove_folder
from rmve._serialization import JSON_FILE, write_tensors
from rmve.training._random_numbers import check_random_state

if TYPE_CHECKING:
    from rmve.training._plan import RMVETrainingPlan

#: Loggers of notes on devices, tips and data loaders.
CHATTY = (
    "scvi",
    "lightning.pytorch",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric",
    "lightning.fabric.utilities.seed",
)
#: Hints of Lightning that mislead: more workers make small mini-batches from memory slower, and metrics are logged once
#: in an epoch anyway.
MISLEADING = (".*does not have many workers.*", ".*number of training batches.*", ".*LeafSpec.*")
#: State of the trainer, beside the files of a model, in the folder of a checkpoint.
TRAINER_FILE = "trainer.pt"
EPOCH = "epoch_"


class SafeStop(Callback):
    """Ends a run so that the module is of use.

    Ctrl-C stops it after the present mini-batch; a second Ctrl-C does not wait. A loss or a gradient that is not finite
    stops it before the optimizer's step, and what it spoilt is put back as it was at the end of the epoch before.
    Early stopping waits until all warm-ups are over.

    Attributes
    ----------
    interrupted
        Whether Ctrl-C was pressed.
    failure
        What was not finite; ``None`` if all was.
    n_epochs
        Epochs that were completed, those before a resumed run included.
    first
        Epoch that the run begins, or goes on, with.
    """

    def __init__(self, given_warmup: bool = False):
        self.given_warmup = given_warmup
        self.interrupted, self.n_epochs, self.first = False, 0, 0
        self.failure: str | None = None
        self._handler: Callable[[int, FrameType | None], object] | int | None = None
        self._kept: dict[str, torch.Tensor] | None = None

    @property
    def stopped(self) -> bool:
        """Whether the run was ended before its time."""
        return self.interrupted or self.failure is not None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to Ctrl-C, and keep the weights."""
        self.n_epochs = self.first = trainer.current_epoch
        self._keep(pl_module)
        # once: to look for them in each step takes a tenth of it
        self._watched = dict(_plan(pl_module).module.named_parameters())
        early: Any = trainer.early_stopping_callback  # scvi-tools' own, with a warm-up
        if early is not None and not self.given_warmup:
            epochs = math.ceil(_plan(pl_module).settled * (trainer.max_epochs or 0)) - trainer.current_epoch
            early.warmup_epochs = max(0, epochs // (trainer.check_val_every_n_epoch or 1))
        if threading.current_thread() is not threading.main_thread():
            return  # signals are the main thread's
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            return  # a job in the background ignores Ctrl-C; what is not Python's could not be put back

        def stop(*_) -> None:
            self.interrupted = trainer.should_stop = True
            self._release()

        self._handler = signal.signal(signal.SIGINT, stop)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer) -> None:
        """Leave out a step that would spoil the weights."""
        if pl_module.failure is None and getattr(trainer.precision_plugin, "scaler", None) is None:
            sums = torch.stack([p.grad.sum() for p in self._watched.values() if p.grad is not None])
            if not torch.isfinite(sums.sum()):
                bad = [
                    name for name, p in self._watched.items() if p.grad is not None and not torch.isfinite(p.grad).all()
                ]
                pl_module.failure = f"the gradient of {', '.join(bad[:3])} is not finite"
        if pl_module.failure is not None:
            optimizer.zero_grad(set_to_none=True)
            self.failure, trainer.should_stop = _plan(pl_module).failure, True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights of a completed epoch."""
        if not self.stopped:
            self.n_epochs = trainer.current_epoch + 1
            self._keep(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put back what is not finite."""
        self._release()
        if self.failure is not None:
            _plan(pl_module).module.load_state_dict(self._kept)
        self._kept = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._release()

    def _keep(self, plan: LightningModule) -> None:
        self._kept = {name: value.detach().clone() for name, value in _plan(plan).module.state_dict().items()}

    def _release(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None


class Checkpoints(Callback):
    """Writes folders ``epoch_1``, ``epoch_2``, ..., each whole or not at all, and keeps the last.

    With several processes all take part and the first one writes. No other run can use the folder meanwhile.

    Parameters
    ----------
    folder
        Where to write.
    every
        Epochs between two of them.
    save_model
        Writes the model of a trainer, and the state of the trainer beside it, into a new folder.
    save_run
        Writes what stays the same in a run, when it begins; ``None`` for a resumed run.
    n_processes
        Processes of the run that is resumed; ``None`` for a new one.

    Attributes
    ----------
    failure
        Why a checkpoint could not be written, which ends the run; ``None`` if all were.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        save_model: Callable[[Path, Trainer], None],
        save_run: Callable[[Trainer], None] | None,
        n_processes: int | None = None,
    ):
        self.folder, self.every, self.n_processes = folder, every, n_processes
        self.save_model, self.save_run = save_model, save_run
        self.failure: OSError | None = None
        self._lock = contextlib.ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep other runs from the folder."""
        if self.n_processes not in (None, trainer.world_size):
            raise ValueError(
                f"The run in {str(self.folder)!r} had {self.n_processes} process(es) and would go on with "
                f"{trainer.world_size}. Give the same `devices` and `strategy` again."
            )
        if trainer.is_global_zero:
            self._lock.enter_context(locked(self.folder, patience=0.0))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let other runs use the folder."""
        self._lock.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let other runs use the folder."""
        self._lock.close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what stays the same."""
        self.first = trainer.current_epoch
        if self.save_run is not None and trainer.is_global_zero:
            self.save_run(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint of the epoch before, all of which is logged by now, and remove older ones."""
        epoch = trainer.current_epoch
        if epoch == self.first or epoch % self.every:
            return
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.folder / TRAINER_FILE)  # takes part, and writes nothing
            return
        before = list_epochs(self.folder)
        try:
            self.save_model(self.folder / f"{EPOCH}{epoch}", trainer)
            for folder in before:
                remove_folder(folder)
        except OSError as error:
            if trainer.world_size > 1:  # the others wait for this one
                raise
            self.failure, trainer.should_stop = error, True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        """Take back that the next epoch is ready: otherwise Lightning would go on at its end."""
        for count in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            count["ready"] = count["completed"]


class TrainerState(CheckpointIO):
    """Writes the state of a trainer as plain tensors, and gives back one that was read, and checked, before.

    Parameters
    ----------
    state
        What a resumed run goes on from.
    """

    def __init__(self, state: dict | None = None):
        self.state = state

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        """Write the state of a trainer."""
        write_tensors(Path(path), checkpoint)

    def load_checkpoint(self, path: str | Path, map_location: object = None, weights_only: bool | None = None) -> dict:
        """The state that was read before: no file is read a second time."""
        if self.state is None:
            raise ValueError(f"{str(path)!r} is no checkpoint of RMVE. Go on with a run by `RMVE.resume`.")
        return self.state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Nothing: checkpoints are folders, see :class:`Checkpoints`."""


def check_state(state: object, weights: Mapping[str, torch.Tensor], n_processes: int) -> None:
    """Raise ValueError unless the state of a trainer has all its parts, and weights of a network's names and shapes.

    Another version of PyTorch Lightning writes another state, so that is refused, too.
    """
    kinds = {"epoch": int, "global_step": int, "state_dict": dict, "loops": dict, "callbacks": dict}
    kinds |= {"optimizer_states": list, "lr_schedulers": list, "assignment": torch.Tensor, "rng": dict}
    if not isinstance(state, dict) or any(not isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise ValueError("the state of the trainer lacks something")
    written = state.get("pytorch-lightning_version")
    if written != lightning.pytorch.__version__:
        raise ValueError(
            f"PyTorch Lightning {written} wrote the state of the trainer, and {lightning.pytorch.__version__} is "
            "installed. A run goes on with the version that it began with"
        )
    check_random_state(state["rng"], n_processes)
    shapes = {f"module.{name}": tensor.shape for name, tensor in weights.items()}
    if any(getattr(state["state_dict"].get(name), "shape", None) != shape for name, shape in shapes.items()):
        raise ValueError("the state of the trainer does not fit the model")


def list_epochs(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the last epoch last; what only has such a name is none."""
    found = [
        path for path in folder.glob(f"{EPOCH}*") if re.fullmatch(r"(0|[1-9][0-9]*)", path.name.removeprefix(EPOCH))
    ]
    whole = [path for path in found if (path / JSON_FILE).is_file() and not path.is_symlink()]
    return sorted(whole, key=lambda path: int(path.name.removeprefix(EPOCH)))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have a hard Ctrl-C end a call and not the process: Lightning exits, and ignores Ctrl-C from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt("Training was interrupted in the midst of a mini-batch.") from None
        raise
    finally:
        if handler is not None and signal.getsignal(signal.SIGINT) is not handler:
            with contextlib.suppress(ValueError):  # signals are the main thread's
                signal.signal(signal.SIGINT, handler)


class Shared:
    """A state of the whole process that several threads ask for: the first one in makes it, the last one out ends it.

    Parameters
    ----------
    make
        Context manager of the state.
    """

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager]):
        self.make, self.n, self.stack, self.lock = make, 0, contextlib.ExitStack(), threading.Lock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Be in the state."""
        with self.lock:
            if not self.n:
                self.stack.enter_context(self.make())
            self.n += 1
        try:
            yield
        finally:
            with self.lock:
                self.n -= 1
                if not self.n:
                    self.stack.close()


@contextlib.contextmanager
def _without_hints() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in MISLEADING:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_hints, _chatter = Shared(_without_hints), Shared(_without_chatter)
#: What is printed is off the screen.
without_output = Shared(lambda: contextlib.redirect_stdout(io.StringIO()))


@contextlib.contextmanager
def silence(everything: bool) -> Iterator[None]:
    """Keep misleading hints of the training libraries off the screen, or all that they say."""
    with _hints(), _chatter() if everything else contextlib.nullcontext():
        yield


def _plan(module: LightningModule) -> RMVETrainingPlan:
    """The module that the trainer trains, by its own type."""
    return cast("RMVETrainingPlan", module)
