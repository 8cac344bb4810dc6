"""The models a configuration can name: small built-in nets, or any callable that returns a module.

The strided convolutions have no pooling, whose backward the phones' portable kernels get wrong.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from budjoule.energy.errors import UsageError
from budjoule.energy.tracing.named import is_named, load_callable

if TYPE_CHECKING:
    from torch import Tensor, nn

_HIDDEN = 64


def build_model(spec: str, example: "Tensor", classes: int, seed: int) -> "nn.Module":
    """Build a model with weights decided by the seed, and check that it takes the data.

    Args:
        spec: A row of `MODELS`, `package.module:callable` or `file.py:callable` (no arguments, returns a module).
        example: A few inputs. Shape (batch, ...).
        classes: Number of classes.
        seed: Decides the initial weights; torch's own generator is left as it was.

    Raises:
        UsageError: The model is unknown, is no module, or does not map the inputs to one score a class.
    """
    import torch
    from torch import nn

    if spec not in MODELS and not is_named(spec):
        raise UsageError(
            f"unknown model {spec!r}; give {', '.join(MODELS)}, package.module:callable or file.py:callable"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[spec](tuple(example.shape[1:]), classes) if spec in MODELS else load_callable(spec, "model")()
        if not isinstance(model, nn.Module):
            raise UsageError(f"model {spec!r} gave {type(model).__name__}; return a torch.nn.Module")
        try:
            with torch.no_grad():
                scores = model.eval()(example)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"model {spec!r} does not take inputs of shape {tuple(example.shape)}: {reason}") from None
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or scores.shape[1] < classes:
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UsageError(
            f"model {spec!r} gave {shape} for {len(example)} inputs; it must give one score for each of {classes} classes"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"model {spec!r} has no parameter to train; leave requires_grad on for some")
    for parameter in model.parameters():
        if parameter.dtype != torch.float32:
            raise UsageError(f"model {spec!r} has {parameter.dtype} parameters; give a float32 model")
    return model.train()


def _mlp(shape: tuple[int, ...], classes: int) -> "nn.Module":
    import math

    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes))


def _conv(shape: tuple[int, ...], classes: int) -> "nn.Module":
    from torch import nn

    if len(shape) != 3:
        raise UsageError(f"model 'conv' takes images of shape (channels, height, width), not {shape}; use 'mlp'")
    channels, height, width = shape
    layers: list[nn.Module] = []
    for out in (8, 16, 32):
        layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
        channels, height, width = out, (height + 1) // 2, (width + 1) // 2
    dense = channels * height * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(dense, 96), nn.ReLU(), nn.Linear(96, classes))


MODELS: dict[str, Callable[[tuple[int, ...], int], "nn.Module"]] = {"mlp": _mlp, "conv": _conv}
