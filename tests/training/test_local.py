"""Local blocks: they equal torch's own optimizers to the bit, repeat to the bit, and touch nothing else."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from budjoule.training.clients.local import Workbench, one_thread
from budjoule.training.config.config import load_config
from budjoule.training.memory.step import make_optimizer

INPUTS = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 10


def make_model(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))


def training(optimizer: str = "sgd", steps: int = 5):
    keys = {"optimizer": optimizer, "local_steps": steps, "batch_size": 8, "learning_rate": 0.05}
    return load_config({"training": keys}).training


@pytest.mark.parametrize("optimizer", ["sgd", "sgd-momentum", "adam", "adamw"])
def test_a_block_equals_torchs_optimizer_to_the_bit(optimizer: str) -> None:
    reference = make_model()
    bench = Workbench(copy.deepcopy(reference), training(optimizer))
    with one_thread():
        found = bench.block(bench.values(), INPUTS, LABELS, seed=(3, 4))
        rng = np.random.default_rng((3, 4))
        rng.integers(2**62)
        order = torch.from_numpy(rng.permutation(40)).view(5, 8)
        stepper = make_optimizer(optimizer, list(reference.parameters()), 0.05)
        for batch in order:
            stepper.zero_grad()
            nn.functional.cross_entropy(reference(INPUTS[batch]), LABELS[batch]).backward()
            stepper.step()
    wanted = torch.cat([p.detach().reshape(-1) for p in reference.parameters()]).numpy()
    assert np.array_equal(found, wanted)


def test_a_block_repeats_to_the_bit_and_follows_its_seed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    bench = Workbench(model, training())
    start = bench.values()
    one, again = (bench.block(start, INPUTS, LABELS, seed=(1, 2)) for _ in range(2))
    other = bench.block(start, INPUTS, LABELS, seed=(1, 3))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_norms_statistics_travel_with_the_weights() -> None:
    bench = Workbench(make_model(norm=True), training())
    assert "1.running_mean" in bench.layout.names
    start = bench.values()
    end = bench.block(start, INPUTS, LABELS, seed=(0,))
    moved = bench.layout.unflatten(end - start)
    assert np.abs(moved["1.running_mean"]).max() > 0
    bench.load(start)
    assert np.array_equal(bench.values(), start)


def test_a_count_of_batches_begins_every_block_anew() -> None:
    """Whatever a workbench trained before, a block ends in the same bits: also where a norm averages over all batches so far."""
    model = make_model(norm=True)
    model[1].momentum = None
    bench = Workbench(model, training())
    start = bench.values()
    one, again = (bench.block(start, INPUTS, LABELS, seed=(1, 2)) for _ in range(2))
    assert np.array_equal(one, again)
    bench.load(start)
    assert bench.state_dict()["1.num_batches_tracked"] == 0


def test_frozen_parameters_stay_and_are_not_sent() -> None:
    model = make_model()
    model[0].requires_grad_(False)
    bench = Workbench(model, training())
    before = model[0].weight.detach().clone()
    bench.block(bench.values(), INPUTS, LABELS, seed=(0,))
    assert torch.equal(model[0].weight, before)
    assert not any(name.startswith("0.") for name in bench.layout.names)


def test_few_examples_make_smaller_batches() -> None:
    bench = Workbench(make_model(), training())
    one = bench.block(bench.values(), INPUTS[:3], LABELS[:3], seed=(0,))
    assert np.isfinite(one).all()


def test_the_prior_pulls_towards_rare_classes() -> None:
    """With the true prior added in training, the plain scores favour a class less that the client holds often."""
    labels = torch.cat([torch.zeros(36, dtype=torch.long), torch.tensor([1, 2, 3, 4])])
    prior = torch.log(torch.bincount(labels, minlength=10).float().clamp_min(0.04) / 40)
    bench = Workbench(make_model(), training(steps=40))
    start = bench.values()

    def often(prior: torch.Tensor | None) -> float:
        bench.load(bench.block(start, INPUTS, labels, seed=(0,), prior=prior))
        with torch.no_grad():
            return float(bench.model(INPUTS).softmax(1)[:, 0].mean())

    assert often(prior) < often(None) - 0.2


def test_evaluation_counts_right_answers() -> None:
    bench = Workbench(make_model(), training())
    accuracy, loss, right = bench.evaluate(bench.values(), INPUTS, LABELS)
    assert accuracy == pytest.approx(float(right.float().mean()))
    assert right.shape == LABELS.shape
    assert loss > 0


def test_one_thread_restores_threads_and_random_state() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
        torch.rand(100)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(1), wanted)


def test_half_the_rate_moves_one_step_half_as_far() -> None:
    bench = Workbench(make_model(), training(steps=1))
    start = bench.values()
    whole = bench.block(start, INPUTS, LABELS, seed=(1,)) - start
    half = bench.block(start, INPUTS, LABELS, seed=(1,), rate_frac=0.5) - start
    np.testing.assert_allclose(half, whole / 2, rtol=1e-3, atol=1e-7)
