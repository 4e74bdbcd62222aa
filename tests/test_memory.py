"""Memory of a process that trains and predicts again and again; each part runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: What one process does: 10 rounds for caches to fill, then 50 more, which are measured.
PROGRAM = """
import ctypes, gc, logging, sys, warnings
import torch
import rmve

warnings.filterwarnings("ignore")
for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
    logging.getLogger(name).setLevel(logging.ERROR)
torch.set_num_threads(1)
train = {"max_epochs": 1, "batch_size": 64, "quiet": True}

def cells(seed):
    return rmve.datasets.toy(n_cells=150, n_genes=500, n_clusters=3, seed=seed)

def trained(seed):
    adata = cells(seed)
    rmve.RMVE.setup_anndata(adata, layer="counts")
    model = rmve.RMVE(adata, n_components=3, n_latent=3, n_hidden=8, n_layers=1)
    model.train(**train)
    return model

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

model = trained(0)
act = {"train": trained, "predict": lambda seed: model.predict(cells(seed))}[sys.argv[1]]
for number in range(60):
    if number == 10:
        before = resident()
    act(number)
print((resident() - before) / 50)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("act", ["train", "predict"])
def test_memory_is_given_back(act):
    """50 trainings, or predictions, on new data each: the process grows by less than that data."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, act], capture_output=True, text=True, check=True)
    growth = float(done.stdout.split()[-1])
    print(f"{act}: {growth:.3f} MB each")
    assert growth < 0.4  # less than the data of a round
