"""What a command does between reading and reporting: train, with checkpoints or without, and write files whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import scvi

import rmve
from rmve._files import claim, replacing
from rmve._progress import progress_options
from rmve._serialization import JSON_FILE
from rmve.model._run_file import RUN_FILE
from rmve.training._callbacks import list_epochs

#: Beside the checkpoints: the options that a resumed command has to repeat.
COMMAND_FILE = "command.json"


@dataclass(frozen=True)
class Training:
    """Options of model and training, with the defaults of the commands."""

    n_components: str = "auto"
    likelihood: str = "nb"
    max_epochs: int | None = None
    seed: int = 0
    checkpoint_dir: Path | None = None
    resume: bool = False
    n_top_genes: int | None = None
    backed: bool = False

    def repeated(self) -> dict[str, object]:
        """The options that a resumed run has to repeat."""
        names = ("n_components", "likelihood", "max_epochs", "seed", "n_top_genes")
        options = {name: getattr(self, name) for name in names}
        return options | ({"backed": True} if self.backed else {})  # mini-batches from disk are others


def fit(
    adata: ad.AnnData,
    setup: dict,
    training: Training,
    key_added: str,
    quiet: bool,
    kind: str | None = None,
    levels: Sequence[int] = (),
    finish: Callable[[rmve.RMVE], None] | None = None,
) -> rmve.RMVE:
    """Train a model and write its results, and nothing else, into ``adata``; ``finish`` may add to them."""
    scvi.settings.seed = training.seed
    folder, options = training.checkpoint_dir, setup | training.repeated()
    if folder is not None and holds_run(folder, options, training.resume):
        model = rmve.RMVE.resume(folder, adata, **progress_options(quiet))
    else:
        rmve.RMVE.setup_anndata(adata, **setup)
        n_components = None if training.n_components == "auto" else int(training.n_components)
        model = rmve.RMVE(adata, n_components=n_components, gene_likelihood=training.likelihood)
        if folder is not None:
            begin_run(folder, options)
        model.train(max_epochs=training.max_epochs, checkpoint_dir=folder, **progress_options(quiet))
    if kind not in (None, "linear"):
        model.fit_spatial_map(kind=kind)
    model.annotate(key_added=key_added, levels=levels)
    if finish is not None:
        finish(model)
    for part in (adata.obs, adata.uns):  # notes of the set-up, of no use without the model
        for name in [name for name in part if str(name).startswith("_scvi")]:
            del part[name]
    return model


def holds_run(folder: Path, options: dict[str, object], resume: bool) -> bool:
    """Whether a folder of checkpoints holds a run to go on with.

    Raises
    ------
    FileExistsError
        If it does, and that is not wanted.
    ValueError
        If that run had other options.
    """
    if not (folder / JSON_FILE).is_file() and not list_epochs(folder):
        return False
    if not resume:
        raise FileExistsError(f"{folder} holds a run. Go on with it by --resume, or choose another --checkpoint-dir.")
    note = folder / COMMAND_FILE
    if not note.is_file():
        raise ValueError(f"The run in {folder} is not of this command. Choose another --checkpoint-dir.")
    before = json.loads(note.read_text(encoding="utf-8"))
    changed = [f"--{name.replace('_', '-')}" for name in options | before if before.get(name) != options.get(name)]
    if changed:
        raise ValueError(
            f"The run in {folder} had another {', '.join(changed)}. Repeat its options, or choose another --checkpoint-dir."
        )
    return True


def begin_run(folder: Path, options: dict[str, object]) -> None:
    """Note the options of a run that begins, in place of one that was killed before its first checkpoint.

    Raises
    ------
    OSError
        If the folder cannot be written to, or another process does.
    """
    claim(folder)
    (folder / RUN_FILE).unlink(missing_ok=True)
    with replacing(folder / COMMAND_FILE) as temporary:
        temporary.write_text(json.dumps(options, indent=1), encoding="utf-8")


def check_output(path: Path, force: bool) -> None:
    """Raise OSError if a file is there (unless ``force``), or cannot be."""
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists. Overwrite it with --force.")
    if not os.access(path.parent, os.W_OK):
        raise OSError(f"{path.name} cannot be written to the folder {path.parent}: it is missing or read-only.")
