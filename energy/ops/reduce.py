"""Reductions, scans, sorts, pooling and resampling: cost follows the larger of input and output, counted twice."""

from collections.abc import Sequence
from dataclasses import replace
from math import log2, prod
from typing import Any

from budjoule.energy.ops.rule import Counted, argument, first, numel, rule, size_bytes


@rule(
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod", "var", "std", "var_mean", "std_mean", "nansum",
    "aminmax", "count_nonzero", "cumsum", "cumprod", "cummax", "cummin", "_cummax_helper", "_cummin_helper", "logcumsumexp", "trace", "median", "nanmedian", "mode",
    "equal", "allclose", "_is_all_true", "_is_any_true", "histc", "bincount", "unique_consecutive", "nonzero", "_local_scalar_dense", "is_nonzero", "diff", "sum_to_size", "segment_reduce", "masked_select",
)  # fmt: skip
def reduction(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=2 * numel(args[0]))


@rule("kthvalue", "_unique2", "unique_dim", "randperm", "multinomial")
def radix_sort(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    count = numel(args[0]) if args and not isinstance(args[0], int) else numel(out)
    # a radix sort passes over keys and values a few times
    passes = min(8, max(1, round(log2(max(count, 2)) / 4)))
    return Counted(kind="reduction", elements=2 * passes * count, launches=1 + passes)


@rule("sort", "argsort", "msort")
def sort(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    # a processor compares: n log2 n
    dim = kwargs.get("dim", args[1] if len(args) > 1 and type(args[1]) is int else -1)
    row = args[0].shape[dim] if args[0].dim() else 1
    return replace(radix_sort(args, kwargs, out), loop=round(numel(args[0]) * log2(max(row, 2))))


@rule("topk")
def topk(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    kept = first(out).numel()
    return replace(radix_sort(args, kwargs, out), loop=round(kept * log2(max(args[1], 2))))


@rule(
    "nll_loss_forward",
    "nll_loss2d_forward",
    "nll_loss_backward",
    "nll_loss2d_backward",
    "multi_margin_loss",
    "multilabel_margin_loss_forward",
)
def gathered_loss(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    rows = numel(out[0]) if isinstance(out, tuple) else numel(out)
    targets = args[1].numel() if len(args) > 1 and hasattr(args[1], "numel") else rows
    return Counted(
        kind="gather",
        elements=2 * max(rows, targets),
        read_bytes=targets * 12,
        launches=1 if isinstance(out, tuple) else 2,
    )


@rule("_ctc_loss", "_cudnn_ctc_loss", "_ctc_loss_backward", "_use_cudnn_ctc_loss")
def ctc(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=8 * numel(args[0]), heavy=4 * numel(args[0]), launches=2)


@rule("max_pool2d", "max_pool1d")
def pool(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    kernel = argument(args, kwargs, 1, "kernel_size", [1])
    taps = prod(kernel) if isinstance(kernel, (list, tuple)) else kernel
    return Counted(kind="reduction", elements=first(out).numel() * max(1, taps))


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
def pool_with_indices(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    counted = pool(args, kwargs, out)
    return replace(counted, loop=counted.elements)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    counted = pool(args, kwargs, out)
    return replace(counted, loop=counted.elements // 3)


@rule("avg_pool2d_backward", "avg_pool3d_backward")
def average_pool_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return replace(pool_backward(args, kwargs, out), loop=numel(out) // 4)


@rule("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
def pool_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    # the input is only looked at for its shape
    return Counted(kind="reduction", elements=2 * numel(out), read_bytes=size_bytes(args[0]) * 2)


@rule(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d",
)  # fmt: skip
def adaptive_pool(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=max(numel(args[0]), numel(out)))


@rule(
    *(f"upsample_{mode}{end}" for mode in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d") for end in ("", "_backward")),
    *(f"_upsample_{mode}{end}" for mode in ("bilinear2d_aa", "bicubic2d_aa", "nearest_exact1d", "nearest_exact2d", "nearest_exact3d") for end in ("", "_backward")),
    "grid_sampler_2d", "grid_sampler_3d", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "affine_grid_generator",
)  # fmt: skip
def resample(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=4 * max(numel(args[0]), numel(out)))


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fft(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    size = max(numel(args[0]), numel(out))
    length = prod(args[0].shape[d] for d in args[1]) if len(args) > 1 else size
    # 5 N log2 N operations, Cooley and Tukey 1965
    return Counted(kind="reduction", elements=int(5 * size * log2(max(length, 2))), launches=2)
