"""The objective against densities and sums computed by hand."""

from __future__ import annotations

import pytest
import torch
from scvi import REGISTRY_KEYS
from torch.distributions import Categorical, Normal, kl_divergence

from rmve.likelihoods import LIKELIHOODS
from rmve.maths.regularization import agreement, balance, entropy
from rmve.maths.repulsion import REPULSIONS, default_bandwidth
from rmve.module import RMVEModule
from rmve.module._objective import Objective

# those of `make_module` and `make_batch`
B, G, K, D = 12, 9, 3, 2
X, BATCH = REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY

pytestmark = pytest.mark.usefixtures("fixed_seed")


def pieces(module: RMVEModule, tensors, inference, generative):
    """Log-likelihood of each node ``(S, B)``, divergence ``(B, K)`` and log-weights ``(K,)``, by torch's densities."""
    log_lik = generative["px"].log_prob(tensors[X]).sum(-1)
    q = Normal(inference["z_mean"], inference["z_var"].sqrt())
    kl = kl_divergence(q, Normal(module.mixture.mean, module.mixture.var.sqrt())).sum(-1).expand(-1, K)
    return log_lik, kl, torch.log_softmax(module.mixture.logits, -1)


@pytest.mark.parametrize("posterior", ["full", "factorized"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_exact_bound_by_hand(make_module, make_batch, run_module, likelihood, posterior):
    """Equation 5: the loss is the negative bound, put together from torch's and scvi-tools' distributions."""
    module, tensors = make_module(likelihood, posterior=posterior), make_batch(likelihood)
    inference, generative, loss = run_module(module, tensors, with_distribution=True)
    log_lik, kl, log_pi = pieces(module, tensors, inference, generative)
    q = inference["log_q"].exp()
    kl_y = kl_divergence(Categorical(probs=q), Categorical(logits=module.mixture.logits))
    bound = (q.T * log_lik).sum(0) - (q * kl).sum(-1) - kl_y
    torch.testing.assert_close(loss.loss, -bound.mean(), rtol=1e-5, atol=1e-5)
    per_cell = loss.reconstruction_loss["reconstruction_loss"] + loss.kl_local["kl_local"]
    torch.testing.assert_close(per_cell, -bound, rtol=1e-5, atol=1e-5)


def test_kl_weight(make_module, make_batch, run_module):
    """The weight acts on the divergence of ``q(z|x,y)`` alone, whether given by scvi-tools or by the objective."""
    module, tensors = make_module(), make_batch()
    inference, generative, full = run_module(module, tensors)
    half = module.loss(tensors, inference, generative, kl_weight=0.5)
    same = module.loss(tensors, inference, generative, objective=Objective(kl_weight=0.5))
    kl = module.mixture.kl(inference["z_mean"], inference["z_var"])
    expected = full.loss - 0.5 * (inference["log_q"].exp() * kl).sum(-1).mean()
    torch.testing.assert_close(half.loss, expected)
    torch.testing.assert_close(same.loss, expected)
    torch.testing.assert_close(half.kl_local["kl_local"], full.kl_local["kl_local"])


def test_held_cells_by_hand(make_module, make_batch, run_module):
    """Equation 3 for held cells, with alpha, and equation 5 for the others of the same batch."""
    module, tensors = make_module(), make_batch()
    held = torch.arange(B) % 3 == 0
    target = torch.eye(K, dtype=torch.float64)[torch.arange(B) % K]
    alpha = torch.full((B,), 7.0, dtype=torch.float64)
    objective = Objective(target=target, held=held, label_weight=alpha)
    inference, generative, loss = run_module(module, tensors, objective=objective, with_distribution=True)
    log_lik, kl, log_pi = pieces(module, tensors, inference, generative)
    log_q, y = inference["log_q"], target.argmax(-1)
    at = torch.arange(B)
    given = log_lik[y, at] + log_pi[y] - kl[at, y] + alpha * log_q[at, y]
    free = (log_q.exp() * (log_lik.T - kl - log_q + log_pi)).sum(-1)
    torch.testing.assert_close(loss.loss, -torch.where(held, given, free).mean(), rtol=1e-5, atol=1e-5)


def test_held_cells_with_a_soft_target(make_module, make_batch, run_module):
    """A smoothed assignment enters equation 3 as its expectation."""
    module, tensors = make_module(), make_batch()
    target = torch.softmax(torch.randn(B, K, dtype=torch.float64), -1)
    everyone, alpha = torch.ones(B, dtype=torch.bool), torch.ones(B, dtype=torch.float64)
    objective = Objective(target=target, held=everyone, label_weight=alpha)
    inference, generative, loss = run_module(module, tensors, objective=objective, with_distribution=True)
    log_lik, kl, log_pi = pieces(module, tensors, inference, generative)
    expected = (target * (log_lik.T - kl + log_pi + inference["log_q"])).sum(-1)
    torch.testing.assert_close(loss.loss, -expected.mean(), rtol=1e-5, atol=1e-5)


def test_classifier_learns_from_labels(make_module, make_batch, run_module):
    """``q(y|x)`` of a held cell gets a gradient through alpha, and none without it."""
    module, tensors = make_module(), make_batch()
    target, everyone = torch.eye(K, dtype=torch.float64)[torch.arange(B) % K], torch.ones(B, dtype=torch.bool)
    gradient = {}
    for alpha in (0.0, 1.0):
        objective = Objective(target=target, held=everyone, label_weight=torch.full((B,), alpha, dtype=torch.float64))
        module.zero_grad()
        run_module(module, tensors, "sample", objective)[2].loss.backward()
        gradient[alpha] = module.y_head.weight.grad.abs().sum()
    assert gradient[0.0] == 0
    assert gradient[1.0] > 0


def test_potts_prior(make_module, make_batch, run_module):
    """The neighbours' mean assignment replaces ``p(y)`` by ``pi_y exp(eta m_y)``, normalised."""
    module, tensors = make_module(), make_batch()
    near = torch.softmax(torch.randn(B, K, dtype=torch.float64), -1)
    inference, generative, plain = run_module(module, tensors)
    with_potts = module.loss(tensors, inference, generative, Objective(neighbor_mean=near, neighbor_weight=4.0))
    log_pi = module.mixture.log_weights
    prior = (log_pi + 4.0 * near).log_softmax(-1)
    expected = plain.loss + (inference["log_q"].exp() * (log_pi - prior)).sum(-1).mean()
    torch.testing.assert_close(with_potts.loss, expected)
    torch.testing.assert_close(with_potts.kl_local["kl_local"], plain.kl_local["kl_local"])


@pytest.mark.parametrize("kind", [*REPULSIONS, None])
def test_repulsion(make_module, make_batch, run_module, kind):
    """The strength times the penalty, on the mini-batch's weights, is added; ``None`` adds nothing."""
    module, tensors = make_module(repulsion=kind), make_batch()
    inference, generative, plain = run_module(module, tensors)
    repelled = module.loss(tensors, inference, generative, Objective(repulsion_weight=3.0))
    expected = plain.loss
    if kind is not None:
        weights, var = inference["log_q"].exp().mean(0), module.mixture.var
        penalty = REPULSIONS[kind](weights, module.mixture.mean, var, default_bandwidth(weights, var))
        expected = expected + 3.0 * penalty
        torch.testing.assert_close(repelled.extra_metrics["repulsion"], penalty.detach())
    torch.testing.assert_close(repelled.loss, expected)


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("kind", REPULSIONS)
def test_what_the_repulsion_moves(make_module, make_batch, run_module, kind, moves):
    """The overlap moves the weights, and the components if asked to; the other kinds move the components always."""
    module, tensors = make_module(repulsion=kind), make_batch()
    names = ["y_head.weight", "mixture.mean"]
    parameters = dict(module.named_parameters())
    inference, generative, plain = run_module(module, tensors)
    repelled = module.loss(tensors, inference, generative, Objective(repulsion_weight=3.0, repulsion_moves=moves))
    head, mean = torch.autograd.grad(repelled.loss - plain.loss, [parameters[name] for name in names])
    assert (head.abs().max() > 1e-9) == (kind == "hsic")
    assert (mean.abs().max() > 1e-9) == (moves or kind != "hsic")


def test_other_terms(make_module, make_batch, run_module):
    """Agreement, balance and entropy add what their formulas say."""
    module, tensors = make_module(), make_batch()
    inference, generative, plain = run_module(module, tensors)
    view = torch.ones_like(tensors[X])
    objective = Objective(view_weight=2.0, view=view, balance_weight=0.5, entropy_weight=0.25)
    loss = module.loss(tensors, inference, generative, objective)
    log_q = inference["log_q"]
    expected = plain.loss + 2.0 * agreement(log_q, module.encode(view)["log_q"]).mean()
    expected = expected + 0.5 * balance(log_q.exp().mean(0))
    expected = expected + 0.25 * entropy(log_q).mean()
    torch.testing.assert_close(loss.loss, expected)
    assert set(loss.extra_metrics) == {"agreement", "balance", "entropy"}


def test_view_of_a_held_cell(make_module, make_batch, run_module):
    """The view of a held cell is compared with its given assignment, that of another with its ``q(y|x)``."""
    module, tensors = make_module(), make_batch()
    inference, generative, _ = run_module(module, tensors)
    log_q, view = inference["log_q"], torch.ones_like(tensors[X])
    held, alpha = torch.arange(B) % 3 == 0, torch.ones(B, dtype=log_q.dtype)
    target = torch.eye(log_q.shape[-1], dtype=log_q.dtype)[torch.arange(B) % log_q.shape[-1]]
    given = {"held": held, "target": target, "label_weight": alpha}
    loss = module.loss(tensors, inference, generative, Objective(view_weight=2.0, view=view, **given))
    log_q_view = module.encode(view)["log_q"]
    expected = -(torch.where(held[:, None], target, log_q.exp()) * log_q_view).sum(-1).mean()
    torch.testing.assert_close(loss.extra_metrics["agreement"], expected.detach())


@pytest.fixture
def place(make_module, make_batch):
    """A module with two coordinates, a mini-batch, its assignment and positions, of which one is unknown."""
    module = make_module(n_spatial=2)
    outputs = module.inference(make_batch()[X])
    positions = torch.randn(B, 2, dtype=torch.float64)
    positions[3] = torch.nan
    return module, outputs, outputs["log_q"].exp(), positions


def test_position_loss_is_the_expected_squared_error(place):
    """By Monte Carlo over y and z, for cells with a position that are not held out."""
    module, outputs, assignment, positions = place
    held_out = torch.arange(B) % 4 == 0
    module.space_var.copy_(torch.tensor([0.5, 0.2]))  # signal to noise 1 and 4
    loss = module.position_loss(assignment, outputs, positions, held_out)
    n = 200_000
    y = Categorical(assignment).sample((n,))
    rows = torch.arange(B)
    mean, sd = outputs["z_mean"][rows, y], outputs["z_var"][rows, y].sqrt()
    squared = (positions - module.space_head(mean + sd * torch.randn_like(mean))).square().mean(0)
    counted = ~held_out & positions.isfinite().all(-1)
    expected = 0.5 * (squared[counted] * torch.tensor([1.0, 4.0])).sum() / B
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.0)


def test_held_out_positions_teach_nothing_but_the_variance(place):
    """Their gradient is zero; in training their error becomes the running variance, in evaluation it does not."""
    module, outputs, assignment, positions = place
    nothing = module.position_loss(assignment, outputs, positions, torch.ones(B, dtype=torch.bool))
    assert nothing.item() == 0.0
    torch.testing.assert_close(module.space_var, torch.ones(2, dtype=torch.float64))
    module.train()
    for _ in range(2000):
        module.position_loss(assignment, outputs, positions, torch.ones(B, dtype=torch.bool))
    known = positions.isfinite().all(-1)
    residual = positions[known][:, None] - module.space_head(outputs["z_mean"][known])
    spread = outputs["z_var"][known] @ module.space_head.weight.square().T
    expected = (assignment[known][..., None] * (residual.square() + spread)).sum(1).mean(0)
    torch.testing.assert_close(module.space_var, expected.detach())


def test_coordinates_without_signal_keep_a_small_weight(place):
    """No less than the least signal, so that a coordinate can start to be learned."""
    module, outputs, assignment, positions = place
    none = torch.zeros(B, dtype=torch.bool)
    module.space_var.fill_(1.0)
    weak = module.position_loss(assignment, outputs, positions, none, min_signal=0.2)
    module.space_var.fill_(1.0 / 1.2)  # explained to unexplained variance: just the least that counts
    torch.testing.assert_close(weak, module.position_loss(assignment, outputs, positions, none, min_signal=0.1))
    module.space_var.fill_(0.5)
    torch.testing.assert_close(5.0 * weak, module.position_loss(assignment, outputs, positions, none, min_signal=0.2))


def test_unknown_positions_give_no_gradient(place):
    """Cells without a position pull the map nowhere, also in the factorised posterior."""
    module, outputs, assignment, positions = place
    positions[:] = torch.nan
    assert module.position_loss(assignment, outputs, positions, torch.zeros(B, dtype=torch.bool)).item() == 0.0


def test_loss_adds_the_positions(make_module, make_batch):
    """The total is the bound plus the weight times the positions' loss, for held cells under their given assignment."""
    module, batch = make_module(n_spatial=2, posterior="factorized"), make_batch()
    outputs = module.inference(batch[X])
    generated = module.generative(outputs["z"], outputs["library"], batch[BATCH])
    positions, held_out = torch.randn(B, 2, dtype=torch.float64), torch.zeros(B, dtype=torch.bool)
    plain = module.loss(batch, outputs, generated, Objective()).loss
    full = module.loss(
        batch, outputs, generated, Objective(positions=positions, held_out=held_out, position_weight=7.0)
    )
    expected = module.position_loss(outputs["log_q"].exp(), outputs, positions, held_out)
    torch.testing.assert_close(full.loss, plain + 7.0 * expected)
    torch.testing.assert_close(full.extra_metrics["position_loss"], expected.detach())
