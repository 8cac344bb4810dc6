"""`measure`: the energy of code, as a context, a decorator or by hand. Imports nothing heavy."""

from collections.abc import Callable

from budjoule.energy.errors import UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters import Meter
from budjoule.energy.windows.window import Window


def measure(
    label: str = "",
    *,
    meter: str | Meter | None = None,
    require_measured: bool = False,
    synchronize: Callable[[], object] | None = None,
    idle: Measurement | float | None = None,
    on_end: Callable[[Measurement], object] | None = None,
) -> Window:
    """A window that measures the energy of what runs in it, on all the machine's counters.

    ``with bj.measure("epoch") as m: ...`` fills `m.energy_j` and the rest at exit, also when the body raises.
    As a decorator it measures every call (coroutines too); `async with` and, by hand, `begin` and `end` do the same. Windows
    may nest, overlap and run in threads. Where the machine has no readable counter the number is an estimate from processor load:
    `m.source` says which, `m.method` how, and `m.energy_low_j` to `m.energy_high_j` is a central 90 % interval.

    Args:
        label: Name of the window, for people.
        meter: A row of `METERS` such as `"rapl"`, or an open meter; None for the best that there is.
        require_measured: Refuse an estimate when the window opens.
        synchronize: Called before both ends, such as `torch.cuda.synchronize`, so that queued work is inside.
        idle: The machine at rest, as `bj.measure_idle()` measured it, or its power [W]: then `m.net_energy_j`, with
            `m.net_energy_low_j` and `m.net_energy_high_j`, is what the window added to it. `m.energy_j` stays the whole.
        on_end: Called with each finished measurement.

    Raises:
        UsageError: There is no meter of that name or no such idle power, or `synchronize` cannot be called.
        MeterError: The meter cannot be had; raised when the window opens.

    >>> with measure("sum") as m:
    ...     total = sum(range(1000))
    >>> m.energy_low_j <= m.energy_j <= m.energy_high_j and m.source in ("measured", "estimated")
    True
    """
    if not isinstance(label, str):
        raise UsageError(
            f"the label is a {type(label).__name__}; write a text, and decorators with parentheses: @bj.measure()"
        )
    return Window(
        label, meter=meter, require_measured=require_measured, synchronize=synchronize, idle=idle, on_end=on_end
    )
