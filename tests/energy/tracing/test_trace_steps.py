"""Laws of steps that users write themselves: their optimizers, clipping, autocast and accumulation."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import budjoule as bj
from budjoule.energy.workload import Workload


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def rows(work: Workload, *, only: str | None = None) -> set[tuple[object, ...]]:
    return {(op.name, op.module, op.launches, op.moved_bytes, op.calls) for op in work.ops if only in (None, op.phase)}


X = torch.randn(4, 8)


@pytest.mark.parametrize(
    ("build", "row"),
    [
        (lambda p: torch.optim.SGD(p, 0.1), "sgd"),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), "sgd-momentum"),
        (lambda p: torch.optim.AdamW(p), "adamw"),
        (lambda p: torch.optim.Adam(p, fused=True), "adam-fused"),
    ],
)
def test_own_optimizer_costs_what_the_named_one_does(
    build: Callable[[object], torch.optim.Optimizer], row: str
) -> None:
    model = net()
    optimizer = build(model.parameters())

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()

    own = bj.trace(step, X, mode="training")
    named = bj.trace(net(), X, mode="training", optimizer=row)
    assert rows(own, only="optimizer") == rows(named, only="optimizer") != set()
    assert own.optimizer == row
    assert own.flop == named.flop


def test_optimizer_is_left_as_it_was() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    model(X).mean().backward()
    optimizer.step()
    before = {id(p): p.detach().clone() for p in model.parameters()}
    grads = {id(p): p.grad for p in model.parameters()}
    state, method = optimizer.state, optimizer.step

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()

    bj.trace(step, X, mode="training")
    assert optimizer.state is state
    assert optimizer.step == method
    assert scheduler.optimizer is optimizer
    for p in optimizer.param_groups[0]["params"]:
        assert torch.equal(p, before[id(p)])
        assert p.grad is grads[id(p)] is not None


def test_two_optimizers_of_a_gan_are_both_counted() -> None:
    maker, critic = nn.Linear(4, 8), nn.Linear(8, 1)
    first, second = torch.optim.Adam(maker.parameters()), torch.optim.SGD(critic.parameters(), 0.1)

    def step(noise: torch.Tensor) -> None:
        for _ in range(3):
            second.zero_grad()
            critic(maker(noise).detach()).mean().backward()
            second.step()
        first.zero_grad()
        critic(maker(noise)).mean().backward()
        first.step()

    work = bj.trace(step, torch.randn(16, 4), mode="training")
    moved = {
        name: sum(op.weight_bytes * op.calls for op in work.ops if op.name == f"optimizer.{name}")
        for name in ("adam", "sgd")
    }
    assert moved == {"adam": 18 * 4 * (4 * 8 + 8), "sgd": 3 * 3 * 4 * (8 + 1)}
    assert work.optimizer == "sgd+adam"


def test_a_foreign_optimizer_is_run() -> None:
    class Signed(torch.optim.Optimizer):
        def __init__(self, params: object) -> None:
            super().__init__(params, {})  # type: ignore[arg-type]

        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad.sign(), alpha=0.1)

    model = net()
    optimizer = Signed(model.parameters())

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()

    weights = [p.detach().clone() for p in model.parameters()]
    work = bj.trace(step, X, mode="training", optimizer="none")
    assert sum(op.calls for op in work.ops if op.name == "aten.sign") == 4
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), weights, strict=True))


def test_clipping_takes_multi_tensor_kernels() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(20)))

    def step(x: torch.Tensor) -> None:
        model(x).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    work = bj.trace(step, torch.randn(2, 4), mode="training", optimizer="none")
    norms = [op for op in work.ops if op.name.startswith("aten._foreach_norm")]
    assert sum(op.calls for op in norms) == 1
    assert all(op.ruled for op in work.ops)


def test_autocast_of_the_users_own_equals_mixed_precision() -> None:
    model = net()

    def step(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return model(x).float().mean()

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).float().mean()

    own = bj.trace(step, X, mode="training")
    mixed = bj.trace(Mean(), X, mode="training", precision="bf16-mixed")
    assert {op.precision for op in own.ops if op.flop} == {"bf16"}
    assert own.moved_bytes == mixed.moved_bytes
    assert own.launches == mixed.launches
    assert not torch.is_autocast_enabled("cpu")


def test_autocast_turned_off_inside_keeps_fp32() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            with torch.autocast(device_type=x.device.type, enabled=False):
                return self.b(x.float())

    work = bj.trace(Careful(), X, precision="bf16-mixed")
    assert {op.module: op.precision for op in work.ops if op.flop} == {"a": "bf16", "b": "fp32"}


def test_accumulation_runs_the_products_again_and_the_optimizer_once() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        for part in x.chunk(4):
            (model(part).mean() / 4).backward()
        optimizer.step()

    whole = bj.trace(net(), torch.randn(16, 8), mode="training", optimizer="sgd")
    parts = bj.trace(step, torch.randn(16, 8), mode="training")
    assert parts.flop == whole.flop
    assert parts.launches > whole.launches
    assert rows(parts, only="optimizer") == rows(whole, only="optimizer")
