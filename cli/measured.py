"""What `budjoule measure` prints: the lines of a measurement, and the document of a refusal."""

from pathlib import Path
from typing import Any

from budjoule.cli.output import note
from budjoule.energy.measurement import SCHEMA, Measurement
from budjoule.energy.units import seconds, show, watts
from budjoule.energy.windows.live import Sample

_NOT_RUN = "no counter measures energy here, and --require-measured refuses an estimate: the command was not run"
_FIGURES = ("begin_unix_s", "energy_j", "energy_low_j", "energy_high_j", "duration_s", "power_w", "counter_step_j")
_IDLE_FIGURES = ("idle_w", "net_energy_j", "net_energy_low_j", "net_energy_high_j")


def lines(measurement: Measurement, output: Path | None) -> str:
    """A measurement for people: total, net, domains, notes, and what to run next."""
    rows = [str(measurement)]
    idle = measurement.idle
    if idle is not None:
        interval = f"{show(measurement.net_energy_low_j, 'J')} to {show(measurement.net_energy_high_j, 'J')}"
        rows.append(
            f"  net {show(measurement.net_energy_j, 'J')} ({interval}) above an idle of {show(idle.power_w, 'W')}"
        )
    width = max(map(len, measurement.domains), default=0)
    for name, energy_j in measurement.domains.items():
        aside = "" if name in measurement.summed else "  (shown, not added)"
        rows.append(f"  {name:<{width}}  {show(energy_j, 'J'):>8}{aside}")
    rows += [f"  note: {note}" for note in measurement.notes]
    keep = "budjoule measure -o FILE -- CMD keeps the numbers for budjoule report"
    rows.append(f"next: {f'budjoule report {output}' if output else keep}")
    return "\n".join(rows)


def idle_power(text: str | None, meter: str | None, require_measured: bool) -> Measurement | float | None:
    """The idle power that was given, or measured now."""
    if text is None:
        return None
    if text.rstrip().endswith("W"):
        return watts(text)
    from budjoule.energy.windows.idle import measure_idle

    duration_s = seconds(text)
    note(f"measuring the idle machine for {show(duration_s, 's')}")
    return measure_idle(duration_s, meter=meter, require_measured=require_measured)


def live_line(sample: Sample) -> str:
    """One interval of a window that is still open."""
    figures = f"{show(sample.power_w, 'W'):>8}  {show(sample.total_j, 'J'):>8} so far ({sample.source})"
    return f"{show(sample.elapsed_s, 's'):>8}  {figures}"


def unmet(label: str) -> dict[str, Any]:
    """The document of a refusal: nothing was measured, and the command was not run."""
    return {
        "schema": SCHEMA,
        "label": label,
        **dict.fromkeys((*_FIGURES, *_IDLE_FIGURES)),
        "domains": {},
        "summed": [],
        "source": None,
        "method": None,
        "notes": [_NOT_RUN],
        "exit_code": None,
    }
