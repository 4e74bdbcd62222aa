"""A mini-batch in two parts: sparse and dense alike, with all that belongs to it, and nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from scvi import REGISTRY_KEYS
from torch import Tensor

from rmve import RMVE
from rmve._keys import INDEX_KEY, TARGET_KEY, TARGET_SIZE_KEY
from rmve.datasets import simulate
from rmve.likelihoods import LIKELIHOODS
from rmve.maths.sparse_rows import SparseRows
from rmve.predictive import SPLITS, read_less, split_batch, thin_batch

N_CELLS, N_GENES = 8_000, 4
#: Counts of every cell, and the inverse dispersion of each gene.
COUNTS, THETA = torch.tensor([6.0, 0.0, 1.0, 90.0]), torch.tensor([0.5, 2.0, 2.0, 20.0])
KINDS = ["binomial", "negative_binomial"]


@pytest.fixture(autouse=True)
def fixed_seed():
    """Run each test from the same state of the random generator, and restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(params=["dense", "sparse"])
def batch(request) -> dict:
    """Equal cells, with size factors, a batch and row numbers."""
    x = COUNTS.repeat(N_CELLS, 1)
    return {
        REGISTRY_KEYS.X_KEY: x if request.param == "dense" else SparseRows.from_dense(x),
        REGISTRY_KEYS.SIZE_FACTOR_KEY: torch.rand(N_CELLS, 1) + 0.5,
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(N_CELLS, 1),
        INDEX_KEY: torch.arange(N_CELLS),
    }


def dense(x: Tensor | SparseRows) -> Tensor:
    """A matrix, however it is stored."""
    return x.dense() if isinstance(x, SparseRows) else x


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up(batch, kind):
    """Every molecule is in one of two parts, which are stored as the counts are; zeros are not stored."""
    x = batch[REGISTRY_KEYS.X_KEY]
    split = split_batch(batch, kind, THETA.log())
    parts = split[REGISTRY_KEYS.X_KEY], split[TARGET_KEY]
    assert {type(part) for part in parts} == {type(x)}
    assert torch.equal(dense(parts[0]) + dense(parts[1]), COUNTS.repeat(N_CELLS, 1))
    assert all((dense(part) >= 0).all() and dense(part).dtype == COUNTS.dtype for part in parts)
    if isinstance(x, SparseRows):
        assert all(part.values.all() for part in parts)
    assert torch.equal(dense(x), COUNTS.repeat(N_CELLS, 1))  # the mini-batch itself stays as it is
    assert TARGET_KEY not in batch


@pytest.mark.parametrize("kind", KINDS)
def test_distribution_of_the_parts(batch, kind):
    """Sparse or dense: half of each gene's molecules, with the variance of its own split, and genes apart."""
    split = split_batch(batch, kind, (THETA / 2).log())
    part = dense(split[REGISTRY_KEYS.X_KEY])
    variance = COUNTS / 4
    if kind == "negative_binomial":
        variance = torch.tensor([betabinom.var(n, t / 2, t / 2) for n, t in zip(COUNTS.int(), THETA, strict=True)])
    assert ((part.mean(0) - COUNTS / 2).abs() <= 4.5 * (variance / N_CELLS).sqrt()).all()
    torch.testing.assert_close(part.var(0), variance.float(), rtol=0.1, atol=0)
    correlation = torch.corrcoef(part[:, [0, 2, 3]].T)
    assert (correlation - torch.eye(3)).abs().max() < 4.5 / N_CELLS**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_what_belongs_to_the_molecules(batch, kind):
    """Size factors are halved with them; all else stays."""
    split = split_batch(batch, kind, THETA.log())
    for name in (REGISTRY_KEYS.SIZE_FACTOR_KEY, TARGET_SIZE_KEY):
        assert torch.equal(split[name], batch[REGISTRY_KEYS.SIZE_FACTOR_KEY] / 2)
    for name in (REGISTRY_KEYS.BATCH_KEY, INDEX_KEY):
        assert split[name] is batch[name]
    del batch[REGISTRY_KEYS.SIZE_FACTOR_KEY]
    assert REGISTRY_KEYS.SIZE_FACTOR_KEY not in split_batch(batch, kind, THETA.log())


def test_no_split(batch):
    """``None`` is the plain bound: the same mini-batch, without a target."""
    assert split_batch(batch, None) is batch


def test_cells_without_molecules():
    """Both parts are empty."""
    for x in (torch.zeros(3, 2), SparseRows.from_dense(torch.zeros(3, 2))):
        split = split_batch({REGISTRY_KEYS.X_KEY: x}, "binomial")
        assert not dense(split[REGISTRY_KEYS.X_KEY]).any()
        assert not dense(split[TARGET_KEY]).any()


def test_copies_of_normal_values():
    """The two copies have the value as their mean, and differ by the deviation of each gene; nothing is halved."""
    x, sd = torch.randn(N_CELLS, N_GENES), torch.tensor([0.1, 1.0, 3.0, 0.0])
    split = split_batch({REGISTRY_KEYS.X_KEY: x}, "normal", (2 * sd.square()).log())
    first, second = split[REGISTRY_KEYS.X_KEY], split[TARGET_KEY]
    torch.testing.assert_close((first + second) / 2, x)
    torch.testing.assert_close((first - x).std(0), sd, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("kind", ["negative_binomial", "normal"])
def test_dispersion_learned_from_parts(kind):
    """A part of counts has half of ``theta``, a copy of normal values twice the variance: with these the parts are independent."""
    if kind == "normal":
        x, learned = 1.5 * torch.randn(20_000, 1), torch.tensor([2 * 1.5**2])
    else:
        rate = 30.0 / 8.0 * torch._standard_gamma(torch.full((20_000, 1), 8.0))
        x, learned = torch.poisson(rate), torch.tensor([8.0 / 2])
    split = split_batch({REGISTRY_KEYS.X_KEY: x}, kind, learned.log())
    first, second = split[REGISTRY_KEYS.X_KEY][:, 0], split[TARGET_KEY][:, 0]
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4.5 / len(x) ** 0.5


def test_no_gradient(batch):
    """The dispersion gets no gradient from the draw."""
    log_dispersion = THETA.log().requires_grad_()
    split = split_batch(batch, "negative_binomial", log_dispersion)
    assert not dense(split[REGISTRY_KEYS.X_KEY]).requires_grad


def test_each_likelihood_has_a_split():
    """Counts are split by default, other values are not; the plain bound is always to be had."""
    splits = {name: likelihood.splits for name, likelihood in LIKELIHOODS.items()}
    assert {name for name, ways in splits.items() if ways[0] is not None} == {"nb", "zinb", "poisson"}
    assert all(None in ways and set(ways) <= set(SPLITS) for ways in splits.values())


def test_thinned_cells(batch):
    """Cells keep about as many molecules as they are to have, and all if they have fewer; size factors go with them."""
    for n_molecules, share in ((20, 20 / 97), (60, 60 / 97), (1_000, 1.0)):
        thinned = thin_batch(batch, n_molecules)
        x = dense(thinned[REGISTRY_KEYS.X_KEY])
        assert (x <= COUNTS).all()
        variance = share * (1 - share) * COUNTS
        assert ((x.mean(0) - share * COUNTS).abs() <= 4.5 * (variance / N_CELLS).sqrt() + 1e-6).all()
        torch.testing.assert_close(
            thinned[REGISTRY_KEYS.SIZE_FACTOR_KEY], share * batch[REGISTRY_KEYS.SIZE_FACTOR_KEY], rtol=1e-4, atol=0
        )
        assert type(thinned[REGISTRY_KEYS.X_KEY]) is type(batch[REGISTRY_KEYS.X_KEY])


def test_thinned_cells_without_molecules():
    """They stay empty."""
    for x in (torch.zeros(3, 2), SparseRows.from_dense(torch.zeros(3, 2))):
        assert not dense(thin_batch({REGISTRY_KEYS.X_KEY: x}, 10)[REGISTRY_KEYS.X_KEY]).any()


def test_encoder_reads_less(batch):
    """A half, a quarter, ... of its molecules with the same probability, down to the least number; the target stays."""
    split = split_batch(batch, "binomial")
    before, size = dense(split[REGISTRY_KEYS.X_KEY]), split[REGISTRY_KEYS.SIZE_FACTOR_KEY]
    less = read_less(split, 10)
    after = dense(less[REGISTRY_KEYS.X_KEY])
    assert type(less[REGISTRY_KEYS.X_KEY]) is type(batch[REGISTRY_KEYS.X_KEY])
    assert (after <= before).all()
    assert (after >= 0).all()
    assert less[TARGET_KEY] is split[TARGET_KEY]
    assert less[TARGET_SIZE_KEY] is split[TARGET_SIZE_KEY]
    share = (less[REGISTRY_KEYS.SIZE_FACTOR_KEY] / size)[:, 0]
    total = before.sum(-1)
    assert (total * share >= 10)[share < 1].all()
    assert (total * share < 20)[share == share.min()].all()
    deep = (total >= 40) & (total < 80)  # a half and a quarter are left of these
    for expected in (1.0, 0.5, 0.25):
        these = deep & (share == expected)
        n = these.sum()
        assert abs(n / deep.sum() - 1 / 3) < 4.5 * (2 / 9 / deep.sum()) ** 0.5
        kept = after[these].sum() / before[these].sum()
        assert abs(kept - expected) <= 4.5 * (expected * (1 - expected) / before[these].sum()) ** 0.5
    assert deep.float().mean() > 0.9


def test_cells_of_few_molecules_are_read_as_they_are(batch):
    """No half of them has as many as the encoder is to read at least; cells without molecules stay empty."""
    split = split_batch(batch, "binomial")
    less = read_less(split, 97)
    assert torch.equal(dense(less[REGISTRY_KEYS.X_KEY]), dense(split[REGISTRY_KEYS.X_KEY]))
    for x in (torch.zeros(3, 2), SparseRows.from_dense(torch.zeros(3, 2))):
        assert not dense(read_less({REGISTRY_KEYS.X_KEY: x}, 10)[REGISTRY_KEYS.X_KEY]).any()


def test_shallow_cells_are_assigned_as_deep_ones_are():
    """Of an encoder that has read few molecules, too, a hundredth of a deep cell's molecules are better assigned."""
    deep = simulate(n_cells=400, n_genes=200, n_clusters=4, depth=10_000.0, separation=6.0, seed=0)
    shallow = deep.copy()
    shallow.X = np.random.default_rng(0).binomial(deep.X.toarray().astype(int), 0.01).astype(np.float32)

    def accuracy(min_molecules: float | None) -> float:
        RMVE.setup_anndata(deep, labels_key="cell_type")
        model = RMVE(deep, n_hidden=32)
        model.train(max_epochs=20, plan_kwargs={"min_molecules": min_molecules}, accelerator="cpu")
        return float((model.predict(shallow).to_numpy() == deep.obs["cell_type"].to_numpy()).mean())

    assert accuracy(100) > accuracy(None) + 0.1
