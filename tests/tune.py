"""The search of the user guide; run by `test_autotune.py` in a process of its own, since Ray starts others."""

import json
import sys

from ray import tune
from scvi.autotune import run_autotune

import rmve

if __name__ == "__main__":
    adata = rmve.datasets.toy(n_cells=300)
    rmve.RMVE.setup_anndata(adata, layer="counts")
    experiment = run_autotune(
        rmve.RMVE,
        adata,
        metrics="elbo_validation",
        mode="min",
        search_space={
            "model_params": {"n_latent": tune.grid_search([2, 10])},
            "train_params": {"max_epochs": 5, "train_size": 0.9, "plan_kwargs": {"lr": tune.loguniform(5e-4, 2e-3)}},
        },
        num_samples=1,
        scheduler="fifo",
        searcher="random",
        seed=0,
        resources={"cpu": 1},
    )
    best = experiment.result_grid.get_best_result("elbo_validation", "min").config
    #: end
    table = [
        {"config": result.config, "elbo": result.metrics["elbo_validation"], "error": str(result.error)}
        for result in experiment.result_grid
    ]
    with open(sys.argv[1], "w") as file:
        json.dump({"table": table, "best": best}, file)
