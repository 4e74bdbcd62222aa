"""Training on several devices: cells are shared out, and all processes end with the same model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scvi import settings
from sklearn.metrics import adjusted_rand_score

import rmve
from rmve import RMVE
from rmve.data.loading import BatchesOfRuns, EvenBatches

#: Run twice by Lightning, once for each process; each writes what it ended with.
SCRIPT = """
import json, os, sys
import scvi, torch
from lightning.pytorch.callbacks import Callback
import rmve

class Keep(Callback):
    def on_train_end(self, trainer, plan):
        self.steps, self.assignment = trainer.global_step, plan.assignment.argmax(1).tolist()

if __name__ == "__main__":
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    adata = rmve.datasets.toy(n_cells=400, n_clusters=3, seed=0)
    rmve.RMVE.setup_anndata(adata, layer="counts")
    model, keep = rmve.RMVE(adata, n_components=3), Keep()
    model.train(max_epochs=40, batch_size=20, accelerator="cpu", enable_progress_bar=False, callbacks=[keep],
                devices=2, strategy="ddp")
    result = {"clusters": model.predict().tolist(), "assignment": keep.assignment, "steps": keep.steps,
              "mixture": model.module.mixture.mean.tolist(), "latent": model.get_latent_representation().tolist()}
    with open(f"{sys.argv[1]}/{os.environ.get('LOCAL_RANK', '0')}.json", "w") as file:
        json.dump(result, file)
"""


#: The same with checkpoints; the process of a rank may be killed in the third epoch, and the run then goes on.
CHECKPOINTED = """
import json, os, signal, sys
import scvi, torch
from lightning.pytorch.callbacks import Callback
import rmve

folder, act, rank = sys.argv[1], sys.argv[2], os.environ.get("LOCAL_RANK", "0")

class Kill(Callback):
    def on_train_batch_end(self, trainer, *args):
        if act in (rank, "both") and trainer.global_step == 25:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    adata = rmve.datasets.toy(n_cells=400, n_clusters=3, seed=0)
    options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "quiet": True}
    if act == "resume":
        model = rmve.RMVE.resume(folder, adata, **options)
    else:
        rmve.RMVE.setup_anndata(adata, layer="counts")
        model = rmve.RMVE(adata, n_components=3, n_hidden=32)
        plan = {"repulsion_weight": 5.0}  # at the default strength one seed in six joins two of so few cells' types
        model.train(
            max_epochs=40, batch_size=20, checkpoint_dir=folder, callbacks=[Kill()], plan_kwargs=plan, **options
        )
    saved = rmve.RMVE.load(folder, adata=adata)
    with open(f"{folder}.{rank}.json", "w") as file:
        latent = model.get_latent_representation().tolist()
        json.dump({"clusters": model.predict().tolist(), "saved": saved.predict().tolist(), "latent": latent}, file)
"""


@pytest.fixture
def two_processes(monkeypatch):
    """Act as process ``rank`` of two."""
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    return lambda rank: monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)


@pytest.mark.parametrize("sampler", [EvenBatches, BatchesOfRuns])
@pytest.mark.parametrize("n", [4, 101, 256])
def test_batches_are_shared_out(two_processes, sampler, n):
    """Each cell comes once, in one of the processes, in equally many batches, in a new order on each pass."""
    samplers = []
    for rank in range(2):
        two_processes(rank)
        samplers.append(sampler(np.arange(n), 16, shuffle=True, shared_seed=5))
    passes = []
    for _ in range(2):
        batches = [list(s) for s in samplers]
        if sampler is BatchesOfRuns:
            batches = [[rows for rows, _ in own] for own in batches]
        assert len(batches[0]) == len(batches[1]) == len(samplers[0])
        sizes = [len(rows) for own in batches for rows in own]
        assert max(sizes) == samplers[0].largest <= 16
        assert max(sizes) - min(sizes) <= 1
        passes.append(np.concatenate([rows for own in batches for rows in own]))
        np.testing.assert_array_equal(np.sort(passes[-1]), np.arange(n))
    assert n == 4 or (passes[0] != passes[1]).any()


def test_seed_is_needed(cells, monkeypatch):
    """Without a common seed the processes would start apart: the error says what to set."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3)
    monkeypatch.setattr(type(settings), "seed", None)
    with pytest.raises(ValueError, match="scvi.settings.seed = 0"):
        model.train(max_epochs=1, devices=2, strategy="ddp")
    assert not model.is_trained


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Two processes: half the steps each, the same model and assignments in both, the clusters of one process."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=600, cwd=tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["steps"] == second["steps"] == 40 * 10
    assert first["clusters"] == second["clusters"]
    assert first["assignment"] == second["assignment"]
    np.testing.assert_allclose(first["mixture"], second["mixture"])
    np.testing.assert_allclose(first["latent"], second["latent"], rtol=1e-4, atol=1e-4)

    adata = rmve.datasets.toy(n_cells=400, n_clusters=3, seed=0)
    RMVE.setup_anndata(adata, layer="counts")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RMVE(adata, n_components=3)
        model.train(max_epochs=40, batch_size=40)
    assert adjusted_rand_score(model.predict(), first["clusters"]) > 0.9
    assert adjusted_rand_score(adata.obs["cell_type"], first["clusters"]) > 0.8


def run_two(folder: Path, act: str) -> tuple[int, list[dict]]:
    """Run :data:`CHECKPOINTED` in two processes; its exit status and what each process wrote."""
    script = folder.parent / "train.py"
    script.write_text(CHECKPOINTED)
    command = [sys.executable, script, folder, act]
    ended = subprocess.run(command, timeout=300, cwd=folder.parent, capture_output=True, text=True)
    written = sorted(folder.parent.glob(f"{folder.name}.*.json"))
    results = [json.loads(path.read_text()) for path in written]
    for path in written:
        path.unlink()
    return ended.returncode, results


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, int, list[dict]]:
    """A run of two processes that nobody stopped: its folder, its exit status and what each process wrote."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, *run_two(folder, "whole")


@pytest.mark.slow
def test_checkpoints_of_two_processes(whole):
    """One process writes, the folder holds the model in the end, and nothing else is left anywhere."""
    folder, status, results = whole
    assert status == 0
    assert len(results) == 2
    assert all(result["clusters"] == result["saved"] == results[0]["clusters"] for result in results)
    assert {path.name for path in folder.iterdir()} == {"model.pt", "model.json"}
    assert {path.name for path in folder.parent.iterdir()} == {"run", "train.py"}


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1", "both"])
def test_a_killed_process(whole, tmp_path, rank):
    """When one process, or both, are killed, the run stops, and two go on as if nothing had happened."""
    folder = tmp_path / "run"
    status, _ = run_two(folder, rank)
    assert status != 0
    assert (folder / "epoch_2" / "model.json").is_file()
    adata = rmve.datasets.toy(n_cells=400, n_clusters=3, seed=0)
    with pytest.raises(ValueError, match="had 2 processes. Give `devices` and `strategy` again"):
        RMVE.resume(folder, adata)
    status, results = run_two(folder, "resume")
    assert status == 0
    assert len(results) == 2
    assert all(result["clusters"] == result["saved"] == results[0]["clusters"] for result in results)
    assert {path.name for path in folder.iterdir()} == {"model.pt", "model.json"}
    np.testing.assert_array_equal(results[0]["latent"], whole[2][0]["latent"])


def test_early_stopping_on_several_devices(cells, monkeypatch):
    """It is refused, not left out in silence."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3)
    monkeypatch.setattr(type(settings), "seed", 0)
    with pytest.raises(ValueError, match="`early_stopping` does not work on several devices"):
        model.train(max_epochs=1, devices=2, strategy="ddp", early_stopping=True)
