"""The step that an estimate is of, with weights and data, to be run and measured beside it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from budjoule.energy.errors import UsageError
from budjoule.energy.trace import MODES, PRECISIONS, Inputs
from budjoule.energy.tracing.loss import default_loss
from budjoule.energy.tracing.optimizers import LOOP, optimizer_cost

_LEARNING_RATE = 1e-6  # small, so that any number of steps stays finite
_MOMENTUM = 0.9


def real_step(
    model: nn.Module,
    inputs: Inputs,
    *,
    mode: str = "inference",
    optimizer: str = "adamw",
    precision: str = "fp32",
    device: str = "cpu",
) -> Callable[[], None]:
    """One step of a model as `trace` takes the same arguments, ready to run.

    Args:
        model: A module with weights; it is moved to the device and typed to the precision.
        inputs: Tensors as the model takes them; those without data are filled: floats at random, integers with zeros.
        mode: `inference` or `training`.
        optimizer: Of a training step; a row of `OPTIMIZERS`.
        precision: As in `trace`.
        device: PyTorch's name of the device.

    Raises:
        UsageError: The mode, the precision or the optimizer is unknown, or PyTorch cannot build it.
    """
    if mode not in MODES or precision not in PRECISIONS:
        raise UsageError(
            f"cannot run {mode!r} in {precision!r}; give {' or '.join(MODES)}, and {', '.join(PRECISIONS)}"
        )
    if precision == "int8":
        raise UsageError("a step in int8 is estimated only; quantize the model yourself and measure that")
    dtype, lower = PRECISIONS[precision]
    model = model.to(device=device, dtype=dtype).train(mode == "training")
    args, kwargs = _filled(inputs, device, dtype)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device, lower) if lower is not None else nullcontext()

    def forward() -> None:
        with torch.inference_mode(), autocast():
            model(*args, **kwargs)

    if mode == "inference":
        return forward
    stepper = _optimizer(optimizer, model)

    def train() -> None:
        model.zero_grad()
        with autocast():
            loss, _ = default_loss(model(*args, **kwargs))
        loss.backward()
        if stepper is not None:
            stepper.step()

    return train


def _filled(inputs: Inputs, device: str, dtype: torch.dtype) -> tuple[list[Any], dict[str, Any]]:
    def fill(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, dtype=dtype, device=device) if value.is_meta else value.to(device, dtype)
        return torch.zeros(value.shape, dtype=value.dtype, device=device) if value.is_meta else value.to(device)

    if isinstance(inputs, Mapping):
        return [], {str(name): fill(value) for name, value in inputs.items()}
    return [fill(value) for value in ([inputs] if isinstance(inputs, torch.Tensor) else inputs)], {}


def _optimizer(row: str, model: nn.Module) -> torch.optim.Optimizer | None:
    optimizer_cost(row)
    if row == "none":
        return None
    name, options = row, dict[str, Any](lr=_LEARNING_RATE)
    if name.endswith(LOOP):
        name, options["foreach"] = name.removesuffix(LOOP), False
    if name.endswith("-fused"):
        name, options["fused"] = name.removesuffix("-fused"), True
    if name.endswith("-momentum"):
        name, options["momentum"] = name.removesuffix("-momentum"), _MOMENTUM
    classes = {key.lower(): value for key, value in vars(torch.optim).items() if isinstance(value, type)}
    try:
        made: torch.optim.Optimizer = classes[name]([p for p in model.parameters() if p.requires_grad], **options)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(f"PyTorch cannot build the optimizer {row!r}: {error}; give another one") from None
    return made
