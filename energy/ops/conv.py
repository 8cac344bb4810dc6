"""Convolutions as implicit matrix products: B = groups, M = batch x output positions, N = output channels a group, K = input channels a group x kernel.

Source: cuDNN, Chetlur et al. 2014, arXiv 1410.0759, section 3. FLOP as in `torch.utils.flop_counter`.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from budjoule.energy.ops.rule import Counted, argument, rule, size_bytes

HALF = (torch.float16, torch.bfloat16)


def _layout_copies(*activations: torch.Tensor) -> int:
    """Bytes of the NCHW <-> NHWC copies that half-precision kernels need around tensors that are not channels-last. [B]"""
    return sum(
        2 * size_bytes(t)
        for t in activations
        if t.dtype in HALF and t.dim() == 4 and not t.is_contiguous(memory_format=torch.channels_last)
    )


def _count(
    x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, groups: int, transposed: bool
) -> tuple[str, int, tuple[int, int, int, int]]:
    kernel = prod(weight.shape[2:])
    positions = prod((x if transposed else y).shape[2:])
    n = weight.shape[1] if transposed else weight.shape[0] // groups
    k = weight.shape[0] // groups if transposed else weight.shape[1]
    m = x.shape[0] * positions
    depthwise = groups > 1 and k == 1 and not transposed
    flop = 2 * groups * m * n * k * kernel
    shape = (groups, m, n * kernel, k) if transposed else (groups, m, n, k * kernel)
    return ("depthwise" if depthwise else "conv"), flop, shape


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    x, weight = args[0], args[1]
    groups, transposed = argument(args, kwargs, 8, "groups", 1), argument(args, kwargs, 6, "transposed", False)
    kind, flop, shape = _count(x, weight, out, groups, transposed)
    bias = argument(args, kwargs, 2, "bias") is not None
    copies = 0 if kind == "depthwise" else _layout_copies(x, out)
    return Counted(
        kind=kind,
        flop=flop,
        product=shape,
        elements=out.numel() if bias else 0,
        launches=1 + bias + (2 if copies else 0),
        copied_bytes=copies,
    )


@rule("convolution_backward", "convolution_backward_overrideable")
def convolution_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    grad, x, weight = args[0], args[1], args[2]
    transposed, groups, wanted = args[7], args[9], args[10]
    kind, flop, shape = _count(x, weight, grad, groups, transposed)
    halves = int(wanted[0]) + int(wanted[1])
    copies = 0 if kind == "depthwise" else _layout_copies(*[t for t in (grad, x, out[0]) if t is not None])
    # the data gradient reads grad and weight, the weight gradient grad and x: grad is read once for each
    return Counted(
        kind="depthwise_grad" if kind == "depthwise" else kind,
        flop=halves * flop,
        product=shape,
        elements=2 * grad.numel() if wanted[2] else 0,
        launches=halves + int(wanted[2]) + (3 if copies else 0),
        read_bytes=halves * size_bytes(grad) + int(wanted[0]) * size_bytes(weight) + int(wanted[1]) * size_bytes(x),
        copied_bytes=copies,
    )


@rule(
    "cudnn_convolution",
    "miopen_convolution",
    "mkldnn_convolution",
    "_slow_conv2d_forward",
    "slow_conv3d_forward",
    "_conv_depthwise2d",
    "conv_depthwise3d",
)
def one_kernel(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    """Convolutions as the kernel that a back end calls; the number of groups follows from the shapes."""
    x, weight = args[0], args[1]
    y = out[0] if isinstance(out, (tuple, list)) else out
    kind, flop, shape = _count(x, weight, y, max(1, x.shape[1] // max(1, weight.shape[1])), False)
    return Counted(kind=kind, flop=flop, product=shape)
