from __future__ import annotations

import anndata as ad
import matplotlib
import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def _no_windows():
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture(scope="session")
def trained(make_cells, fit):
    """A model whose results are in its AnnData."""
    model = fit(make_cells(), {"layer": "counts", "spatial_key": "spatial"}, n_components=4, epochs=30)
    model.annotate()
    return model


@pytest.fixture(scope="session")
def stored(trained, tmp_path_factory):
    """The annotated cells as a file."""
    path = tmp_path_factory.mktemp("pl") / "annotated.h5ad"
    trained.adata.write_h5ad(path)
    return path


@pytest.fixture
def annotated(stored):
    """Annotated cells, read back from disk."""
    return ad.read_h5ad(stored)
