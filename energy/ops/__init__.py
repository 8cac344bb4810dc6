"""What each aten op does, one file a family: FLOP, elements, bytes and launches from its tensors."""

from budjoule.energy.ops import attention, conv, linalg, matmul, memory, norm, pointwise, recurrent, reduce
from budjoule.energy.ops.rule import RULES, Counted

__all__ = [
    "RULES",
    "Counted",
    "attention",
    "conv",
    "linalg",
    "matmul",
    "memory",
    "norm",
    "pointwise",
    "recurrent",
    "reduce",
]
