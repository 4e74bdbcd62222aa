"""Options of training: defaults, ranges, and the names that they had before."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from inspect import getdoc

import pytest
from lightning.pytorch.callbacks import Callback

from rmve import RMVE
from rmve.likelihoods import get_likelihood
from rmve.training import TrainingOptions

RENAMED = {
    "agreement": ("view_weight", 2.0),
    "alpha": ("label_weight", 2.0),
    "balance": ("balance_weight", 2.0),
    "confidence": ("entropy_weight", 2.0),
    "momentum": ("assignment_momentum", 0.25),
    "potts": ("neighbor_weight", 2.0),
    "potts_ramp_fraction": ("neighbor_ramp_fraction", 0.25),
    "repulsion": ("repulsion_weight", 2.0),
    "smoothing": ("start_smoothing", 0.25),
    "spatial": ("position_weight", 2.0),
    "warmup_alpha": ("start_weight", 2.0),
}


@pytest.fixture
def untrained(cells) -> RMVE:
    """A small model."""
    RMVE.setup_anndata(cells, layer="counts")
    return RMVE(cells, n_components=3, n_latent=3, n_hidden=8, n_layers=1)


@pytest.mark.parametrize("option", fields(TrainingOptions), ids=lambda option: option.name)
def test_values_of_a_wrong_kind(option):
    """Each option refuses a value that none can have, and names itself."""
    with pytest.raises((TypeError, ValueError), match=f"`{option.name}`"):
        TrainingOptions(**{option.name: [1.0]})


@pytest.mark.parametrize("option", fields(TrainingOptions), ids=lambda option: option.name)
def test_each_option_is_documented(option):
    """The docstring has a text for each option."""
    assert f"\n{option.name}\n    " in getdoc(TrainingOptions)


def test_options_do_not_change():
    """A set of options is fixed; another one is made by ``replace``, and checked again."""
    options = TrainingOptions()
    with pytest.raises(FrozenInstanceError):
        options.lr = 3.0
    with pytest.raises(ValueError, match="`lr`"):
        replace(options, lr=-1.0)


@pytest.mark.parametrize("old", RENAMED)
def test_old_names(untrained, old):
    """An option under its old name has its effect, with a warning that names the new one."""
    new, value = RENAMED[old]
    seen = []

    class Note(Callback):
        def on_train_start(self, trainer, plan):
            seen.append(getattr(plan.options, new))

    with pytest.warns(FutureWarning, match=f"'{old}' is now '{new}'") as caught:
        untrained.train(max_epochs=1, batch_size=64, quiet=True, plan_kwargs={old: value}, callbacks=[Note()])
    assert seen == [value]
    assert {warning.filename for warning in caught if warning.category is FutureWarning} == {__file__}


def test_both_names(untrained):
    """An option under both names is an error, before anything is trained."""
    with pytest.raises(TypeError, match="'repulsion' is the old name of 'repulsion_weight'"):
        untrained.train(max_epochs=1, plan_kwargs={"repulsion": 2.0, "repulsion_weight": 3.0})
    assert not untrained.is_trained


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
def test_view_of_other_data_than_counts(likelihood):
    """Other data than counts have no view by default."""
    options = TrainingOptions(view_weight=1.0)
    with pytest.raises(ValueError, match="`view_weight=1.0` needs `view`"):
        options.check_likelihood(get_likelihood(likelihood))
    replace(options, view=lambda x: x).check_likelihood(get_likelihood(likelihood))


@pytest.mark.parametrize("value", [0.5, 0, -1, float("nan"), float("inf"), True, "500"])
def test_fewest_molecules(value):
    """A number from 1 on, or None."""
    with pytest.raises(ValueError, match="`min_molecules`"):
        TrainingOptions(min_molecules=value)
    assert TrainingOptions(min_molecules=None).min_molecules is None


def test_split_of_other_data_than_counts():
    """Values other than counts have no molecules to split."""
    with pytest.raises(ValueError, match="`split`"):
        TrainingOptions(split="binomial").check_likelihood(get_likelihood("bernoulli"))
