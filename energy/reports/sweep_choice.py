"""Shows what a goal chooses of a sweep: the setting, what would run otherwise, and the saving with its interval."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from budjoule.energy.reports.facts import Fact
from budjoule.energy.reports.sweep import columns, point_fact, point_table, render_sweep, setting, sweep_page, title
from budjoule.energy.reports.words import clean, percent
from budjoule.energy.whatif.budget import Budget
from budjoule.energy.whatif.choice import Choice
from budjoule.energy.whatif.sweep import Sweep


def render_choices(sweep: Sweep, choices: Sequence[Choice], console: Console, *, budget: Budget | None = None) -> None:
    """Print the chosen setting of each device beside the default and the quickest.

    Args:
        sweep: The settings that were tried.
        choices: What was chosen of them.
        console: Where to print.
        budget: An energy that steps and epochs are counted in.
    """
    shown = columns(sweep, budget, brief=True)
    console.print(title(sweep), style="bold")
    for choice in choices:
        quickest = min(
            sweep.usable(choice.point.estimate.device), key=lambda p: (p.example_duration_s, p.example_energy_j)
        )
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
        f"{_energy(choice)}{_bounds(choice)} and {_time(choice)} than {setting(sweep, choice.default)}, as given",
    ]


def render_swept(sweep: Sweep, choices: Sequence[Choice], console: Console, *, budget: Budget | None = None) -> None:
    """Print a sweep, or what was chosen of it where something was."""
    if choices:
        render_choices(sweep, choices, console, budget=budget)
    else:
        render_sweep(sweep, console, budget=budget)


def swept_page(sweep: Sweep, choices: Sequence[Choice], *, budget: Budget | None = None) -> str:
    """The page of a sweep, opened by what was chosen of it where something was."""
    if choices:
        return choices_page(sweep, choices, budget=budget)
    return sweep_page(sweep, budget=budget)


def choices_page(sweep: Sweep, choices: Sequence[Choice], *, budget: Budget | None = None) -> str:
    """The page of a sweep, opened by what its goal chose."""
    lead = [f"{choices[0].goal.words[0].upper()}{choices[0].goal.words[1:]}"] + [
        f"On {clean(c.point.estimate.device)}, {setting(sweep, c.point)}: {_energy(c)} than as given" for c in choices
    ]
    chosen = {
        choice.point.estimate.device: (
            point_fact(sweep, "chosen", choice.point),
            point_fact(sweep, "as given", choice.default),
            Fact(
                label="energy, chosen against given",
                value=_energy(choice).removesuffix(" energy"),
                detail="; ".join(part for part in (_bounds(choice).strip(" ()"), _time(choice)) if part),
            ),
        )
        for choice in choices
    }
    return sweep_page(sweep, budget=budget, lead=lead, chosen=chosen)


def _energy(choice: Choice) -> str:
    if choice.saving_frac == 0:
        return "no less energy"
    return f"{percent(abs(choice.saving_frac))} {'less' if choice.saving_frac > 0 else 'more'} energy"


def _bounds(choice: Choice) -> str:
    if choice.saving_low_frac == choice.saving_high_frac:
        return ""
    low, high = sorted(
        end if choice.saving_frac >= 0 else -end for end in (choice.saving_low_frac, choice.saving_high_frac)
    )
    return f" (90 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def _time(choice: Choice) -> str:
    if abs(choice.slowdown_frac) < 0.0005:
        return "no more time"
    return f"{percent(abs(choice.slowdown_frac))} {'more' if choice.slowdown_frac > 0 else 'less'} time"
