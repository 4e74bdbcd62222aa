from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import rmve


def frame(name, values):
    return pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name="epoch"))


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_takes_a_model_or_its_history(trained):
    for source in (trained, trained.history, dict(trained.history)):
        ax = rmve.pl.history(source)
        loss = np.asarray(trained.history["train_loss"], dtype=float).ravel()
        np.testing.assert_allclose(ax.lines[0].get_ydata(), loss)
        np.testing.assert_allclose(ax.lines[0].get_xdata(), np.arange(len(loss)) + 1)
        assert labels(ax) == ["objective", "negative bound", "components in use"]


def test_components_have_a_twin_axis():
    logged = {"train_loss": frame("train_loss", [3.0, 2.0]), "n_components": frame("n_components", [30.0, 6.0])}
    ax = rmve.pl.history(logged)
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    assert twin.get_ylabel() == "components in use"
    assert list(twin.lines[0].get_ydata()) == [30.0, 6.0]


def test_draws_what_there_is():
    ax = rmve.pl.history({"elbo_train": frame("elbo_train", [2.0]), "elbo_validation": frame("x", [3.0])})
    assert labels(ax) == ["negative bound", "negative bound, validation"]
    assert ax.figure.axes == [ax]


def test_axes_show_and_save(trained, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    given = plt.subplots()[1]
    assert rmve.pl.history(trained, ax=given, save=tmp_path / "history.pdf") is given
    assert (tmp_path / "history.pdf").exists()
    assert not calls
    rmve.pl.history(trained, show=True)
    assert calls


def test_untrained_model_is_told(cells):
    rmve.RMVE.setup_anndata(cells, layer="counts")
    with pytest.raises(ValueError, match="not trained"):
        rmve.pl.history(rmve.RMVE(cells, n_components=2, n_hidden=4))


def test_history_without_a_loss_is_told():
    with pytest.raises(KeyError, match="train_loss"):
        rmve.pl.history({"n_components": frame("n_components", [3.0])})
    assert plt.get_fignums() == []
