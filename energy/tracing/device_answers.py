"""What PyTorch decides by looking for a GPU (autocast, multi-tensor kernels), answered as CUDA would while a trace runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from budjoule.energy.tracing import flex
from budjoule.energy.tracing.substitute import AsOnDevice


@contextmanager
def as_cuda_answers(on_device: AsOnDevice) -> Iterator[None]:
    """Let a model's own `torch.autocast` set the precision of `on_device`, and let `foreach` be the default.

    PyTorch turns `autocast("cuda")` off without a GPU and refuses `autocast("meta")`; its optimizers and gradient clipping
    take the loop over single tensors on data-less ones, where CUDA takes multi-tensor kernels.
    """
    autocast = torch.amp.autocast_mode.autocast

    def begin(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> None:
        self.device, self._enabled = device_type, enabled
        self.fast_dtype = dtype or (torch.bfloat16 if device_type == "cpu" else torch.float16)
        self._outer = []

    def enter(self: Any) -> Any:
        self._outer.append(on_device.lower)
        on_device.lower = self.fast_dtype if self._enabled else None
        return self

    def leave(self: Any, *_: object) -> None:
        on_device.lower = self._outer.pop()

    def enabled(device_type: str | None = None) -> bool:
        return on_device.lower is not None

    def dtype(device_type: str | None = None) -> torch.dtype:
        return on_device.lower or torch.float16

    _foreach_utils = import_module("torch.utils._foreach_utils")
    devices = [*_foreach_utils._get_foreach_kernels_supported_devices(), "meta"]
    answers: list[tuple[Any, str, Any]] = [
        (autocast, "__init__", begin),
        (autocast, "__enter__", enter),
        (autocast, "__exit__", leave),
        (torch, "is_autocast_enabled", enabled),
        (torch, "get_autocast_dtype", dtype),
        (torch._C, "_is_any_autocast_enabled", enabled),  # a recurrent layer then takes inputs of another precision
        (_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: devices),
        (import_module("torch.optim.optimizer"), "_get_foreach_kernels_supported_devices", lambda: devices),
    ]
    if (flex_module := sys.modules.get("torch.nn.attention.flex_attention")) is not None:
        answers.append((flex_module.flex_attention, "__code__", flex.ask_modes.__code__))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in answers]
    try:
        for owner, name, answer in answers:
            setattr(owner, name, answer)
        yield
    finally:
        for owner, name, was in before:
            setattr(owner, name, was)
