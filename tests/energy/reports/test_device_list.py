"""Laws of the screen of one profile: what it rests on, how wrong it was on what, and what it has never seen."""

from dataclasses import replace
from io import StringIO
from typing import Any

from rich.console import Console

import budjoule as bj
from budjoule.energy.reports.device_list import render_profile


def screen(provenance: dict[str, Any]) -> str:
    profile = replace(bj.load_profile("a100-pcie-40gb"), provenance=provenance)
    console = Console(file=StringIO(), width=120)
    render_profile(profile, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_screen_names_what_no_run_stands_behind() -> None:
    text = screen({"modes": ["inference"], "precisions": ["bf16", "fp32", "tf32", "fp16", "int8"]})
    (line,) = (line for line in text.splitlines() if "never seen there" in line)
    assert line.split()[3:] == ["training,", "fp64"]


def test_screen_of_a_profile_that_does_not_say_claims_nothing() -> None:
    assert "never seen" not in screen({"source": "a datasheet"})


def test_screen_of_a_forecast_says_that_it_has_seen_nothing_there() -> None:
    for name in ("khadas-vim4", "quadro-rtx-6000", "gpu-generic"):
        console = Console(file=StringIO(), width=120)
        render_profile(bj.load_profile(name), console)
        assert "anything: no run on this device" in console.file.getvalue()  # type: ignore[attr-defined]


def test_screen_tells_errors_by_model_and_shows_what_is_not_known_as_empty() -> None:
    text = screen(
        {
            "in_sample": {"runs": 12, "energy_error_frac": 0.031},
            "leave_one_family_out": {
                "energy_error_frac": 0.07,
                "time_error_frac": 0.08,
                "coverage_frac": 0.654,
                "energy_error_frac_by_model": {"resnet50": 0.123},
            },
        }
    )
    lines = [line.split() for line in text.splitlines()]
    assert ["in", "sample", "3.1", "%", "12"] in lines
    assert ["leave", "one", "family", "out", "7.0", "%", "8.0", "%", "65.4", "%"] in lines
    assert ["resnet50", "12.3", "%"] in lines


def test_screen_tells_how_far_a_limit_lowers_the_clock() -> None:
    assert "limit 250 W, under which the clock falls to 210 MHz at the lowest" in " ".join(screen({}).split())
