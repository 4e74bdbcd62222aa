"""Mini-batches for training: scvi-tools' data sets, with each cell's row number and no tiny last batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.distributed as dist
from scvi import REGISTRY_KEYS, settings
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler

from rmve._keys import INDEX_KEY
from rmve.data import on_disk
from rmve.data.on_disk import batches_in_memory, is_on_disk, read_rows, shuffled_runs, to_dense
from rmve.maths.sparse_rows import SparseRows


class IndexedDataset(Dataset):
    """A registered AnnData as mini-batches that carry the row number of each cell.

    Parameters
    ----------
    adata_manager
        scvi-tools' manager of a registered AnnData.
    as_counts
        Whether the data matrix comes as :class:`~rmve.maths.sparse_rows.SparseRows`.
    """

    def __init__(self, adata_manager, as_counts: bool = False):
        self.data = adata_manager.create_torch_dataset(data_and_attributes=[REGISTRY_KEYS.X_KEY])
        self.as_counts = as_counts
        self._together: np.ndarray | None = None
        self._in_memory: Any = None
        x = self.data.data[REGISTRY_KEYS.X_KEY]
        self.x = x.tocsr() if sp.issparse(x) else x  # rows of other formats are slow to come by
        # all columns of `obs` at once: slicing data frames for each mini-batch takes longer than a training step
        keys = [key for key in adata_manager.data_registry if key != REGISTRY_KEYS.X_KEY]
        columns = adata_manager.create_torch_dataset(data_and_attributes=keys)[np.arange(len(self))]
        # in one memory order, whatever the storage: the order decides how sums are rounded
        self.columns = {name: np.ascontiguousarray(value) for name, value in columns.items()}

    def __len__(self) -> int:
        return len(self.data)

    @property
    def on_disk(self) -> bool:
        """Whether the data matrix stays on disk."""
        return is_on_disk(self.x)

    def __getitem__(self, rows: np.ndarray | tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray | SparseRows]:
        """A mini-batch; rows may come with all those to read together, of which the next ones are asked for later."""
        if isinstance(rows, tuple):
            rows, together = rows
            if together is not self._together:
                self._in_memory = None  # let go of the last before reading the next
                self._together, self._in_memory = together, read_rows(self.x, together)
            rows = np.sort(rows)
            return self.batch(rows, self._in_memory[np.searchsorted(together, rows)])
        rows = np.sort(rows)  # contiguous reads; the order inside a mini-batch does not matter
        return self.batch(rows, read_rows(self.x, rows))

    def batch(self, rows: np.ndarray, x) -> dict[str, np.ndarray | SparseRows]:
        """A mini-batch of rows whose data ``x`` has been read."""
        if self.as_counts:
            x = SparseRows.from_scipy(x)
        else:
            x = to_dense(x)
        columns = {name: value[rows] for name, value in self.columns.items()}
        return {REGISTRY_KEYS.X_KEY: x, **columns, INDEX_KEY: rows}


class EvenBatches(Sampler):
    """Batches whose sizes differ by at most one: batch normalisation never meets a batch of one cell.

    Parameters
    ----------
    indices
        Rows to go through.
    batch_size
        Upper limit of the batch size; pairs may become three, so that no cell is left alone.
    shuffle
        Whether to draw a new order, from torch's global generator, on each pass.
    shared_seed
        With several processes: they draw the same orders from this seed and share out the batches, equally many to each.
    """

    def __init__(self, indices: np.ndarray, batch_size: int, shuffle: bool, shared_seed: int | None = None):
        # sorted: the order of a pass depends on torch's generator alone
        self.indices, self.shuffle = np.sort(indices), shuffle
        n = len(self.indices)
        self.generator, self.rank, world_size = None, 0, 1
        if shared_seed is not None:
            self.generator = torch.Generator().manual_seed(shared_seed)
            self.rank, world_size = dist.get_rank(), dist.get_world_size()
        n_rounds = max(1, min(-(-n // (batch_size * world_size)), n // (2 * world_size)))
        self.world_size, self.n_batches = world_size, n_rounds * world_size
        #: Cells in the largest batch.
        self.largest = -(-n // self.n_batches)

    def __len__(self) -> int:
        return self.n_batches // self.world_size

    def _mine(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        return batches[self.rank :: self.world_size]

    def _next_pass(self) -> list[np.ndarray]:
        indices = self.indices
        if self.shuffle:
            indices = indices[torch.randperm(len(indices), generator=self.generator).numpy()]
        return self._mine(np.array_split(indices, self.n_batches))

    def __iter__(self) -> Iterator[np.ndarray | tuple[np.ndarray, np.ndarray]]:
        yield from self._next_pass()


class BatchesOfRuns(EvenBatches):
    """The same for data on disk: many mini-batches are read together, when shuffled from a random set of short runs.

    Yields the rows of a mini-batch and, sorted, those of all that are read together with it.
    """

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if len(self.indices) <= on_disk.CELLS_IN_MEMORY:  # one read, and the order of data in memory
            yield from ((batch, self.indices) for batch in self._next_pass())
            return
        rng, order = None, self.indices
        if self.shuffle:
            rng = np.random.default_rng(int(torch.randint(2**31 - 1, (1,), generator=self.generator)))
            order = shuffled_runs(order, rng)
        runs = np.array_split(order, self.n_batches)
        # processes take turns by runs, so that each reads its own
        for group in batches_in_memory(self._mine(runs), rng):
            together = np.sort(np.concatenate(group))
            yield from ((batch, together) for batch in group)


class IndexedDataSplitter(DataSplitter):
    """scvi-tools' splitter into training, validation and test cells, with :class:`EvenBatches`.

    Parameters
    ----------
    as_counts
        As for :class:`IndexedDataset`.
    **kwargs
        Those of scvi-tools' splitter.
    """

    def __init__(self, *args, as_counts: bool = False, **kwargs):
        distributed = kwargs.pop("distributed_sampler", False)
        super().__init__(*args, **kwargs)
        self.as_counts = as_counts
        # drawn here, before there are several processes, or where all of them are in the same state
        self.shared_seed = int(torch.randint(2**31 - 1, (1,))) if distributed else None

    def _loader(self, indices: np.ndarray, shuffle: bool) -> DataLoader | None:
        if len(indices) == 0:
            return None
        batch_size = self.data_loader_kwargs.get("batch_size") or settings.batch_size
        cells = IndexedDataset(self.adata_manager, self.as_counts)
        return DataLoader(
            cells,
            sampler=(BatchesOfRuns if cells.on_disk else EvenBatches)(indices, batch_size, shuffle, self.shared_seed),
            batch_size=None,
            pin_memory=self.pin_memory,
            num_workers=self.data_loader_kwargs.get("num_workers", settings.dl_num_workers),
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of the training cells."""
        loader = self._loader(self.train_idx, shuffle=True)
        assert loader is not None  # some cells are trained on, see `check_split`
        return loader

    def val_dataloader(self) -> DataLoader | None:
        """Batches of the validation cells, if there are any."""
        return self._loader(self.val_idx, shuffle=False)

    def test_dataloader(self) -> DataLoader | None:
        """Batches of the test cells, if there are any."""
        return self._loader(self.test_idx, shuffle=False)

    def transfer_batch_to_device(self, batch: dict, device: torch.device, dataloader_idx: int) -> dict:
        """Move a mini-batch; Apple's GPUs lack the sparse operations, so counts get there dense."""
        x = batch[REGISTRY_KEYS.X_KEY]
        if device.type == "mps" and isinstance(x, SparseRows):
            batch = {**batch, REGISTRY_KEYS.X_KEY: x.dense()}
        return super().transfer_batch_to_device(batch, device, dataloader_idx)
