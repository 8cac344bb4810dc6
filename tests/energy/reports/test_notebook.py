"""Laws of an estimate in a notebook: well-formed, escaped, with the numbers of the estimate."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import torch
from torch import nn

import budjoule as bj
from budjoule.energy.units import show


def estimate() -> bj.Estimate:
    net = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
    return bj.estimate(net, torch.empty(8, 64), device="cpu-generic", mode="training", optimizer="sgd")


def test_fragment_is_well_formed_and_holds_the_estimate() -> None:
    e = estimate()
    page = ET.fromstring(f"<div>{e._repr_html_().replace('<br>', '<br/>')}</div>")
    text = "".join(page.itertext())
    for said in (
        show(e.energy_j, "J"),
        show(e.energy_high_j, "J"),
        show(e.duration_s, "s"),
        "cpu-generic",
        "literature",
    ):
        assert said in text
    for note in e.notes:
        assert note in text
    assert {tag.tag for tag in page.iter()} <= {"div", "p", "b", "br", "small", "table", "tbody", "tr", "th", "td"}


def test_names_cannot_write_markup() -> None:
    e = estimate()
    shown = replace(e, device="<script>x</script>", notes=("<img src=x>",))._repr_html_()
    assert "<script" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;" in shown


def test_estimate_module_loads_no_report_before_one_is_shown() -> None:
    code = (
        "import sys, budjoule.energy.estimate as e; sys.exit(any('reports' in m or m == 'jinja2' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
