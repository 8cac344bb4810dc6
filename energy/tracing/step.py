"""What a callable step reaches: its modules, and the optimizers that it steps itself, whose cost is taken in closed form."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from budjoule.energy.errors import UsageError
from budjoule.energy.tracing.optimizers import optimizer_memory, optimizer_ops, row_of
from budjoule.energy.tracing.recorder import Recorder
from budjoule.energy.workload import OpCost

DEPTH = 5  # how far from a step its modules may lie
MANY = 1000  # items of a collection that is data, and no parts of a step


def reached_by(step: Callable[..., Any]) -> list[Any]:
    """Modules and optimizers that a step can reach, in the order found.

    They are looked for in what the step closes over, in the globals that its code names (inside its inner functions too), on the
    object it is bound to, in its partial arguments, in collections and attributes of what was found, and in the functions of
    its own file that it names.
    """
    found: list[Any] = []
    seen: set[int] = set()
    level: list[Any] = [step]
    for _ in range(DEPTH):
        following: list[Any] = []
        for value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, (nn.Module, torch.optim.Optimizer)):
                found.append(value)
            following += _parts(value)
        level = following
    return found


def _parts(value: Any) -> list[Any]:
    """What lies one step further."""
    if isinstance(value, nn.Module):
        return []
    if isinstance(value, torch.optim.Optimizer):  # one may wrap another
        return [held for held in vars(value).values() if isinstance(held, torch.optim.Optimizer)]
    if isinstance(value, FunctionType):
        return [*(cell.cell_contents for cell in value.__closure__ or () if _filled(cell)), *_named(value)]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, (list, tuple, dict)):
        return list(value.values() if isinstance(value, dict) else value) if len(value) <= MANY else []
    if isinstance(value, (type, ModuleType, torch.Tensor)) or not hasattr(value, "__dict__"):
        return []
    call = vars(type(value)).get("__call__")
    return [*([call] if isinstance(call, FunctionType) else []), *vars(value).values()]


def _named(function: FunctionType) -> list[Any]:
    """The globals that a function's code names, but for functions of other files."""
    own = function.__globals__
    values = [own[name] for name in _global_names(function.__code__) if name in own]
    return [v for v in values if not isinstance(v, FunctionType) or v.__globals__ is own]


def _global_names(code: CodeType) -> list[str]:
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _global_names(part)]
    return [*code.co_names, *inner]


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
    """The optimizer steps that a callable took itself: PyTorch's are counted in closed form, others are run."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.ops: list[OpCost] = []
        self.names: dict[str, None] = {}

    @contextmanager
    def watch(self, step: Any, bare: Mapping[int, torch.Tensor], names: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """While the step runs, its optimizers hold data-less parameters and no state.

        Args:
            step: The callable, or a module, which has no optimizers.
            bare: Data-less tensors by the id of what they stand for.
            names: Data-less parameters by dotted name.
        """
        reached = [] if isinstance(step, nn.Module) else reached_by(step)
        paths = {id(p): name for name, p in names.items()}
        undo: list[Callable[[], Any]] = []
        try:
            for optimizer in reached:
                if isinstance(optimizer, torch.optim.Optimizer):
                    own = vars(optimizer)
                    undo.append(partial(_restore, optimizer, dict(own), [dict(g) for g in optimizer.param_groups]))
                    row = row_of(optimizer)
                    own["step"] = self._counted(optimizer, row, paths) if row else self._run(optimizer)
                    own["state"] = type(optimizer.state)(dict)
                    for table in (own, *optimizer.param_groups):
                        for name, held in table.items():
                            if isinstance(held, list) and any(isinstance(p, torch.Tensor) for p in held):
                                table[name] = [bare.get(id(p), p) for p in held]
            yield
        finally:
            for back in reversed(undo):  # optimizers may share their groups
                back()

    def _counted(self, optimizer: Any, row: str, paths: Mapping[int, str]) -> Callable[..., Any]:
        @wraps(optimizer.step)  # learning-rate schedulers leave a mark on it, and look for it
        def step(closure: Callable[[], Any] | None = None) -> Any:
            optimizer._opt_called = True
            loss = closure() if closure is not None else None
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            named = {paths.get(id(p), f"parameter.{i}"): p for i, p in enumerate(parameters)}
            self.ops += optimizer_ops(row, named, precision="fp32")
            optimizer_memory(row, named, self.recorder.memory)
            self.names[row] = None
            return loss

        return step

    def _run(self, optimizer: Any) -> Callable[..., Any]:
        inner = optimizer.step

        @wraps(inner)
        def step(closure: Callable[[], Any] | None = None) -> Any:
            self.names[type(optimizer).__name__.lower()] = None
            with self.recorder.stepping():
                return inner() if closure is None else inner(self.recorder.apart_from_the_step(closure))

        return step


def _restore(optimizer: Any, own: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    vars(optimizer).clear()
    vars(optimizer).update(own)
    for group, before in zip(optimizer.param_groups, groups, strict=True):
        group.update(before)
