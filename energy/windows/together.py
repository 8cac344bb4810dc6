"""Several meters of disjoint hardware (processor and GPUs) as one, so that a total leaves neither out."""

from collections.abc import Sequence
from dataclasses import replace

from budjoule.energy.meters.meter import Domain, Meter


def readings_of(meter: Meter) -> Sequence[float | None]:
    """A meter's readings; None for all where it raises, which must not take a training run down with it."""
    try:
        return meter.read()
    except Exception:
        return [None] * len(meter.domains)


class Together:
    """Meters read one after the other, their domains in one list; one that fails leaves the others' readings.

    A domain that covers the whole platform (psys) would count the other meters' hardware twice: it is shown only.

    Args:
        meters: Meters with different domain names.
    """

    def __init__(self, meters: Sequence[Meter]) -> None:
        self.meters = tuple(meters)
        self.name = "+".join(meter.name for meter in meters)
        self.source = "measured" if all(meter.source == "measured" for meter in meters) else "estimated"
        self.method = "; ".join(meter.method for meter in meters)
        self.notes = tuple(note for meter in meters for note in meter.notes)
        self.domains: tuple[Domain, ...] = tuple(
            replace(domain, counts=False, checked_by=()) if domain.checked_by else domain
            for meter in meters
            for domain in meter.domains
        )

    def read(self) -> list[float | None]:
        """The readings of all meters, in order."""
        return [reading for meter in self.meters for reading in readings_of(meter)]

    def close(self) -> None:
        """Close them all."""
        for meter in self.meters:
            meter.close()
