"""What a kernel allocates for itself, which no tensor of the step shows: convolutions and LSTMs of PyTorch on a CPU.

Found by watching the allocator under torch 2.13 (oneDNN 3.12 with AVX-512, one thread): oneDNN copies the input, the
weights and the output into layouts of blocks of 16 channels, unless channels come last; a single small image goes through
im2col instead; an LSTM keeps its gates for the backward pass in a buffer of its own.
With AVX2 the blocks are of 8, and the weights' gradient copies an input of fewer channels too, padded to a block: a whole batch's step of
a small strided net took up to 18 % more there than this says, one in micro-batches as much. A plan follows the seed and not
the processor, so it counts as with AVX-512 everywhere.
"""

from math import prod
from typing import Any

_BLOCK = 16  # channels
_DEPTHWISE_SCRATCH = 256  # copies of the weights' gradient, where channels come last
_STRIDED_SCRATCH = 36888  # bytes, of the input's gradient behind a stride; some shapes take twice as much
_SMALL_IMAGE = 20480  # elements of a single input up to which im2col is taken (ATen/native/Convolution.cpp)


def workspace_bytes(func: Any, args: tuple[Any, ...], result: Any) -> int:
    """Most bytes alive inside an op's kernel, its results included; 0 for an op that needs none beside them.

    Args:
        func: The aten op.
        args: Its arguments.
        result: What it gave.
    """
    name = func._schema.name
    if name == "aten::convolution" and not args[6]:
        return _forward(args[0], args[1], result, args[3], args[8])
    if name == "aten::convolution_backward" and not args[7]:
        return _backward(args[0], args[1], args[2], args[4], args[9], args[10])
    if name.startswith("aten::mkldnn_rnn_layer"):
        return _recurrent(name, args, result)
    return 0


def hidden_bytes(func: Any, args: tuple[Any, ...]) -> int:
    """Bytes that an op keeps for the backward pass in its last result, which is empty on fake tensors.

    Args:
        func: The aten op.
        args: Its arguments.
    """
    if func._schema.name != "aten::mkldnn_rnn_layer":
        return 0
    (steps, batch, _), hidden = args[0].shape, args[10]
    return int(batch * (steps * (15 * hidden + _BLOCK) + 10 * hidden) * args[0].element_size())


def _uses_im2col(x: Any, w: Any, stride: Any, groups: int) -> bool:
    small = x.shape[0] == 1 and groups == 1 and not all(n > 3 for n in w.shape[2:]) and x.numel() <= _SMALL_IMAGE
    pointwise = all(n == 1 for n in w.shape[2:]) and all(n == 1 for n in stride) and x.shape[0] < 16 and groups == 1
    return small or pointwise


def _columns(w: Any, stride: Any, out: Any) -> int:
    """Bytes of one image unrolled; a 1x1 kernel without stride reads the image as it is."""
    if all(n == 1 for n in (*w.shape[2:], *stride)):
        return 0
    return int(prod(w.shape[1:]) * prod(out[2:]) * w.element_size())


def _blocked(t: Any, *dims: int) -> int:
    """Bytes of a tensor whose dimensions are padded to whole blocks."""
    shape = [-(-n // _BLOCK) * _BLOCK if i in dims else n for i, n in enumerate(t.shape)]
    return int(prod(shape) * t.element_size())


def _channels_last(t: Any) -> bool:
    return t.dim() == 4 and not t.is_contiguous() and t.stride(1) == 1


def _bytes(t: Any) -> int:
    return int(t.numel() * t.element_size())


def _reordered(x: Any, w: Any, groups: int) -> tuple[int, int]:
    """Bytes of an input's and its weights' copies; an input of few channels is read as it is."""
    if groups > 1:
        return _blocked(x, 1), _bytes(w)
    return (_blocked(x, 1), _blocked(w, 0, 1)) if x.shape[1] >= _BLOCK else (0, _blocked(w, 0))


def _forward(x: Any, w: Any, y: Any, stride: Any, groups: int) -> int:
    if _uses_im2col(x, w, stride, groups):
        return _bytes(y) + _columns(w, stride, y.shape)
    if _channels_last(x):
        return _bytes(w) + _bytes(y)
    return max(sum(_reordered(x, w, groups)) + _blocked(y, 1), _blocked(y, 1) + _bytes(y))


def _backward(grad: Any, x: Any, w: Any, stride: Any, groups: int, wanted: Any) -> int:
    inputs, weights = bool(wanted[0]), bool(wanted[1])
    if _channels_last(x):
        depthwise = groups > 1 and groups == x.shape[1]
        return _bytes(x) * inputs + (2 + _DEPTHWISE_SCRATCH * depthwise) * _bytes(w) * weights
    dense = 0 if x.is_contiguous() else _bytes(x)  # it is copied even where only its shape is needed
    if _uses_im2col(x, w, stride, groups):
        columns = _columns(w, stride, grad.shape) if weights else 0
        return dense + _bytes(x) * inputs + _bytes(w) * weights + columns
    dense += 0 if grad.is_contiguous() else _bytes(grad)
    gradient, most = _blocked(grad, 1), 0
    if inputs:
        strided = groups == 1 and any(n > 1 for n in stride)
        back = _bytes(x) if strided else _blocked(x, 1)
        copies = gradient + (_blocked(w, 0, 1) if groups == 1 else _bytes(w)) + back
        most = max(copies + _STRIDED_SCRATCH * strided, back + _bytes(x) * (1 + strided))
    if weights:
        copies = max(gradient + sum(_reordered(x, w, groups)), _reordered(x, w, groups)[1] + _bytes(w))
        most = max(most, _bytes(x) * inputs + copies)
    return dense + most


def _recurrent(name: str, args: tuple[Any, ...], result: Any) -> int:
    """Results, copies of the weights, and the gates of every step."""
    hidden = args[10] if name == "aten::mkldnn_rnn_layer" else args[15]
    steps, batch, _ = args[0].shape
    gates = batch * (steps * (4 * hidden + _BLOCK) + 3 * hidden) * args[0].element_size()
    return int(sum(_bytes(t) for t in (*result, *args[1:5]) if t is not None) + gates)
