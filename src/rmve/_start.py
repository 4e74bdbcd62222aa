"""How a run of RMVE starts: statistics of the input, a partition of the cells, a neighbour graph."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS

from rmve import _validation as check
from rmve import initialization
from rmve._held_out import identify
from rmve.labels import partition_from_labels
from rmve.training import TrainingData

#: Principal components for the starting partition and the neighbour graph.
N_PCS = 20
#: Share of the known positions that is kept to judge the map.
HELD_OUT_POSITIONS = 0.1
#: Least number of them: fewer have no spread to compare errors with.
MIN_HELD_OUT = 2


class StartMixin:
    """Part of :class:`rmve.RMVE` that prepares what training starts from."""

    def _training_data(self, start: np.ndarray | None, with_graph: bool, with_positions: bool) -> TrainingData:
        """Starting assignment and neighbour graph; on the first call also the module's starting values.

        Parameters
        ----------
        start
            Given partition, shape ``(n,)``, or ``None``.
        with_graph
            Whether training uses a neighbour graph.
        with_positions
            Whether training uses the registered positions.
        """
        positions = self._positions() if with_positions else {}
        seed, first = int(torch.randint(2**31 - 1, (1,))), not self.is_trained_
        neighbors_key, labels = self._setup_arg("neighbors_key"), self._label_codes()
        points = graph = None
        if first or (with_graph and neighbors_key is None):
            points = self._points(seed)
        spread = first and start is None and 0 < (labels >= 0).sum() < len(labels)  # labels spread on the graph
        if spread or (with_graph and neighbors_key is None):
            graph = initialization.nearest_neighbors(points, initialization.N_NEIGHBORS, seed)
        if first:
            partition = self._partition(points, graph, labels, seed) if start is None else start
            self._set_n_components(max(len(self.label_names_), int(partition.max()) + 1))
            self.starting_partition_ = partition = np.where(labels >= 0, labels, partition)
            self._start_components(points, partition)
            assignment = np.eye(self.module.n_components, dtype=np.float32)[partition]
        else:
            assignment, _ = self._posterior()
            assignment[labels >= 0] = np.eye(self.module.n_components, dtype=np.float32)[labels[labels >= 0]]
        if not with_graph:
            graph = None
        elif neighbors_key is not None:
            graph = initialization.normalize_graph(check.find_graph(self.adata, neighbors_key))
        return TrainingData(start=assignment, labelled=labels >= 0, graph=graph, **positions)

    def _positions(self) -> dict[str, np.ndarray]:
        """Standardised positions and which of them are held out, as :class:`TrainingData` has them.

        A tenth of the cells with a position, chosen when the model first meets them, is never learned from: it judges
        the map.
        """
        spatial_key = self._setup_arg("spatial_key")
        if spatial_key is None or spatial_key not in self.adata.obsm or self.is_query_:
            return {}
        positions = check.get_coordinates(self.adata, spatial_key)
        known, names = np.isfinite(positions).all(1), self.adata.obs_names.to_numpy()
        cells = identify(names, positions)
        if not len(self.held_out_):
            check.check_n_positions(int(known.sum()), self.module.n_latent, _n_held_out(int(known.sum())))
            center, scale = positions[known].mean(0), positions[known].std(0)
            self.module.set_space_statistics(torch.as_tensor(center), torch.as_tensor(scale))
        self.held_out_.judges(names, cells)  # refuses namesakes of held-out cells
        new = np.flatnonzero(known & self.held_out_.unknown(cells))
        if len(new):
            held_out = np.zeros(len(positions), dtype=bool)
            held_out[new[torch.randperm(len(new)).numpy()[: _n_held_out(len(new))]]] = True
            of_new = np.isin(np.arange(len(positions)), new)
            self.held_out_ = self.held_out_.extended(names[of_new], cells[of_new], held_out[of_new])
        center, scale = (t.cpu().numpy() for t in (self.module.space_center, self.module.space_scale))
        held_out = self.held_out_.rows(cells)
        return {"positions": (positions - center) / scale, "held_out": held_out}

    def _label_codes(self) -> np.ndarray:
        """Component of each labelled cell, -1 for the others."""
        n_labels = len(self.label_names_)
        if n_labels == 0:
            return np.full(self.adata.n_obs, -1)
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        return np.where(codes < n_labels, codes, -1)

    def _points(self, seed: int) -> np.ndarray:
        """Principal components of the cells, shape ``(n, p)``; on the first call also the statistics of the input."""
        x = check.get_matrix(self.adata, self._setup_arg("layer"))
        size_factor = None
        if self._setup_arg("size_factor_key") is not None:
            size_factor = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY)).ravel()
        if not self.is_trained_:
            stats = initialization.input_statistics(x, self.module.likelihood, size_factor)
            self.module.set_input_statistics(
                torch.as_tensor(stats.mean),
                torch.as_tensor(stats.sd),
                stats.target_sum,
                stats.size_factor_scale,
                torch.as_tensor(stats.output_bias),
            )
        points = initialization.principal_components(self._pca_input(size_factor), x, N_PCS, seed)
        if self._setup_arg("batch_key") is not None:
            batch = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
            points = initialization.center_batches(points, batch)
        return points

    def _partition(self, points: np.ndarray, graph: sp.csr_matrix | None, labels: np.ndarray, seed: int) -> np.ndarray:
        """Partition to start from: small clusters, or with labels their types and small clusters of no known type."""
        if (labels >= 0).all():
            return labels.copy()
        if (labels < 0).all():
            n_components = initialization.default_n_components(len(points), self.n_clusters_wanted_)
            return initialization.starting_partition(points, n_components, seed)
        return partition_from_labels(points, graph, seed, labels, len(self.label_names_))

    def _set_n_components(self, n_components: int) -> None:
        """Give the module as many components as the start has clusters, for good: a loaded model has them, too."""
        self.module.set_n_components(n_components)
        self.set_clusters(np.arange(n_components))
        self.init_params_["non_kwargs"]["n_components"] = n_components

    def _pca_input(self, size_factor: np.ndarray | None):
        """What principal components are made of, as a function of NumPy blocks and their rows.

        The encoder's input times the square root of each gene's standard deviation: half way between covariance, where
        few genes of high variance rule, and correlation, where the noise of all others does.
        """
        module = self.module
        weight = module.input_sd.sqrt() if module.likelihood.standardizes else 1.0

        @torch.no_grad()
        def standardize(block: np.ndarray, rows: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(block).to(module.device)
            factor = None
            if size_factor is not None:
                factor = torch.as_tensor(size_factor[rows, None], dtype=x.dtype, device=x.device)
            library = module.log_library(x, factor) if module.likelihood.takes_counts else None
            return (module.standardize(x, library) * weight).cpu().numpy()

        return standardize

    def _start_components(self, points: np.ndarray, partition: np.ndarray) -> None:
        """Set the mixture to the moments of a partition on the leading principal components, at unit spread."""
        d = self.module.n_latent
        leading = np.zeros((len(points), d))
        width = min(d, points.shape[1])
        leading[:, :width] = points[:, :width]
        leading /= np.maximum(leading.std(0), 1e-8)
        moments = initialization.partition_moments(leading, partition, self.module.n_components)
        self.module.mixture.set_components(*(torch.as_tensor(m, dtype=torch.float32) for m in moments))


def _n_held_out(n_known: int) -> int:
    """How many of the cells with a position are kept to judge the map."""
    return max(MIN_HELD_OUT, int(round(HELD_OUT_POSITIONS * n_known)))
