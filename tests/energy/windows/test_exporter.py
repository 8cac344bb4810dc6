"""The Prometheus endpoint: counters that a scrape reads, loopback by default, refusals with the remedy."""

import sys
import urllib.request
from collections.abc import Iterator

import pytest

import budjoule as bj
from budjoule.energy.errors import UsageError
from budjoule.energy.meters.meter import Domain
from budjoule.energy.meters.replay import ReplayMeter
from budjoule.energy.windows.exporter import Exporter
from budjoule.energy.windows.window import Window

prometheus = pytest.importorskip("prometheus_client.parser")


@pytest.fixture
def window() -> Iterator[Window]:
    domains = [Domain(name="package-0"), Domain(name="core-0", parent="package-0", counts=False)]
    with bj.measure(meter=ReplayMeter(domains, [[0.0, 0.0], [7.0, 3.0], [9.0, 4.0]]), idle=0.0) as m:
        yield m


def scrape(url: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    with urllib.request.urlopen(url, timeout=30) as reply:
        text = reply.read().decode()
    families = prometheus.text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_scrape_reads_the_meter_and_tells_every_domain(window: Window) -> None:
    with Exporter(window.read, port=0) as exporter:
        first, second = scrape(exporter.url), scrape(exporter.url)
    assert exporter.url == f"http://127.0.0.1:{exporter.port}/metrics"
    assert first["budjoule_energy_joules_total", "measured"] == 7.0
    assert second["budjoule_energy_joules_total", "measured"] == 9.0
    assert second["budjoule_domain_energy_joules_total", "true", "package-0"] == 9.0
    assert second["budjoule_domain_energy_joules_total", "false", "core-0"] == 4.0
    low, high = second[("budjoule_energy_low_joules",)], second[("budjoule_energy_high_joules",)]
    assert low <= 9.0 <= high
    assert second[("budjoule_net_energy_joules",)] == 9.0
    assert second[("budjoule_window_seconds_total",)] > first[("budjoule_window_seconds_total",)] > 0


def test_scrape_after_the_windows_end_has_no_numbers_and_no_error() -> None:
    ended = bj.measure(meter=ReplayMeter([Domain(name="a")], [[0.0]]))
    with Exporter(ended.read, port=0) as exporter:
        assert scrape(exporter.url) == {}


def test_port_in_use_and_missing_package_are_refused_with_the_remedy(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Exporter(window.read, port=0) as exporter,
        pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {exporter.port}"),
    ):
        Exporter(window.read, port=exporter.port)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"pip install 'budjoule\[prometheus\]'"):
        Exporter(window.read, port=0)
