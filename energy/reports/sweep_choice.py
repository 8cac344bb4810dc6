"""Shows what a sweep's goal chooses: the setting, what would run otherwise, and the saving with its interval."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from budjoule.energy.choice import Choice
from budjoule.energy.reports.sweep import columns, point_table, setting, title
from budjoule.energy.reports.words import clean, percent
from budjoule.energy.sweep import Sweep


def render_choices(sweep: Sweep, choices: Sequence[Choice], console: Console, *, budget_j: float | None = None) -> None:
    """Print the chosen setting of each device beside the default and the quickest.

    Args:
        sweep: The settings that were tried.
        choices: What was chosen of them.
        console: Where to print.
        budget_j: An energy that steps are counted in. [J]
    """
    shown = columns(sweep, budget_j, brief=True)
    console.print(title(sweep), style="bold")
    for choice in choices:
        quickest = min(sweep.of(choice.point.estimate.device), key=lambda p: (p.example_duration_s, p.example_energy_j))
        console.print()
        for line in choice_lines(sweep, choice):
            console.print(line)
        rows = [
            (choice.point, "chosen", ""),
            (choice.default, "as given", "dim"),
            (quickest, "quickest", "dim"),
        ]
        console.print(point_table(shown, rows))
    console.print()
    if any(p.estimate.power_limited for c in choices for p in (c.point, c.default)):
        console.print("* lowered to meet the power limit", style="dim")
    for note in sweep.notes:
        console.print(Text.assemble(("note  ", "yellow"), clean(note)))


def choice_lines(sweep: Sweep, choice: Choice) -> list[str]:
    """A choice in words: the setting, then what it saves."""
    device, status = choice.point.estimate.device, choice.point.estimate.status
    return [
        f"{clean(device)} ({clean(status)}), {choice.goal.words}: {setting(sweep, choice.point)}",
        f"{_saving(choice)} and {_time(choice.slowdown_frac)} than {setting(sweep, choice.default)}, as given",
    ]


def _saving(choice: Choice) -> str:
    if choice.saving_low_frac == choice.saving_high_frac:
        return "no less energy"
    low, high = (f"{100 * end:.1f}" for end in (choice.saving_low_frac, choice.saving_high_frac))
    return f"{100 * choice.saving_frac:.1f} % less energy (90 % interval {low} to {high} %)"


def _time(slowdown_frac: float) -> str:
    if abs(slowdown_frac) < 0.0005:
        return "no more time"
    return f"{percent(abs(slowdown_frac))} {'more' if slowdown_frac > 0 else 'less'} time"
