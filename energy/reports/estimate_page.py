"""The page of estimates: figures, an icicle of modules, ops; several devices compared first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from budjoule.energy.reports.facts import Fact
from budjoule.energy.reports.icicle import boxes
from budjoule.energy.reports.page import render
from budjoule.energy.reports.plot import Bar, BarChart, Segment, axis
from budjoule.energy.reports.tree import Branch, folded, module_tree
from budjoule.energy.reports.words import interval, percent, times, unruled_note
from budjoule.energy.units import show

OPS = 25
COLUMNS = ("device", "energy", "90 % interval", "time", "power", "clock", "energy, times the least")
OP_COLUMNS = ("op", "energy", "share", "time", "calls", "work", "moved")


def estimate_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Estimates, each as `Estimate.to_dict()` gives it, as an HTML document.

    Args:
        rows: One, or several of one workload.
    """
    first = rows[0]
    devices = first["device"] if len(rows) == 1 else f"{len(rows)} devices"
    return render(
        "estimate.html.j2",
        kind="Energy estimate",
        title=f"{first['model']} on {devices}",
        lead=_lead(rows),
        columns=COLUMNS,
        comparison=_comparison(rows) if len(rows) > 1 else [],
        spread=_spread(rows),
        op_columns=OP_COLUMNS,
        estimates=[_part(row) for row in rows],
    )


def _lead(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    step = f"One {first['mode']} step{' with ' + first['optimizer'] if first.get('optimizer') else ''} in {first['precision']}"
    if len(rows) == 1:
        return f"{step} takes {show(first['energy_j'], 'J')} and {show(first['duration_s'], 's')}."
    least = min(rows, key=lambda row: float(row["energy_j"]))
    quick = min(rows, key=lambda row: float(row["duration_s"]))
    return (
        f"{step} takes the least energy on {least['device']}, {show(least['energy_j'], 'J')}, "
        f"and the least time on {quick['device']}, {show(quick['duration_s'], 's')}."
    )


def _comparison(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    least_j = min(row["energy_j"] for row in rows)
    return [
        [
            f"{row['device']} ({row['status']})",
            show(row["energy_j"], "J"),
            f"{show(row['energy_low_j'], 'J')} to {show(row['energy_high_j'], 'J')}",
            show(row["duration_s"], "s"),
            show(row["power_w"], "W"),
            show(row["clock_hz"], "Hz") + (", power limit" if row["power_limited"] else ""),
            times(row["energy_j"] / least_j) if least_j else "-",
        ]
        for row in rows
    ]


def _spread(rows: Sequence[Mapping[str, Any]]) -> BarChart:
    scale = axis("energy", [row["energy_high_j"] for row in rows], "J")
    bars = []
    for row in rows:
        low, high = 100 * scale.share(row["energy_low_j"]), 100 * scale.share(row["energy_high_j"])
        title = f"{row['device']}: {show(row['energy_j'], 'J')}, {interval(row, 'energy', 'J')}"
        segment = Segment(start_percent=low, size_percent=max(high - low, 0.3), title=title, kind="idle")
        at = 100 * scale.share(row["energy_j"])
        bars.append(
            Bar(
                name=row["device"],
                total=show(row["energy_j"], "J"),
                segments=(segment,),
                limit_percent=at,
                detail=title,
            )
        )
    note = "The bar is the 90 % interval, the mark the expected energy of one step."
    return BarChart(
        title="Energy of one step",
        description="; ".join(bar.detail for bar in bars),
        axis=scale,
        bars=tuple(bars),
        note=note,
    )


def _part(row: Mapping[str, Any]) -> dict[str, Any]:
    whole = module_tree(row["by_module"], row["model"])
    drawn = boxes(folded(whole, min_frac=0.004, depth=6))
    return {
        "device": row["device"],
        "status": row["status"],
        "facts": _facts(row),
        "boxes": drawn,
        "levels": 1 + max((box.level for box in drawn), default=0),
        "modules": list(_modules(folded(whole, min_frac=0.01, depth=4), whole.energy_j, 0)),
        "ops": [_op(op, row["energy_j"]) for op in row["by_op"][:OPS]],
        "notes": [*unruled_note(row["unruled_energy_frac"]), *row["notes"]],
    }


def _facts(row: Mapping[str, Any]) -> list[Fact]:
    limited = ", lowered to meet the power limit" if row["power_limited"] else ""
    idle_frac = row["idle_energy_j"] / row["energy_j"] if row["energy_j"] else 0.0
    return [
        Fact(label="energy", value=show(row["energy_j"], "J"), detail=interval(row, "energy", "J")),
        Fact(label="time", value=show(row["duration_s"], "s"), detail=interval(row, "duration", "s")),
        Fact(label="mean power", value=show(row["power_w"], "W"), detail=f"at {show(row['clock_hz'], 'Hz')}{limited}"),
        Fact(
            label="idle share", value=percent(idle_frac), detail=f"{show(row['idle_energy_j'], 'J')} it would draw idle"
        ),
        *_memory(row),
        Fact(label="work", value=show(row["flop"], "FLOP"), detail=f"{show(row['moved_bytes'], 'B')} moved by its ops"),
    ]


def _memory(row: Mapping[str, Any]) -> list[Fact]:
    size = row.get("peak_memory_bytes")
    return [Fact(label="peak memory", value=show(size, "B"), detail="beside the framework's own")] if size else []


def _modules(branch: Branch, whole_j: float, level: int) -> Iterator[dict[str, Any]]:
    share_frac = branch.energy_j / whole_j if whole_j else 0.0
    yield {
        "label": branch.label,
        "repeats": branch.repeats,
        "level": level,
        "energy": show(branch.energy_j, "J"),
        "share": percent(share_frac),
        "percent": 100 * share_frac,
        "time": show(branch.duration_s, "s"),
        "work": show(branch.flop, "FLOP"),
        "moved": show(branch.moved_bytes, "B"),
    }
    for child in branch.children:
        yield from _modules(child, whole_j, level + 1)


def _op(op: Mapping[str, Any], whole_j: float) -> list[str]:
    return [
        op["name"],
        show(op["energy_j"], "J"),
        percent(op["energy_j"] / whole_j if whole_j else 0.0),
        show(op["duration_s"], "s"),
        f"{op['calls']:,}",
        show(op["flop"], "FLOP"),
        show(op["moved_bytes"], "B"),
    ]
