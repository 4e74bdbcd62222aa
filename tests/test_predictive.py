"""Mini-batches that are split in two or thinned: dense and sparse data, totals and size factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from rmve._keys import TARGET_KEY
from rmve.gene_likelihoods import GENE_LIKELIHOODS
from rmve.maths.sparse_rows import SparseRows
from rmve.predictive import SPLITS, split_batch, thin_batch

X, FACTOR, BATCH = REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.SIZE_FACTOR_KEY, REGISTRY_KEYS.BATCH_KEY
COUNTS = ["binomial", "negative_binomial"]

pytestmark = pytest.mark.usefixtures("fixed_seed")


@pytest.fixture
def counts() -> Tensor:
    """Counts of 40 cells and eight genes, small and large, with a cell and a gene that have none."""
    x = torch.poisson(torch.tensor([0.3, 1.0, 3.0, 10.0, 40.0, 90.0, 400.0, 0.0]).repeat(40, 1))
    x[3] = 0.0
    return x


@pytest.fixture(params=["dense", "sparse"])
def batch(request, counts) -> dict[str, Tensor]:
    """A mini-batch of them, with size factors and batches."""
    x = SparseRows.from_dense(counts) if request.param == "sparse" else counts
    return {X: x, FACTOR: torch.linspace(0.5, 2.0, 40)[:, None], BATCH: torch.zeros(40, 1)}


def dense(x: Tensor | SparseRows) -> Tensor:
    return x.dense() if isinstance(x, SparseRows) else x


def assert_well_formed(x: Tensor | SparseRows, like: Tensor | SparseRows) -> None:
    """The form of the whole, and no zero is stored."""
    assert type(x) is type(like)
    assert x.shape == like.shape
    if isinstance(x, SparseRows):
        assert (x.values != 0).all()
        assert x.offsets.dtype == like.offsets.dtype


# ---------------------------------------------------------------------- split


def test_each_likelihood_has_its_splits():
    """All of them can be trained with the plain bound, and counts are split by default."""
    assert set(SPLITS) == set(GENE_LIKELIHOODS)
    assert all(None in splits for splits in SPLITS.values())
    assert {likelihood for likelihood, splits in SPLITS.items() if splits[0] == "binomial"} == {"nb", "zinb", "poisson"}


@pytest.mark.parametrize("kind", COUNTS)
def test_parts_sum_to_the_cell(batch, counts, kind):
    """Molecule by molecule, with something in both parts; the mini-batch that is given stays as it is."""
    given = dict(batch)
    split = split_batch(batch, kind, torch.zeros(8))
    parts = split[X], split[TARGET_KEY]
    torch.testing.assert_close(dense(parts[0]) + dense(parts[1]), counts, rtol=0, atol=0)
    for part in parts:
        assert_well_formed(part, batch[X])
        assert (dense(part) >= 0).all()
        assert dense(part).sum() > 0.3 * counts.sum()
    assert batch.keys() == given.keys()
    assert all(batch[name] is given[name] for name in given)
    torch.testing.assert_close(dense(batch[X]), counts)


@pytest.mark.parametrize("kind", COUNTS)
def test_size_factors_are_halved(batch, kind):
    """As the molecules are; the rest goes along, and a mini-batch without size factors gets none."""
    split = split_batch(batch, kind, torch.zeros(8))
    torch.testing.assert_close(split[FACTOR], batch[FACTOR] / 2)
    assert split[BATCH] is batch[BATCH]
    del batch[FACTOR]
    assert set(split_batch(batch, kind, torch.zeros(8))) == {X, BATCH, TARGET_KEY}


def test_no_split(batch):
    """The plain bound reads and scores the cell as it is."""
    assert split_batch(batch, None, torch.zeros(8)) is batch
    assert TARGET_KEY not in batch


def test_split_is_drawn_anew(batch):
    """Each call has random numbers of its own."""
    first, second = (dense(split_batch(batch, "binomial")[X]) for _ in range(2))
    assert not torch.equal(first, second)


def test_dispersion_is_that_of_the_gene(batch):
    """Molecules of a gene with much dispersion stay together, those of a gene with little come apart."""
    log_dispersion = torch.tensor([0.0, 0.0, 0.0, 0.0, -12.0, 12.0, -12.0, 0.0])
    x, part = dense(batch[X]), dense(split_batch(batch, "negative_binomial", log_dispersion)[X])
    together = ((part == 0) | (part == x))[torch.arange(40) != 3].double().mean(0)
    assert together[[4, 6]].min() > 0.95
    assert together[5] == 0


@pytest.mark.parametrize("kind", COUNTS)
def test_split_has_no_gradient(kind):
    """The dispersion is not trained through the split."""
    log_dispersion = torch.zeros(3, requires_grad=True)
    split = split_batch({X: torch.full((4, 3), 9.0)}, kind, log_dispersion)
    assert not split[X].requires_grad
    assert not split[TARGET_KEY].requires_grad


def test_split_of_normal_values():
    """Two copies around each value, as far apart as the gene's variance says, and no size factors are touched."""
    variance = torch.tensor([0.25, 4.0])
    x = torch.randn(20_000, 2) + 3.0
    batch = {X: x, FACTOR: torch.ones(20_000, 1)}
    split = split_batch(batch, "normal", variance.log())
    torch.testing.assert_close(split[X] + split[TARGET_KEY], 2 * x)
    torch.testing.assert_close((split[X] - x).var(0), variance, rtol=0.05, atol=0)
    assert split[FACTOR] is batch[FACTOR]


# ----------------------------------------------------------------------- thin


@pytest.mark.parametrize("sparse", [False, True])
def test_thinned_cells_have_about_so_many_molecules(sparse):
    """The total is binomial around the number, and genes keep their shares."""
    mean = torch.tensor([5.0, 20.0, 75.0, 300.0, 0.0])
    counts = torch.poisson(mean.repeat(2000, 1))
    thinned = thin_batch({X: SparseRows.from_dense(counts) if sparse else counts}, 100)
    x = dense(thinned[X])
    assert x.sum(-1).mean() == pytest.approx(100, abs=1.0)  # four standard errors are 0.8
    assert x.sum(-1).std() == pytest.approx(np.sqrt(100 * 0.75), abs=0.7)
    torch.testing.assert_close(x.mean(0), 100 * mean / mean.sum(), rtol=0.1, atol=0)
    assert torch.equal(x, x.round())
    assert (x <= counts).all()
    assert (x >= 0).all()
    assert set(thinned) == {X}


def test_small_cells_are_not_thinned(batch, counts):
    """Cells with fewer molecules than that keep all of them and their size factor, an empty one included."""
    limit = int(counts.sum(-1).median())
    small = counts.sum(-1) <= limit
    assert 0 < small.sum() < 40
    thinned = thin_batch(batch, limit)
    assert_well_formed(thinned[X], batch[X])
    assert torch.equal(dense(thinned[X])[small], counts[small])
    assert torch.equal(thinned[FACTOR][small], batch[FACTOR][small])
    assert (dense(thinned[X]).sum(-1)[small.logical_not()] < counts.sum(-1)[small.logical_not()]).any()
    assert torch.equal(dense(thin_batch(batch, 10**6)[X]), counts)


def test_thinned_size_factors(batch, counts):
    """They shrink as much as the expected total; the rest goes along, and what was given stays as it is."""
    thinned = thin_batch(batch, 100)
    share = (100 / counts.sum(-1, keepdim=True)).clamp(max=1.0)
    torch.testing.assert_close(thinned[FACTOR], share * torch.linspace(0.5, 2.0, 40)[:, None])
    assert thinned[BATCH] is batch[BATCH]
    torch.testing.assert_close(dense(batch[X]), counts)


def test_thinned_cells_can_be_split(batch):
    """What a level is found from: two samples of a cell of about the same number of molecules."""
    split = split_batch(thin_batch(batch, 200), "binomial")
    big = torch.arange(40) != 3
    for part in (split[X], split[TARGET_KEY]):
        assert dense(part).sum(-1)[big].mean() == pytest.approx(100, abs=7)
        assert dense(part)[3].sum() == 0
