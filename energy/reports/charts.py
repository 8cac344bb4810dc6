"""The lines and dots of a run folder: bytes and sends over time."""

import math
from collections.abc import Sequence

from budjoule.energy.reports.plot import Axis, Chart, Dot, Tick, axis, series
from budjoule.energy.reports.rows import Send
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.words import plural
from budjoule.energy.units import show

MOST_DOTS = 4000
MOST_ROWS = 40
STALENESS = ((0, "0"), (2, "1 to 2"), (5, "3 to 5"), (math.inf, "6 or more"))


def bytes_by_time(run: Run) -> Chart:
    """Bytes sent up and down by all clients, summed over time."""
    events = run.evaluations
    x = axis("simulated time", [event.time_s for event in events], "s")
    y = axis("bytes since the start", [max(event.uplink_bytes, event.downlink_bytes) for event in events], "B")
    up = [(e.time_s, e.uplink_bytes, f"{show(e.uplink_bytes, 'B')} sent up by {show(e.time_s, 's')}") for e in events]
    down = [
        (e.time_s, e.downlink_bytes, f"{show(e.downlink_bytes, 'B')} received by {show(e.time_s, 's')}") for e in events
    ]
    return Chart(
        title="Bytes on the links",
        description=f"Clients sent {show(run.totals.uplink_bytes, 'B')} up and received {show(run.totals.downlink_bytes, 'B')}.",
        x=x,
        y=y,
        series=(series("sent up", up, x, y, colour=1), series("received", down, x, y, colour=2)),
        legend=(("sent up", 1), ("received", 2)),
    )


def timeline(run: Run) -> Chart:
    """Every send: which client, when, and how stale its base version was."""
    order = [row.client for row in run.clients] or sorted({send.client for send in run.sends}, key=str)
    row_of = {client: index for index, client in enumerate(order)}
    for send in run.sends:  # a client that the summary does not list still shows
        row_of.setdefault(send.client, len(row_of))
    last_s = max([send.time_s for send in run.sends], default=0.0)
    x = axis("simulated time", [max(last_s, run.totals.simulated_duration_s or 0.0)], "s")
    dots, left_out = _send_dots(run.sends, row_of, x)
    lost = sum(send.lost for send in run.sends)
    notes = [f"{plural(lost, 'send')} lost on the way: hollow dots."] if lost else []
    if left_out:
        notes.append(f"Of {len(run.sends):,} sends, {left_out:,} that would cover another dot are left out.")
    return Chart(
        title="Sends over time",
        description=f"{plural(len(run.sends), 'send')} by {plural(len({s.client for s in run.sends}), 'client')}, coloured by staleness.",
        x=x,
        y=_row_axis(list(row_of)),
        dots=dots,
        legend=tuple((name, index) for index, (_, name) in enumerate(STALENESS)),
        note=" ".join(notes),
    )


def _send_dots(sends: Sequence[Send], row_of: dict[int | str, int], x: Axis) -> tuple[tuple[Dot, ...], int]:
    """The sends as dots, thinned where there are too many: of those in one spot the stalest stays."""
    kept = list(sends)
    cells = 1200
    while len(kept) > MOST_DOTS and cells > 20:
        spots: dict[tuple[int, int], Send] = {}
        rows = max(1, len(row_of) // min(len(row_of), cells // 3))
        for send in sends:
            spot = (int(cells * x.share(send.time_s)), row_of[send.client] // rows)
            if spot not in spots or (send.staleness or 0) > (spots[spot].staleness or 0):
                spots[spot] = send
        kept = list(spots.values())
        cells = int(0.8 * cells)
    dots = []
    for send in sorted(kept, key=lambda send: send.staleness or 0):
        stale = send.staleness or 0
        title = f"client {send.client} at {show(send.time_s, 's')}: {show(send.size_bytes, 'B')}, {show(send.energy_j, 'J')}"
        if send.staleness is not None:
            title += f", staleness {send.staleness:g}"
        if send.lost:
            title += ", lost on the way"
        dots.append(
            Dot(
                x_percent=100 * x.share(send.time_s),
                y_percent=100 * (row_of[send.client] + 0.5) / len(row_of),
                title=title,
                colour=next(index for index, (most, _) in enumerate(STALENESS) if stale <= most),
                hollow=send.lost,
            )
        )
    return tuple(dots), len(sends) - len(dots)


def _row_axis(names: Sequence[int | str]) -> Axis:
    every = max(1, math.ceil(len(names) / MOST_ROWS))
    ticks = [
        Tick(at_percent=100 * (1 - (index + 0.5) / len(names)), text=str(name))
        for index, name in enumerate(names)
        if index % every == 0
    ]
    return Axis(label="client", low=0.0, high=float(max(1, len(names))), ticks=tuple(ticks))
