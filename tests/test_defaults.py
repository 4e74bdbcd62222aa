"""Values that follow from the data."""

import numpy as np
import pytest

from rmve import RMVE, defaults
from rmve.defaults import MANY_STEPS, default_batch_size, default_epochs, default_input_dropout


def test_default_epochs():
    """Fewer cells get more epochs, for enough steps and within limits; the number never rises with the cells."""
    cells = (1, 100, 1000, 10_000, 40_000, 100_000, 10_000_000)
    epochs = [default_epochs(n) for n in cells]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-3:] == [30, 12, 5]
    assert epochs[0] == defaults.MAX_EPOCHS == default_epochs(1000, batch_size=512)
    for n, found in zip(cells, epochs, strict=True):
        assert found == defaults.MAX_EPOCHS or found * -(-n // 128) >= defaults.MIN_STEPS
    assert default_epochs(1000, with_positions=True) == 188  # of 8 steps


def test_default_batch_size():
    """The size never falls with the cells, and a larger one than 128 leaves enough steps."""
    cells = np.unique(np.geomspace(1, 1e8, 2000).astype(int))
    sizes = np.array([default_batch_size(n) for n in cells])
    assert set(sizes) == {128, 256, 512}
    assert (np.diff(sizes) >= 0).all()
    for n, size in zip(cells, sizes, strict=True):
        if size > 128:
            assert default_epochs(n, size) * -(-n // size) >= MANY_STEPS
    assert [default_batch_size(n) for n in (17_066, 17_067, 34_133, 34_134)] == [128, 256, 256, 512]


@pytest.mark.parametrize("given", [None, 100])
def test_batch_size_of_a_run(given, cells):
    """A run takes the size of the number of cells unless another is given."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3, n_latent=3, n_hidden=8, n_layers=1)
    model.train(max_epochs=1, batch_size=given, quiet=True)
    assert model.trainer.global_step == -(-cells.n_obs // (given or default_batch_size(cells.n_obs)))


def test_default_input_dropout():
    """A fifth of many genes, less of a panel, nothing where zeros are rare, nor of other data than counts."""
    assert [default_input_dropout("nb", n) for n in (33, 100, 200, 5000)] == [0.033, 0.1, 0.2, 0.2]
    assert [default_input_dropout("nb", 5000, zeros) for zeros in (0.0, 0.3, 0.4, 1.0)] == [0.0, 0.0, 0.2, 0.2]
    assert default_input_dropout("normal", 5000) == 0.0
