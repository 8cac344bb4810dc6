"""Running statistics, such as batch norm's mean and variance: they travel like weights, but not every way suits them.

They are averages, not sums of steps: a share of their entries, a residual added to the next update or noise leaves a
variance stale, too large or below zero, and with it every prediction.
"""

import math
from collections.abc import Sequence

from budjoule.energy.errors import UsageError
from budjoule.training.compression.compress import Compressor
from budjoule.training.compression.update import Layout
from budjoule.training.config.config import Config


def check_statistics(
    layout: Layout, trained: int, config: Config, *, update: Sequence[Compressor], broadcast: Compressor
) -> None:
    """Refuse to send statistics in a way that spoils them.

    Args:
        layout: What is sent: parameters first, then statistics.
        trained: How many parameters come first.
        config: The run's configuration.
        update: How updates are made small.
        broadcast: How versions are.

    Raises:
        UsageError: The model keeps statistics, and the configuration would spoil them.
    """
    names = layout.names[trained:]
    spoilt_by = {
        'update.compress: set it to "none" or ["fp16"]': not all(map(_carries, update)),
        "update.error_feedback: set it to false": config.update.error_feedback,
        'server.broadcast: set it to "none" or ["fp16"]': not _carries(broadcast),
        'privacy.epsilon: set it to "none"': config.privacy.epsilon < math.inf,
    }
    found = [remedy for remedy, spoils in spoilt_by.items() if spoils]
    if names and found:
        raise UsageError(
            f"the model keeps running statistics ({', '.join(names[:2])}{', ...' * (len(names) > 2)}), which would be spoilt by "
            f"{'; '.join(found)}; or take a norm without them, such as nn.GroupNorm for batch norm"
        )


def _carries(compressor: Compressor) -> bool:
    return compressor.selection == "all" and compressor.values.startswith("fp")
