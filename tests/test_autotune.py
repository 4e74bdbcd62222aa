"""scvi-tools' search for options with Ray Tune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("ray", "hyperopt", "scib_metrics", "muon"):
    pytest.importorskip(package, reason="a search needs the extra `rmve[tune]`")


@pytest.mark.slow
def test_search(tmp_path):
    """Each combination is trained, the metric is the model's, and the best is the one with the least bound."""
    script, results = Path(__file__).with_name("tune.py"), tmp_path / "results.json"
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    # the folder of the test holds what scvi-tools and Ray write
    done = subprocess.run(
        [sys.executable, script, results], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(results.read_text())
    table = found["table"]
    assert [row["error"] for row in table] == ["None", "None"]
    assert sorted(row["config"]["model_params"]["n_latent"] for row in table) == [2, 10]
    assert len({row["config"]["train_params"]["plan_kwargs"]["lr"] for row in table}) == 2
    elbo = [row["elbo"] for row in table]
    assert np.isfinite(elbo).all()
    assert elbo[0] != elbo[1]
    assert found["best"] == table[int(np.argmin(elbo))]["config"]
