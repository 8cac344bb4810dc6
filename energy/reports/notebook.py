"""An estimate as a notebook shows it: a table of its own, with no style but the notebook's and nothing that it would strip."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from budjoule.energy.reports.tree import folded, module_tree
from budjoule.energy.reports.words import interval, percent, unruled_note
from budjoule.energy.units import show

MODULES = 8


def estimate_fragment(row: Mapping[str, Any]) -> str:
    """The headline, the largest modules and the notes as HTML.

    Args:
        row: What `Estimate.to_dict` gives.
    """
    how = " with ".join(filter(None, (row["mode"], row["optimizer"])))
    head = f"{row['model']} on {row['device']} ({row['status']}), {how}, {row['precision']}"
    figures = (
        ("energy", show(row["energy_j"], "J"), interval(row, "energy", "J")),
        ("time", show(row["duration_s"], "s"), interval(row, "duration", "s")),
        ("mean power", show(row["power_w"], "W"), f"at {show(row['clock_hz'], 'Hz')}"),
    )
    whole = folded(module_tree(row["by_module"], row["model"]), min_frac=0.01, depth=2)
    largest = sorted(whole.children, key=lambda branch: -branch.energy_j)[:MODULES]
    modules = [
        (b.label, show(b.energy_j, "J"), percent(b.energy_j / whole.energy_j if whole.energy_j else 0.0))
        for b in largest
    ]
    notes = "<br>".join(escape(note) for note in (*unruled_note(row["unruled_energy_frac"]), *row["notes"]))
    return f"<p><b>{escape(head)}</b><br>one step, estimated</p>{_table(figures)}{_table(modules)}<p><small>{notes}</small></p>"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = (
        f"<tr><th scope='row'>{escape(name)}</th>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>"
        for name, *texts in rows
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>" if rows else ""
