"""Laws of tracing: nothing is allocated or changed, FLOP agree with PyTorch's counter, ops go to their modules."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import budjoule as bj
from budjoule.energy.workload import Workload


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.MaxPool2d(2)
        )
        self.up = nn.ConvTranspose2d(8, 32, 2, stride=2)
        self.block = Block()
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.stem(x)).flatten(2).transpose(1, 2)
        return self.head(self.block(x).mean(1))


def net_input() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16)


def rows(work: Workload, key: str) -> dict[str, int]:
    total: dict[str, int] = {}
    for op in work.ops:
        name = getattr(op, key)
        total[name] = total.get(name, 0) + op.flop * op.calls
    return total


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(Net().stem[:3], nn.ConvTranspose2d(8, 4, 2, stride=2)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.Softmax(-1)),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, dilation=2), nn.AdaptiveAvgPool2d(1)),
    ],
)
def test_flop_agree_with_the_flop_counter_of_pytorch(build: Callable[[], nn.Module], mode: str) -> None:
    model = build().train(mode == "training")
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(mode == "training"):
        out = model(net_input())
        if mode == "training":
            out.mean().backward()
    assert bj.trace(model, net_input(), mode=mode, optimizer="none").flop == counter.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_agrees_with_the_flop_counter_of_pytorch(dtype: torch.dtype) -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.project(x).view(2, 10, 4, 4).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q)

    precision = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    kernel = {
        torch.float32: "_scaled_dot_product_efficient_attention",
        torch.bfloat16: "_scaled_dot_product_flash_attention",
    }[dtype]
    work = bj.trace(Attend(), torch.randn(2, 10, 16), mode="training", optimizer="none", precision=precision)
    shape = (2, 4, 10, 4)
    assert sum(op.flop * op.calls for op in work.ops if op.name == f"aten.{kernel}") == sdpa_flop_count(
        shape, shape, shape
    )
    assert sum(
        op.flop * op.calls for op in work.ops if op.name == f"aten.{kernel}_backward"
    ) == sdpa_backward_flop_count(shape, shape, shape, shape)


def test_grouped_convolution_does_a_group_th_of_the_work() -> None:
    # PyTorch's counter leaves the groups out of a weight gradient, so it is no reference here
    whole, grouped = (
        bj.trace(nn.Conv2d(12, 24, 3, groups=g), torch.randn(2, 12, 8, 8), mode="training", optimizer="none").flop
        for g in (1, 3)
    )
    assert whole == 3 * grouped


def test_recurrent_layer_does_the_products_of_its_gates() -> None:
    steps, batch, width, hidden = 3, 2, 256, 16
    work = bj.trace(nn.LSTM(width, hidden), torch.randn(steps, batch, width))
    assert work.flop == 2 * steps * batch * (width + hidden) * 4 * hidden


def test_model_is_left_as_it_was() -> None:
    model = Net().eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    identities = [id(p) for p in model.parameters()]
    bj.trace(model, net_input(), mode="training")
    assert not model.training
    assert [id(p) for p in model.parameters()] == identities
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_model_is_left_as_it_was_when_it_fails() -> None:
    model = Net()
    with pytest.raises(bj.BudjouleError, match="2x5x16x16"):
        bj.trace(model, torch.randn(2, 5, 16, 16))
    assert all(not p.is_meta for p in model.parameters())
    assert model(net_input()).shape == (2, 10)


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_trace_does_not_depend_on_where_the_model_is(where: str) -> None:
    with torch.device(where):
        model = Net()
    assert (
        bj.trace(model, net_input(), mode="training").ops
        == bj.trace(Net(), net_input().to("meta"), mode="training").ops
    )


def test_backward_ops_go_to_the_module_of_their_forward() -> None:
    work = bj.trace(Net(), net_input(), mode="training", optimizer="none")
    backward = {op.module for op in work.ops if op.phase == "backward" and op.flop}
    forward = {op.module for op in work.ops if op.phase == "forward" and op.flop}
    assert backward == forward
    assert {"stem.0", "up", "block.mlp.0", "head"} <= backward


def test_training_takes_three_times_the_flop_of_inference() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    x = torch.randn(32, 64)
    inference, training = bj.trace(model, x).flop, bj.trace(model, x, mode="training").flop
    # the first layer's input needs no gradient
    assert training == 3 * inference - 2 * 32 * 64 * 64


def test_checkpointing_runs_the_forward_again() -> None:
    class Checkpointed(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)

    x = torch.randn(2, 8, 32)
    plain = rows(bj.trace(Block(), x, mode="training", optimizer="none"), "phase")
    again = rows(bj.trace(Checkpointed(), x, mode="training", optimizer="none"), "phase")
    assert again["forward"] == plain["forward"]
    assert plain["backward"] < again["backward"] <= plain["backward"] + plain["forward"]


@pytest.mark.parametrize(("optimizer", "accesses"), [("sgd", 3), ("sgd-momentum", 8), ("adamw", 20)])
def test_optimizer_moves_its_accesses_of_each_parameter(optimizer: str, accesses: int) -> None:
    model = nn.Linear(100, 50)
    work = bj.trace(model, torch.randn(4, 100), mode="training", optimizer=optimizer)
    moved = sum(op.weight_bytes * op.calls for op in work.ops if op.phase == "optimizer")
    assert moved == accesses * 4 * (100 * 50 + 50)


def test_frozen_parameters_cost_no_optimizer() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    model[0].requires_grad_(False)
    work = bj.trace(model, torch.randn(4, 10), mode="training")
    assert {op.module for op in work.ops if op.phase == "optimizer" and op.weight_bytes} == {"1"}


def test_bf16_halves_the_bytes_and_mixed_keeps_fp32_weights() -> None:
    model, x = nn.Linear(256, 256), torch.randn(64, 256)
    full, half, mixed = (bj.trace(model, x, precision=p) for p in ("fp32", "bf16", "bf16-mixed"))
    assert half.moved_bytes * 2 == full.moved_bytes
    assert mixed.parameter_bytes == full.parameter_bytes == 2 * half.parameter_bytes
    assert {op.precision for op in mixed.ops if op.flop} == {"bf16"}
    assert full.flop == half.flop == mixed.flop


def test_models_that_look_at_masks_and_values_trace() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.embed(ids)
            if mask.all():
                return x
            length = int(mask.sum(1).max().item())
            return x[:, :length][mask[:, :length].bool()]

    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    work = bj.trace(Looks(), {"ids": ids, "mask": mask})
    assert any(op.name == "aten.index" for op in work.ops)
    assert not any(op.name == "aten.index" for op in bj.trace(Looks(), {"ids": ids, "mask": torch.ones_like(mask)}).ops)


def test_a_step_of_several_modules_traces() -> None:
    generator, critic = nn.Linear(4, 8), nn.Linear(8, 1)

    def step(noise: torch.Tensor) -> torch.Tensor:
        return critic(generator(noise)).mean()

    work = bj.trace(step, torch.randn(16, 4), mode="training")
    assert work.parameters == 4 * 8 + 8 + 8 + 1
    assert work.flop > 2 * 16 * (4 * 8 + 8)
    assert all(not p.is_meta and p.grad is None for m in (generator, critic) for p in m.parameters())


def test_loss_is_the_models_own_or_named() -> None:
    model = nn.Linear(4, 2)
    default = bj.trace(model, torch.randn(3, 4), mode="training")
    own = bj.trace(model, torch.randn(3, 4), mode="training", loss=lambda out: out.square().sum())
    assert any("loss" in note for note in default.notes)
    assert not own.notes
    with pytest.raises(bj.BudjouleError, match="scalar"):
        bj.trace(model, torch.randn(3, 4), mode="training", loss=lambda out: out)


def test_tied_weights_are_counted_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    assert bj.trace(model, torch.randn(2, 8), mode="training").parameters == 64


def test_op_without_a_rule_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    work = bj.trace(Odd(), torch.randn(1000))
    assert work.unruled == {"aten.special_bessel_j0": 1}
    estimate = bj.predict(work, device="cpu-generic")
    assert estimate.unruled_energy_frac == pytest.approx(1.0)
    assert any("bessel_j0" in note for note in estimate.notes)


@pytest.mark.parametrize(("argument", "value"), [("mode", "train"), ("precision", "int3"), ("optimizer", "adaam")])
def test_unknown_argument_is_named_with_the_known_ones(argument: str, value: str) -> None:
    with pytest.raises(bj.BudjouleError, match=value):
        bj.trace(nn.Linear(2, 2), torch.randn(1, 2), **{argument: value})


def test_an_input_whose_gradient_is_wanted_costs_that_product_too() -> None:
    layer = nn.Linear(32, 16)
    apart, wanted = (
        bj.trace(layer, torch.empty(8, 32, requires_grad=want), mode="training", optimizer="none")
        for want in (False, True)
    )
    assert wanted.flop - apart.flop == 2 * 8 * 32 * 16
    x = torch.empty(8, 32, requires_grad=True)
    assert bj.trace(layer, x).flop == 2 * 8 * 32 * 16
    assert x.requires_grad
    assert x.grad is None


def test_reentrant_checkpointing_of_the_first_block_traces() -> None:
    from torch.utils.checkpoint import checkpoint

    block = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.block, x, use_reentrant=True)

    work = bj.trace(Net(), torch.empty(8, 32, requires_grad=True), mode="training", optimizer="none")
    plain = bj.trace(block, torch.empty(8, 32, requires_grad=True), mode="training", optimizer="none")
    assert work.flop == plain.flop + 2 * 8 * (32 * 32 + 32 * 8)  # the forward pass, once more
