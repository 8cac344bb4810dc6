"""The one place with prefixes: reads "2 kJ", "20 MB", "1 h" into SI numbers and prints SI numbers for people.

Everywhere else a quantity is a bare SI number whose name carries its unit.
"""

import math
import re

from budjoule.energy.errors import UsageError

_PREFIX = {
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s]*)\s*")
_TIME = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0}
_BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
_WATT_HOUR = 3600.0


def _parse(text: str | float, unit: str, extra: dict[str, float], example: str) -> float:
    if isinstance(text, bool):
        raise UsageError(f"cannot read {text!r} as a quantity; write it like {example!r}")
    if isinstance(text, (int, float)):
        value, suffix = float(text), ""
    else:
        match = _QUANTITY.fullmatch(text)
        if match is None:
            raise UsageError(f"cannot read {text!r} as a quantity; write it like {example!r}")
        value, suffix = float(match[1].replace("_", "")), match[2]
    if suffix in extra:
        value *= extra[suffix]
    elif suffix.endswith(unit) and suffix[: -len(unit)] in _PREFIX:
        value *= _PREFIX[suffix[: -len(unit)]]
    elif suffix:
        raise UsageError(f"unknown unit {suffix!r} in {text!r}; write it like {example!r}")
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is not a finite quantity; write it like {example!r}")
    return value


def joules(text: str | float) -> float:
    """Read an energy. [J]

    Args:
        text: A number in joules, or a string with a unit: J with an SI prefix, Wh or kWh.

    Raises:
        UsageError: The text is no energy.

    >>> joules("2 kJ"), joules("1 Wh"), joules(3)
    (2000.0, 3600.0, 3.0)
    """
    wh = {f"{p}Wh": _PREFIX[p] * _WATT_HOUR for p in ("", "m", "k", "M")}
    return _parse(text, "J", wh, "2 kJ")


def seconds(text: str | float) -> float:
    """Read a duration. [s]

    >>> seconds("1 h"), seconds("250 ms"), seconds(60)
    (3600.0, 0.25, 60.0)
    """
    return _parse(text, "s", _TIME, "1 h")


def watts(text: str | float) -> float:
    """Read a power. [W]

    >>> watts("2.5 kW"), watts(3)
    (2500.0, 3.0)
    """
    return _parse(text, "W", {}, "12 W")


def size_bytes(text: str | float) -> float:
    """Read a size in bytes; kB is 1000 and KiB 1024 bytes.

    >>> size_bytes("20 MB"), size_bytes("64 KiB")
    (20000000.0, 65536.0)
    """
    return _parse(text, "B", _BINARY, "20 MB")


def hertz(text: str | float) -> float:
    """Read a frequency. [Hz]

    >>> hertz("900 MHz")
    900000000.0
    """
    return _parse(text, "Hz", {}, "900 MHz")


def show(value: float | None, unit: str, digits: int = 3) -> str:
    """Print an SI number for people, with a prefix and `digits` significant digits.

    >>> show(1234.5, "J"), show(0.00321, "s"), show(None, "J"), show(0, "J")
    ('1.23 kJ', '3.21 ms', '-', '0 J')
    """
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    if unit == "s" and abs(value) >= 60:
        return f"{value / 3600:.3g} h" if abs(value) >= 3600 else f"{value / 60:.3g} min"
    rounded = float(f"{value:.{digits}g}")
    symbol = next((p for p in "TGMk mµnp" if abs(rounded) >= _PREFIX[p.strip()]), "f").strip()
    scaled = rounded / _PREFIX[symbol]
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(scaled))))
    return f"{scaled:.{decimals}f} {symbol}{unit}"
