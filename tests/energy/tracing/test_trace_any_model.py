"""Laws of tracing for models and steps of every make: steps that train themselves, device moves, masks, sparse gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import budjoule as bj


def x() -> torch.Tensor:
    return torch.randn(4, 16)


@pytest.mark.parametrize("result", [lambda loss: loss, lambda loss: loss.item(), lambda loss: None])
def test_a_step_that_trains_itself_costs_the_same_whatever_it_returns(result: Callable[[torch.Tensor], object]) -> None:
    model = nn.Linear(16, 16)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(batch: torch.Tensor) -> object:
        optimizer.zero_grad()
        loss = model(batch).mean()
        loss.backward()
        optimizer.step()
        return result(loss)

    work = bj.trace(step, x(), mode="training")
    assert work.flop == bj.trace(model, x(), mode="training").flop
    assert any(op.phase == "optimizer" and op.weight_bytes for op in work.ops)


def test_accumulating_gradients_costs_as_many_backward_passes() -> None:
    model = nn.Linear(16, 16)

    def step(batch: torch.Tensor) -> None:
        for part in batch.chunk(2):
            model(part).mean().backward()

    assert bj.trace(step, x(), mode="training").flop == bj.trace(model, x(), mode="training").flop


def test_a_step_of_two_players_and_two_optimizers_traces() -> None:
    generator, critic = nn.Linear(16, 16), nn.Linear(16, 1)
    ours, theirs = torch.optim.Adam(generator.parameters()), torch.optim.SGD(critic.parameters(), lr=0.1)

    def step(noise: torch.Tensor) -> float:
        theirs.zero_grad()
        F.binary_cross_entropy_with_logits(critic(generator(noise).detach()), torch.zeros(4, 1)).backward()
        theirs.step()
        ours.zero_grad()
        loss = -critic(generator(noise)).mean()
        loss.backward()
        ours.step()
        return loss.item()

    work = bj.trace(step, x(), mode="training")
    # forward twice each; backward: the critic's weights twice, its input once, the generator's weights once
    assert work.flop == 2 * 4 * (2 * 256 + 2 * 16 + 2 * 16 + 16 + 256)


class Moves(nn.Module):
    """Names a CUDA device throughout, on a machine that may have none."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        y = self.layer(batch.cuda()).to("cuda:0", non_blocking=True)
        return y + torch.zeros(16, device="cuda") + torch.arange(16, device="cuda") + torch.tensor(1.0, device="cuda")


def test_a_model_written_for_cuda_traces_without_it() -> None:
    work = bj.trace(Moves(), x(), mode="training")
    assert work.flop == bj.trace(nn.Linear(16, 16), x(), mode="training").flop


def test_a_mask_filled_from_activations_selects_everything() -> None:
    class Selects(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            keep = torch.zeros(4, dtype=torch.bool)
            keep[self.layer(batch).sum(1) > 0] = True
            return self.layer(batch[keep])

    work = bj.trace(Selects(), x())
    assert work.flop == 2 * 2 * 4 * 16 * 16
    assert work.notes


def test_sparse_gradients_move_the_rows_that_were_used() -> None:
    def moved(rows: int, *, sparse: bool) -> int:
        model = nn.Embedding(rows, 16, sparse=sparse)
        work = bj.trace(model, torch.randint(0, 100, (4, 7)), mode="training", optimizer="none")
        assert not work.unruled
        return sum(op.moved_bytes * op.calls for op in work.ops if op.phase == "backward")

    assert moved(100, sparse=True) == moved(10_000, sparse=True) < moved(10_000, sparse=False)


def test_encoder_with_padding_and_ctc_loss_trace() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)

    class Recognizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, batch: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            y = self.encoder(batch, src_key_padding_mask=mask).log_softmax(-1).transpose(0, 1)
            lengths = torch.tensor([8, 8])
            return F.ctc_loss(y, torch.ones(2, 3, dtype=torch.int64), lengths, torch.tensor([3, 3]))

    given = (torch.randn(2, 8, 16), torch.zeros(2, 8, dtype=torch.bool))
    for mode in ("inference", "training"):
        work = bj.trace(Recognizes(), given, mode=mode)
        assert not work.unruled
        assert any("_ctc_loss" in op.name for op in work.ops)


def test_values_handed_to_numpy_are_refused_with_the_line() -> None:
    class Hands(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch * float(batch.detach().cpu().numpy().mean())

    with pytest.raises(bj.BudjouleError, match=r"numpy\(\).*test_trace_any_model\.py:\d+"):
        bj.trace(Hands(), x())


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(8)), "Sequential.0 is lazy"),
        (lambda: torch.jit.trace(nn.Linear(16, 16), x()), "scripted"),
    ],
)
def test_modules_that_cannot_be_traced_are_told_with_the_remedy(build: Callable[[], nn.Module], word: str) -> None:
    with pytest.raises(bj.BudjouleError, match=word):
        bj.trace(build(), x())
