"""Shows a sweep: a table on a terminal; on a page also time against energy, with the efficient settings joined."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from budjoule.energy.reports.facts import Fact
from budjoule.energy.reports.page import render
from budjoule.energy.reports.plot import Chart, Series, series
from budjoule.energy.reports.scales import Scale, scale
from budjoule.energy.reports.words import clean, percent, plural
from budjoule.energy.units import show
from budjoule.energy.whatif.budget import Budget
from budjoule.energy.whatif.sweep import Point, Sweep

SCREEN_ROWS = 40
PAGE_ROWS = 1000
COLOURS = 8
AXIS_WORDS = {"batch": "batch size", "clock-mhz": "clock", "power-limit-w": "power limit"}


def render_sweep(sweep: Sweep, console: Console, *, budget: Budget | None = None) -> None:
    """Print the settings, the efficient ones alone where there are many, and the best of each device.

    Args:
        sweep: What to show.
        console: Where to print.
        budget: An energy that steps and epochs are counted in.
    """
    shown_columns = columns(sweep, budget, brief=True)
    console.print(title(sweep), style="bold")
    shown: list[Point] = []
    for device in sweep.devices:
        points = sweep.of(device)
        if len(sweep.points) > SCREEN_ROWS:
            points = _thinned([point for point in points if point.efficient], max(5, SCREEN_ROWS // len(sweep.devices)))
        if len(sweep.devices) > 1:
            console.print()
            console.print(Text.assemble((clean(device), "bold"), (f" {clean(points[0].estimate.status)}", "dim")))
        rows = [(point, _mark(sweep, point, brief=True), "" if point.efficient else "dim") for point in points]
        console.print(point_table(shown_columns, rows))
        shown += points
    _print_legend(sweep, shown, console, budget)
    for device in sweep.devices:
        for line in best_lines(sweep, device):
            console.print(line)
    for note in sweep.notes:
        console.print(Text.assemble(("note  ", "yellow"), clean(note)))


def point_table(shown: Mapping[str, Callable[[Point], str]], rows: Sequence[tuple[Point, str, str]]) -> Table:
    """Settings as a table for a terminal: each a point, what it is and its style."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for name in shown:
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    for point, mark, style in rows:
        made.add_row(*(Text(clean(cell(point)), style=style) for cell in shown.values()), Text(mark, style="green"))
    return made


def _print_legend(sweep: Sweep, points: Sequence[Point], console: Console, budget: Budget | None) -> None:
    if any(point.estimate.power_limited for point in points):
        console.print("* lowered to meet the power limit", style="dim")
    if budget is not None:
        what = "steps" if budget.epoch_examples is None else f"epochs of {budget.epoch_examples:,} examples"
        console.print(f"{what}: as many as fit in {show(budget.energy_j, 'J')}; --json has the interval", style="dim")
    console.print("efficient: no other setting that fits needs less energy without needing more time", style="dim")
    console.print("least J: least energy; least J·s: least energy x time", style="dim")
    if len(points) < len(sweep.points):
        console.print(
            f"{len(points)} of {len(sweep.points)} settings shown, all efficient; -o FILE.html has the others"
        )
    console.print()


def best_lines(sweep: Sweep, device: str) -> list[str]:
    """What to choose on a device, in words, each beside the quickest setting."""
    quickest = min(sweep.usable(device), key=lambda p: (p.example_duration_s, p.example_energy_j))
    lines = []
    for name, words in (("energy", "least energy"), ("energy_delay", "least energy x time")):
        point = sweep.best(device)[name]
        less = percent(1 - point.example_energy_j / quickest.example_energy_j)
        more = percent(point.example_duration_s / quickest.example_duration_s - 1)
        beside = (
            "which is also the quickest"
            if point is quickest
            else f"{less} less energy and {more} more time than the quickest"
        )
        lines.append(f"{clean(device)}, {words}: {setting(sweep, point)}, {beside}")
    return lines


def setting(sweep: Sweep, point: Point) -> str:
    """A setting in words: the axes that were varied."""
    said = {
        "batch": f"batch {point.batch}",
        "clock-mhz": f"clock {show(point.estimate.clock_hz, 'Hz')}",
        "power-limit-w": f"limit {show(point.power_limit_w, 'W')}",
    }
    return ", ".join(said[name] for name in sweep.axes)


def sweep_page(
    sweep: Sweep,
    *,
    budget: Budget | None = None,
    lead: Sequence[str] = (),
    chosen: Mapping[str, Sequence[Fact]] | None = None,
) -> str:
    """The sweep as an HTML document.

    Args:
        sweep: What to show.
        budget: An energy that steps and epochs are counted in.
        lead: What to open with; the default is each device's setting of least energy.
        chosen: What a goal chose on each device, to stand before its best settings.
    """
    shown_columns = columns(sweep, budget)
    shown = _thinned(list(sweep.points), PAGE_ROWS)
    notes = list(sweep.notes)
    if len(shown) < len(sweep.points):
        notes.append(f"the table shows {len(shown)} of {len(sweep.points)} settings")
    return render(
        "sweep.html.j2",
        kind="Energy sweep",
        title=title(sweep),
        lead=" ".join(f"{line}." for line in lead or [best_lines(sweep, device)[0] for device in sweep.devices]),
        chart=chart(sweep),
        devices=[
            {"name": device, "facts": [*(chosen or {}).get(device, ()), *_facts(sweep, device)]}
            for device in sweep.devices
        ],
        columns=[*shown_columns, ""],
        rows=[[*(cell(point) for cell in shown_columns.values()), _mark(sweep, point)] for point in shown],
        notes=notes,
    )


def chart(sweep: Sweep) -> Chart:
    """Time against energy of every setting; a line joins each device's efficient ones."""
    noun = _noun(sweep)
    points = [p for device in sweep.devices for p in sweep.usable(device)]
    left_out = len(sweep.points) - len(points)
    x = scale(f"time of one {noun}", [_time(sweep, p) for p in points], "s")
    y = scale(f"energy of one {noun}", [_energy(sweep, p) for p in points], "J")
    lines: list[Series] = []
    for index, device in enumerate(sweep.devices):
        colour = index % COLOURS
        others = [p for p in sweep.usable(device) if not p.efficient]
        lines.append(
            series(device, [_place(sweep, p, x, y) for p in sweep.frontier(device)], x.axis, y.axis, colour=colour)
        )
        dots = series("", [_place(sweep, p, x, y) for p in others], x.axis, y.axis, colour=colour).dots
        lines.append(Series(name="", path="", dots=dots, colour=colour))
    return Chart(
        title="Time against energy",
        description=f"{plural(len(points), 'setting')}. "
        + ". ".join(line for d in sweep.devices for line in best_lines(sweep, d))
        + ".",
        x=x.axis,
        y=y.axis,
        series=tuple(lines),
        legend=tuple((device, index % COLOURS) for index, device in enumerate(sweep.devices)),
        note="The line joins the efficient settings: no other needs less energy without needing more time. Point at a dot to see its setting."
        + (
            f" {plural(left_out, 'setting')} that a device's memory cannot hold {'is' if left_out == 1 else 'are'} left out."
            if left_out
            else ""
        ),
    )


def _place(sweep: Sweep, point: Point, x: Scale, y: Scale) -> tuple[float, float, str]:
    time_s, energy_j = _time(sweep, point), _energy(sweep, point)
    said = (
        f"{point.estimate.device}, {setting(sweep, point)}: {show(energy_j, 'J')}, {show(time_s, 's')} {_a_noun(sweep)}"
    )
    return x.at(time_s), y.at(energy_j), said


def _noun(sweep: Sweep) -> str:
    """Steps of different batch sizes do different work, so then it is an example that is compared."""
    return "example" if "batch" in sweep.axes else "step"


def _a_noun(sweep: Sweep) -> str:
    return "an example" if "batch" in sweep.axes else "a step"


def _time(sweep: Sweep, point: Point) -> float:
    return point.example_duration_s if "batch" in sweep.axes else point.estimate.duration_s


def _energy(sweep: Sweep, point: Point) -> float:
    return point.example_energy_j if "batch" in sweep.axes else point.estimate.energy_j


def title(sweep: Sweep) -> str:
    """What was swept, in a line."""
    work = sweep.points[0].estimate.work
    kind = f"{work.mode} with {work.optimizer}" if work.optimizer else work.mode
    where = f" on {sweep.devices[0]}" if len(sweep.devices) == 1 else ""
    axes = " and ".join(AXIS_WORDS[name] for name in sweep.axes)
    return clean(f"{work.model}{where}, {kind}, {work.precision}, one {_noun(sweep)}, by {axes}")


def columns(sweep: Sweep, budget: Budget | None, *, brief: bool = False) -> Mapping[str, Callable[[Point], str]]:
    """What a table of settings shows: a heading and the text of a point."""
    made: dict[str, Callable[[Point], str]] = {}
    if not brief:
        made["device"] = lambda p: p.estimate.device
    if "batch" in sweep.axes:
        made["batch"] = lambda p: str(p.batch)
    if "power-limit-w" in sweep.axes:
        made["limit"] = lambda p: show(p.power_limit_w, "W")
    if set(sweep.axes) - {"batch"}:
        made["clock"] = lambda p: show(p.estimate.clock_hz, "Hz") + ("*" if p.estimate.power_limited else "")
    made["energy"] = lambda p: show(_energy(sweep, p), "J")
    if brief:  # the interval is symmetric in logarithms, so one factor says it
        made["90 %"] = lambda p: f"×÷ {p.estimate.energy_high_j / p.estimate.energy_j:.2f}"
    else:
        made["90 % interval"] = lambda p: _interval(p, p.batch if "batch" in sweep.axes else 1)
    made["time"] = lambda p: show(_time(sweep, p), "s")
    if not (brief and "power-limit-w" in sweep.axes):  # where the limit binds it is the power
        made["power"] = lambda p: show(p.estimate.power_w, "W")
    if budget is not None:
        within = "" if brief else f" in {show(budget.energy_j, 'J')}"
        if budget.epoch_examples is None:
            made[f"steps{within}"] = lambda p: f"{budget.fitting(p.estimate)['steps']:,}"
        else:
            made[f"epochs{within}"] = lambda p: f"{budget.fitting(p.estimate)['epochs']:.3g}"
    return made


def _interval(point: Point, share: int) -> str:
    low, high = point.estimate.energy_low_j / share, point.estimate.energy_high_j / share
    return f"{show(low, 'J')} to {show(high, 'J')}"


def _mark(sweep: Sweep, point: Point, *, brief: bool = False) -> str:
    if not point.fits:
        return "too large" if brief else "does not fit in memory"
    best = sweep.best(point.estimate.device)
    least = [name for name in ("energy", "energy_delay") if best[name] is point]
    if not least:
        return "efficient" if point.efficient else ""
    words = {"energy": "J", "energy_delay": "J·s"} if brief else {"energy": "energy", "energy_delay": "energy x time"}
    return f"least {', '.join(words[name] for name in least)}"


def _facts(sweep: Sweep, device: str) -> list[Fact]:
    best = sweep.best(device)
    quickest = min(sweep.usable(device), key=lambda p: (p.example_duration_s, p.example_energy_j))
    rows = (("least energy", best["energy"]), ("least energy x time", best["energy_delay"]), ("least time", quickest))
    return [point_fact(sweep, label, p) for label, p in rows]


def point_fact(sweep: Sweep, label: str, point: Point) -> Fact:
    """A setting as a figure of the page."""
    return Fact(
        label=label,
        value=f"{show(_energy(sweep, point), 'J')}, {show(_time(sweep, point), 's')}",
        detail=f"{_a_noun(sweep)} at {setting(sweep, point)}",
    )


def _thinned(points: Sequence[Any], most: int) -> list[Any]:
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
