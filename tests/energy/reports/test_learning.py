"""Learning curves and budget paths: bands hold every seed's curve, paths rise to what was spent."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from budjoule.energy.reports.budget_path import (
    CLIENTS_A_SHEET,
    fleet_path,
    path_sheets,
    paths_by_client,
    spark_words,
    sparkline,
)
from budjoule.energy.reports.learning import accuracy_by_bytes, accuracy_by_energy, accuracy_by_time
from budjoule.energy.reports.rows import Send
from budjoule.energy.reports.run_folder import Run, load_run
from budjoule.energy.reports.run_page import run_page
from budjoule.energy.reports.spread import by_configuration

MakeRun = Callable[..., Path]


@pytest.fixture
def seeds(make_run: MakeRun) -> list[Run]:
    return [load_run(make_run(f"seed-{seed}", seed=seed, peak_frac=0.9 + seed / 50)) for seed in range(3)]


def corners(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


@pytest.mark.parametrize("curve", [accuracy_by_energy, accuracy_by_bytes, accuracy_by_time])
def test_seeds_become_one_mean_inside_its_band(seeds: list[Run], curve: Callable) -> None:
    chart = curve(by_configuration(seeds))
    assert len(chart.series) == len(chart.bands) == 1
    means, edges = corners(chart.series[0].path), corners(chart.bands[0].path)
    upper, lower = edges[: len(means)], edges[len(means) :][::-1]
    for (x, mean), (x_up, top), (x_low, bottom) in zip(means, upper, lower, strict=True):
        assert x == x_up == x_low
        assert top - 0.11 <= mean <= bottom + 0.11
    ends = [run.evaluations[-1].accuracy_frac for run in seeds]
    assert upper[-1][1] == pytest.approx(1000 * (1 - chart.y.share(max(ends))), abs=0.1)
    assert lower[-1][1] == pytest.approx(1000 * (1 - chart.y.share(min(ends))), abs=0.1)


def test_runs_of_other_configurations_keep_lines_and_colours_of_their_own(make_run: MakeRun, seeds: list[Run]) -> None:
    other = load_run(make_run("other", scheduler="every-block"))
    groups = by_configuration([*seeds, other])
    chart = accuracy_by_energy(groups)
    assert [line.colour for line in chart.series] == [0, 1]
    assert len(chart.bands) == 1
    assert chart.series[1].name == "other"
    assert "policy price-threshold" in groups[0].name


def with_spending(run: Run) -> Run:
    """Every send says what its client had spent, evenly growing to its total."""
    sends: list[Send] = []
    for row in run.clients:
        own = sorted((send for send in run.sends if send.client == row.client), key=lambda send: send.time_s)
        for number, send in enumerate(own, 1):
            sends.append(dataclasses.replace(send, spent_j=row.spent_j * number / (len(own) + 1)))
    return dataclasses.replace(run, sends=tuple(sorted(sends, key=lambda send: send.time_s)))


def test_paths_rise_to_what_each_client_spent(make_run: MakeRun) -> None:
    run = with_spending(load_run(make_run("run")))
    for row in run.clients:
        path = paths_by_client(run)[row.client]
        assert path == sorted(path)
        assert [joules for _, joules in path] == sorted(joules for _, joules in path)
        assert path[-1] == (run.totals.simulated_duration_s, row.spent_j)
        stair = re.findall(r"[HV](\d+)", sparkline(row, path, run.totals.simulated_duration_s or 0.0, 400.0))
        rights, downs = [int(at) for at in stair[:-1:2]], [int(at) for at in stair[1::2]]
        assert rights == sorted(rights)
        assert downs == sorted(downs, reverse=True)
        assert stair[-1] == "100"
        assert downs[-1] == pytest.approx(100 * (1 - row.spent_j / (row.budget_j or 1)), abs=0.6)
        assert f"{row.sends} sends" in spark_words(row, path)


def test_the_page_shows_a_path_for_every_client(make_run: MakeRun) -> None:
    run = with_spending(load_run(make_run("run")))
    assert run_page([run]).count('class="spark"') == len(run.clients)
    chart = fleet_path(by_configuration([run]))
    spent = sorted(row.spent_j for row in run.clients)
    assert chart.series[0].path.count("L") == 60
    assert f"{spent[len(spent) // 2]:.0f}" in chart.description


def test_any_client_of_a_large_fleet_has_its_path_on_the_page(make_run: MakeRun) -> None:
    run = with_spending(load_run(make_run("run", clients=2500)))
    sheets = path_sheets(run, paths_by_client(run))
    assert [len(sheet.clients) for sheet in sheets] == [CLIENTS_A_SHEET, CLIENTS_A_SHEET, 500]
    assert [name for sheet in sheets for name, _, _ in sheet.clients] == [str(row.client) for row in run.clients]
    page = run_page([run])
    assert all(f'<li>{name} <i>{spent}</i><svg viewBox="0 0 100 100"' in page for name, spent, _ in sheets[2].clients)
    assert len(page) < 2500 * 1000


def test_a_budget_far_beyond_does_not_flatten_the_paths(make_run: MakeRun) -> None:
    run = with_spending(load_run(make_run("run", clients=3)))
    row = dataclasses.replace(run.clients[0], budget_j=1e6)
    run = dataclasses.replace(run, clients=(row,))
    assert "V0H100" in sparkline(row, paths_by_client(run)[row.client], 3600.0, row.spent_j)
    assert "the most that any client spent" in run_page([run])
    assert "as high as its budget." in run_page(
        [dataclasses.replace(run, clients=(dataclasses.replace(row, budget_j=400.0),))]
    )


def test_paths_that_a_page_cannot_hold_are_counted(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(make_run("run", clients=1100))
    monkeypatch.setattr("budjoule.energy.reports.budget_path.MOST_PATHS", 1050)
    page = run_page([run])
    assert page.count("<li>1049 ") == 1
    assert "<li>1050 " not in page
    assert "50 clients more are not drawn" in page


def test_seeds_share_one_line_of_budgets(seeds: list[Run]) -> None:
    chart = fleet_path(by_configuration([with_spending(run) for run in seeds]))
    assert len(chart.series) == len(chart.bands) == 1
    assert chart.y.label == "spent by the median client [J]"


def test_an_unfinished_run_still_has_a_page(make_run: MakeRun) -> None:
    assert "Budgets over time" in run_page([load_run(make_run("begun", finished=False))])
