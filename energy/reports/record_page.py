"""The pages of measurements and of ledgers."""

from collections.abc import Sequence
from typing import Any

from budjoule.energy.reports.bars import spending_by_client
from budjoule.energy.reports.facts import Fact
from budjoule.energy.reports.ledger_rows import LedgerFile
from budjoule.energy.reports.page import render
from budjoule.energy.reports.plot import Bar, BarChart, Segment, axis
from budjoule.energy.reports.records import MeasurementFile
from budjoule.energy.reports.words import interval, percent, plural
from budjoule.energy.units import show


def measurement_page(records: Sequence[MeasurementFile]) -> str:
    """Measurements as an HTML document."""
    title = (records[0].label or "One window") if len(records) == 1 else plural(len(records), "measurement")
    return render(
        "record.html.j2",
        kind="Energy measurement",
        title=title,
        lead="",
        sections=[_window(record, several=len(records) > 1) for record in records],
    )


def ledger_page(records: Sequence[LedgerFile]) -> str:
    """Ledgers as an HTML document."""
    title = records[0].path.name if len(records) == 1 else plural(len(records), "ledger")
    return render(
        "record.html.j2", kind="Energy ledger", title=title, lead="", sections=[_ledger(record) for record in records]
    )


def _window(record: MeasurementFile, *, several: bool) -> dict[str, Any]:
    document = record.to_dict()
    return {
        "title": record.label or "Window" if several else "Result",
        "source": f"{record.source or 'no source'}: {record.method or 'no meter'}",
        "facts": [
            Fact(label="energy", value=show(record.energy_j, "J"), detail=interval(document, "energy", "J")),
            *_net(record, document),
            Fact(label="time", value=show(record.duration_s, "s")),
            Fact(label="mean power", value=show(record.power_w, "W")),
        ],
        "bars": _domains(record) if record.domains else None,
        "columns": ("domain", "energy", "share of the total", "counted in the total"),
        "rows": [
            [
                name,
                show(energy_j, "J"),
                percent(energy_j / record.energy_j if record.energy_j else None),
                "yes" if name in record.summed else "no",
            ]
            for name, energy_j in record.domains.items()
        ],
        "notes": record.notes,
    }


def _net(record: MeasurementFile, document: dict[str, Any]) -> list[Fact]:
    if record.net_energy_j is None:
        return []
    label = f"net of an idle of {show(record.idle_w, 'W')}"
    return [Fact(label=label, value=show(record.net_energy_j, "J"), detail=interval(document, "net_energy", "J"))]


def _domains(record: MeasurementFile) -> BarChart:
    scale = axis("energy", list(record.domains.values()), "J")
    bars = []
    for name, energy_j in record.domains.items():
        title = f"{name}: {show(energy_j, 'J')}"
        size = 100 * scale.share(energy_j)
        kind = "compute" if name in record.summed else "idle"
        part = Segment(start_percent=0.0, size_percent=size, title=title, kind=kind)
        bars.append(Bar(name=name, total=show(energy_j, "J"), segments=(part,), detail=title))
    return BarChart(
        title="Energy by domain",
        description="; ".join(bar.detail for bar in bars),
        axis=scale,
        bars=tuple(bars),
        legend=(("counted in the total", "compute"), ("inside another domain", "idle")),
    )


def _ledger(record: LedgerFile) -> dict[str, Any]:
    accounts = sorted(record.accounts, key=lambda account: -account.spent_j)
    spent_j, budget_j = sum(account.spent_j for account in accounts), sum(account.budget_j for account in accounts)
    measured_j, reserved_j = (
        sum(account.measured_j for account in accounts),
        sum(account.reserved_j for account in accounts),
    )
    pending = sum(account.open_reservations for account in accounts)
    overspent_j = sum(account.overspent_j for account in accounts)
    return {
        "title": str(record.path),
        "source": f"{percent(measured_j / spent_j if spent_j else None)} of what was spent was measured, the rest estimated.",
        "facts": [
            Fact(
                label="spent",
                value=show(spent_j, "J"),
                detail=f"of {show(budget_j, 'J')} in {plural(len(accounts), 'account')}",
            ),
            Fact(label="reserved", value=show(reserved_j, "J"), detail=plural(pending, "open reservation")),
            Fact(label="left", value=show(sum(account.remaining_j for account in accounts), "J")),
            Fact(label="overspent", value=show(overspent_j, "J"), alarm=overspent_j > 0),
        ],
        "bars": spending_by_client([account.as_client() for account in accounts], noun="account") if accounts else None,
        "columns": ("account", "spent", "reserved", "left", "budget", "open reservations"),
        "rows": [
            [
                account.name,
                show(account.spent_j, "J"),
                show(account.reserved_j, "J"),
                show(account.remaining_j, "J"),
                show(account.budget_j, "J"),
                f"{account.open_reservations:,}",
            ]
            for account in accounts[:1000]
        ],
        "notes": ["Open reservations count as spent until it is known what ran."] if pending else [],
    }
