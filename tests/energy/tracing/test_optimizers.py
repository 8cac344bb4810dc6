"""The table of optimizers holds what PyTorch's own implementations read, write and launch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import budjoule as bj
from budjoule.energy.tracing.optimizers import OPTIMIZERS, optimizer_cost, row_of

CLASSES: dict[str, Callable[..., Any]] = {name.lower(): getattr(torch.optim, name) for name in dir(torch.optim)}
COUNTED = [name for name in OPTIMIZERS if not name.endswith("-fused") and name not in ("none", "adafactor")]
PARAMETERS = 3


class Passes(TorchDispatchMode):
    """Counts reads and writes of tensors of a parameter's size, each list of them as one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.accesses = 0.0
        self.calls = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        lists = [x for x in args if isinstance(x, (list, tuple)) and x and isinstance(x[0], torch.Tensor)]
        firsts = {id(x[0]) for x in lists if x[0].numel() > 1}
        alone = {id(x) for x in args if isinstance(x, torch.Tensor) and x.numel() > 1}
        if name.startswith("_foreach") and firsts:
            self.accesses += len(firsts) + 1 - (name == "_foreach_copy_")
            self.calls += 1
        elif alone and name != "detach":
            self.accesses += (len(alone) + 1) / PARAMETERS
            self.calls += 1 / PARAMETERS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", COUNTED)
def test_a_row_is_what_pytorch_dispatches(name: str) -> None:
    parameters = [torch.nn.Parameter(torch.randn(16, 8)) for _ in range(PARAMETERS)]
    momentum = {"momentum": 0.9} if name == "sgd-momentum" else {}
    optimizer = CLASSES[name.removesuffix("-momentum")](parameters, lr=0.1, foreach=True, **momentum)
    for _ in range(8):  # states are made, and warm-up rules are over
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        counted = Passes()
        with counted:
            optimizer.step()
    row = OPTIMIZERS[name]
    assert (round(counted.accesses), round(counted.calls)) == (row.accesses, row.calls)
    kept = [t for t in optimizer.state[parameters[0]].values() if isinstance(t, torch.Tensor) and t.numel() > 1]
    assert len(kept) == row.state


class Launches(TorchDispatchMode):
    """Counts ops on tensors of a parameter's size, each one's a launch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(isinstance(x, torch.Tensor) and x.numel() > 1 for x in args) and "detach" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["sgd", "sgd-momentum", "adam", "adamw", "adadelta"])
def test_a_loop_launches_once_a_call_and_parameter(name: str) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16, bias=False) for _ in range(PARAMETERS)))
    momentum = {"momentum": 0.9} if name == "sgd-momentum" else {}
    optimizer = CLASSES[name.removesuffix("-momentum")](model.parameters(), lr=0.1, foreach=False, **momentum)
    assert row_of(optimizer) == f"{name}-loop"
    for _ in range(3):
        model(torch.randn(2, 16)).sum().backward()
        counted = Launches()
        with counted:
            optimizer.step()
    work = bj.trace(model, torch.randn(2, 16), mode="training", optimizer=f"{name}-loop")
    launches = sum(op.launches * op.calls for op in work.ops if op.phase == "optimizer")
    assert launches == OPTIMIZERS[name].calls * PARAMETERS
    assert abs(launches - counted.count) <= PARAMETERS
    together = bj.trace(model, torch.randn(2, 16), mode="training", optimizer=name)
    assert sum(op.launches * op.calls for op in together.ops if op.phase == "optimizer") == OPTIMIZERS[name].calls
    assert work.peak_memory_bytes <= together.peak_memory_bytes


@pytest.mark.parametrize("name", ["adam-fused-loop", "none-loop", "nothing-loop", "adam-loop-loop"])
def test_what_never_runs_as_a_loop_is_refused(name: str) -> None:
    with pytest.raises(bj.BudjouleError, match="adam-loop"):
        optimizer_cost(name)
