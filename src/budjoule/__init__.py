"""Energy budgets for training: estimate joules before a run, measure them while it runs, train within a budget.

The names below are the public API. They are loaded on first use (PEP 562), so that `import budjoule` costs
milliseconds and neither torch nor scipy nor scikit-learn is imported before a name needs it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from budjoule.energy.errors import UsageError as _UsageError

if TYPE_CHECKING:
    from budjoule.calibration.fit import fit_profile
    from budjoule.calibration.observation import Observation
    from budjoule.energy.callbacks.hugging_face import TrainerEnergy as TrainerEnergy
    from budjoule.energy.callbacks.lightning import LightningEnergy as LightningEnergy
    from budjoule.energy.device import DeviceProfile, DeviceSpec, load_profile
    from budjoule.energy.errors import BudgetExhausted, BudjouleError
    from budjoule.energy.estimate import Estimate, estimate
    from budjoule.energy.measure import measure
    from budjoule.energy.measurement import Measurement
    from budjoule.energy.predict import predict
    from budjoule.energy.trace import trace
    from budjoule.energy.units import joules
    from budjoule.energy.windows.idle import measure_idle
    from budjoule.energy.workload import OpCost, Workload
    from budjoule.training.callbacks.hugging_face import TrainerBudget as TrainerBudget
    from budjoule.training.callbacks.lightning import LightningBudget as LightningBudget
    from budjoule.training.ledger.ledger import Ledger
    from budjoule.training.run import train
    from budjoule.training.within import within

__version__ = "0.1.0"

_HOME = {
    "trace": "energy.trace",
    "predict": "energy.predict",
    "estimate": "energy.estimate",
    "Estimate": "energy.estimate",
    "Workload": "energy.workload",
    "OpCost": "energy.workload",
    "DeviceProfile": "energy.device",
    "DeviceSpec": "energy.device",
    "load_profile": "energy.device",
    "measure": "energy.measure",
    "measure_idle": "energy.windows.idle",
    "Measurement": "energy.measurement",
    "joules": "energy.units",
    "BudjouleError": "energy.errors",
    "BudgetExhausted": "energy.errors",
    "Observation": "calibration.observation",
    "fit_profile": "calibration.fit",
    "Ledger": "training.ledger.ledger",
    "within": "training.within",
    "train": "training.run",
    # These need the extras transformers and lightning, so that a star import leaves them out.
    "TrainerEnergy": "energy.callbacks.hugging_face",
    "TrainerBudget": "training.callbacks.hugging_face",
    "LightningEnergy": "energy.callbacks.lightning",
    "LightningBudget": "training.callbacks.lightning",
}

__all__ = [
    "BudgetExhausted",
    "BudjouleError",
    "DeviceProfile",
    "DeviceSpec",
    "Estimate",
    "Ledger",
    "Measurement",
    "Observation",
    "OpCost",
    "Workload",
    "estimate",
    "fit_profile",
    "joules",
    "load_profile",
    "measure",
    "measure_idle",
    "predict",
    "trace",
    "train",
    "within",
]


class _MissingExtraError(_UsageError, AttributeError):
    """A name whose extra is not installed: `hasattr` and `inspect` pass it over."""


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'budjoule' has no attribute {name!r}")
    try:
        module = import_module(f"budjoule.{_HOME[name]}")
    except _UsageError as error:
        if sys._getframe(1).f_code.co_name == "_handle_fromlist":
            raise  # `from budjoule import NAME` would put "cannot import name" in the place of an AttributeError's remedy
        raise _MissingExtraError(str(error)) from None
    value = getattr(module, name)
    globals()[name] = value  # the submodule of the same name (budjoule.energy.trace) stays reachable by its path
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
