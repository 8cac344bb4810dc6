"""Laws of tracing for what changes how a module computes: autograd functions, hooks, parametrisations, torch.func, caches, fake tensors."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.utils import parametrizations, prune

import budjoule as bj

ROWS, WIDTH = 4, 16
PRODUCT = 2 * ROWS * WIDTH * WIDTH  # FLOP of one linear layer


def x() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH)


class Squared(torch.autograd.Function):
    """``a W`` twice forward and once backward, whatever autograd would make of it."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return a @ weight @ weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return grads[0] @ weight.t(), None


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return Squared.apply(self.inner(batch), self.weight)  # type: ignore[no-any-return, no-untyped-call]


def test_custom_autograd_function_costs_what_its_own_passes_run() -> None:
    forward = PRODUCT + 2 * PRODUCT
    assert bj.trace(Calls(), x()).flop == forward
    assert (
        bj.trace(Calls(), x(), mode="training").flop == forward + PRODUCT + PRODUCT
    )  # its own, and the layer's weights


def test_hooks_run_and_their_ops_are_counted() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    plain = bj.trace(model, x(), mode="training")
    model[0].register_forward_hook(lambda module, given, out: out @ out.t() @ out)
    model[1].register_full_backward_hook(lambda module, given, grads: None)
    model[0].weight.register_hook(lambda g: g * 2)
    hooked = bj.trace(model, x(), mode="training")
    product = 2 * ROWS * ROWS * WIDTH
    assert hooked.flop == plain.flop + 2 * product + 4 * product


@pytest.mark.parametrize(
    "make",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
    ],
)
def test_parametrised_layer_costs_at_least_the_plain_one_and_stays_as_it_was(
    make: Callable[[nn.Module], nn.Module],
) -> None:
    model = make(nn.Linear(WIDTH, WIDTH))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    work = bj.trace(model, x(), mode="training")
    assert work.flop >= 2 * PRODUCT
    assert not work.unruled
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


MODEL = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
FORWARD = PRODUCT + 2 * ROWS * WIDTH


def gradient_of_each_example(batch: torch.Tensor) -> torch.Tensor:
    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return functional_call(MODEL, parameters, (row,)).mean()  # type: ignore[no-any-return]

    gradients = vmap(grad(loss), in_dims=(None, 0))(dict(MODEL.named_parameters()), batch)
    return sum((g.sum() for g in gradients.values()), torch.zeros(()))


TRANSFORMS: dict[str, tuple[Callable[[torch.Tensor], Any], float]] = {
    "grad": (gradient_of_each_example, 2.0),
    "jacrev": (lambda batch: vmap(jacrev(MODEL))(batch), 2.0),
    "jvp": (lambda batch: jvp(MODEL, (batch,), (torch.ones_like(batch),)), 2.0),
    "hessian": (lambda batch: vmap(hessian(lambda row: MODEL(row).sum()))(batch), WIDTH),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("name", TRANSFORMS)
def test_function_transforms_cost_their_extra_passes(name: str) -> None:
    step, passes = TRANSFORMS[name]
    work = bj.trace(step, x())
    assert work.flop >= passes * FORWARD * 0.9
    assert not work.unruled


def test_gradient_of_a_gradient_is_counted() -> None:
    def penalty(batch: torch.Tensor) -> torch.Tensor:
        batch = batch.requires_grad_()
        (slope,) = torch.autograd.grad(MODEL(batch).sum(), batch, create_graph=True)
        return (slope.norm(2, 1) - 1).square().mean()

    assert bj.trace(penalty, x(), mode="training").flop > 2 * bj.trace(MODEL, x(), mode="training").flop


def helper(batch: torch.Tensor) -> torch.Tensor:
    return MODEL(batch).mean()  # type: ignore[no-any-return]


class Trainer:
    def __init__(self) -> None:
        self.parts = {"model": MODEL}

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self.loss(batch)

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return self.parts["model"](batch).mean()  # type: ignore[no-any-return]


def steps() -> dict[str, Callable[[torch.Tensor], Any]]:
    state = SimpleNamespace(trainer=Trainer())
    return {
        "a helper of its file": lambda batch: helper(batch),
        "an inner function": lambda batch: (lambda: MODEL(batch).mean())(),
        "a bound method": Trainer().loss,
        "an object that is called": Trainer(),
        "attributes of what it closes over": lambda batch: state.trainer.loss(batch),
        "a partial argument": partial(lambda model, batch: model(batch).mean(), MODEL),
    }


@pytest.mark.parametrize("way", steps())
def test_step_reaches_its_module_by(way: str) -> None:
    assert bj.trace(steps()[way], x(), mode="training").flop == bj.trace(MODEL, x(), mode="training").flop


def test_optimizer_that_wraps_another_leaves_both_as_they_were() -> None:
    class Perturbs(torch.optim.Optimizer):
        """Sharpness-aware minimisation, with the step left to another optimizer."""

        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})
            self.base = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
            self.param_groups = self.base.param_groups

        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["kept"] = p.clone()
            self.base.step()

    model = nn.Linear(WIDTH, WIDTH)
    optimizer = Perturbs(model.parameters())

    def step(batch: torch.Tensor) -> None:
        model(batch).mean().backward()
        optimizer.step()

    work = bj.trace(step, x(), mode="training")
    assert work.optimizer == "perturbs+sgd-momentum"
    assert any(op.name == "aten.clone" and op.phase == "optimizer" for op in work.ops)
    assert not optimizer.state
    assert not optimizer.base.state
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_optimizer_that_keeps_its_own_list_leaves_the_weights_alone() -> None:
    model = nn.Linear(WIDTH, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    before = [p.detach().clone() for p in model.parameters()]

    def closure(batch: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss  # type: ignore[no-any-return]

    work = bj.trace(lambda batch: optimizer.step(partial(closure, batch)), x(), mode="training")
    assert work.optimizer == "lbfgs"
    assert {op.phase for op in work.ops} == {"forward", "backward", "optimizer"}
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))


def test_learning_rate_scheduler_beside_an_optimizer_is_content() -> None:
    model = nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def step(batch: torch.Tensor) -> None:
        model(batch).mean().backward()
        optimizer.step()
        scheduler.step()

    assert bj.trace(step, x(), mode="training").optimizer == "adamw"


class Caches(nn.Module):
    """Attention over keys and values that earlier calls left, and one product a token."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, batch: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> Any:
        q, k, v = self.project(batch).chunk(3, -1)
        keys, values = torch.cat([keys, k], 1), torch.cat([values, v], 1)
        return nn.functional.scaled_dot_product_attention(*(t.unsqueeze(1) for t in (q, keys, values))), keys, values


@pytest.mark.parametrize("past", [7, 70])
def test_cache_of_keys_and_values_costs_its_length(past: int) -> None:
    kept = torch.randn(ROWS, past, WIDTH)
    work = bj.trace(Caches(), (torch.randn(ROWS, 1, WIDTH), kept, kept))
    assert work.flop == 3 * PRODUCT + 2 * 2 * ROWS * (past + 1) * WIDTH


def test_fake_modules_trace_inside_and_outside_their_mode() -> None:
    with FakeTensorMode() as mode:
        model, given = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)), torch.randn(ROWS, WIDTH)
    real = bj.trace(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)), x(), mode="training")
    assert bj.trace(model, given, mode="training").ops == real.ops
    with mode:
        assert bj.trace(model, given, mode="training").ops == real.ops


class Detects(nn.Module):
    """Boxes above a score, sorted, then kept one after the other where they overlap little."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        found = self.head(batch)
        found = found[found[:, 4].sigmoid() > 0.5]
        found = found[found[:, 4].argsort(descending=True)]
        overlap = (found[:, None, :4] - found[None, :, :4]).abs().sum(-1)
        alive = torch.ones(len(found), dtype=torch.bool)
        kept = []
        for i in range(len(found)):
            if alive[i]:
                kept.append(i)
                alive &= ~(overlap[i] < 0.5)
        return found[torch.tensor(kept)]


def test_detection_head_traces_and_says_what_it_assumed() -> None:
    work = bj.trace(Detects(), x())
    assert work.flop == 2 * ROWS * WIDTH * 5
    assert any("all true" in note for note in work.notes)
    assert any("evenly spread" in note for note in work.notes)
