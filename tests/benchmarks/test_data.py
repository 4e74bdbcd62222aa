import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp


@pytest.fixture
def data(scripts):
    import data

    return data


def test_thinning_keeps_a_share_of_the_molecules(data):
    counts = sp.csr_matrix(np.full((200, 50), 20.0))
    thinned = data.thin(counts, 0.25)
    assert thinned.mean() == pytest.approx(5.0, rel=0.02)
    assert thinned.toarray().var() == pytest.approx(20 * 0.25 * 0.75, rel=0.05)
    assert counts.sum() == 200 * 50 * 20


@pytest.mark.parametrize(("kind", "dispersion"), [("poisson", np.inf), ("nb", 3.0), ("noisy", 0.5)])
def test_one_population_has_the_dispersion_that_it_is_named_for(data, kind, dispersion):
    cells = data.load(f"one:{kind}:2000:5000")
    assert cells.n_known == 1
    assert cells.adata.shape == (2000, 1000)
    counts = cells.adata.X.toarray()
    scaled = counts / counts.sum(1, keepdims=True) * counts.sum(1).mean()
    mean, variance = scaled.mean(0), scaled.var(0)
    excess = ((variance - mean) / mean**2)[mean > 5].mean()
    assert excess == pytest.approx(1 / dispersion, abs=0.05, rel=0.1)


def test_cells_drawn_alike_have_the_means_and_dispersions_of_the_given_ones(data):
    rng = np.random.default_rng(0)
    rates = rng.gamma(2.0, size=(1, 100))
    given = data.counts_around(rates, 2000, 1000.0, 2.0, rng, spread=0.0)
    drawn = data.draw_alike(given, 2000, rng)
    counts = [cells.X.toarray() for cells in (given, drawn)]
    np.testing.assert_allclose(counts[1].mean(0), counts[0].mean(0), rtol=0.15)
    np.testing.assert_allclose(counts[1].var(0).mean(), counts[0].var(0).mean(), rtol=0.1)


def test_the_rare_type_has_the_share_that_is_asked_for(data):
    cells = data.load("rare:simulated:0.005:1")
    assert cells.adata.n_obs == 3000
    assert (cells.truth == cells.adata.uns["rare"]).sum() == 15


def test_all_genes_are_those_of_enough_cells(data):
    found_in = np.array([0, 1, 2, 3, 500])
    counts = (np.arange(1000)[:, None] < found_in).astype(np.float32)
    counts[:, 4] = 1.0
    kept = data.choose_genes(ad.AnnData(sp.csr_matrix(counts)), all_genes=True)
    assert list(kept.var_names) == ["2", "3", "4"]


def test_options_of_a_file(data, tmp_path, monkeypatch):
    types = np.array(["b-cells", "naive-t", "memory-t", "Doublet"] * 25)
    adata = ad.AnnData(sp.csr_matrix(np.full((100, 10), 4.0, dtype=np.float32)), obs={"cell_type": types})
    monkeypatch.setenv("RMVE_DATA", str(tmp_path))
    adata.write_h5ad(tmp_path / "zheng_sorted8_2410.h5ad")
    assert data.is_there("zheng")
    assert not data.is_there("rare:cite:0.01:0")
    assert data.is_there("one:nb:300:2000")
    assert data.is_there("rare:simulated:0.01:0")
    assert data.load("zheng").n_known == 3
    assert set(data.load("zheng:merged").truth) == {"b-cells", "cd4-t"}
    assert data.load("zheng:only=b-cells").adata.n_obs == 25
    assert data.load("zheng:all:half").adata.X.mean() == pytest.approx(2.0, rel=0.1)
