"""Values that follow from the data where the user gives none, and options of special kinds of runs."""

from __future__ import annotations

import numpy as np

from rmve.likelihoods import get_likelihood

#: Training of a run whose components come from the labels of some cells: none is redundant, and the start is better than
#: others, so it is held for longer.
FROM_LABELS = {"repulsion_weight": 0.0, "warmup_fraction": 0.5, "start_weight": 10.0}
#: Training of a model that learns positions, too.
WITH_POSITIONS = {"lr": 2e-3, "lr_schedule": "one-cycle"}
#: Least number of steps of a run without and with positions, and the most epochs that this may take. More steps tell
#: smaller clusters apart; a network that sees a cell hundreds of times overfits.
MIN_STEPS, MAX_EPOCHS = 2000, 100
MIN_STEPS_WITH_POSITIONS, MAX_EPOCHS_WITH_POSITIONS = 1500, 400
#: Sizes of mini-batches, and the number of steps from which on a run takes the next one.
BATCH_SIZES, MANY_STEPS = (128, 256, 512), 2000
#: Largest dropout of the input, and the share of zeros from which on there is any.
MAX_INPUT_DROPOUT, MANY_ZEROS = 0.2, 1 / 3


def _passes(n_cells: int) -> int:
    """Epochs where these are enough steps."""
    return int(round(30 * np.clip(40_000 / n_cells, 1 / 6, 1)))


def default_batch_size(n_cells: int) -> int:
    """Cells in a mini-batch: 128, 256 from 17,067 cells on, and 512 from 34,134 on.

    A step of 512 cells takes a little more than twice the time of one of 128. Runs of many steps can do with fewer of
    them: the largest size is taken with which a run still has :data:`MANY_STEPS` of them, twice what it needs.

    Parameters
    ----------
    n_cells
        Number of cells.
    """
    enough = (size for size in reversed(BATCH_SIZES) if _passes(n_cells) * n_cells >= MANY_STEPS * size)
    return next(enough, BATCH_SIZES[0])


def default_epochs(n_cells: int, batch_size: int = BATCH_SIZES[0], with_positions: bool = False) -> int:
    """Epochs of a run: 30 for up to 40,000 cells, fewer for more (down to 5), more where these are too few steps.

    A run has at least :data:`MIN_STEPS` steps, in at most :data:`MAX_EPOCHS` epochs; with positions at least
    :data:`MIN_STEPS_WITH_POSITIONS`, in at most :data:`MAX_EPOCHS_WITH_POSITIONS`.

    Parameters
    ----------
    n_cells
        Number of cells.
    batch_size
        Cells in a mini-batch.
    with_positions
        Whether positions are learned.
    """
    n_batches = -(-n_cells // batch_size)
    steps, most = (MIN_STEPS, MAX_EPOCHS)
    if with_positions:
        steps, most = MIN_STEPS_WITH_POSITIONS, MAX_EPOCHS_WITH_POSITIONS
    return max(_passes(n_cells), min(-(-steps // n_batches), most))


def default_input_dropout(gene_likelihood: str, n_genes: int, zeros: float = 1.0) -> float:
    """Dropout of the input of counts: 0.2, less for a panel of under 200 genes, none where less than a third are zeros.

    A dropped count is taken for a zero, which is far from any count where there are hardly any. In a panel each gene
    counts. Other values are not dropped.

    Parameters
    ----------
    gene_likelihood
        As in :class:`rmve.RMVE`.
    n_genes
        Number of genes.
    zeros
        Share of zeros among the counts.
    """
    if not get_likelihood(gene_likelihood).takes_counts or zeros < MANY_ZEROS:
        return 0.0
    return min(MAX_INPUT_DROPOUT, n_genes / 1000)
