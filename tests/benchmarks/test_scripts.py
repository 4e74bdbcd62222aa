from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest


def test_recall_of_a_rare_type():
    import rare

    truth = np.array([True] * 10 + [False] * 90)
    assert rare.recall(truth, truth) == (1.0, 0)
    assert rare.recall(truth, np.zeros(100)) == (pytest.approx(2 * 10 / 110), 0)
    split = np.where(truth, 0, 1 + np.arange(100) % 3)
    assert rare.recall(truth, split) == (1.0, 2)


def test_reads_that_leave_their_file(tmp_path):
    import house

    (tmp_path / "a.py").write_text("class A(Other):\n    def one(self):\n        self.x = self.two()\n")
    (tmp_path / "b.py").write_text("class B(A):\n    def two(self):\n        return self.x + self.y + self.two()\n")
    found = house.accesses(house.parse(tmp_path), "B")
    assert found["files of the main class"] == 2
    assert found["reads of `self.x`"] == 4
    assert found["of them leave their file"] == 2  # `two` in one, `x` in the other
    assert found["of them another package's"] == 1  # `y`


def test_name_of_the_full_data():
    import depth

    assert depth.full("zheng:all:half") == "zheng:all"
    assert depth.full("pbmc3k") == "pbmc3k"


@pytest.fixture
def table(tmp_path, monkeypatch):
    import runs

    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    monkeypatch.setattr(runs, "CACHE", tmp_path / ".embeddings")
    return runs.Table("test")


def halves(dataset, seed, shared):
    import runs

    return {"unknown K": runs.Clusters(np.arange(dataset.adata.n_obs) % 2, runs.Meter())}


def test_runs_are_kept_and_replaced(table):
    job = ("one:poisson:50:500", "halves", 0)
    asked = ([job[0]], [job[1]], [job[2]])
    assert table.missing(*asked) == [job]
    table.run(*job, halves)
    assert table.missing(*asked) == []
    table.forget(*asked)
    assert table.missing(*asked) == [job]
    table.run(*job, halves)
    assert len(table.rows) == 1
    assert table.agreement(pd.concat([table.rows, table.rows])) == 1.0


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # one seed agrees with no other
@pytest.mark.parametrize("script", ["one_population", "rare", "depth", "clustering"])
def test_tables_are_made(table, script):
    sets = {
        "one_population": ["one:poisson:300:2000"],
        "rare": ["rare:simulated:0.01:0"],
        "depth": ["one:poisson:300:2000"],
        "clustering": ["one:poisson:300:2000"],
    }
    for data in sets[script]:
        table.run(data, "halves", 0, halves)
    assert "halves" in __import__(script).summarize(table).to_string()


def test_one_run_gives_all_levels():
    import methods
    from data import load
    from runs import Meter

    dataset = load("one:poisson:60:500")
    model = SimpleNamespace(level=3, starting_partition_=np.arange(60))
    model.predict = lambda soft=False: pd.DataFrame(np.eye(3)[np.arange(60) % 3]) if soft else clusters()
    model.get_components = lambda: pd.DataFrame({"active": [True], "separation": [1.0]})
    model.get_resolutions = lambda: pd.DataFrame({"n_clusters": [3, 2, 1]})

    def clusters():
        return pd.Series(np.arange(60) % model.level)

    def merge(n_clusters):
        model.level = n_clusters
        return clusters()

    model.merge_components = merge
    found = methods.read_levels(model, Meter(), dataset)
    used = {name: len(np.unique(found[name].labels)) for name in found}
    assert used == {"start alone": 60, "unknown K": 3, "known K": 1, "best level": 1}


def test_simulated_gradients_are_what_they_are_called():
    import gradients

    cells = {kind: gradients.simulate(kind, 0) for kind in gradients.KINDS}
    place = {kind: adata.obsm["spatial"][:, 0] for kind, adata in cells.items()}
    assert all(((0 <= s) & (s <= 1)).all() for s in place.values())
    assert np.ptp(np.histogram(place["uniform"], 5)[0]) < 100
    assert np.median(place["skewed"]) < 0.15 < 0.3 < np.ptp(place["skewed"])
    assert (np.abs(place["ends"] - 0.5) > 0.4).mean() > 0.6
    zeros = {kind: 1.0 - adata.X.nnz / np.prod(adata.shape) for kind, adata in cells.items()}
    assert zeros["zeros"] > zeros["uniform"] + 0.1
    depth = {kind: np.median(np.asarray(adata.X.sum(1))) for kind, adata in cells.items()}
    assert depth["shallow"] < 0.4 * depth["skewed"]
    assert (cells["all"].X != gradients.simulate("all", 0).X).nnz == 0


def test_a_gradient_is_judged_by_hidden_cells(monkeypatch):
    import gradients

    def known_by_heart(adata, test, seed):
        s = adata.obsm["spatial"][test, 0]
        return {"": s, "shifted": s + 0.1}

    monkeypatch.setitem(gradients.METHODS, "known", known_by_heart)
    exact, shifted = gradients.run("uniform", "known", 0)
    assert (exact["map"], exact["r2"], exact["median_error"]) == ("", 1.0, 0.0)
    assert (shifted["map"], shifted["median_error"]) == ("shifted", pytest.approx(0.1))
    table = gradients.summarize(pd.DataFrame([exact, shifted]))
    assert table["method"].tolist() == ["known", "known shifted"]
    assert gradients.hidden(0).sum() == gradients.N_CELLS // 5
