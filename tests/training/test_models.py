"""Models: the seed decides their weights, and what cannot learn the data is refused in one line."""

from pathlib import Path

import pytest
import torch

from budjoule.energy.errors import UsageError
from budjoule.training.task.models import MODELS, build_model

EXAMPLE = torch.zeros(2, 1, 8, 8)

SOURCE = """
from torch import nn
import torch
def good(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def narrow(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
def mismatched(): return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))
def frozen(): return good().requires_grad_(False)
def half(): return Doubled()
def number(): return 3
class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10).double()
    def forward(self, x): return self.layer(x.flatten(1).double())
"""


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights_and_leaves_torchs_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    one, again, other = (build_model(name, EXAMPLE, 10, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), wanted)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_callable_is_a_model(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_text(SOURCE)
    assert build_model(f"{path}:good", EXAMPLE, 10, 0)(EXAMPLE).shape == (2, 10)


@pytest.mark.parametrize("name", ["narrow", "mismatched", "frozen", "half", "number", "absent"])
def test_models_that_cannot_learn_the_data_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "nets.py"
    path.write_text(SOURCE)
    with pytest.raises(UsageError, match="model") as error:
        build_model(f"{path}:{name}", EXAMPLE, 10, 0)
    assert "\n" not in str(error.value)


def test_images_are_asked_of_conv_and_names_of_the_user() -> None:
    with pytest.raises(UsageError, match="use 'mlp'"):
        build_model("conv", torch.zeros(2, 64), 10, 0)
    with pytest.raises(UsageError, match="unknown model"):
        build_model("resnet", EXAMPLE, 10, 0)
