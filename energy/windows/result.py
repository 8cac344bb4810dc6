"""Turns two stamps of a watch into a `Measurement`: domains, total, interval and what the reader should know."""

from collections.abc import Sequence

from budjoule.energy.measurement import Idle, Measurement
from budjoule.energy.meters.meter import Domain
from budjoule.energy.windows.choose import Choice
from budjoule.energy.windows.tree import Span, faults, span, summed
from budjoule.energy.windows.watch import Stamp

_HOLDS_PROCESSOR = ("package", "psys", "cpu")


def result(
    label: str,
    choice: Choice,
    begin: Stamp,
    end: Stamp,
    *,
    begin_unix_s: float | None = None,
    idle: Idle | None = None,
) -> Measurement:
    """What a window cost.

    Args:
        label: The window's name.
        choice: The meter it ran on.
        begin: The stamp at its beginning.
        end: The stamp at its end, of the same watch.
        begin_unix_s: When it began, on the wall clock. [s]
        idle: What the machine draws at rest.
    """
    meter, duration_s = choice.watch.meter, end.at_s - begin.at_s
    spans = {
        domain.name: span(domain, first, last, begin_s=begin.at_s, end_s=end.at_s)
        for domain, first, last in zip(meter.domains, begin.marks, end.marks, strict=True)
    }
    names = summed(meter.domains, spans)
    domains = {name: each.energy_j for name, each in spans.items() if each.seen}
    counted = [spans[name] for name in names]
    if duration_s > 0 and not any(each.works for each in counted):
        return _estimated(label, meter.method, duration_s, begin_unix_s, seen=any(each.seen for each in counted))
    notes: list[str] = _memory_alone(names)
    for domain, first, last in zip(meter.domains, begin.marks, end.marks, strict=True):
        if domain.name in names:
            notes += faults(domain, first, last, begin_s=begin.at_s, end_s=end.at_s)
    if idle is not None and idle.summed not in ((), names):
        notes.append(
            f"idle was measured on {', '.join(idle.summed)} and this window on {', '.join(names)}: no net energy; "
            "measure idle anew"
        )
        idle = None
    return Measurement(
        label=label,
        energy_j=sum(each.energy_j for each in counted),
        energy_low_j=sum(each.low_j for each in counted),
        energy_high_j=sum(each.high_j for each in counted),
        duration_s=duration_s,
        counter_step_j=sum(each.step_j for each in counted) if meter.source == "measured" else None,
        begin_unix_s=begin_unix_s,
        idle=idle,
        domains=domains,
        summed=names,
        source=meter.source,
        method=meter.method,
        notes=(*notes, *_left_out(meter.domains, spans, names), *meter.notes, *choice.notes),
    )


def _left_out(domains: Sequence[Domain], spans: dict[str, Span], names: Sequence[str]) -> list[str]:
    notes = []
    for domain in domains:
        if not domain.counts or domain.name in names:
            continue
        if domain.checked_by:
            moved_j = sum(spans[name].energy_j for name in domain.checked_by)
            energy_j = spans[domain.name].energy_j
            notes.append(
                f"{domain.name} left out: it moved {energy_j:.3g} J while the packages inside it moved {moved_j:.3g} J"
            )
        elif domain.parent not in names:
            notes.append(
                f"{domain.name} left out: it stood still while the others stepped, so it does not seem to work"
            )
    return notes


def _memory_alone(names: Sequence[str]) -> list[str]:
    """RAPL's memory may be readable where its packages are not."""
    memory = [name for name in names if name.startswith("dram")]
    if not memory or any(name.startswith(_HOLDS_PROCESSOR) for name in names):
        return []
    return [
        f"of processor and memory only {', '.join(memory)} is in the total, which is a lower bound: no package counter could be "
        "read ('budjoule doctor')"
    ]


def _estimated(label: str, method: str, duration_s: float, begin_unix_s: float | None, *, seen: bool) -> Measurement:
    """No counter could be read after the window opened, or none moved: never 0 J, but what a processor may draw in that time."""
    from budjoule.energy.meters.load_model import energy_unseen_j, this_machine  # a rare case need not slow every start

    model = this_machine()
    energy_j, low_j, high_j = energy_unseen_j(model, duration_s)
    why = f"did not move in {duration_s:.3g} s" if seen else "could not be read any more once the window had begun"
    return Measurement(
        label=label,
        energy_j=energy_j,
        energy_low_j=low_j,
        energy_high_j=high_j,
        duration_s=duration_s,
        begin_unix_s=begin_unix_s,
        domains={"package": energy_j},
        summed=("package",),
        source="estimated",
        method=f"the window's length and {model.basis}, between idle and busy: no counter {'moved' if seen else 'could be read'}",
        notes=(f"the counters {why} ({method}); run 'budjoule doctor'",),
    )
