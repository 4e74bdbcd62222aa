"""Models on disk: the same results from the file, nothing executed, and clear refusals."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from rmve import RMVE


@pytest.fixture
def query(make_cells) -> ad.AnnData:
    """Cells that no model was trained on."""
    return make_cells(n_cells=80, seed=11)


def test_same_results(shared, saved, cells):
    """Predictions, probabilities, embedding and component table are those from before."""
    loaded = RMVE.load(saved, adata=cells)
    assert loaded.is_trained
    pd.testing.assert_frame_equal(loaded.predict(soft=True), shared.predict(soft=True), atol=1e-6, rtol=0)
    pd.testing.assert_series_equal(loaded.predict(), shared.predict())
    np.testing.assert_allclose(loaded.get_latent_representation(), shared.get_latent_representation(), atol=1e-6)
    pd.testing.assert_frame_equal(loaded.get_components(), shared.get_components(), atol=1e-6)
    assert not loaded.module.training


def test_same_results_in_a_new_process(shared, saved, query, tmp_path):
    """A fresh interpreter gives the same probabilities for cells from a file."""
    query.write_h5ad(tmp_path / "query.h5ad")
    code = (
        "import sys, anndata, rmve\n"
        "adata = anndata.read_h5ad(sys.argv[2])\n"
        "rmve.RMVE.load(sys.argv[1], adata=False).predict(adata, soft=True).to_csv(sys.argv[3])\n"
    )
    command = [sys.executable, "-c", code, str(saved), str(tmp_path / "query.h5ad"), str(tmp_path / "out.csv")]
    subprocess.run(command, check=True, capture_output=True)
    found = pd.read_csv(tmp_path / "out.csv", index_col=0)
    pd.testing.assert_frame_equal(found, shared.predict(query, soft=True).astype(float), atol=1e-6, rtol=0)


def test_without_data(shared, saved, query):
    """A model loaded alone predicts, embeds and annotates new cells; what needs its own data says so."""
    loaded = RMVE.load(saved, adata=False)
    assert loaded.adata is None
    with pytest.raises(ValueError, match="loaded without data. Give `adata`"):
        loaded.predict()
    with pytest.raises(RuntimeError, match="no data to train on"):
        loaded.train()
    pd.testing.assert_frame_equal(loaded.predict(query, soft=True), shared.predict(query, soft=True), atol=1e-6)
    loaded.annotate(query)
    assert query.obs["rmve"].cat.categories.tolist() == list(shared.clusters_.names)


def test_none_without_saved_data_is_without_data(saved):
    """Without data in the folder, the model is loaded alone."""
    assert RMVE.load(saved).adata is None


def test_save_anndata(shared, tmp_path):
    """Data saved with the model is read back with it; nothing needs to be given."""
    shared.save(tmp_path / "m", save_anndata=True)
    loaded = RMVE.load(tmp_path / "m")
    assert loaded.adata.shape == (240, 60)
    pd.testing.assert_series_equal(loaded.predict(), shared.predict())
    assert RMVE.load(tmp_path / "m", adata=False).adata is None


def test_save_anndata_without_data(saved, tmp_path):
    """A model without data has none to save, and says so before a folder is made."""
    with pytest.raises(ValueError, match="no data to save"):
        RMVE.load(saved, adata=False).save(tmp_path / "m", save_anndata=True)
    assert not (tmp_path / "m").exists()


def test_overwrite(shared, saved, tmp_path):
    """An existing folder is only written into when asked to."""
    shutil.copytree(saved, tmp_path / "m")
    before = (tmp_path / "m" / "model.json").read_bytes()
    with pytest.raises(FileExistsError, match="already exists.*`overwrite=True`"):
        shared.save(tmp_path / "m")
    (tmp_path / "m" / "model.json").write_text("spoilt")
    shared.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "model.json").read_bytes() == before


def test_prefix(shared, tmp_path):
    """Several models may share a folder, under prefixes."""
    shared.save(tmp_path / "m", prefix="one_", save_anndata=True)
    shared.save(tmp_path / "m", prefix="two_", overwrite=True)
    files = {path.name for path in (tmp_path / "m").iterdir()}
    assert files == {"one_model.pt", "one_model.json", "one_adata.h5ad", "two_model.pt", "two_model.json"}
    assert RMVE.load(tmp_path / "m", prefix="one_").adata is not None
    with pytest.raises(FileNotFoundError, match="holds no saved RMVE model: 'model.json'"):
        RMVE.load(tmp_path / "m")


def test_history_and_names_survive(shared, saved):
    """Training history, split and cluster names come back."""
    loaded = RMVE.load(saved, adata=False)
    assert set(loaded.history_) == set(shared.history_)
    for key, frame in shared.history_.items():
        np.testing.assert_allclose(loaded.history_[key].to_numpy(float), frame.to_numpy(float))
        assert list(loaded.history_[key].columns) == list(frame.columns)
    np.testing.assert_array_equal(loaded.train_indices_, shared.train_indices_)
    assert loaded.clusters_.names == shared.clusters_.names
    assert loaded.clusters_.of_component == shared.clusters_.of_component
    assert loaded.get_var_names().tolist() == [f"gene {j}" for j in range(60)]


def test_levels_survive(model, cells, tmp_path):
    """The level in use stays, and others can be chosen after loading."""
    merged = model.merge_components(2)
    model.save(tmp_path / "m")
    loaded = RMVE.load(tmp_path / "m", adata=cells)
    pd.testing.assert_series_equal(loaded.predict(), merged)
    pd.testing.assert_frame_equal(loaded.get_resolutions(), model.get_resolutions())
    assert loaded.merge_components("auto").nunique() == model.tree.n_default


def test_spatial_map_survives(model, cells, tmp_path):
    """The map to coordinates comes back with its quality."""
    smap = model.fit_spatial_map(spatial_key="spatial")
    placed = model.map_to_space()
    model.save(tmp_path / "m")
    loaded = RMVE.load(tmp_path / "m", adata=cells)
    np.testing.assert_array_equal(loaded.spatial_map_.r2_, smap.r2_)
    assert loaded.spatial_map_.error_ == smap.error_
    pd.testing.assert_frame_equal(loaded.map_to_space(), placed, atol=1e-5)


def test_labels_survive(partly_labelled, make_cells, tmp_path):
    """A semi-supervised model keeps its labels, and cells without the column of labels can be predicted."""
    partly_labelled.save(tmp_path / "m")
    unlabelled = make_cells()
    loaded = RMVE.load(tmp_path / "m", adata=unlabelled)
    assert {"A", "B"} <= set(loaded.clusters_.names)
    pd.testing.assert_series_equal(loaded.predict(), partly_labelled.predict())


def test_labelled_model_without_data(partly_labelled, make_cells, tmp_path):
    """A semi-supervised model that was loaded alone predicts cells without labels."""
    partly_labelled.save(tmp_path / "m")
    loaded = RMVE.load(tmp_path / "m", adata=False)
    pd.testing.assert_series_equal(loaded.predict(make_cells()), partly_labelled.predict())


def test_fewer_cells_than_components(overcomplete, make_cells, tmp_path):
    """A trained model is loaded onto fewer cells than it has components."""
    overcomplete.save(tmp_path / "m")
    few = make_cells(n_cells=5, seed=3, subtypes=True)
    assert len(RMVE.load(tmp_path / "m", adata=few).predict()) == 5


def test_training_goes_on(saved, cells):
    """A loaded model can be trained further."""
    loaded = RMVE.load(saved, adata=cells)
    before = loaded.predict()
    epochs = len(loaded.history_["elbo_train"])
    loaded.train(max_epochs=2, batch_size=64, enable_progress_bar=False)
    assert len(loaded.history_["elbo_train"]) == epochs + 2
    assert (loaded.predict().astype(str) == before.astype(str)).mean() > 0.9


def test_untrained_model(cells, tmp_path):
    """A model that was not trained stays so."""
    RMVE.setup_anndata(cells)
    RMVE(cells, n_components=2).save(tmp_path / "m")
    assert not RMVE.load(tmp_path / "m", adata=cells).is_trained


def test_batches_survive(batched, make_cells, tmp_path):
    """A model with batches knows them again, and refuses others."""
    batched.save(tmp_path / "m")
    loaded = RMVE.load(tmp_path / "m", adata=False)
    query = make_cells(n_cells=60, n_batches=2, seed=4)
    pd.testing.assert_frame_equal(loaded.predict(query, soft=True), batched.predict(query, soft=True), atol=1e-6)
    with pytest.raises(ValueError, match="unseen in training: 'batch 2'"):
        loaded.predict(make_cells(n_cells=60, n_batches=3, seed=4))


# -------------------------------------------------------------------- the files


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of the saved model that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "spoilt"))


def test_json_is_plain(saved):
    """The document is JSON for any reader, and the weights hold nothing but tensors."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads((saved / "model.json").read_text(), parse_constant=refuse)
    assert document["registry"]["model_name"] == "RMVE"
    state = torch.load(saved / "model.pt", weights_only=True)
    assert all(torch.is_tensor(value) for value in state.values())
    assert {path.name for path in saved.iterdir()} == {"model.pt", "model.json"}


def test_malicious_weights(folder, cells, tmp_path, malicious):
    """Code in a file of weights is not run."""
    harmful, target = malicious
    (folder / "model.pt").write_bytes(pickle.dumps({"mixture.mean": harmful}))
    with pytest.raises(ValueError, match="does not hold a model saved by `RMVE.save`"):
        RMVE.load(folder, adata=cells)
    assert not target.exists()


@pytest.mark.parametrize(
    "read",
    [
        RMVE.load_registry,
        RMVE.view_setup_args,
        lambda folder: RMVE.convert_legacy_save(folder, folder / "new"),
        lambda folder: RMVE.load_query_data(None, folder),
        lambda folder: RMVE.prepare_query_anndata(None, folder),
        lambda folder: RMVE.prepare_query_mudata(None, folder),
        lambda folder: RMVE.resume(folder, None),
    ],
)
def test_nothing_that_reads_a_model_runs_its_code(folder, tmp_path, read, malicious):
    """The ways that scvi-tools offers beside `load` are safe as well."""
    harmful, target = malicious
    torch.save({"attr_dict": harmful, "model_state_dict": {}, "var_names": []}, folder / "model.pt")
    for name in ("attr.pkl", "model_params.pt"):
        shutil.copy(folder / "model.pt", folder / name)
    with pytest.raises((ValueError, TypeError)):
        read(str(folder)) if read is RMVE.view_setup_args else read(folder)
    assert not target.exists()


def test_how_data_was_set_up(saved, capsys):
    """The set-up of a saved model can be read without its data."""
    assert RMVE.load_registry(saved)["setup_args"]["layer"] == "counts"
    RMVE.view_setup_args(saved)
    assert "counts" in capsys.readouterr().out


def test_missing_folder(tmp_path):
    """A folder that does not exist is named."""
    with pytest.raises(FileNotFoundError, match="nowhere.*no saved RMVE model"):
        RMVE.load(tmp_path / "nowhere")


def test_other_class(folder, cells, forge):
    """A model of another class is refused."""
    forge(folder, lambda document: document["registry"].update(model_name="SCVI"))
    with pytest.raises(ValueError, match="holds a SCVI model"):
        RMVE.load(folder, adata=cells)


@pytest.mark.parametrize("content", ["{}", '{"registry": 3}', '{"registry": {}}', "[]", "null", '"text"'])
def test_json_of_something_else(folder, content):
    """JSON that is no model is refused."""
    (folder / "model.json").write_text(content)
    with pytest.raises(ValueError, match="does not hold a model saved by `RMVE.save`"):
        RMVE.load(folder, adata=False)


def test_weights_of_another_model(folder, batched, forge):
    """Weights that do not belong to the document are refused, also if a stranger says that they do."""
    torch.save(batched.module.state_dict() | {"mixture.mean": torch.zeros(7, 7)}, folder / "model.pt")
    with pytest.raises(ValueError, match="'model.pt' was changed, or belongs to another 'model.json'"):
        RMVE.load(folder, adata=False)
    forge(folder)
    with pytest.raises(ValueError, match="does not hold a model saved by `RMVE.save`.*shape"):
        RMVE.load(folder, adata=False)


@pytest.mark.parametrize("name", ["model.pt", "model.json"])
def test_cut_file(folder, name):
    """A file that was cut off is refused."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="does not hold a model saved by `RMVE.save`"):
        RMVE.load(folder, adata=False)


def test_attributes_cannot_replace_methods(folder, cells, forge):
    """Only the attributes that are saved are read: a document cannot put others in place of a model's own."""
    forge(folder, lambda document: document["attributes"].update(predict="not a method"))
    assert callable(RMVE.load(folder, adata=cells).predict)
