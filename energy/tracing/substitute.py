"""Calls that run as one kernel on a device and as several ops on data-less tensors are replaced by the one; autocast casts are made here."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from budjoule.energy.errors import UsageError
from budjoule.energy.tracing import flex, recurrent
from budjoule.energy.tracing.aten import user_line

# torch.autocast's lists for CUDA: these run in the lower precision ...
LOWER = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.scaled_dot_product_attention, F.bilinear,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.addmv, torch.mv, torch.baddbmm, torch.addbmm, torch.einsum, torch.prelu, torch.conv1d, torch.conv2d,
    torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.Tensor.mm, torch.Tensor.bmm, torch.Tensor.addmm, torch.chain_matmul,
}  # fmt: skip
# ... and these in fp32.
FULL = {
    F.softmax, F.log_softmax, F.layer_norm, F.group_norm, F.rms_norm, F.normalize, F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.kl_div,
    F.binary_cross_entropy_with_logits, F.cosine_similarity, F.cosine_embedding_loss, F.softplus, torch.softmax, torch.log_softmax, torch.exp, torch.log, torch.log2,
    torch.log10, torch.log1p, torch.pow, torch.rsqrt, torch.reciprocal, torch.norm, torch.cumsum, torch.cumprod, torch.sum, torch.prod, torch.erfinv, torch.sinh, torch.cosh,
    torch.tan, torch.acos, torch.asin, torch.expm1, torch.dist, torch.cdist, torch.renorm, torch.Tensor.softmax, torch.Tensor.log_softmax, torch.Tensor.exp, torch.Tensor.log,
    torch.Tensor.pow, torch.Tensor.__pow__, torch.Tensor.rsqrt, torch.Tensor.reciprocal, torch.Tensor.norm, torch.Tensor.cumsum, torch.Tensor.sum, torch.Tensor.prod,
}  # fmt: skip


CONSTANTS = {torch.tensor, torch.as_tensor, torch.asarray}
TO_HOST = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}
TO_DEVICE = {torch.Tensor.cuda, torch.Tensor.to}


class AsOnDevice(TorchFunctionMode):
    """Dropout and attention as their fused kernels, and autocast where `lower` names its precision; `notes` hears what was assumed."""

    def __init__(self, lower: torch.dtype | None, notes: dict[str, None]) -> None:
        super().__init__()
        self.lower = lower
        self.notes = notes
        self.cast_weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.lower is not None:
            if func in LOWER or func in recurrent.MODES or func in recurrent.CELLS:
                args, kwargs = self._cast(args, kwargs, self.lower)
            elif func in FULL:
                args, kwargs = self._cast(args, kwargs, torch.float32)
        if func is F.scaled_dot_product_attention:
            return attention(func, *args, **kwargs)
        if getattr(func, "__name__", "") == "flex_attention":
            return flex.attention(self.notes, *args, **kwargs)
        if func is F.dropout:
            return dropout(func, *args, **kwargs)
        if func in recurrent.MODES and not kwargs:
            return recurrent.layer(func, *args)
        if func in recurrent.CELLS:
            return recurrent.cell(func, *args, **kwargs)
        if func is recurrent.PACK:
            return recurrent.pack(func, *args)
        if func in TO_HOST and args[0].is_meta:
            raise UsageError(
                f"the model calls {func.__name__}() on {'x'.join(map(str, args[0].shape)) or 'scalar'} values that depend on the data{user_line()}; "
                "pass what they come from as a real integer or boolean tensor"
            )
        if func in CONSTANTS and kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "cpu":
            return constant(func, *args, **kwargs)
        if func in TO_DEVICE:
            return moved(func, *args, **kwargs)
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {**kwargs, "device": "meta"}
        if (
            func is torch._nested_tensor_from_mask_left_aligned
        ):  # the padding is computed too, as without nested tensors
            return False
        return func(*args, **kwargs)

    def _cast(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def cast(value: Any) -> Any:
            if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
                return type(value)(cast(v) for v in value)
            if (
                not isinstance(value, torch.Tensor)
                or value.dtype not in (torch.float32, torch.float16, torch.bfloat16)
                or value.dtype == dtype
            ):
                return value
            if value.is_leaf and value.requires_grad:  # autocast keeps a parameter's cast for the whole step
                if id(value) not in self.cast_weights:
                    self.cast_weights[id(value)] = (value, value.to(dtype))
                return self.cast_weights[id(value)][1]
            return value.to(dtype)

        return tuple(cast(a) for a in args), {k: cast(v) for k, v in kwargs.items()}


def _is_cuda(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and str(device).startswith("cuda")


def moved(func: Callable[..., Any], x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """A move to the device: everything is there already, and only a change of dtype is left to do."""
    if func is torch.Tensor.cuda:
        return x
    places = [a for a in (*args, kwargs.get("device")) if _is_cuda(a)]
    if not places:
        return func(x, *args, **kwargs)
    rest = [a for a in args if not _is_cuda(a)]
    more = {name: value for name, value in kwargs.items() if name != "device"}
    return func(x, *rest, **more) if any(isinstance(a, torch.dtype) for a in (*rest, *more.values())) else x


def constant(func: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
    """A tensor of given numbers: integers and booleans keep their values, whatever device they were meant for."""
    made: torch.Tensor = func(*args, **{**kwargs, "device": "cpu"})
    return made.to("meta") if made.is_floating_point() or made.is_complex() else made


def dropout(
    func: Callable[..., Any], input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Dropout as its one fused kernel."""
    if not training or p == 0.0 or not input.is_meta:
        return func(input, p, training, inplace)
    return torch.native_dropout(input, p, True)[0]


def attention(
    func: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled dot-product attention as the kernel that CUDA would choose: flash for half precision without mask, else memory-efficient."""
    if (
        query.dim() != 4
        or not query.is_meta
        or query.shape[-1] > 256
        or query.shape[-1] != value.shape[-1]
        or query.dtype == torch.float64
    ):
        return func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa and key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2) for t in (key, value))
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:  # converted to an additive mask first, as the CUDA path does
            attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype, device="meta").masked_fill(
                attn_mask.logical_not().to("meta"), float("-inf")
            )
        attn_mask = attn_mask.to("meta").expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    train = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, train, dropout_p, is_causal, scale=scale
    )[0]
