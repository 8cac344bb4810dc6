"""The window that `measure` opens around code, and the `Measurement` it leaves. Imports nothing heavy."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from budjoule.energy.errors import MeterError, UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.meters import Meter
from budjoule.energy.windows.choose import Choice, choose, forget
from budjoule.energy.windows.result import result
from budjoule.energy.windows.watch import Stamp

if TYPE_CHECKING:
    from torch.profiler import profile

    from budjoule.energy.estimate import Estimate

P = ParamSpec("P")
R = TypeVar("R")


class Window:
    """One window; made by `measure`. Its fields are those of `Measurement`, once it has ended."""

    def __init__(
        self,
        label: str = "",
        *,
        meter: str | Meter | None = None,
        require_measured: bool = False,
        synchronize: Callable[[], object] | None = None,
        idle: Measurement | float | None = None,
        on_end: Callable[[Measurement], object] | None = None,
    ) -> None:
        if synchronize is not None and not callable(synchronize):
            raise UsageError(
                f"synchronize is a {type(synchronize).__name__}; give the function to call, such as torch.cuda.synchronize"
            )
        self.label = label
        self._options: dict[str, Any] = {
            "meter": meter,
            "require_measured": require_measured,
            "synchronize": synchronize,
            "idle": idle,
            "on_end": on_end,
        }
        self._synchronize = synchronize
        self._idle = None
        if idle is not None:
            from budjoule.energy.windows.idle import idle_of

            self._idle = idle_of(idle)
        self._on_end = on_end
        self._choice: Choice | None = None
        self._begin: Stamp | None = None
        self._begin_unix_s: float | None = None
        self._measurement: Measurement | None = None

    def begin(self) -> "Window":
        """Open the window.

        Raises:
            MeterError: It is open already, or its meter cannot be had.
        """
        if self._choice is not None:
            raise MeterError(f"window {self.label!r} is open already; end it first, or use a second one")
        choice = self._choose()
        self._begin_unix_s = time.time()
        if self._synchronize is not None:
            self._synchronize()
        stamp = choice.watch.begin()
        if not choice.watch.readable:  # the counters went away since they were opened
            choice.watch.leave()
            forget(choice)
            choice = self._choose()
            stamp = choice.watch.begin()
        self._choice, self._begin = choice, stamp
        return self

    def end(self) -> Measurement:
        """Close the window.

        Raises:
            MeterError: It is not open.
        """
        choice, begin = self._opened()
        try:
            if self._synchronize is not None:
                self._synchronize()
        finally:
            self._choice = self._begin = None
            stamp = choice.watch.end()
            self._measurement = self._result(choice, begin, stamp)
        if self._on_end is not None:
            self._on_end(self._measurement)
        return self._measurement

    def read(self) -> Measurement:
        """What the open window has cost so far.

        Raises:
            MeterError: It is not open.
        """
        choice, begin = self._opened()
        return self._result(choice, begin, choice.watch.poll())

    def _result(self, choice: Choice, begin: Stamp, end: Stamp) -> Measurement:
        return result(self.label, choice, begin, end, begin_unix_s=self._begin_unix_s, idle=self._idle)

    def _choose(self) -> Choice:
        return choose(self._options["meter"], require_measured=self._options["require_measured"])

    def _opened(self) -> tuple[Choice, Stamp]:
        if self._choice is None or self._begin is None:
            raise MeterError(f"window {self.label!r} is not open; enter it with 'with' or begin()")
        return self._choice, self._begin

    @property
    def measurement(self) -> Measurement:
        """The finished measurement; of a decorated function, that of its last call.

        Raises:
            MeterError: No window has ended yet.
        """
        if self._measurement is None:
            raise MeterError(f"window {self.label!r} has not ended yet; read() tells what it has cost so far")
        return self._measurement

    def __enter__(self) -> "Window":
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    async def __aenter__(self) -> "Window":
        return self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def __del__(self) -> None:
        if getattr(self, "_choice", None) is not None:  # begun and never ended: nobody is left to read it
            self._opened()[0].watch.leave()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Measure every call of a function or coroutine function, each in a window of its own.

        Raises:
            UsageError: It is a generator function, whose body runs after the call.
        """

        import inspect  # a third of this module's import time, and only decorators need it

        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"{function.__name__} is a generator: its body runs after the call; use 'with bj.measure()' inside it"
            )

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def measured_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self._call(function.__name__):
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", measured_coroutine)

        @wraps(function)
        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._call(function.__name__):
                return function(*args, **kwargs)

        return measured

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        window = Window(self.label or name, **self._options)
        try:
            with window:
                yield
        finally:
            self._measurement = window._measurement or self._measurement

    @property
    def energy_j(self) -> float:
        """Energy of the window, each joule counted once. [J]"""
        return self.measurement.energy_j

    @property
    def energy_low_j(self) -> float:
        """Lower end of the central 90 % interval. [J]"""
        return self.measurement.energy_low_j

    @property
    def energy_high_j(self) -> float:
        """Upper end of the central 90 % interval. [J]"""
        return self.measurement.energy_high_j

    @property
    def net_energy_j(self) -> float | None:
        """What the window added to an idle machine; None without `idle`. [J]"""
        return self.measurement.net_energy_j

    @property
    def net_energy_low_j(self) -> float | None:
        """Lower end of the net energy's interval. [J]"""
        return self.measurement.net_energy_low_j

    @property
    def net_energy_high_j(self) -> float | None:
        """Upper end of the net energy's interval. [J]"""
        return self.measurement.net_energy_high_j

    @property
    def duration_s(self) -> float:
        """Length of the window. [s]"""
        return self.measurement.duration_s

    @property
    def power_w(self) -> float:
        """Mean power of the window. [W]"""
        return self.measurement.power_w

    @property
    def domains(self) -> dict[str, float]:
        """Energy of every domain seen. [J]"""
        return self.measurement.domains

    @property
    def summed(self) -> tuple[str, ...]:
        """The domains that add up to `energy_j`."""
        return self.measurement.summed

    @property
    def source(self) -> str:
        """`measured` or `estimated`."""
        return self.measurement.source

    @property
    def method(self) -> str:
        """The meter, in words."""
        return self.measurement.method

    @property
    def counter_step_j(self) -> float | None:
        """The step of the counters summed; None where there is no counter. [J]"""
        return self.measurement.counter_step_j

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know."""
        return self.measurement.notes

    def split(
        self, estimate: "Estimate", *, by: str = "module", profiler: "profile | None" = None
    ) -> list[dict[str, Any]]:
        """What each module (or op) of a model cost: this total in an estimate's shares, see `budjoule.energy.split`."""
        return self.measurement.split(estimate, by=by, profiler=profiler)

    def to_dict(self) -> dict[str, Any]:
        """The measurement as plain data, ready for JSON."""
        return self.measurement.to_dict()
