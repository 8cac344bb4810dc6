"""Pages: self-contained, well-formed, safe from what a record holds, and true to its sums."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from budjoule.energy.estimate import Estimate
from budjoule.energy.reports.bars import MOST_BARS, sends_by_client, spending_by_client
from budjoule.energy.reports.charts import MOST_DOTS, timeline
from budjoule.energy.reports.records import load_records
from budjoule.energy.reports.reporters import REPORTERS
from budjoule.energy.reports.run_folder import load_run
from budjoule.energy.reports.words import tied
from budjoule.energy.units import show

MakeRun = Callable[..., Path]
VOID = {"meta", "link", "br", "hr", "img", "input"}
ATTACK = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{'zq'*3}}"


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(*paths: Path) -> tuple[Page, str]:
    text = REPORTERS["html"](load_records(paths))
    return Page(text), text


def assert_loads_nothing(page: Page, text: str) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "img", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action"):
                assert value == "data:,"
    assert not re.search(r"https?://|@import|url\(|javascript:", text)


@pytest.mark.parametrize("clients", [0, 1, 20, 120])
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_page_is_self_contained_and_well_formed(make_run: MakeRun, clients: int, finished: bool) -> None:
    page, text = page_of(make_run(clients=clients, finished=finished))
    assert_loads_nothing(page, text)
    assert ("unfinished" in text) is not finished


def test_a_run_page_shows_every_client_and_the_summary(make_run: MakeRun) -> None:
    folder = make_run()
    page, _ = page_of(folder)
    run = load_run(folder)
    words = "".join(page.text)
    for row in run.clients:
        assert f"client {row.client}" in page.text
        assert show(row.spent_j, "J") in page.text
    for cause, energy_j in run.totals.spent_by_cause_j.items():
        assert cause in page.text
        assert tied(show(energy_j, "J")) in page.text
    assert "estimated: simulated on profile raspberry-pi-5, link wifi-pi" in words
    for label in ("energy spent, all clients [kJ]", "simulated time [min]", "accuracy, held-out examples [%]"):
        assert label in page.text
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if attributes.get("role") == "img")


def test_an_empty_run_has_a_page(make_run: MakeRun) -> None:
    folder = make_run(clients=0, evaluations=0, finished=False)
    (folder / "events.jsonl").write_text("")
    page, text = page_of(folder)
    assert_loads_nothing(page, text)
    assert "Nothing was evaluated." in page.text


def test_names_from_a_run_cannot_inject(make_run: MakeRun) -> None:
    hostile = make_run(name="run <script>", names={0: ATTACK, 1: "a & b"}, device=ATTACK, scheduler=ATTACK)
    page, text = page_of(hostile)
    assert_loads_nothing(page, text)
    assert ATTACK in page.text
    assert "zqzqzq" not in text
    page, text = page_of(hostile, make_run(name="other"))
    assert_loads_nothing(page, text)


def test_several_runs_are_overlaid_and_their_differences_listed(make_run: MakeRun) -> None:
    page, text = page_of(
        make_run(name="paced", scheduler="price-threshold"), make_run(name="fixed", seed=1, scheduler="fixed-period")
    )
    assert_loads_nothing(page, text)
    words = page.text
    assert words.count("paced") >= 3
    assert {"schedule.policy", "price-threshold", "fixed-period"} <= set(words)
    assert "task.data" not in words


def test_bars_add_up_to_what_was_spent(make_run: MakeRun) -> None:
    run = load_run(make_run(clients=30))
    chart = spending_by_client(run.clients)
    drawn_j = sum(part.size_percent for bar in chart.bars for part in bar.segments) / 100 * chart.axis.high
    assert drawn_j == pytest.approx(run.totals.spent_j)
    assert all(bar.limit_percent is not None and 0 <= bar.limit_percent <= 100.0001 for bar in chart.bars)
    assert all(part.start_percent + part.size_percent <= 100.0001 for bar in chart.bars for part in bar.segments)


def test_a_fleet_of_thousands_keeps_the_page_small(make_run: MakeRun) -> None:
    folder = make_run(clients=2500)
    run = load_run(folder)
    chart, dots = spending_by_client(run.clients), timeline(run)
    assert len(chart.bars) <= MOST_BARS
    assert len(sends_by_client(run).bars) <= MOST_BARS
    assert len(dots.dots) <= MOST_DOTS
    assert "left out" in dots.note
    _, text = page_of(folder)
    assert len(text) < 3_000_000


def test_an_overspent_client_stands_out(make_run: MakeRun) -> None:
    folder = make_run(clients=2)
    summary = json.loads((folder / "summary.json").read_text())
    summary["by_client"][0] |= {"spent_j": 450.0, "overspent_j": 50.0}
    summary["overspent_clients"] = 1
    (folder / "summary.json").write_text(json.dumps(summary))
    page, text = page_of(folder)
    assert any(attributes.get("class") == "bar-total alarm" for _, attributes in page.tags)
    assert "overspent by 50.0 J" in text


def test_estimate_pages_hold_devices_and_modules(make_estimate: Callable[..., Estimate], tmp_path: Path) -> None:
    one, two = make_estimate(model=ATTACK), make_estimate(device="b-device", scale=2.0, hostile="<b>")
    (tmp_path / "two.json").write_text(json.dumps([one.to_dict(), two.to_dict()]))
    page, text = page_of(tmp_path / "two.json")
    assert_loads_nothing(page, text)
    assert {"a-device", "b-device", "aten.addmm"} <= {word.strip() for word in page.text}
    assert show(two.energy_j, "J") in page.text


def test_measurement_page_names_source_and_domains(tmp_path: Path) -> None:
    record = {"schema": "budjoule.measurement/1", "energy_j": 12.0, "energy_low_j": 11.0, "energy_high_j": 13.0}
    record |= {"duration_s": 2.0, "power_w": 6.0, "domains": {ATTACK: 12.0}, "source": "measured", "method": "RAPL"}
    (tmp_path / "m.json").write_text(json.dumps(record))
    page, text = page_of(tmp_path / "m.json")
    assert_loads_nothing(page, text)
    assert "measured: RAPL" in page.text
    assert ATTACK in page.text
    assert not any("net of an idle" in part for part in page.text)


def test_measurement_with_idle_tells_its_net_energy_on_page_and_console(tmp_path: Path) -> None:
    record = {"schema": "budjoule.measurement/1", "energy_j": 12.0, "duration_s": 2.0, "power_w": 6.0, "idle_w": 2.0}
    record |= {"net_energy_j": 8.0, "net_energy_low_j": 7.0, "net_energy_high_j": 9.0}
    (tmp_path / "m.json").write_text(json.dumps(record))
    page, _ = page_of(tmp_path / "m.json")
    assert any("net of an idle" in part for part in page.text)
    text = REPORTERS["console"](load_records([tmp_path / "m.json"]))
    assert "8.00 J" in text
    assert "above an idle of 2.00 W, 90 % interval 7.00 J to 9.00 J" in text
