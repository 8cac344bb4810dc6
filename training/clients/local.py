"""Local training on flat vectors: one `Workbench` holds one model whose weights are views of one float32 vector.

A client's whole state is that vector, so the same workbench serves every client in turn, and an update is a subtraction.
The eager loop is sequential on purpose: on a CPU it beats batching clients together, but for plain dense nets, which `dense`
batches. Gradients written out in NumPy for nets of convolutions and dense layers take two thirds of its time, and no longer
agree with PyTorch's to the bit.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from budjoule.training.clients.dense import DenseNet
from budjoule.training.clients.plan import Plan
from budjoule.training.compression.update import Layout, Vector, layout_of
from budjoule.training.config.config import Training
from budjoule.training.memory.lean_model import lean, whole_state
from budjoule.training.memory.memory_plan import MemoryPlan
from budjoule.training.memory.step import Step
from budjoule.training.task.partition import Indices

if TYPE_CHECKING:
    from torch import Tensor, nn

    OptimizerState = dict[tuple[int, str], Tensor]  # by the parameter's place and the tensor's name

_EVALUATION_BATCH = 1000


class Workbench:
    """A model, its trained subset as one vector, and the two things done with it: a local block and an evaluation.

    Args:
        model: Float32 module that maps inputs to class scores; taken over.
        training: The local block.
        memory: What of it is trained, and how, so that it fits a device's memory; all of it by default.
        frugal: Keep within the plan's memory, as a device must. Without, a batch goes through the model at once where the
            plan would take micro-batches: where their gradients add up it is the same sum, and where each updates the
            weights inside its backward pass it is the same to first order in the rate; in less time.

    Attributes:
        layout: Names and shapes of what is trained and sent: parameters first, then float buffers such as batch
            norm's running statistics, which travel like weights. Other buffers, such as its count of batches, begin every
            block anew. Where single channels are trained, the name says which.
        dense: Trains many blocks at once, where the model is a plain dense net.
    """

    def __init__(
        self, model: "nn.Module", training: Training, *, memory: MemoryPlan | None = None, frugal: bool = False
    ) -> None:
        import torch

        self._whole = model
        self._model = model = model if memory is None else lean(model, memory, keep=not frugal)
        self._training = training
        self.dense = DenseNet.of(model, training) if memory is None else None
        self._in_backward = frugal and memory is not None and memory.in_backward
        self._micro_batch = memory.micro_batch if frugal and memory is not None else None
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        kept = model.state_dict()
        buffers = [(name, b) for name, b in model.named_buffers() if b.dtype == torch.float32 and name in kept]
        label = {} if memory is None else memory.labels
        self.layout: Layout = layout_of(
            [(name + label.get(name, ""), tuple(tensor.shape)) for name, tensor in (*trained, *buffers)]
        )
        self._flat = torch.cat([tensor.detach().reshape(-1) for _, tensor in (*trained, *buffers)])
        self._parameters = [p for _, p in trained]
        counts = [b for name, b in model.named_buffers() if b.dtype != torch.float32 and name in kept]
        self._counts = [(count, count.clone()) for count in counts]
        start = 0
        for _, tensor in (*trained, *buffers):
            view = slice(start, start + tensor.numel())
            tensor.data = self._flat[view].view(tensor.shape)
            start += tensor.numel()

    @property
    def trained_names(self) -> tuple[str, ...]:
        """Names of the trained parameters, in the order of an optimizer's state."""
        return self.layout.names[: len(self._parameters)]

    @property
    def trained_size(self) -> int:
        """How many entries of the flat vector are trained; buffers follow them."""
        return self.layout.bounds[len(self._parameters)]

    @property
    def training(self) -> Training:
        """The local block that the configuration asks for."""
        return self._training

    @property
    def model(self) -> "nn.Module":
        """The module itself, for tracing its cost."""
        return self._model

    def values(self) -> Vector:
        """A copy of the present weights. Shape (layout.size,)."""
        return self._flat.numpy().copy()

    def state_dict(self) -> "dict[str, Tensor]":
        """The present weights by the names and shapes of the model that was given, whatever of it is trained."""
        return whole_state(self._whole, self._model)

    def load(self, values: Vector) -> None:
        """Set the weights, and whatever else the model counts to where it began. Shape (layout.size,)."""
        import torch

        self._flat.copy_(torch.from_numpy(values))
        for count, begun in self._counts:
            count.copy_(begun)

    def block(
        self,
        start: Vector,
        inputs: "Tensor",
        labels: "Tensor",
        *,
        seed: tuple[int, ...],
        prior: "Tensor | None" = None,
        rate_frac: float = 1.0,
        frozen: Indices | None = None,
    ) -> Vector:
        """Train one local block and return the weights it ends with; its optimizer's state ends with it. Shape (layout.size,).

        Args:
            start: Weights to start from. Shape (layout.size,).
            inputs: The client's inputs. Shape (n, ...).
            labels: Their classes. Shape (n,).
            seed: Decides batches and the model's own randomness, so that a block repeats to the bit.
            prior: Logarithm of the client's label frequencies, added to the scores (logit adjustment: Menon et al.,
                ICLR 2021, arXiv:2007.07314). Shape (classes,).
            rate_frac: Share of the learning rate to use.
            frozen: Entries of the vector that stay as they are, although the model trains them.
        """
        import torch

        plan = Plan.of(self._training)
        still = None if frozen is None else torch.from_numpy(frozen)
        kept = None if frozen is None else torch.from_numpy(start[frozen])
        for now in self.steps(start, inputs, labels, plan, {}, seed=seed, prior=prior, rate_frac=rate_frac):
            if still is not None and kept is not None:
                now[still] = kept
        return self.values()

    def steps(
        self,
        start: Vector,
        inputs: "Tensor",
        labels: "Tensor",
        plan: Plan,
        state: "OptimizerState",
        *,
        seed: tuple[int, ...],
        prior: "Tensor | None" = None,
        rate_frac: float = 1.0,
    ) -> "Generator[Tensor, None, None]":
        """Train a block step by step, as `block` does, and yield the weights after each: to look at, not to keep.

        A caller who closes the iterator ends the block early, between two steps.

        Args:
            plan: Batch size, number of steps and precision.
            state: The optimizer's tensors: taken up here, and when the block ends replaced by what they have become.
        """
        import torch

        rng, own_seed = block_rng(seed)
        torch.default_generator.manual_seed(own_seed)  # torch.manual_seed notes a stack for each GPU library
        self.load(start)
        self._model.train()
        mixed = plan.precision == "bf16-mixed"

        def loss(part: "tuple[Tensor, Tensor]") -> "Tensor":
            with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
                scores = self._model(part[0]).float()
            return torch.nn.functional.cross_entropy(scores if prior is None else scores + prior, part[1])

        rate = self._training.learning_rate * rate_frac
        step = Step(
            self._parameters,
            loss,
            optimizer=self._training.optimizer,
            learning_rate=rate,
            micro_batch=self._micro_batch,
            in_backward=self._in_backward,
        )
        step.load_state(state)
        try:
            for batch in torch.from_numpy(batches(len(labels), plan, rng)):
                step((inputs[batch], labels[batch]))
                yield self._flat
        finally:
            state.clear()
            state.update(step.named_state())
            step.close()

    def evaluate(self, values: Vector, inputs: "Tensor", labels: "Tensor") -> "tuple[float, float, Tensor]":
        """Accuracy, mean loss, and which examples were right. The last has shape (n,)."""
        import torch

        self.load(values)
        self._model.eval()
        right, loss = [], 0.0
        with torch.no_grad():
            for at in range(0, len(labels), _EVALUATION_BATCH):
                scores = self._model(inputs[at : at + _EVALUATION_BATCH])
                wanted = labels[at : at + _EVALUATION_BATCH]
                loss += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))
                right.append(scores.argmax(1) == wanted)
        correct = torch.cat(right)
        return int(correct.sum()) / len(labels), loss / len(labels), correct


def batches(examples: int, plan: Plan, rng: np.random.Generator) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """Indices of each step's batch: epochs without replacement, reshuffled as often as the block needs. Shape (local_steps, batch)."""
    size, steps = min(plan.batch_size, examples), plan.local_steps
    epochs = -(-size * steps // examples)
    order = np.concatenate([rng.permutation(examples) for _ in range(epochs)])
    return order[: size * steps].reshape(steps, size)


def block_rng(seed: tuple[int, ...]) -> tuple[np.random.Generator, int]:
    """The random stream of a block's batches, and the seed of the model's own randomness."""
    rng = np.random.default_rng(seed)
    return rng, int(rng.integers(2**62))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread and a kept random state: small models lose time to more, and results must not depend on cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
