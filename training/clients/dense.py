"""Local blocks of many clients at once, for plain dense nets, whose single steps are bound by the launching of kernels.

Each client's weights are one matrix of a stack, so that a layer of all clients is one batched product. A product's bits do not
depend on how many stand beside it, so neither do a client's weights. Convolutions gain nothing from this on a CPU.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from budjoule.training.compression.update import Vector

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from budjoule.training.config.config import Training

TOGETHER = 64  # blocks at most, so that memory stays bounded; more gain no more


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseBlock:
    """One client's local block.

    Args:
        start: Weights it starts from. Shape (size,).
        examples: Which of all examples each step sees. Shape (local_steps, batch).
        prior: Logarithm of the client's label frequencies, if it is added to the scores. Shape (classes,).
        rate_frac: Share of the learning rate to use.
    """

    start: Vector
    examples: "np.ndarray[tuple[int, int], np.dtype[np.int64]]"
    prior: "Tensor | None"
    rate_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A dense layer: where its weight and bias stand in the flat vector, and whether a ReLU follows."""

    weight: slice
    bias: slice | None
    shape: tuple[int, int]
    relu: bool

    def take(self, flat: "Tensor") -> "Iterator[Tensor]":
        """The clients' weights and biases, filled up with zeros, which stay zero. Shapes (clients, out, in), (clients, 1, out)."""
        (out, inputs), count = self.shape, len(flat)
        weight = flat.new_zeros((count, _whole(out), _whole(inputs)))
        weight[:, :out, :inputs] = flat[:, self.weight].view(count, out, inputs)
        yield weight
        if self.bias is not None:
            bias = flat.new_zeros((count, 1, _whole(out)))
            bias[:, 0, :out] = flat[:, self.bias]
            yield bias

    def give(self, flat: "Tensor", weights: "Iterator[Tensor]") -> None:
        """What `take` took, as it has become."""
        out, inputs = self.shape
        flat[:, self.weight] = next(weights).detach()[:, :out, :inputs].flatten(1)
        if self.bias is not None:
            flat[:, self.bias] = next(weights).detach()[:, 0, :out]


class DenseNet:
    """A stack of dense layers and ReLUs that are all trained by plain descent.

    Args:
        layers: From input to output.
        learning_rate: Of the descent.
    """

    def __init__(self, layers: Sequence[_Layer], learning_rate: float) -> None:
        self._layers = layers
        self._rate = learning_rate

    @classmethod
    def of(cls, model: "nn.Module", training: "Training") -> "DenseNet | None":
        """The net that a model is, or None where it is not of this kind."""
        from torch import nn

        parts = [*model.children()] if type(model) is nn.Sequential else []
        if training.optimizer != "sgd" or not parts or type(parts[0]) is not nn.Flatten:
            return None
        if any(type(part) not in (nn.Linear, nn.ReLU) for part in parts[1:]) or type(parts[-1]) is not nn.Linear:
            return None
        if not all(p.requires_grad for p in model.parameters()):
            return None
        layers, at = [], 0
        for part, after in pairwise([*parts[1:], None]):
            if isinstance(part, nn.Linear):
                weight = slice(at, at + part.weight.numel())
                bias = None if part.bias is None else slice(weight.stop, weight.stop + part.out_features)
                at = (bias or weight).stop
                shape = (part.out_features, part.in_features)
                layers.append(_Layer(weight=weight, bias=bias, shape=shape, relu=isinstance(after, nn.ReLU)))
        return cls(layers, training.learning_rate)

    def train(self, blocks: Sequence[DenseBlock], inputs: "Tensor", labels: "Tensor") -> list[Vector]:
        """The weights that each block ends with; all have as many steps, of examples that fill as many `rows`.

        Args:
            blocks: The blocks, `TOGETHER` at most.
            inputs: All examples. Shape (n, ...).
            labels: Their classes. Shape (n,).
        """
        import torch

        count = len(blocks)
        flat = torch.from_numpy(np.stack([block.start for block in blocks]))
        rates = torch.tensor([[[self._rate * block.rate_frac]] for block in blocks])
        priors = [block.prior for block in blocks if block.prior is not None]
        prior = torch.stack(priors)[:, None] if priors else None
        index, share = (torch.from_numpy(part) for part in _batches(blocks))
        height = share.shape[1]
        weights = [part.requires_grad_() for layer in self._layers for part in layer.take(flat)]
        width, classes = self._layers[0].shape[1], self._layers[-1].shape[0]
        for step in index:
            seen = inputs[step].view(count, height, width)
            scores = self._scores(weights, torch.nn.functional.pad(seen, (0, _whole(width) - width)))[..., :classes]
            scores = scores if prior is None else scores + prior
            losses = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels[step], reduction="none")
            slopes = torch.autograd.grad(losses.dot(share.flatten()), weights)
            with torch.no_grad():
                for weight, slope in zip(weights, slopes, strict=True):
                    weight.sub_(slope.mul_(rates))
        ended = iter(weights)
        for layer in self._layers:
            layer.give(flat, ended)
        return [row.copy() for row in flat.numpy()]

    def _scores(self, weights: "Sequence[Tensor]", x: "torch.Tensor") -> "Tensor":
        """Of all clients' batches. Shape (clients, batch, classes)."""
        left = iter(weights)
        for layer in self._layers:
            weight = next(left).transpose(1, 2)
            x = x.bmm(weight) if layer.bias is None else next(left).baddbmm(x, weight)
            x = x.relu() if layer.relu else x
        return x


def rows(examples: int) -> int:
    """How many rows a step's examples take: the rest stays empty, so that blocks of more and of fewer train together."""
    return _whole(examples)


def _batches(blocks: Sequence[DenseBlock]) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
    """By step, each row's example, and each row's part in its client's loss. Shapes (steps, clients * rows), (clients, rows)."""
    steps, examples = blocks[0].examples.shape
    index = np.empty((steps, len(blocks), rows(examples)), np.int64)
    share = np.zeros(index.shape[1:], np.float32)
    for client, block in enumerate(blocks):
        count = block.examples.shape[1]
        index[:, client, :count] = block.examples
        # the rest counts for nothing, but 0 x NaN is NaN: it is the client's own
        index[:, client, count:] = block.examples[:, :1]
        share[client, :count] = 1 / count
    return index.reshape(steps, -1), share


def _whole(width: int) -> int:
    """A width in whole lines of 64 bytes, so that every client's matrix begins at one: a product's last bit may depend on that."""
    return -(-width // 16) * 16
