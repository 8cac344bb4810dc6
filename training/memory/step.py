"""One training step on a device: micro-batches, and either one update at the end or each parameter's inside backward."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from budjoule.energy.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_MOMENTUM = 0.9


class Step:
    """A training step over some parameters, to be called batch by batch.

    With `in_backward`, a parameter is updated as soon as its gradient is there and the gradient is dropped, so that no two
    layers' gradients are alive at once; each micro-batch then moves the weights by its share of the learning rate.

    Args:
        parameters: What is trained.
        loss: From a batch, or a part of one, to its mean loss.
        optimizer: sgd, sgd-momentum, adam or adamw.
        learning_rate: The optimizer's rate.
        micro_batch: Examples that go through the model at once, their gradients added up; all by default.
        in_backward: Update inside the backward pass.

    Raises:
        UsageError: The optimizer is unknown, or cannot take micro-batches inside backward.
    """

    def __init__(
        self,
        parameters: "Iterable[nn.Parameter]",
        loss: "Callable[[Any], Tensor]",
        *,
        optimizer: str,
        learning_rate: float,
        micro_batch: int | None = None,
        in_backward: bool = False,
    ) -> None:
        if in_backward and micro_batch is not None and optimizer != "sgd":
            raise UsageError(
                f"{optimizer} keeps a state, so micro-batches cannot each update inside backward; "
                "use sgd, or give up micro_batch or in_backward"
            )
        self._loss = loss
        self._micro_batch = micro_batch
        self._in_backward = in_backward
        self.has_state = optimizer != "sgd"
        groups = [[p] for p in parameters] if in_backward else [list(parameters)]
        self._updates = [Update(optimizer, group, learning_rate) for group in groups]
        self._hooks: list[Any] = []
        if in_backward:
            for (parameter,), update in zip(groups, self._updates, strict=True):
                self._hooks.append(parameter.register_post_accumulate_grad_hook(lambda _p, update=update: update()))

    def __call__(self, batch: Any) -> None:
        """Train on one batch: tensors in any nesting, examples along the first dimension."""
        whole = 0 if self._micro_batch is None else examples(batch)
        if self._micro_batch is None or self._micro_batch >= whole:
            self._loss(batch).backward()
        else:
            for part in parts(batch, self._micro_batch):
                (self._loss(part) * (examples(part) / whole)).backward()
        if not self._in_backward:
            self._updates[0]()

    def state(self) -> "list[Tensor]":
        """The optimizer's tensors; none before the first step."""
        return list(self._tensors().values())

    def named_state(self) -> "dict[tuple[int, str], Tensor]":
        """The optimizer's tensors by the parameter's place and their name; to be kept, and given to `load_state`."""
        return {key: tensor.clone() for key, tensor in self._tensors().items()}

    def load_state(self, state: "Mapping[tuple[int, str], Tensor]") -> None:
        """Go on with a state that was kept; before the first step."""
        place = 0
        for update in self._updates:
            for parameter in update.parameters:
                update.begin(parameter, {name: tensor for (at, name), tensor in state.items() if at == place})
                place += 1

    def _tensors(self) -> "dict[tuple[int, str], Tensor]":
        parameters = [(update, parameter) for update in self._updates for parameter in update.parameters]
        return {
            (place, name): tensor
            for place, (update, parameter) in enumerate(parameters)
            for name, tensor in update.of(parameter).items()
        }

    def close(self) -> None:
        """Let go of the parameters."""
        for hook in self._hooks:
            hook.remove()


class Update:
    """An optimizer's step over some parameters, after which no gradient is left; its state lives as long as it does."""

    def __init__(self, name: str, parameters: "list[nn.Parameter]", learning_rate: float) -> None:
        self.parameters = parameters
        self._rate = learning_rate
        # Plain descent is one op a parameter, which torch's optimizer makes several times slower.
        self._optimizer = None if name == "sgd" else make_optimizer(name, parameters, learning_rate)

    def __call__(self) -> None:
        import torch

        if self._optimizer is not None:
            self._optimizer.step()
        with torch.no_grad():
            for parameter in self.parameters:
                if self._optimizer is None and parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-self._rate)
                parameter.grad = None

    def of(self, parameter: "nn.Parameter") -> "dict[str, Tensor]":
        """The optimizer's tensors for a parameter."""
        import torch

        state = self._optimizer.state.get(parameter, {}) if self._optimizer is not None else {}
        return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}

    def begin(self, parameter: "nn.Parameter", state: "Mapping[str, Tensor]") -> None:
        """Begin with a state; an optimizer without any, and one that has none for the parameter, begin anew."""
        if self._optimizer is not None and state:
            self._optimizer.state[parameter] = {name: tensor.clone() for name, tensor in state.items()}


def make_optimizer(name: str, parameters: "list[nn.Parameter]", learning_rate: float) -> "torch.optim.Optimizer":
    """A torch optimizer by a configuration's name.

    Raises:
        UsageError: The name is unknown.
    """
    import torch

    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, foreach=False)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, foreach=False)
    if name not in ("sgd", "sgd-momentum"):
        raise UsageError(f"unknown optimizer {name!r}; give sgd, sgd-momentum, adam or adamw")
    momentum = _MOMENTUM if name == "sgd-momentum" else 0.0
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, foreach=False)


def examples(batch: Any) -> int:
    """How many examples a batch has: the first dimension of its first tensor."""
    import torch
    from torch.utils._pytree import tree_leaves

    for leaf in tree_leaves(batch):
        if isinstance(leaf, torch.Tensor) and leaf.dim():
            return len(leaf)
    raise UsageError("the batch holds no tensor with examples along its first dimension")


def parts(batch: Any, size: int) -> Iterator[Any]:
    """The batch in parts of `size` examples, the last one smaller where it does not come out even."""
    import torch
    from torch.utils._pytree import tree_map

    whole = examples(batch)

    def cut(at: int) -> Callable[[Any], Any]:
        def of(leaf: Any) -> Any:
            split = isinstance(leaf, torch.Tensor) and leaf.dim() and len(leaf) == whole
            return leaf[at : at + size] if split else leaf

        return of

    if size >= whole:
        yield batch
        return
    for at in range(0, whole, size):
        yield tree_map(cut(at), batch)
