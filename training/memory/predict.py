"""The peak memory of a training step, from running it on fake tensors: nothing is allocated and nothing is computed.

A step of a small model is run as it is: the same tensors are born and die, in less time than faking them takes.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import BudjouleError, UsageError
from budjoule.energy.tracing.no_compiler import no_compiler
from budjoule.training.memory.lean_model import apply
from budjoule.training.memory.memory_plan import LayerPlan
from budjoule.training.memory.peak import Footprint
from budjoule.training.memory.step import Step, examples, parts
from budjoule.training.memory.watch import KINDS, Watch

if TYPE_CHECKING:
    from torch import Tensor, nn

_SMALL_NUMEL = 1 << 17  # of a model and of a batch whose step is run as it is

Loss = Callable[[Any, Any], "Tensor"]


def footprint(
    model: "nn.Module",
    inputs: Any,
    labels: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: str = "sgd",
    micro_batch: int | None = None,
    in_backward: bool = False,
    layers: Mapping[str, LayerPlan] | None = None,
    block_bytes: int = 0,
) -> Footprint:
    """What one training step of a model holds at its peak.

    Counted are weights and buffers, gradients, the optimizer's state, and each tensor that the step makes from its birth
    to its last use, as PyTorch's own training loop makes them on one CPU thread, with what its kernels allocate inside.
    What `requires_grad` leaves out needs no gradient and no state, and autograd keeps nothing for it.
    Not counted: the batch itself and memory outside of tensors.

    Args:
        model: What is trained; left as it is.
        inputs: A tensor, a tuple or a dict of tensors, real or not. Shape (batch, ...).
        labels: What the loss compares the output with. Shape (batch, ...).
        loss: From output and labels to a scalar; by default cross-entropy where there are labels, else `output.loss`,
            else the mean of the output.
        optimizer: sgd, sgd-momentum, adam or adamw.
        micro_batch: Examples that go through the model at once; all by default.
        in_backward: Each parameter is updated inside the backward pass.
        layers: What of the model is trained and how the rest is kept, of a `MemoryPlan`; as the model says by default.
        block_bytes: How much of what is kept as bytes or signs may be floats at once, of a `MemoryPlan`. [B]

    Raises:
        UsageError: The model does not train on these inputs.

    >>> import torch
    >>> made = footprint(torch.nn.Linear(100, 10), torch.empty(4, 100), torch.zeros(4, dtype=torch.long))
    >>> made.weights_bytes, made.peak_bytes >= 2 * made.weights_bytes  # the weights, and as much again of gradients
    (4040, True)
    """
    model, batch, inside = stand_in(model, (inputs, labels))
    if layers is not None:
        with inside():
            apply(model, layers, block_bytes=block_bytes)
    several = micro_batch is not None and micro_batch < examples(batch)
    if micro_batch is not None:  # one is like the other, but for the gradients that wait from the second one on
        batch = next(parts(batch, micro_batch))
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = Step(
        parameters,
        lambda part: mean_loss(model, *part, loss=loss),
        optimizer=optimizer,
        learning_rate=0.0,
        micro_batch=micro_batch,
        in_backward=in_backward,
    )
    try:
        with no_compiler(), inside():
            return _watched(model, parameters, batch, step, waiting=several and not in_backward)
    except BudjouleError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"{type(model).__name__} does not train on these inputs: {reason}; check shapes and labels, or give loss="
        ) from error


def mean_loss(model: "nn.Module", inputs: Any, labels: Any, *, loss: Loss | None) -> "Tensor":
    """A model's loss on a batch, by default as `footprint` says."""
    import torch
    from torch.utils._pytree import tree_leaves

    if isinstance(inputs, Mapping):
        output = model(**inputs)
    else:
        output = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
    if loss is not None:
        return loss(output, labels)
    if labels is not None:
        scores = output if isinstance(output, torch.Tensor) else output.logits
        return torch.nn.functional.cross_entropy(scores, labels)
    value: Tensor | None = getattr(output, "loss", None)
    if value is None:
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        leaves = leaves or list(output.values())
        value = next(leaf for leaf in leaves if leaf.is_floating_point())
    return value.mean()


def _watched(
    model: "nn.Module", parameters: "list[nn.Parameter]", batch: Any, step: Step, *, waiting: bool
) -> Footprint:
    """A step that finds the optimizer's state, and gradients of earlier micro-batches, where a real one would."""
    import torch
    from torch.utils._pytree import tree_leaves

    watch = Watch(leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
    watch.hold([*model.parameters(), *model.buffers()], "weights")
    if step.has_state:
        step(batch)
        watch.hold(step.state(), "state")
    if waiting:
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        watch.hold([p.grad for p in parameters if p.grad is not None], "gradients")
    for parameter in parameters:  # a gradient that was used inside backward is gone by now
        parameter.register_post_accumulate_grad_hook(
            lambda p: watch.tag(p.grad, "gradients") if p.grad is not None else None
        )
    with ExitStack() as stack:
        stack.enter_context(watch.saving())
        stack.enter_context(watch.mode())
        step(batch)
    return Footprint(**{f"{kind}_bytes": watch.peak_bytes[kind] for kind in KINDS})


def stand_in(model: "nn.Module", batch: Any) -> "tuple[nn.Module, Any, Callable[[], AbstractContextManager[Any]]]":
    """A copy of a model and of a batch on which a step may be tried, and what to try it inside: fake unless small."""
    import torch
    from torch.utils._pytree import tree_leaves, tree_map

    held = [*model.parameters(), *model.buffers()]
    given = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]
    small = all(sum(t.numel() for t in group) <= _SMALL_NUMEL for group in (held, given))
    if small and all(type(t) in (torch.Tensor, torch.nn.Parameter) and t.is_cpu for t in (*held, *given)):
        copied = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, batch)
        return copy.deepcopy(model).train(), copied, lambda: torch.random.fork_rng(devices=[])
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    return _without_data(model, fake).train(), _faked(batch, fake), lambda: fake


def _without_data(model: "nn.Module", fake: Any) -> "nn.Module":
    """A copy of the model whose parameters and buffers are fake; tied ones stay tied."""
    from itertools import chain

    import torch

    memo: dict[int, Any] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        with fake:
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        memo[id(tensor)] = (
            torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
            if isinstance(tensor, torch.nn.Parameter)
            else made
        )
    return copy.deepcopy(model, memo)


def _faked(batch: Any, fake: Any) -> Any:
    """A batch whose tensors are fake."""
    import torch
    from torch.utils._pytree import tree_map

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        with fake:
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype)

    return tree_map(of, batch)
