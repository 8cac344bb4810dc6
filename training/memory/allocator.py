"""The peak of a real step by the allocator's own events, which every prediction is checked against."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def allocator_peak_bytes(step: Callable[[], object], resident: "Iterable[Tensor]") -> int:
    """Most bytes that PyTorch's CPU allocator holds during a step, and what was there before. [B]

    Args:
        step: The step; run it once before, so that it finds its state.
        resident: Tensors alive before, during and after the step that belong to it: weights, buffers, state.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    alive = highest = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            highest = max(highest, alive)
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in resident}
    return highest + sum(storages.values())
