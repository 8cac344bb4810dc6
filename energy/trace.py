"""From a model and its inputs to a `Workload`: one step on data-less tensors, every op counted and given to its module.

Nothing is allocated and no weight is copied: parameters are swapped for data-less ones while the step runs, and put back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from budjoule.energy.errors import BudjouleError, UsageError
from budjoule.energy.ops.rule import tensors
from budjoule.energy.tracing.device_answers import as_cuda_answers
from budjoule.energy.tracing.flow import FlowRecorder
from budjoule.energy.tracing.fusion import fuse
from budjoule.energy.tracing.loss import default_loss
from budjoule.energy.tracing.no_compiler import no_compiler
from budjoule.energy.tracing.optimizers import optimizer_cost, optimizer_memory, optimizer_ops
from budjoule.energy.tracing.recorder import REAL_NUMEL, Recorder
from budjoule.energy.tracing.step import OwnSteps, modules_of
from budjoule.energy.tracing.substitute import AsOnDevice
from budjoule.energy.workload import OpCost, Workload

# precision -> dtype of weights and inputs, and autocast's lower precision
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "fp32": (torch.float32, None),
    "tf32": (torch.float32, None),
    "fp16": (torch.float16, None),
    "bf16": (torch.bfloat16, None),
    "fp16-mixed": (torch.float32, torch.float16),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "int8": (torch.float32, None),  # traced in fp32, then quantized
}
MODES = ("inference", "training")
FUSED = "fused as torch.compile does by default: element-wise chains are one kernel (no profile was fitted on compiled models)"
Inputs = torch.Tensor | Sequence[Any] | Mapping[str, Any]


def trace(
    model: nn.Module | Callable[..., Any],
    inputs: Inputs,
    *,
    mode: str = "inference",
    optimizer: str = "adamw",
    precision: str = "fp32",
    loss: Callable[[Any], torch.Tensor] | None = None,
    fused: bool = False,
) -> Workload:
    """Run one step without data and record what it costs.

    Args:
        model: A module on any device, or a callable step that uses modules and returns a loss.
        inputs: A tensor, a tuple or a dict of tensors (real, fake or meta), in the shapes the model takes. Small real
            integer and boolean tensors keep their values, so models that look at masks or lengths work.
        mode: `inference` (evaluation mode, no gradients) or `training` (forward, backward, optimizer).
        optimizer: A row of `budjoule.energy.tracing.optimizers.OPTIMIZERS`; only read in training, and where a callable step does not
            step optimizers of its own.
        precision: fp32, tf32, fp16 and bf16 re-type the model; fp16-mixed and bf16-mixed are autocast with fp32 weights; int8 is
            a quantized model's inference.
        loss: From the model's output to a scalar; the default is `output.loss`, else the mean of the first floating output.
        fused: Cost the model as `torch.compile` runs it: element-wise chains in one kernel, no host work for views and modules.

    Raises:
        UsageError: The model cannot run on these inputs, or an argument is unknown; the message says which and what helps.
    """
    dtype, lower = _typed(mode, precision)
    optimizer_cost(optimizer)
    recorder = FlowRecorder(precision) if fused else Recorder(precision)
    on_device = AsOnDevice(lower, recorder.notes)
    own_steps = OwnSteps(recorder)
    training = mode == "training"
    args, kwargs = _prepared(inputs, dtype, recorder, training=training)
    modules = [model] if isinstance(model, nn.Module) else modules_of(model)
    _check(modules)
    try:
        with (
            no_compiler(),
            _without_weights(modules, dtype, training) as (parameters, bare),
            _watched(modules, recorder, on_device),
            own_steps.watch(model, bare, parameters),
            as_cuda_answers(on_device),
        ):
            recorder.add_weights(t for m in modules for t in (*m.parameters(), *m.buffers()) if t.is_meta)
            for held in tensors([*args, *kwargs.values()]):
                recorder.memory.hold(held)
            with torch.set_grad_enabled(training), on_device, recorder:
                output = model(*args, **kwargs)
                stepped = bool(own_steps.names) or any(p.grad is not None for p in parameters.values())
                if training and (isinstance(model, nn.Module) or not stepped):  # a step may run its own backward passes
                    _backward(output, loss, recorder)
            trained = {name: p for name, p in parameters.items() if p.grad is not None}
    except BudjouleError:
        raise
    except Exception as error:
        given = _shapes([*args, *kwargs.values()])
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"{_name(model)} does not run on these inputs ({given}): {reason}; {_remedy(recorder, modules)}"
        ) from error
    ops = _recorded(recorder)
    if own_steps.names:
        ops += own_steps.ops
        optimizer = "+".join(own_steps.names)
    elif training:
        ops += _optimized(optimizer, trained, recorder)
    work = Workload(
        model=_name(model),
        mode=mode,
        precision=precision,
        optimizer=optimizer if training else None,
        ops=tuple(ops),
        module_calls=0 if fused else recorder.module_calls,
        parameters=sum(p.numel() for p in parameters.values()),
        parameter_bytes=sum(p.numel() * p.element_size() for p in parameters.values()),
        peak_memory_bytes=recorder.memory.peak_bytes,
        examples=next((t.shape[0] for t in tensors([*args, *kwargs.values()]) if t.dim()), 1),
        notes=tuple(recorder.notes),
    )
    return work.quantized() if precision == "int8" else work


def _typed(mode: str, precision: str) -> tuple[torch.dtype, torch.dtype | None]:
    """The type of weights and inputs, and autocast's lower one.

    Raises:
        UsageError: The mode or the precision is unknown, or they do not go together.
    """
    if mode not in MODES:
        raise UsageError(f"mode is {mode!r}; it is one of {', '.join(MODES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}")
    if precision == "int8" and mode == "training":
        raise UsageError(
            "int8 is for inference: a quantized model is not trained; take mode='inference' or another precision"
        )
    return PRECISIONS[precision]


def _check(modules: list[nn.Module]) -> None:
    for module in modules:
        for path, child in module.named_modules():
            name = f"{type(module).__name__}{'.' if path else ''}{path}"
            if isinstance(child, torch.jit.ScriptModule):
                raise UsageError(
                    f"{name} is a scripted module, whose calls cannot be watched; pass what it was made from"
                )
            if any(is_lazy(p) for p in child._parameters.values()):
                raise UsageError(f"{name} is lazy: its parameters have no sizes; run it once on a real input first")


def _optimized(optimizer: str, trained: Mapping[str, nn.Parameter], recorder: Recorder) -> list[OpCost]:
    """The step of an optimizer by name over what received a gradient."""
    optimizer_memory(optimizer, trained, recorder.memory)
    if not trained and optimizer != "none":
        recorder.notes["no parameter received a gradient, so the optimizer costs nothing"] = None
    return optimizer_ops(optimizer, trained, precision="fp32")


def _recorded(recorder: Recorder) -> list[OpCost]:
    """What a recorder saw, each op with its module, phase and calls."""
    if isinstance(recorder, FlowRecorder):
        recorder.notes[FUSED] = None
        return list(fuse(recorder.calls))
    return [
        replace(recorder.costs[i], module=module, phase=phase, calls=calls)
        for (i, module, phase), calls in recorder.rows.items()
    ]


def _shapes(inputs: list[Any]) -> str:
    """Shapes and types of the tensors in some inputs, for people."""
    return ", ".join(f"{'x'.join(map(str, t.shape)) or 'scalar'} {str(t.dtype)[6:]}" for t in tensors(inputs))


def _remedy(recorder: Recorder, modules: list[nn.Module]) -> str:
    assumed = [note for note in recorder.notes if "depends on the data" in note]
    if assumed:
        return f"before that, {assumed[-1]}: pass what it comes from as a real integer or boolean tensor"
    unknown = {name for m in modules for name, b in m.named_buffers() if b.is_meta and not b.is_floating_point()}
    if any(not name.endswith("num_batches_tracked") for name in unknown):
        return "it was built on the meta device, so its integer buffers have no values: build it on the CPU if it reads them"
    return "check the shapes, the dtypes and the names"


def _name(model: Any) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", type(model).__name__)


def _backward(output: Any, loss: Callable[[Any], torch.Tensor] | None, recorder: Recorder) -> None:
    value, taken = (loss(output), False) if loss is not None else default_loss(output)
    if taken:
        recorder.notes["loss: the mean of the model's first floating output (give loss= for another)"] = None
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise UsageError("the loss is not a scalar tensor; reduce it, for example with .mean()")
    value.backward()


def _prepared(
    inputs: Inputs, dtype: torch.dtype, recorder: Recorder, *, training: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs without data, except small integers and booleans, whose values models look at; a gradient that is wanted stays wanted."""
    from torch._subclasses.fake_tensor import FakeTensor

    def prepare(value: Any) -> Any:
        if isinstance(value, Mapping):
            return (
                type(value)((k, prepare(v)) for k, v in value.items())
                if type(value) is dict
                else {k: prepare(v) for k, v in value.items()}
            )
        if isinstance(value, (list, tuple)):
            return type(value)(prepare(v) for v in value) if type(value) in (list, tuple) else value
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point() or value.is_complex():
            return torch.empty_strided(
                value.shape,
                value.stride(),
                dtype=dtype if value.is_floating_point() else value.dtype,
                device="meta",
                requires_grad=value.requires_grad and training,
            )
        if value.is_meta or isinstance(value, FakeTensor):
            if value.numel() > REAL_NUMEL:
                return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            recorder.notes["integer inputs without data were taken as ones"] = None
            return torch.ones(value.shape, dtype=value.dtype)
        return value.detach().cpu().clone()

    if isinstance(inputs, torch.Tensor):
        return (prepare(inputs),), {}
    if isinstance(inputs, Mapping):
        return (), {str(name): prepare(value) for name, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return tuple(prepare(value) for value in inputs), {}
    raise UsageError(f"inputs are a {type(inputs).__name__}; give a tensor, a tuple of tensors or a dict of tensors")


@contextmanager
def _without_weights(
    modules: list[nn.Module], dtype: torch.dtype, training: bool
) -> Iterator[tuple[dict[str, nn.Parameter], dict[int, Any]]]:
    """Swap parameters and floating buffers for data-less ones, set the training flags, and restore both."""
    bare: dict[int, Any] = {}
    saved: list[tuple[dict[str, Any], str, Any]] = []
    flags = [(child, child.training) for module in modules for child in module.modules()]
    named: dict[str, nn.Parameter] = {}

    def without_data(t: torch.Tensor) -> torch.Tensor:
        if not (t.is_floating_point() or t.is_complex()):
            if t.is_meta and t.numel() <= REAL_NUMEL:
                return torch.zeros(t.shape, dtype=t.dtype)
            return (
                t.detach().cpu().clone()
                if t.numel() <= REAL_NUMEL
                else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
            )
        return torch.empty_strided(
            t.shape, t.stride(), dtype=dtype if t.is_floating_point() else t.dtype, device="meta"
        )

    try:
        for prefix, module in enumerate(modules):
            for path, child in module.named_modules():
                for table in (child._parameters, child._buffers):
                    for name, t in list(table.items()):
                        if t is None:
                            continue
                        if id(t) not in bare:
                            made = without_data(t)
                            bare[id(t)] = (
                                nn.Parameter(made, requires_grad=t.requires_grad)
                                if isinstance(t, nn.Parameter)
                                else made
                            )
                            if isinstance(t, nn.Parameter):
                                full = ".".join(part for part in (path, name) if part)
                                named[full if len(modules) == 1 else f"{prefix}.{full}"] = bare[id(t)]
                        saved.append((table, name, t))
                        table[name] = bare[id(t)]
        for child, _ in flags:  # recurrent layers keep a second list of their parameters
            for name, held in child.__dict__.items():
                if isinstance(held, list) and any(id(t) in bare for t in held):
                    saved.append((child.__dict__, name, held))
        for table, name, held in [entry for entry in saved if isinstance(entry[2], list)]:
            table[name] = [bare.get(id(t), t) for t in held]
        for child, _ in flags:
            child.training = training
        yield named, bare
    finally:
        for table, name, t in saved:
            table[name] = t
        for child, flag in flags:
            child.training = flag


@contextmanager
def _watched(modules: list[nn.Module], recorder: Recorder, on_device: AsOnDevice) -> Iterator[None]:
    """Tell the recorder which module runs; in a checkpoint's second forward, autograd has put the function mode aside: bring it back."""

    def enter(name: str) -> None:
        if recorder.outermost and recorder.in_backward:
            on_device.__enter__()  # type: ignore[no-untyped-call]
        recorder.enter_module(name)

    def leave() -> None:
        recorder.leave_module()
        if recorder.outermost and recorder.in_backward:
            on_device.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    handles = []
    for prefix, module in enumerate(modules):
        for path, child in module.named_modules():
            name = path if len(modules) == 1 else f"{prefix}.{path}".rstrip(".")
            handles.append(child.register_forward_pre_hook(lambda _m, _a, name=name: enter(name), prepend=True))
            # a checkpoint leaves its second forward by an exception once it has what it needs
            handles.append(child.register_forward_hook(lambda _m, _a, _o: leave(), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["MODES", "PRECISIONS", "OpCost", "trace"]
