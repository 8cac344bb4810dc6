"""A Prometheus endpoint for an open window: every scrape reads the meter and says what the window has cost so far.

Needs the package prometheus-client, which is imported when a server starts.
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from budjoule.energy.errors import MeterError, UsageError
from budjoule.energy.measurement import Measurement

LOOPBACK = "127.0.0.1"


class Exporter:
    """Serves a window's energy over HTTP while the block runs, at `/metrics`.

    ``budjoule_energy_joules_total`` is the energy since the window opened, each joule once: its `rate()` is the power in
    watts. ``budjoule_energy_low_joules`` and ``_high_joules`` are its central 90 % interval,
    ``budjoule_domain_energy_joules_total`` every domain, and ``budjoule_window_seconds_total`` the time.

    Args:
        read: What the window has cost so far.
        port: Where to listen; 0 for any free port.
        host: The address to listen on; whoever reaches it can read the power of this machine, so the default is loopback.

    Raises:
        UsageError: The package is missing, or the port cannot be listened on.
    """

    def __init__(self, read: Callable[[], Measurement], *, port: int, host: str = LOOPBACK) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise UsageError(
                "a Prometheus endpoint needs prometheus-client; install it with: pip install 'budjoule[prometheus]'"
            ) from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(read))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen on {host} port {port}: {error}; give another port or host") from None
        self.host, self.port = host, int(self._server.server_port)

    @property
    def url(self) -> str:
        """Where to scrape."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/metrics"

    def __enter__(self) -> "Exporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    def __init__(self, read: Callable[[], Measurement]) -> None:
        self._read = read

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        try:
            now = self._read()
        except MeterError:  # a scrape that came in as the window ended
            return
        meter = InfoMetricFamily("budjoule_meter", "How the energy is known.")
        meter.add_metric([], {"source": now.source, "method": now.method})
        yield meter
        yield CounterMetricFamily("budjoule_window_seconds", "Time since the window opened.", now.duration_s)
        total = CounterMetricFamily(
            "budjoule_energy_joules", "Energy since the window opened, each joule once.", labels=["source"]
        )
        total.add_metric([now.source], now.energy_j)
        yield total
        for end, energy_j in (("low", now.energy_low_j), ("high", now.energy_high_j)):
            help_text = f"The {end} end of the energy's central 90 % interval."
            yield GaugeMetricFamily(f"budjoule_energy_{end}_joules", help_text, energy_j)
        domains = CounterMetricFamily(
            "budjoule_domain_energy_joules", "Energy of a domain; those counted add up.", labels=["domain", "counted"]
        )
        for name, energy_j in now.domains.items():
            domains.add_metric([name, str(name in now.summed).lower()], energy_j)
        yield domains
        if now.net_energy_j is not None:
            yield GaugeMetricFamily("budjoule_net_energy_joules", "Energy above the idle machine's.", now.net_energy_j)
