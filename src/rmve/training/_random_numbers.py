"""Where the random numbers of a run are, in all of its processes, so that a resumed run draws those that it would have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from rmve.data.loading import EvenBatches


def random_state(device: torch.device, loader: DataLoader) -> dict[str, Any]:
    """State of the generators of all processes; all of them call this together.

    Parameters
    ----------
    device
        Where the process computes.
    loader
        Mini-batches to train on; with several processes they draw the order of the cells from a generator of their own.
    """
    own: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    if not dist.is_initialized():
        return own
    states: list = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return {**states[0], "others": states[1:], "order": _order(loader).get_state()}


def _order(loader: DataLoader) -> torch.Generator:
    """Generator of the order of the cells, which all processes share."""
    return cast("torch.Generator", cast("EvenBatches", loader.sampler).generator)


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators of this process into the state of :func:`random_state`."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    own = [state, *state.get("others", ())][rank]
    torch.set_rng_state(own["cpu"].cpu())
    if "cuda" in own and device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"].cpu(), device)


def set_order(state: dict[str, Any], loader: DataLoader) -> None:
    """Have several processes go on with the order of the cells."""
    if "order" in state:
        _order(loader).set_state(state["order"].cpu())


def check_random_state(state: dict[str, Any], n_processes: int) -> None:
    """Raise ValueError unless content of a file is what :func:`random_state` returns in so many processes."""
    others, shape = state.get("others", []), torch.get_rng_state().shape
    if not isinstance(others, list) or len(others) != n_processes - 1 or ("order" in state) < (n_processes > 1):
        raise ValueError("the state of the random numbers is of another number of processes")
    generators = [own.get("cpu") if isinstance(own, dict) else None for own in (state, *others)]
    if "order" in state:
        generators.append(state["order"])
    for tensor in generators:
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.uint8 or tensor.shape != shape:
            raise ValueError("the state of the random numbers is none")
