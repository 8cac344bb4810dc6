"""Autograd functions that keep no more than the trained slices need: for dense and convolution layers, and for ReLU.

PyTorch's own convolution keeps its whole input even where only its bias is trained, and its ReLU keeps a float an element
where one bit says all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_PACKED = 4096  # elements from which on a mask is packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A dense layer's products: x (n, in), w (out, in), y (n, out)."""

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        """y = x w' + bias."""
        return torch.nn.functional.linear(x, w, bias)

    def back(self, grad: Tensor, w: Tensor, shape: tuple[int, ...]) -> Tensor:
        """dx = dy w."""
        return grad @ w

    def slope(self, grad: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """dw = dy' x."""
        return grad.t() @ x


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A 2-d convolution's products: x (n, in, h, w), w (out, in / groups, kh, kw), y (n, out, h', w')."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve."""
        return torch.nn.functional.conv2d(x, w, bias, self.stride, self.padding, self.dilation, self.groups)

    def back(self, grad: Tensor, w: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The input's gradient."""
        found: Tensor = self._backward(grad, grad.new_empty(1).expand(shape), w, (True, False, False))[0]
        return found

    def slope(self, grad: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """The weights' gradient."""
        found: Tensor = self._backward(grad, x, w, (False, True, False))[1]
        return found

    def _backward(self, grad: Tensor, x: Tensor, w: Tensor, wanted: tuple[bool, ...]) -> Any:
        where = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        return torch.ops.aten.convolution_backward(grad, x, w, None, *where, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Weights that are not trained, as they come out of storage block by block.

    Args:
        rows: Gives rows a to b. Shape (b - a, in, ...).
        count: How many rows there are.
        block: How many are held at once.
    """

    rows: Callable[[int, int], Tensor]
    count: int
    block: int

    def forward(self, product: Any, x: Tensor) -> Tensor:
        """The outputs of all rows."""
        if self.block >= self.count:
            out: Tensor = product.forward(x, self.rows(0, self.count))
            return out
        y: Tensor | None = None
        for at in range(0, self.count, self.block):
            end = min(at + self.block, self.count)
            some = product.forward(x, self.rows(at, end))
            if y is None:
                y = some.new_empty((some.shape[0], self.count, *some.shape[2:]))
            y[:, at:end] = some
        assert y is not None
        return y

    def back(self, product: Any, grad: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The input's gradient, summed over all rows."""
        total: Tensor | None = None
        for at in range(0, self.count, self.block):
            end = min(at + self.block, self.count)
            some = product.back(grad[:, at:end], self.rows(at, end), shape)
            total = some if total is None else total.add_(some)
        assert total is not None
        return total


class PartlyTrained(Function):
    """A layer some of whose input channels are trained: only those channels of the input are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        part: Tensor | None,
        bias: Tensor | None,
        product: Any,
        frozen: Frozen | None,
        chosen: Tensor | None,
        rest: Tensor | None,
    ) -> Tensor:
        """Args: the input, trained weights, bias, the kind of layer, the other weights, and both sides' channels."""
        picked = None
        y: Tensor | None = None
        if part is not None:
            picked = x if chosen is None else x.index_select(1, chosen)
            y = product.forward(picked, part)
        if frozen is not None:
            more = frozen.forward(product, x if rest is None else x.index_select(1, rest))
            y = more if y is None else y.add_(more)
        assert y is not None
        if bias is not None:
            y.add_(bias.view(-1, *[1] * (y.dim() - 2)))
        ctx.save_for_backward(picked, part, chosen, rest)
        ctx.product, ctx.frozen, ctx.shape = product, frozen, tuple(x.shape)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients of the input, the trained weights and the bias."""
        picked, part, chosen, rest = ctx.saved_tensors
        product, frozen, shape = ctx.product, ctx.frozen, ctx.shape
        slope = product.slope(grad, picked, part) if ctx.needs_input_grad[1] else None
        bias = grad.sum([i for i in range(grad.dim()) if i != 1]) if ctx.needs_input_grad[2] else None
        back = None
        if ctx.needs_input_grad[0]:
            if part is None:
                back = frozen.back(product, grad, shape)
            elif frozen is None:
                back = product.back(grad, part, shape)
            else:
                back = grad.new_empty(shape)
                for index, of in ((chosen, None), (rest, frozen)):
                    side = (shape[0], len(index), *shape[2:])
                    some = product.back(grad, part, side) if of is None else of.back(product, grad, side)
                    back.index_copy_(1, index.long(), some)
        return back, slope, bias, None, None, None, None


class MaskedRelu(Function):
    """ReLU that keeps one bit an element; a byte where elements are few, for which packing is more work than it saves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, in_place: bool) -> Tensor:
        """max(x, 0), over x itself if `in_place`."""
        if ctx.needs_input_grad[0]:
            cut = x <= 0
            ctx.save_for_backward(cut if x.numel() < _PACKED else pack_bits(cut.view(-1)))
        if in_place:
            ctx.mark_dirty(x)
            return x.relu_()
        return x.relu()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """The gradient where the input was positive."""
        (cut,) = ctx.saved_tensors
        if cut.dtype != torch.bool:
            cut = unpack_bits(cut, grad.numel()).view(grad.shape)
        return grad.masked_fill(cut, 0.0), None


def pack_bits(mask: Tensor) -> Tensor:
    """Booleans as bytes of eight along the last dimension. Shape (..., ceil(n / 8))."""
    flat = mask.view(torch.uint8)
    if short := -flat.shape[-1] % 8:
        flat = torch.nn.functional.pad(flat, (0, short))
    return (flat.view(*flat.shape[:-1], -1, 8) * bit_values(flat)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, count: int, values: Tensor | None = None) -> Tensor:
    """What `pack_bits` was given, `count` booleans along the last dimension; `values` saves making `bit_values` anew."""
    bits = bit_values(packed) if values is None else values
    return (packed.unsqueeze(-1) & bits).view(*packed.shape[:-1], -1)[..., :count] != 0


def bit_values(like: Tensor) -> Tensor:
    """What each bit of a byte counts. Shape (8,)."""
    return 2 ** torch.arange(8, dtype=torch.uint8, device=like.device)
