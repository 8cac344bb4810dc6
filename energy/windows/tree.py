"""Which domains make up a total, so that each joule is added once, and how wide the total's interval is."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.counter import Mark

_FEW_UPDATES = 10
# Whatever is measured moves its counter in so many updates; the least time is for those that are updated every millisecond.
_STILL_UPDATES, _STILL_S = 100, 2.0


class Span(NamedTuple):
    """One domain over one window: its energy and the interval around it.

    Args:
        energy_j: Energy counted. [J]
        low_j: Lower end of the central 90 % interval. [J]
        high_j: Upper end of the central 90 % interval. [J]
        step_j: The counter's step: by so much a reading may lie behind. [J]
        stepped: It moved, or the window is too short to expect it.
        seen: It was read after the window opened.
        works: It was, and it moved if the window lasted for many of its updates.
        sound: It was read at the window's end, without a reset, a gap or a late poll.
    """

    energy_j: float
    low_j: float
    high_j: float
    step_j: float
    stepped: bool
    seen: bool
    works: bool
    sound: bool


def span(domain: Domain, begin: Mark, end: Mark, *, begin_s: float, end_s: float) -> Span:
    """What a domain's counter says about one window.

    ``low = (E - over) (1 - error_low - blind) - step``, ``high = E (1 + error_high + blind) + step + unsure``: a reading is
    up to one update old at either end, so ``step = unit + P update``. P is the window's mean power, or the limit where the
    window is too short to know it. A sensor that looks at a share f of its n updates' time does not know the rest, in which
    the power of on-off work is as likely another one: ``blind = (1 - f) / sqrt(n)``.

    Args:
        domain: The domain.
        begin: The counter's books when the window opened.
        end: The books when it closed.
        begin_s: When the window opened. [s]
        end_s: When it closed. [s]
    """
    energy_j, unsure_j, duration_s = end.total_j - begin.total_j, end.unsure_j - begin.unsure_j, end_s - begin_s
    # What was booked at the first reading of a counter that could not be read when the window opened is not all its own.
    over_j = end.over_j - begin.over_j + domain.limit_w * (begin_s - begin.read_s)
    gone = _gone(begin, end, end_s)
    seen = not gone or end.read_s > begin_s
    long = duration_s >= _FEW_UPDATES * domain.update_s and duration_s > 0
    step_j = domain.unit_j + domain.update_s * (energy_j / duration_s if long else domain.limit_w)
    blind_frac = (1 - domain.sampled_frac) * math.sqrt(domain.update_s / max(duration_s, domain.update_s, 1e-9))
    stepped = domain.kind == "power" or end.steps != begin.steps
    if gone:
        unsure_j += domain.limit_w * (end_s - max(begin_s, end.read_s))
    elif not stepped:  # the counter says nothing: between no energy at all and the limit
        unsure_j = max(unsure_j, domain.limit_w * duration_s - step_j)
    return Span(
        energy_j,
        max(0.0, (energy_j - over_j) * (1 - min(1.0, domain.error_low_frac + blind_frac)) - step_j),
        energy_j * (1 + domain.error_high_frac + blind_frac) + step_j + unsure_j,
        step_j,
        stepped or not long,
        seen,
        seen and not _still(domain, begin, end, duration_s),
        not gone and end.resets == begin.resets and end.late == begin.late,
    )


def faults(domain: Domain, begin: Mark, end: Mark, *, begin_s: float, end_s: float) -> list[str]:
    """What went wrong with a domain in a window, in words; the arguments are those of `span`."""
    notes = []
    duration_s = end_s - begin_s
    known = "known within its interval only" if end.over_j > begin.over_j else "a lower bound"
    if gone := _gone(begin, end, end_s):
        seen_s = max(0.0, end.read_s - begin_s)
        notes.append(f"{domain.name} could not be read any more after {seen_s:.3g} s: its energy is a lower bound")
    if resets := end.resets - begin.resets:
        notes.append(f"{domain.name} was reset or charged {resets} time(s): its energy is {known}")
    if late := end.late - begin.late:
        late_s = end.late_s - begin.late_s
        notes.append(f"{domain.name} was read late {late} time(s), after {late_s:.3g} s in all: its energy is {known}")
    if domain.kind == "energy" and end.steps == begin.steps and not gone:
        notes.append(
            f"{domain.name} did not step in {duration_s:.3g} s: its energy is anything up to the interval's end"
        )
    elif domain.update_s and duration_s < _FEW_UPDATES * domain.update_s:
        notes.append(
            f"the window of {duration_s:.3g} s is short for {domain.name}, which is updated every {domain.update_s:.3g} s: "
            "measure several repetitions in one window"
        )
    return notes


def _gone(begin: Mark, end: Mark, end_s: float) -> bool:
    return end.gaps > begin.gaps and end.read_s < end_s


def _still(domain: Domain, begin: Mark, end: Mark, duration_s: float) -> bool:
    moved = end.steps > begin.steps if domain.kind == "energy" else end.total_j > begin.total_j
    return domain.update_s > 0 and not moved and duration_s >= max(_STILL_S, _STILL_UPDATES * domain.update_s)


def summed(domains: Sequence[Domain], spans: Mapping[str, Span]) -> tuple[str, ...]:
    """The domains whose energies make up the total.

    A domain stands in it when it counts, is believed, and nothing that contains it does. A domain with `checked_by` is
    believed where it moved, without a fault, at least as much as those domains together: psys reads 0 on some machines. A
    counter that stands still while another steps does not work (DRAM on many desktops) and is left out.

    Args:
        domains: All domains of the meter.
        spans: What each did in the window, by name.
    """
    believed: set[str] = set()
    alive = any(spans[domain.name].stepped for domain in domains if domain.counts)
    for domain in domains:
        if not domain.counts or (alive and not spans[domain.name].stepped and spans[domain.name].sound):
            continue
        if domain.checked_by:
            rivals_j = sum(spans[name].energy_j for name in domain.checked_by)
            if (
                not spans[domain.name].sound
                or spans[domain.name].energy_j < rivals_j
                or spans[domain.name].energy_j <= 0
            ):
                continue
        believed.add(domain.name)
    parents = {domain.name: domain.parent for domain in domains}

    def contained(name: str) -> bool:
        parent = parents[name]
        while parent is not None:
            if parent in believed:
                return True
            parent = parents.get(parent)
        return False

    return tuple(domain.name for domain in domains if domain.name in believed and not contained(domain.name))
