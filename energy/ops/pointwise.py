"""Element-wise ops: one pass over their elements; light ones add and compare, heavy ones need a transcendental function."""

from collections.abc import Sequence
from typing import Any

from budjoule.energy.ops.rule import Counted, numel, rule, tensors

LIGHT = """
add sub mul rsub neg abs sign sgn relu relu6 clamp clamp_min clamp_max clip maximum minimum fmax fmin where eq ne lt le gt ge
isnan isinf isfinite isposinf isneginf logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ masked_fill threshold threshold_backward
hardtanh hardtanh_backward leaky_relu leaky_relu_backward square addcmul lerp floor ceil round trunc frac heaviside
hardsigmoid hardsigmoid_backward hardswish hardswish_backward prelu _prelu_kernel _prelu_kernel_backward rrelu_with_noise softshrink hardshrink
native_dropout_backward tril triu nan_to_num real imag view_as_real_copy conj_physical polar complex signbit copysign hypot
isin bucketize searchsorted floor_divide remainder fmod div true_divide reciprocal addcdiv positive square_
fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask quantize_per_tensor dequantize
glu glu_backward ldexp _amp_foreach_non_finite_check_and_unscale _amp_update_scale
mse_loss mse_loss_backward l1_loss smooth_l1_loss smooth_l1_loss_backward huber_loss huber_loss_backward soft_margin_loss soft_margin_loss_backward
"""
HEAVY = """
exp exp2 expm1 log log2 log10 log1p sqrt rsqrt pow sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh sigmoid
sigmoid_backward tanh_backward gelu gelu_backward silu silu_backward mish mish_backward softplus softplus_backward elu elu_backward
celu selu erf erfc erfinv lgamma digamma log_sigmoid_forward log_sigmoid_backward logaddexp logaddexp2 xlogy float_power
binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits logit logit_backward sinc special_log_ndtr special_ndtr special_erfcx
special_xlog1py special_entr i0 angle mvlgamma polygamma
"""


@rule(*(name for name in LIGHT.split() if not name.endswith("_") or name.endswith("__")))
def light(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    return Counted(kind="elementwise", elements=_elements(args, out))


@rule(*HEAVY.split())
def heavy(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    elements = _elements(args, out)
    return Counted(kind="elementwise", elements=elements, heavy=elements)


def _elements(args: Sequence[Any], out: Any) -> int:
    return max([t.numel() for t in tensors(out)] + [t.numel() for t in tensors(list(args))], default=0)


FOREACH = "add sub mul div addcmul addcdiv lerp sqrt rsqrt pow neg abs sign maximum minimum clamp_min clamp_max copy zero reciprocal round exp log mul_"


@rule(*(f"_foreach_{name}" for name in FOREACH.split() if not name.endswith("_")))
def foreach(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    # the multi-tensor kernels take up to about 110 tensors in a launch
    count = len(args[0])
    return Counted(kind="elementwise", elements=numel(args[0]), launches=-(-count // 110), cpu_launches=count)


@rule("_fused_adam", "_fused_adamw", "_fused_sgd", "_fused_adagrad")
def fused_optimizer(args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Counted:
    count, elements = len(args[0]), numel(args[0])
    return Counted(kind="elementwise", elements=8 * elements, heavy=elements, launches=-(-count // 30))
