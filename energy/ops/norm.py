"""Norms and softmax: every element is read for the statistics and again for the result."""

from collections.abc import Sequence
from typing import Any

from budjoule.energy.ops.rule import Counted, first, rule


@rule("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm", "layer_norm", "group_norm")
def norm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=2 * args[0].numel())


@rule("native_layer_norm_backward", "native_group_norm_backward", "_fused_rms_norm_backward")
def norm_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=4 * args[0].numel(), launches=2)


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_batch_norm_with_update",
    "cudnn_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
    "batch_norm",
)
def batch_norm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    count = args[0].numel()
    # a processor takes a batch's statistics plane by plane; the argument before momentum and eps says whether they are taken
    takes = len(args) > 5 and any(value is True for value in args[3:6])
    return Counted(kind="reduction", elements=2 * count, loop=count // 3 if takes and args[0].dim() > 2 else 0)


@rule("native_batch_norm_backward", "cudnn_batch_norm_backward", "batch_norm_backward")
def batch_norm_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    count = args[0].numel()
    return Counted(kind="reduction", elements=4 * count, launches=2, loop=count // 6 if args[0].dim() > 2 else 0)


@rule(
    "_softmax",
    "_log_softmax",
    "softmax",
    "log_softmax",
    "_safe_softmax",
    "logsumexp",
    "_masked_softmax",
    "_sparse_softmax",
)
def softmax(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=2 * args[0].numel(), heavy=args[0].numel())


@rule("_softmax_backward_data", "_log_softmax_backward_data", "_masked_softmax_backward")
def softmax_backward(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="reduction", elements=2 * first(out).numel())


@rule(
    "weight_norm",
    "_weight_norm_interface",
    "_weight_norm_interface_backward",
    "renorm",
    "linalg_vector_norm",
    "norm",
    "frobenius_norm",
    "_foreach_norm",
    "_cdist_forward",
    "_cdist_backward",
    "_pdist_forward",
)
def vector_norm(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    from budjoule.energy.ops.rule import numel

    return Counted(kind="reduction", elements=2 * numel(args[0]))
