"""What a callable step reaches: its modules, and the optimizers that it steps itself, whose cost is taken in closed form."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from budjoule.energy.errors import UsageError
from budjoule.energy.tracing.optimizers import optimizer_ops, row_of
from budjoule.energy.workload import OpCost


def reached_by(step: Callable[..., Any]) -> list[Any]:
    """Objects in a step's closure, in the globals it names, on its bound object, and in its partial arguments."""
    reached: list[Any] = [
        getattr(step, "__self__", None),
        *getattr(step, "args", ()),
        *getattr(step, "keywords", {}).values(),
    ]
    function = getattr(step, "func", step)
    reached += [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _filled(cell)]
    code = getattr(function, "__code__", None)
    if code is not None:
        reached += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    holder = getattr(function, "__self__", None)
    if holder is None and code is None:  # an object that is called
        holder = function
    if holder is not None and not isinstance(holder, nn.Module):
        reached += list(vars(holder).values()) if hasattr(holder, "__dict__") else []
    return [
        item
        for value in reached
        for item in (
            value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        )
    ]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def modules_of(step: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a step reaches, without those inside others.

    Raises:
        UsageError: There is none.
    """
    found = {id(item): item for item in reached_by(step) if isinstance(item, nn.Module)}
    inner = {id(child) for module in found.values() for child in module.modules() if child is not module}
    modules = [module for key, module in found.items() if key not in inner]
    if not modules:
        raise UsageError(
            f"{getattr(step, '__name__', type(step).__name__)} reaches no module; pass an nn.Module, "
            "or a step whose modules are in its closure or globals"
        )
    return modules


class OwnSteps:
    """The ops of the optimizer steps that a callable took itself."""

    def __init__(self) -> None:
        self.ops: list[OpCost] = []
        self.rows: dict[str, None] = {}

    @contextmanager
    def watch(self, step: Any, bare: Mapping[int, torch.Tensor], names: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """While the step runs, its optimizers hold data-less parameters; a PyTorch optimizer's `step` is counted, not run.

        Args:
            step: The callable, or a module, which has no optimizers.
            bare: Data-less tensors by the id of what they stand for.
            names: Data-less parameters by dotted name.
        """
        found = (
            {}
            if isinstance(step, nn.Module)
            else {id(o): o for o in reached_by(step) if isinstance(o, torch.optim.Optimizer)}
        )
        paths = {id(p): name for name, p in names.items()}
        saved: list[tuple[Any, list[list[Any]], Any, Any]] = []
        try:
            for optimizer in found.values():
                own = [group["params"] for group in optimizer.param_groups]
                saved.append((optimizer, own, optimizer.state, vars(optimizer).get("step")))
                for group, parameters in zip(optimizer.param_groups, own, strict=True):
                    group["params"] = [bare.get(id(p), p) for p in parameters]
                optimizer.state = type(optimizer.state)(dict)
                if (row := row_of(optimizer)) is not None:
                    vars(optimizer)["step"] = self._counted(optimizer, row, paths)
            yield
        finally:
            for optimizer, own, state, method in saved:
                for group, parameters in zip(optimizer.param_groups, own, strict=True):
                    group["params"] = parameters
                optimizer.state = state
                if method is not None:
                    vars(optimizer)["step"] = method
                else:
                    vars(optimizer).pop("step", None)

    def _counted(self, optimizer: Any, row: str, paths: Mapping[int, str]) -> Callable[..., Any]:
        def step(closure: Callable[[], Any] | None = None) -> Any:
            loss = closure() if closure is not None else None
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            named = {paths.get(id(p), f"parameter.{i}"): p for i, p in enumerate(parameters)}
            self.ops += optimizer_ops(row, named, precision="fp32")
            self.rows[row] = None
            return loss

        return step
