"""How reports put things: shares, counts, intervals, and text from a record made safe to print."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from budjoule.energy.units import show

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|min|h|[TGMkmµnpf]?(?:J|B|s|W|Hz|FLOP))(?![\w]))")


def percent(share_frac: float | None) -> str:
    """A share as a percentage of about three digits.

    >>> percent(0.123), percent(0.0004), percent(1.0), percent(0), percent(None)
    ('12.3 %', '<0.1 %', '100 %', '0 %', '-')
    """
    if share_frac is None:
        return "-"
    if 0 < share_frac < 0.001:
        return "<0.1 %"
    return (
        f"{100 * share_frac:.0f} %" if share_frac == 0 or 0.9995 <= share_frac < 1.0005 else f"{100 * share_frac:.1f} %"
    )


def times(ratio: float) -> str:
    """How many times as much, with about three digits.

    >>> times(1), times(17.38), times(50629.7)
    ('1.00', '17.4', '50,600')
    """
    if ratio < 100:
        return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"
    return f"{float(f'{ratio:.3g}'):,.0f}"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "client"), plural(2000, "client")
    ('1 client', '2,000 clients')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def interval(row: Mapping[str, Any], quantity: str, unit: str) -> str:
    """The central 90 % interval of a quantity, empty where the record has none.

    >>> interval({"energy_low_j": 1.1, "energy_high_j": 1.4}, "energy", "J")
    '90 % interval 1.10 J to 1.40 J'
    """
    low, high = row.get(f"{quantity}_low_{unit.lower()}"), row.get(f"{quantity}_high_{unit.lower()}")
    if low is None or high is None:
        return ""
    return f"90 % interval {show(low, unit)} to {show(high, unit)}"


def unruled_note(share_frac: float) -> list[str]:
    """The note that an estimate needs when it rests on ops without a rule, or none."""
    return [f"{percent(share_frac)} of the energy rests on ops without a rule of their own"] if share_frac else []


def tied(text: str) -> str:
    r"""The text with no line break possible between a number and its unit.

    >>> tied("2.89 kJ in 3 min, 4 clients")
    '2.89\xa0kJ in 3\xa0min, 4 clients'
    """
    return _BEFORE_UNIT.sub("\u00a0", text)


def clean(text: object) -> str:
    r"""Text from a record as one printable line: control characters, which could drive a terminal, become `?`.

    >>> clean("phone\x1b[2J")
    'phone?[2J'
    """
    return "".join(
        "?" if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" else char for char in str(text)
    )
