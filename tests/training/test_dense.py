"""Blocks of a dense net trained at once: what each ends with is its own business alone, and what eager PyTorch ends with."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from budjoule.training.clients.dense import TOGETHER, DenseBlock, DenseNet
from budjoule.training.clients.local import Workbench, batches, block_rng, one_thread
from budjoule.training.clients.plan import Plan
from budjoule.training.config.config import load_config

INPUTS = torch.rand(60, 1, 5, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(60) % 7
TRAINING = load_config({"training": {"batch_size": 6, "local_steps": 9, "learning_rate": 0.3}}).training


def net(*widths: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(2)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip((25, *widths), (*widths, 7), strict=True):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def owned(client: int) -> int:
    """Some clients have fewer examples than a batch takes."""
    return len(LABELS) if client % 2 else 1 + client % TRAINING.batch_size


def blocks(bench: Workbench, count: int) -> list[DenseBlock]:
    made = []
    for client in range(count):
        rng, _ = block_rng((0, client))
        prior = torch.log_softmax(torch.arange(7.0) * client / 9, 0)
        order = batches(owned(client), Plan.of(TRAINING), rng)
        start = bench.values() * np.float32(1 + client / 100)
        made.append(DenseBlock(start=start, examples=order, prior=prior, rate_frac=1 / (1 + client)))
    return made


def test_what_is_not_finite_stays_with_who_holds_it() -> None:
    """The rows that a batch leaves empty are the client's own: another's NaN, though it counted for nothing, would be one."""
    bench = Workbench(net(13), TRAINING)
    assert bench.dense is not None
    inputs = INPUTS.clone()
    inputs[0] = torch.nan
    made = blocks(bench, 2)[1]
    own = np.arange(5, 5 + made.examples.size).reshape(made.examples.shape) % 50 + 5
    ended = bench.dense.train([dataclasses.replace(made, examples=own)], inputs, LABELS)[0]
    assert np.isfinite(ended).all()


@pytest.mark.parametrize("widths", [(), (13,), (64, 31), (96,)])
@pytest.mark.parametrize("bias", [True, False])
def test_company_changes_no_bit_and_eager_training_agrees(widths: tuple[int, ...], bias: bool) -> None:
    bench = Workbench(net(*widths, bias=bias), TRAINING)
    assert bench.dense is not None
    some = blocks(bench, TOGETHER)
    with one_thread():
        together = bench.dense.train(some, INPUTS, LABELS)
        for place in (0, 1, 17, TOGETHER - 1):
            assert np.array_equal(bench.dense.train([some[place]], INPUTS, LABELS)[0], together[place])
        assert np.array_equal(bench.dense.train(some[3:9][::-1], INPUTS, LABELS)[0], together[8])
        for client in (0, 3, 4):
            block, count = some[client], owned(client)
            alone = bench.block(
                block.start,
                INPUTS[:count],
                LABELS[:count],
                seed=(0, client),
                prior=block.prior,
                rate_frac=block.rate_frac,
            )
            moved = np.abs(alone - block.start).max()
            assert moved > 1e-3
            assert np.abs(alone - together[client]).max() < 1e-4 * moved


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.Dropout(), nn.Linear(8, 7)),
        nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.BatchNorm1d(8), nn.Linear(8, 7)),
        nn.Sequential(nn.Flatten(), nn.Linear(25, 7), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 7)),
        nn.Linear(25, 7),
    ],
)
def test_other_nets_are_left_to_the_eager_loop(model: nn.Module) -> None:
    assert DenseNet.of(model, TRAINING) is None


def test_frozen_layers_and_other_optimizers_are_too() -> None:
    model = net(13)
    model[1].requires_grad_(False)
    assert DenseNet.of(model, TRAINING) is None
    assert DenseNet.of(net(13), load_config({"training": {"optimizer": "adam"}}).training) is None
