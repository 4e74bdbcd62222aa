"""What training starts from: statistics of the input, a start, a neighbour graph, positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from rmve import _validation as check
from rmve._compat import SETUP_ARGS_KEY
from rmve.clusters import initialization
from rmve.clusters._start import Start, find_start
from rmve.model._encode import encode
from rmve.model._fingerprint import Fingerprint
from rmve.model._held_out import HeldOut, identify
from rmve.model._setup import label_codes, matrix_of, names_of_labels
from rmve.module import RMVEModule
from rmve.training import TrainingData

#: Principal components for the start and the neighbour graph.
N_PCS = 20
#: Share of the known positions that is kept to judge the map.
HELD_OUT_POSITIONS = 0.1
#: Least number of them: fewer have no spread to compare errors with.
MIN_HELD_OUT = 2


@dataclass(frozen=True)
class Prepared:
    """What a run of training begins with.

    Attributes
    ----------
    data
        What the training plan knows of each cell.
    held_out
        Cells whose position is held out, and learned.
    start
        Start of the first run; ``None`` for a later one.
    cells
        Fingerprint of the cells; ``None`` if it was not asked for.
    """

    data: TrainingData
    held_out: HeldOut
    start: Start | None
    cells: str | None


def prepare(
    module: RMVEModule,
    manager: AnnDataManager,
    first: bool,
    partition: np.ndarray | None,
    n_clusters: int | None,
    with_graph: bool,
    with_positions: bool,
    with_fingerprint: bool,
    held_out: HeldOut,
) -> Prepared:
    """Prepare a run of training; the first one also gives the module its components and its starting values.

    Parameters
    ----------
    module
        Networks.
    manager
        Manager of the training data.
    first
        Whether the model is trained for the first time.
    partition
        Partition to start from, shape ``(n,)``; ``None`` finds one.
    n_clusters
        Number of clusters that the user asks for; ``None`` if it is to be found.
    with_graph
        Whether training uses a neighbour graph.
    with_positions
        Whether training learns positions, of the cells that have one.
    with_fingerprint
        Whether a later process must know the cells again.
    held_out
        Cells whose position was held out of earlier runs, and learned.
    """
    positions: dict[str, np.ndarray] = {}
    arguments = manager.registry[SETUP_ARGS_KEY]
    spatial_key, neighbors_key = arguments.get("spatial_key"), arguments.get("neighbors_key")
    if with_positions and spatial_key is not None and spatial_key in manager.adata.obsm:
        held_out, positions = prepare_positions(module, manager, spatial_key, held_out)
    fingerprint = Fingerprint(manager.adata) if with_fingerprint else None
    seed = int(torch.randint(2**31 - 1, (1,)))
    labels, n_labels = label_codes(manager), len(names_of_labels(manager.registry))
    points = graph = start = None
    if first or (with_graph and neighbors_key is None):
        points = principal_components(module, manager, seed, first, None if fingerprint is None else fingerprint.add)
    spread = first and partition is None and 0 < (labels >= 0).sum() < len(labels)  # labels spread on the graph
    if spread or (with_graph and neighbors_key is None):
        assert points is not None  # read above in both cases
        graph = initialization.nearest_neighbors(points, initialization.N_NEIGHBORS, seed)
    if first:
        assert points is not None
        if partition is None:
            start = find_start(points, graph, labels, n_labels, n_clusters, seed)
        else:
            start = Start.of(partition, labels, n_labels)
        start_components(module, points, start)
        assignment = start.assignment
    else:
        assignment = encode(module, manager).assignment
        assignment[labels >= 0] = np.eye(module.n_components, dtype=np.float32)[labels[labels >= 0]]
    if not with_graph:
        graph = None
    elif neighbors_key is not None:
        graph = initialization.normalize_graph(check.find_graph(manager.adata, neighbors_key))
    data = TrainingData(start=assignment, labelled=labels >= 0, graph=graph, **positions)
    return Prepared(data, held_out, start, None if fingerprint is None else fingerprint.finish(arguments))


def prepare_positions(
    module: RMVEModule, manager: AnnDataManager, spatial_key: str, held_out: HeldOut
) -> tuple[HeldOut, dict[str, np.ndarray]]:
    """Standardised positions and which of them are held out.

    A tenth of the cells with a position, chosen when the model first meets them, is never learned from: it judges the
    map.

    Parameters
    ----------
    module
        Networks; the first time, the statistics of the positions are set.
    manager
        Manager of the cells.
    spatial_key
        Key of ``adata.obsm`` with the positions.
    held_out
        Cells whose position was held out, or learned, before.

    Returns
    -------
    Held-out cells, these included, and the fields ``positions`` and ``held_out`` of :class:`TrainingData`.
    """
    adata = manager.adata
    positions = check.get_coordinates(adata, spatial_key)
    known, names = np.isfinite(positions).all(1), adata.obs_names.to_numpy()
    cells = identify(names, positions)
    if not len(held_out):
        check.check_n_positions(int(known.sum()), module.n_latent, _n_held_out(int(known.sum())))
        center, scale = positions[known].mean(0), positions[known].std(0)
        module.set_space_statistics(torch.as_tensor(center), torch.as_tensor(scale))
    held_out.judges(names, cells)  # refuses namesakes of held-out cells
    new = np.flatnonzero(known & held_out.unknown(cells))
    if len(new):
        chosen = np.zeros(len(positions), dtype=bool)
        chosen[new[torch.randperm(len(new)).numpy()[: _n_held_out(len(new))]]] = True
        held_out = held_out.extended(names[new], cells[new], chosen[new])
    center, scale = (t.cpu().numpy() for t in (module.space_center, module.space_scale))
    return held_out, {"positions": (positions - center) / scale, "held_out": held_out.rows(cells)}


def principal_components(
    module: RMVEModule,
    manager: AnnDataManager,
    seed: int,
    first: bool,
    watch: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """Principal components of the cells; the first time, the module gets the statistics of the input, too.

    Parameters
    ----------
    module
        Networks.
    manager
        Manager of the cells.
    seed
        Random seed.
    first
        Whether the module has no statistics yet.
    watch
        Function that sees each block of rows while these are computed, too.

    Returns
    -------
    Array of shape ``(n, p)``.
    """
    arguments = manager.registry[SETUP_ARGS_KEY]
    x = matrix_of(manager)
    size_factor = None
    if arguments.get("size_factor_key") is not None:
        size_factor = np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY)).ravel()
    if first:
        stats = initialization.input_statistics(x, module.likelihood, size_factor, manager.values.totals, watch)
        module.set_input_statistics(
            torch.as_tensor(stats.mean),
            torch.as_tensor(stats.sd),
            stats.target_sum,
            stats.size_factor_scale,
            torch.as_tensor(stats.output_bias),
        )
    points = initialization.principal_components(_pca_input(module, size_factor), x, N_PCS, seed)
    if arguments.get("batch_key") is not None:
        batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        points = initialization.center_batches(points, batch)
    return points


def _pca_input(module: RMVEModule, size_factor: np.ndarray | None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What principal components are made of, as a function of NumPy blocks and their rows.

    The encoder's input times the square root of each gene's standard deviation: half way between covariance, where
    few genes of high variance rule, and correlation, where the noise of all others does.
    """
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


def start_components(module: RMVEModule, points: np.ndarray, start: Start) -> None:
    """Give the module a component for each part of a start, with its moments on the leading principal components.

    Parameters
    ----------
    module
        Networks.
    points
        Principal components of the cells, shape ``(n, p)``; they are scaled to unit spread.
    start
        Start of the run.
    """
    module.set_n_components(start.n_components)
    leading = np.zeros((len(points), module.n_latent))
    width = min(module.n_latent, points.shape[1])
    leading[:, :width] = points[:, :width]
    leading /= np.maximum(leading.std(0), 1e-8)
    moments = initialization.partition_moments(leading, start.partition, start.n_components)
    module.mixture.set_components(*(torch.as_tensor(m, dtype=torch.float32) for m in moments))


def _n_held_out(n_known: int) -> int:
    """How many of the cells with a position are kept to judge the map."""
    return max(MIN_HELD_OUT, int(round(HELD_OUT_POSITIONS * n_known)))
