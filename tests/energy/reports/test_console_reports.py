"""Terminal reports: golden screens, plain text from hostile records, and every terminal.

After a change on purpose, write the screens anew: `BUDJOULE_GOLDEN=write pytest tests/energy/reports`.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from budjoule.energy.estimate import Estimate
from budjoule.energy.reports.console import render_estimates
from budjoule.energy.reports.records import load_records
from budjoule.energy.reports.reporters import REPORTERS, render_records
from budjoule.energy.reports.run_console import sparkline
from budjoule.energy.units import show

GOLDEN = Path(__file__).parent / "golden"


def screen(render: Callable[[Console], None], width: int = 100) -> str:
    file = io.StringIO()
    render(Console(file=file, width=width, markup=False, highlight=False, color_system=None))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def assert_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("BUDJOULE_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_run_screen_is_golden(make_run: Callable[..., Path]) -> None:
    assert_golden("run.txt", REPORTERS["console"](load_records([make_run(clients=6)])))


def test_unfinished_run_screen_is_golden(make_run: Callable[..., Path]) -> None:
    assert_golden("unfinished.txt", REPORTERS["console"](load_records([make_run(clients=6, finished=False)])))


def test_comparison_screen_is_golden(make_run: Callable[..., Path]) -> None:
    folders = [make_run(name="paced", clients=6), make_run(name="fixed", clients=6, seed=1, scheduler="fixed-period")]
    assert_golden("comparison.txt", REPORTERS["console"](load_records(folders)))


def test_estimate_screen_is_golden(make_estimate: Callable[..., Estimate]) -> None:
    assert_golden("estimate.txt", screen(lambda console: render_estimates([make_estimate()], console)))


def test_estimates_screen_is_golden(make_estimate: Callable[..., Estimate]) -> None:
    pair = [make_estimate(), make_estimate(device="b-device", scale=3.0)]
    assert_golden("estimates.txt", screen(lambda console: render_estimates(pair, console)))


def test_an_estimate_read_back_shows_the_same(make_estimate: Callable[..., Estimate], tmp_path: Path) -> None:
    estimate = make_estimate()
    (tmp_path / "e.json").write_text(json.dumps(estimate.to_dict()))
    fresh = screen(lambda console: render_estimates([estimate], console))
    assert screen(lambda console: render_records(load_records([tmp_path / "e.json"]), console)) == fresh


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_width_keeps_the_headline(make_run: Callable[..., Path], width: int) -> None:
    records = load_records([make_run()])
    text = screen(lambda console: render_records(records, console), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "energy spent" in text
    assert "overspent clients" in text


def test_control_characters_and_markup_are_printed_as_text(make_run: Callable[..., Path]) -> None:
    folder = make_run(names={0: "\x1b[2J[bold red]x[/]"}, device="\x07\u202edevice\n")
    text = REPORTERS["console"](load_records([folder]))
    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert "[bold red]x[/]" in text.replace("\n", "")


def test_an_ascii_terminal_gets_ascii_bars(
    make_run: Callable[..., Path], make_estimate: Callable[..., Estimate]
) -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii", errors="replace", write_through=True), width=100)
    render_records(load_records([make_run()]), console)
    render_estimates([make_estimate()], console)
    text = raw.getvalue().decode("ascii")
    assert "##" in text
    assert "|- " in text


def test_sparkline_keeps_the_last_value_and_the_width() -> None:
    assert sparkline([0.0] * 99 + [1.0], 10) == "▁" * 9 + "█"
    assert len(sparkline([0.5] * 1000, 48)) == 48
    assert sparkline([], 5) == ""


def test_measurement_without_energy_is_no_zero(tmp_path: Path) -> None:
    record = {
        "schema": "budjoule.measurement/1",
        "energy_j": None,
        "duration_s": None,
        "source": None,
        "method": "none",
    }
    (tmp_path / "m.json").write_text(json.dumps(record))
    text = REPORTERS["console"](load_records([tmp_path / "m.json"]))
    assert show(None, "J") in text
    assert "0 J" not in text
