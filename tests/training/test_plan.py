"""The schedule of training: phases, ramps, parameter groups and running assignments."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS
from sklearn.metrics import adjusted_rand_score, homogeneity_score

from rmve import RMVE
from rmve._keys import INDEX_KEY, TARGET_KEY
from rmve.maths.regularization import halve_counts
from rmve.module import RMVEModule
from rmve.module._objective import Objective
from rmve.training import RMVETrainingPlan, TrainingData
from rmve.training._schedules import ramp

N, G, K = 10, 6, 3
ROWS = np.array([0, 3, 4, 9])
CPU = torch.device("cpu")
#: Strengths and fractions that the tests below count on, whatever the defaults are.
SETTINGS = {
    "warmup_fraction": 0.4,
    "kl_warmup_fraction": 0.5,
    "kl_weight": 0.8,
    "start_weight": 2.0,
    "start_smoothing": 0.3,
    "neighbor_weight": 6.0,
    "neighbor_ramp_fraction": 0.5,
    "repulsion_weight": 20.0,
    "repulsion_ramp_fraction": 0.25,
    "label_weight": 7.0,
    "assignment_momentum": 0.75,
}


@pytest.fixture
def graph() -> sp.csr_matrix:
    """A ring: each cell's neighbours are the next and the one before."""
    ring = sp.eye(N, k=1) + sp.eye(N, k=-1) + sp.eye(N, k=N - 1) + sp.eye(N, k=1 - N)
    return sp.csr_matrix(ring * 0.5, dtype=np.float32)


@pytest.fixture
def make_plan(graph):
    """Build a plan on ten cells; ``labelled`` names the rows with a label."""

    def build(labelled=(), likelihood="nb", with_graph=True, **options) -> RMVETrainingPlan:
        module = RMVEModule(G, K, n_latent=2, n_hidden=4, n_layers=1, gene_likelihood=likelihood)
        data = TrainingData(
            start=np.eye(K, dtype=np.float32)[np.arange(N) % K],
            labelled=np.isin(np.arange(N), labelled),
            graph=graph if with_graph else None,
        )
        return RMVETrainingPlan(module, data=data, **(SETTINGS | options))

    return build


@pytest.fixture
def at(monkeypatch):
    """Set the share of the run that is done."""

    def move(progress: float) -> None:
        monkeypatch.setattr(RMVETrainingPlan, "progress", property(lambda self: progress))

    return move


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.2, 0.0), (0.35, 0.5), (0.5, 1.0), (0.9, 1.0), (1.0, 1.0)]
)
def test_ramp(progress, expected):
    """The ramp is 0 before, linear during, and 1 after its stretch."""
    assert ramp(progress, 0.2, 0.3) == pytest.approx(expected)


def test_ramp_without_length_is_a_step():
    """A ramp of no length switches at its start."""
    assert ramp(0.19, 0.2, 0.0) == 0.0
    assert ramp(0.2, 0.2, 0.0) == 1.0


@pytest.mark.parametrize("progress", [0.0, 0.39])
def test_first_phase_holds_all_cells(make_plan, at, progress):
    """Before the warm-up ends all cells are held to the smoothed start, without repulsion or neighbours."""
    at(progress)
    objective = make_plan().objective(ROWS, CPU)
    assert objective.held.all()
    one_hot = torch.eye(K)[ROWS % K]
    torch.testing.assert_close(objective.target, 0.7 * one_hot + 0.1)
    assert (objective.label_weight == 2.0).all()
    assert objective.repulsion_weight == 0
    assert objective.neighbor_mean is None


def test_kl_warm_up(make_plan, at):
    """The weight of the divergence rises to its final value in the first half of the held phase."""
    plan = make_plan()
    for progress, expected in ((0.0, 0.0), (0.1, 0.4), (0.2, 0.8), (0.3, 0.8), (1.0, 0.8)):
        at(progress)
        assert plan.objective(ROWS, CPU).kl_weight == pytest.approx(expected)


def test_joint_phase_frees_the_cells(make_plan, at):
    """After the warm-up no unlabelled cell is held."""
    at(0.4)
    objective = make_plan().objective(ROWS, CPU)
    assert objective.held is None


def test_repulsion_and_potts_rise(make_plan, at):
    """Both strengths start at zero with the joint phase and reach their value after their share of it."""
    plan = make_plan()
    for progress, repulsion, potts in ((0.4, 0.0, 0.0), (0.475, 10.0, 1.5), (0.55, 20.0, 3.0), (0.7, 20.0, 6.0)):
        at(progress)
        objective = plan.objective(ROWS, CPU)
        assert objective.repulsion_weight == pytest.approx(repulsion)
        assert objective.neighbor_weight == pytest.approx(potts)


def test_labelled_cells_stay_held(make_plan, at):
    """Labelled cells are held to their label, unsmoothed and with alpha, in both phases."""
    plan = make_plan(labelled=(0, 4))
    label = torch.eye(K)[ROWS % K]
    for progress in (0.1, 0.8):
        at(progress)
        objective = plan.objective(ROWS, CPU)
        torch.testing.assert_close(objective.target[[0, 2]], label[[0, 2]])
        assert (objective.label_weight[[0, 2]] == 7.0).all()
        assert objective.held[[0, 2]].all()
        assert objective.held[[1, 3]].all() == (progress < 0.4)


def test_neighbor_mean(make_plan, at):
    """Cells are told the mean running assignment of their neighbours."""
    at(0.9)
    plan = make_plan()
    plan.assignment = torch.rand(N, K)
    near = plan.objective(ROWS, CPU).neighbor_mean
    expected = 0.5 * (plan.assignment[(ROWS + 1) % N] + plan.assignment[ROWS - 1])
    torch.testing.assert_close(near, expected)


@pytest.mark.parametrize("options", [{"neighbor_weight": 0.0}, {"with_graph": False}])
def test_without_neighbors(make_plan, at, options):
    """Without graph or strength there is no neighbourhood prior."""
    at(0.9)
    assert make_plan(**options).objective(ROWS, CPU).neighbor_mean is None


@pytest.mark.parametrize(
    ("total", "done", "expected"), [(100, 25, 0.25), (100, 120, 1.0), (float("inf"), 25, 0.0), (-1, 25, 0.0)]
)
def test_progress(make_plan, monkeypatch, total, done, expected):
    """Progress is the share of the estimated steps, at most 1, and 0 where their number is unknown."""
    monkeypatch.setattr(RMVETrainingPlan, "global_step", property(lambda self: done))
    plan = make_plan()
    plan._trainer = SimpleNamespace(estimated_stepping_batches=total)
    assert plan.progress == expected


def test_optimizer_groups(make_plan):
    """Mixture parameters have their own rate and no decay; both rates drop in the last share of the run."""
    plan = make_plan(lr=1e-3, mixture_lr=1e-2, weight_decay=0.1, lr_drop=0.25, lr_drop_fraction=0.2)
    plan._trainer = SimpleNamespace(estimated_stepping_batches=10)
    configured = plan.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    networks, mixture = optimizer.param_groups
    assert {id(p) for p in mixture["params"]} == {id(p) for p in plan.module.mixture.parameters()}
    assert len(networks["params"]) + len(mixture["params"]) == len(list(plan.module.parameters()))
    assert (networks["weight_decay"], mixture["weight_decay"]) == (0.1, 0.0)
    rates = []
    for _ in range(10):
        rates.append((networks["lr"], mixture["lr"]))
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, [[1e-3, 1e-2]] * 8 + [[2.5e-4, 2.5e-3]] * 2)


def test_one_cycle(make_plan):
    """Both rates rise in proportion over a fifth of the run and end at zero."""
    plan = make_plan(lr=1e-3, mixture_lr=1e-2, lr_schedule="one-cycle")
    plan._trainer = SimpleNamespace(estimated_stepping_batches=100)
    configured = plan.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    rates = np.array(rates)
    np.testing.assert_allclose(rates[:, 1], 10 * rates[:, 0])
    np.testing.assert_allclose(rates[:20, 0], 1e-3 * np.arange(1, 21) / 20)
    assert (np.diff(rates[19:, 0]) < 0).all()
    np.testing.assert_allclose(rates[59, 0], 5e-4)  # half-way down
    np.testing.assert_allclose(rates[-1, 0], 0.0, atol=1e-12)


def test_unknown_schedule(make_plan):
    """The error lists the schedules there are."""
    with pytest.raises(ValueError, match="`lr_schedule`.*'one-cycle'"):
        make_plan(lr_schedule="cosine")


def test_frozen_parameters_are_left_out(make_plan):
    """The optimiser gets trainable parameters only, also when the mixture is frozen."""
    plan = make_plan()
    plan.module.mixture.requires_grad_(False)
    plan._trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = plan.configure_optimizers()["optimizer"].param_groups
    assert len(groups) == 1
    assert all(p.requires_grad for p in groups[0]["params"])


@pytest.fixture
def step(at):
    """Run one training step of a plan at 90 % of the run and return its loss."""

    def run(plan, x=None):
        at(0.9)
        x = torch.poisson(3.0 * torch.ones(len(ROWS), G)) + 1.0 if x is None else x
        batch = {
            REGISTRY_KEYS.X_KEY: x,
            REGISTRY_KEYS.BATCH_KEY: torch.zeros(len(ROWS), 1),
            INDEX_KEY: torch.as_tensor(ROWS),
        }
        plan.on_train_epoch_start()
        return plan.training_step(batch, 0)

    return run


@pytest.mark.parametrize("progress", [0.1, 0.9])
def test_information_terms(make_plan, at, progress):
    """Views agree from the first step; balance and confidence begin with the joint phase."""
    at(progress)
    plan = make_plan(view_weight=3.0, balance_weight=2.0, entropy_weight=0.5)
    objective = plan.objective(ROWS, CPU)
    joint = progress > 0.4
    assert (objective.view_weight, objective.balance_weight, objective.entropy_weight) == (
        3.0,
        2.0 * joint,
        0.5 * joint,
    )


def test_running_assignments(make_plan, step):
    """A step moves the assignments of its cells, and of no others, towards ``q(y|x)`` by one minus the momentum."""
    plan = make_plan(split=None)
    plan.module.eval()
    before = plan.assignment.clone()
    x = torch.poisson(3.0 * torch.ones(len(ROWS), G)) + 1.0
    step(plan, x)
    q = plan.module.encode(x)["log_q"].exp().detach()
    torch.testing.assert_close(plan.assignment[ROWS], 0.75 * before[ROWS] + 0.25 * q)
    others = np.setdiff1d(np.arange(N), ROWS)
    torch.testing.assert_close(plan.assignment[others], before[others])
    torch.testing.assert_close(plan.start, before)


@pytest.mark.parametrize("split", ["auto", None])
def test_training_and_validation_split_each_cell(make_plan, step, monkeypatch, split):
    """Both read one part of a cell's molecules and are scored on the others, or read and score all of them."""
    plan, seen = make_plan(split=split), []
    monkeypatch.setattr(plan, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(plan, "compute_and_log_metrics", lambda *args: None)
    plan.module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.poisson(3.0 * torch.ones(len(ROWS), G)) + 1.0
    step(plan, x)
    plan.validation_step({REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: torch.zeros(4, 1), INDEX_KEY: ROWS}, 0)
    assert len(seen) == 2
    for batch in seen:
        read = batch[REGISTRY_KEYS.X_KEY]
        if split is None:
            assert TARGET_KEY not in batch
            assert torch.equal(read, x)
        else:
            assert torch.equal(read + batch[TARGET_KEY], x)
            assert 0 < read.sum() < x.sum()


def test_diagnostics_of_an_epoch(make_plan, step, monkeypatch):
    """At the end of an epoch the plan logs how many components it used and the distance of the nearest two."""
    plan, logged = make_plan(), {}
    plan.module.eval()
    with torch.no_grad():
        plan.module.y_head.bias[2] = -100.0
        plan.module.mixture.mean.zero_()
        plan.module.mixture.mean[1] = 4.0
    loss = step(plan)
    monkeypatch.setattr(RMVETrainingPlan, "use_sync_dist", False)
    monkeypatch.setattr(plan, "log", lambda name, value, **kwargs: logged.update({name: float(value)}))
    monkeypatch.setattr(plan, "log_dict", lambda values, **kwargs: logged.update(values))
    plan.on_train_epoch_end()
    # two of the three components have cells; at unit variances their distance is |mu_a - mu_b|² / 8
    assert (logged["n_components"], logged["min_separation"]) == (2.0, pytest.approx(2 * 4.0**2 / 8))
    assert logged["train_loss"] == pytest.approx(float(loss))
    parts = logged["reconstruction_loss_train"] + logged["kl_local_train"]
    torch.testing.assert_close(logged["elbo_train"], parts)


def test_means_of_an_epoch(cells):
    """The losses in the history are means over the cells of an epoch, under scvi-tools' names."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3)
    seen = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            seen.append((len(batch[REGISTRY_KEYS.BATCH_KEY]), float(outputs["loss"])))

    model.train(max_epochs=1, batch_size=100, callbacks=[Note()])
    sizes, losses = np.array(seen).T
    assert sizes.sum() == cells.n_obs
    history = {name: float(table.iloc[0, 0]) for name, table in model.history.items()}
    assert history["train_loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
    assert history["elbo_train"] == pytest.approx(
        history["reconstruction_loss_train"] + history["kl_local_train"], rel=1e-5
    )
    assert {"kl_global_train", "n_components", "min_separation"} <= set(history)


def test_agreement_by_default_thins_counts(make_plan, step):
    """For counts the second view has at most the counts of the first and no empty cell."""
    x = torch.tensor([[1.0, 0.0, 0.0], [100.0, 40.0, 0.0]]).repeat(50, 1)
    thinned = halve_counts(x)
    assert (thinned <= x).all()
    assert (thinned.sum(-1) > 0).all()
    assert thinned[1::2, 0].mean() == pytest.approx(50, abs=5)
    assert torch.isfinite(step(make_plan(view_weight=1.0)))


def test_agreement_with_a_given_view(make_plan, step):
    """A user's transform makes the second view."""
    seen = []

    def view(x):
        seen.append(x)
        return x.flip(-1)

    plan = make_plan(likelihood="normal", view_weight=1.0, view=view)
    assert torch.isfinite(step(plan))
    assert seen[0].shape == (len(ROWS), G)


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
def test_agreement_needs_a_view(make_plan, likelihood):
    """Other data than counts have no view by default: the error names the option."""
    with pytest.raises(ValueError, match="`view_weight=1.0` needs `view`"):
        make_plan(likelihood=likelihood, view_weight=1.0)


def test_unknown_option(cells, unchanged):
    """A misspelt option of the plan is a TypeError that names it."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3)
    with unchanged(cells), pytest.raises(TypeError, match="repulsoin"):
        model.train(max_epochs=1, plan_kwargs={"repulsoin": 1.0})
    assert not model.is_trained


@pytest.fixture
def plan_options(monkeypatch):
    """Call ``train`` up to the plan and return what the plan is given."""

    def run(model, **options) -> dict:
        seen = {}

        @functools.wraps(RMVETrainingPlan.__init__)
        def note(self, module, **kwargs):
            seen.update(kwargs)
            raise InterruptedError

        monkeypatch.setattr(RMVETrainingPlan, "__init__", note)
        with pytest.raises(InterruptedError):
            model.train(max_epochs=1, **options)
        return seen

    return run


def test_failed_training_starts_afresh(cells, plan_options):
    """After a call of train that failed, the next one begins with the starting partition, not half-way."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3)
    with pytest.raises(TypeError):
        model.train(max_epochs=1, plan_kwargs={"repulsoin": 1.0})
    seen = plan_options(model)
    assert seen.get("warmup_fraction") != 0.0
    assert set(np.unique(seen["data"].start)) == {0.0, 1.0}
    small = seen["data"].start.argmax(1)
    assert homogeneity_score(cells.obs["cell_type"], small) == pytest.approx(1.0)
    assert len(set(small)) == model.module.n_components > 3


def test_options_reach_the_plan(cells, plan_options):
    """Options given to train, and the estimator given to the model, arrive in the plan."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3, estimator="gumbel")
    seen = plan_options(model, plan_kwargs={"neighbor_weight": 3.0, "repulsion_weight": 2.0})
    assert (seen["neighbor_weight"], seen["repulsion_weight"], seen["estimator"]) == (3.0, 2.0, "gumbel")
    data = seen["data"]
    assert data.start.shape == (cells.n_obs, model.module.n_components)
    np.testing.assert_allclose(data.start.sum(1), 1.0)
    np.testing.assert_allclose(np.asarray(data.graph.sum(1)).ravel(), 1.0, rtol=1e-5)
    assert not data.labelled.any()


def test_given_start(cells, plan_options):
    """A given partition is the starting assignment, and the components start at its moments."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3)
    start = np.arange(cells.n_obs) % 2 + 1
    data = plan_options(model, start=start)["data"]
    np.testing.assert_array_equal(data.start, np.eye(3)[start])
    np.testing.assert_allclose(model.module.mixture.log_weights.exp().detach()[1:], 0.5, atol=0.01)


def test_labels_come_before_a_given_start(cells, plan_options):
    """Labelled cells start, and stay, in the component of their label."""
    cells.obs["known"] = cells.obs["cell_type"].astype(str).where(np.arange(cells.n_obs) < 50, "Unknown")
    RMVE.setup_anndata(cells, labels_key="known")
    model = RMVE(cells, n_components=4)
    data = plan_options(model, start=np.full(cells.n_obs, 3))["data"]
    assert data.labelled.sum() == 50
    np.testing.assert_array_equal(data.start.argmax(1) == 3, ~data.labelled)


def test_given_start_of_a_trained_model(cells, fit):
    """A trained model goes on from where it is: a new start is refused."""
    model = fit(cells, epochs=1)
    with pytest.raises(ValueError, match="`start` is for the first call"):
        model.train(max_epochs=1, start=np.zeros(cells.n_obs, dtype=int))


def test_no_graph_without_potts(cells, plan_options, monkeypatch):
    """Without the Potts prior training gets no graph, and with a given start no neighbours are looked for."""
    RMVE.setup_anndata(cells)
    assert plan_options(RMVE(cells, n_components=3), plan_kwargs={"neighbor_weight": 0.0})["data"].graph is None
    monkeypatch.setattr(
        "rmve.clusters.initialization.nearest_neighbors", lambda *args: pytest.fail("Neighbours were computed.")
    )
    start = np.arange(cells.n_obs) % 3
    data = plan_options(RMVE(cells, n_components=3), plan_kwargs={"neighbor_weight": 0.0}, start=start)["data"]
    assert data.graph is None
    np.testing.assert_array_equal(data.start.argmax(1), start)


def test_a_given_start_says_how_many_components(cells, plan_options):
    """Without a number of components, a given start has as many as the model gets."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells)
    data = plan_options(model, start=np.arange(cells.n_obs) % 4)["data"]
    assert model.module.n_components == data.start.shape[1] == 4


def test_objective_is_the_plain_bound_by_default():
    """An objective without arguments changes nothing of the bound."""
    plain = Objective()
    assert (plain.kl_weight, plain.repulsion_weight, plain.view_weight, plain.balance_weight) == (1, 0, 0, 0)
    assert plain.held is None
    assert plain.neighbor_mean is None


def test_bfloat16_products(cells):
    """With matrix products in bfloat16 the clusters are the same, and parameters stay in single precision."""
    RMVE.setup_anndata(cells)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RMVE(cells, n_components=3)
        model.train(max_epochs=30, batch_size=64, precision="bf16-mixed", accelerator="cpu")
    assert adjusted_rand_score(cells.obs["cell_type"], model.predict()) > 0.95
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
