"""Training within little memory: predict the peak of a step, choose what to train under a limit, train it leanly.

`footprint` predicts, `plan` chooses, `lean` makes the model, `Step` trains it, `whole_state` gives an ordinary state dict
back. The names are loaded on first use, so that importing the folder imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budjoule.training.memory.choose import plan
    from budjoule.training.memory.lean_model import lean, whole_state
    from budjoule.training.memory.memory_plan import MemoryPlan
    from budjoule.training.memory.peak import Footprint
    from budjoule.training.memory.predict import footprint
    from budjoule.training.memory.step import Step

_HOME = {
    "Footprint": "peak",
    "MemoryPlan": "memory_plan",
    "Step": "step",
    "footprint": "predict",
    "lean": "lean_model",
    "plan": "choose",
    "whole_state": "lean_model",
}

__all__ = ["Footprint", "MemoryPlan", "Step", "footprint", "lean", "plan", "whole_state"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'budjoule.training.memory' has no attribute {name!r}")
    return getattr(import_module(f"budjoule.training.memory.{_HOME[name]}"), name)
