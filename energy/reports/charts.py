"""The lines and dots of run folders: bytes and sends over time, and sends by client."""

import bisect
import math
from collections.abc import Sequence

from budjoule.energy.reports.curves import Point, with_lines
from budjoule.energy.reports.facts import participation
from budjoule.energy.reports.plot import Axis, Chart, Dot, Tick, axis, series
from budjoule.energy.reports.rows import Send
from budjoule.energy.reports.run_folder import Run
from budjoule.energy.reports.spread import SeedGroup
from budjoule.energy.reports.words import percent, plural
from budjoule.energy.units import show

MOST_DOTS = 4000
MOST_ROWS = 40
RANKS = 80
SHADES = 4


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


def sends_by_rank(groups: Sequence[SeedGroup]) -> Chart:
    """Sends of the clients from the busiest to the least busy, which compares runs whose clients are others."""
    runs = [run for group in groups for run in group.runs]
    x = axis("clients, most sends first", [1.0], "%")
    y = axis("sends of a client", [row.sends for run in runs for row in run.clients], "")

    def points(run: Run) -> list[Point]:
        sends = sorted((row.sends for row in run.clients), reverse=True)
        steps = min(RANKS, len(sends))
        at = [
            (step / steps, sends[min(len(sends) - 1, step * len(sends) // steps)]) for step in range(steps + 1) if sends
        ]
        return [(share, count, f"{plural(count, 'send')} at {percent(share)} of the clients") for share, count in at]

    return with_lines(
        Chart(
            title="Participation",
            description=" ".join(f"{run.name}: {participation(run)}" for run in runs),
            x=x,
            y=y,
            empty="No client is listed.",
        ),
        groups,
        points,
        lambda sends: f"{sends:.3g} sends",
    )


def timeline(run: Run) -> Chart:
    """Every send: which client, when, and how stale its base version was."""
    order = [row.client for row in run.clients] or sorted({send.client for send in run.sends}, key=str)
    row_of = {client: index for index, client in enumerate(order)}
    for send in run.sends:  # a client that the summary does not list still shows
        row_of.setdefault(send.client, len(row_of))
    last_s = max([send.time_s for send in run.sends], default=0.0)
    x = axis("simulated time", [max(last_s, run.totals.simulated_duration_s or 0.0)], "s")
    shades = _shades(run.sends)
    dots, left_out = _send_dots(run.sends, row_of, x, [most for most, _ in shades])
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
        legend=tuple((name, index) for index, (_, name) in enumerate(shades)),
        note=" ".join(notes),
    )


def _shades(sends: Sequence[Send]) -> list[tuple[float, str]]:
    """At most `SHADES` ranges of staleness that split the values which occur: the highest of each, and its name."""
    found = sorted({send.staleness or 0 for send in sends})
    tops = sorted({found[-(-len(found) * part // SHADES) - 1] for part in range(1, SHADES + 1) if found})
    lows = [found[0], *(found[found.index(top) + 1] for top in tops[:-1])] if found else []
    return [(top, f"{low:g}" if low == top else f"{low:g} to {top:g}") for low, top in zip(lows, tops, strict=True)]


def _send_dots(
    sends: Sequence[Send], row_of: dict[int | str, int], x: Axis, tops: Sequence[float]
) -> tuple[tuple[Dot, ...], int]:
    """The sends as dots, thinned where there are too many: of those in one spot the first stays."""
    kept = list(sends)
    cells = 1200
    while len(kept) > MOST_DOTS and cells > 20:
        spots: dict[tuple[int, int], Send] = {}
        rows = max(1, len(row_of) // min(len(row_of), cells // 3))
        for send in sends:
            spot = (int(cells * x.share(send.time_s)), row_of[send.client] // rows)
            spots.setdefault(spot, send)
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
                colour=bisect.bisect_left(tops, stale),
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
