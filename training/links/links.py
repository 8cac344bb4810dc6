"""What a transfer costs at a client's radio: link profiles with their sources.

Joules are above the phone's base power. A radio is promoted, transfers, and stays awake for a tail that often costs
more than the transfer; a transfer inside another one's tail pays no promotion and only what it lengthens the tail by.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from budjoule.energy.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A radio link: a row of `links.toml`.

    Args:
        name: Its name in configurations.
        source: Where powers and times come from.
        assumed: Fields that the source does not give.
        power_up_w: Power while sending, apart from the part that grows with the rate. [W]
        power_down_w: The same while receiving. [W]
        per_bit_up_j: Energy of each bit sent. [J]
        per_bit_down_j: Energy of each bit received. [J]
        promotion_w: Power while the radio wakes. [W]
        promotion_s: Time it takes to wake. [s]
        tail_w: Power after a transfer, before it sleeps. [W]
        tail_s: How long it stays awake. [s]
        rate_up_bit_per_s: Usual rate of sending. [bit/s]
        rate_down_bit_per_s: Usual rate of receiving. [bit/s]
        base_w: The phone's own power, which no figure here includes. [W]
        broadcast: One transmission serves every client; a client sends nothing over it.
        per_mac_j: Energy of a multiplication in a broadcast receiver's front end. [J]
        per_mac_audio_j: The same for audio models. [J]
    """

    name: str
    source: str
    assumed: tuple[str, ...] = ()
    power_up_w: float = 0.0
    power_down_w: float = 0.0
    per_bit_up_j: float = 0.0
    per_bit_down_j: float = 0.0
    promotion_w: float = 0.0
    promotion_s: float = 0.0
    tail_w: float = 0.0
    tail_s: float = 0.0
    rate_up_bit_per_s: float = 0.0
    rate_down_bit_per_s: float = 0.0
    base_w: float = 0.0
    broadcast: bool = False
    per_mac_j: float = 0.0
    per_mac_audio_j: float = 0.0

    def uplink_energy_j(
        self, size_bytes: int, *, rate_bit_per_s: float | None = None, tail_paid_s: float = 0.0
    ) -> float:
        """Energy that sending adds. [J]

        ``E = P_promotion t_promotion + (P_up + e_bit r) 8 n / r + P_tail (t_tail - t_paid)``

        Args:
            size_bytes: What is sent. [B]
            rate_bit_per_s: The rate now; the default is the link's usual one. [bit/s]
            tail_paid_s: For how long earlier traffic would keep the radio awake anyway; above 0 it is awake. [s]

        Source: Huang et al., MobiSys 2012, section 5.
        """
        rate = self._rate(rate_bit_per_s, self.rate_up_bit_per_s)
        return self._energy_j(8 * size_bytes, self.power_up_w, self.per_bit_up_j, rate, tail_paid_s)

    def downlink_energy_j(
        self, size_bytes: int, *, rate_bit_per_s: float | None = None, tail_paid_s: float = 0.0
    ) -> float:
        """Energy that receiving adds, as in `uplink_energy_j`; an answer that follows at once has `tail_paid_s=tail_s`. [J]"""
        rate = self._rate(rate_bit_per_s, self.rate_down_bit_per_s)
        return self._energy_j(8 * size_bytes, self.power_down_w, self.per_bit_down_j, rate, tail_paid_s)

    def exchange_energy_j(
        self, up_bytes: int, down_bytes: int, *, rate_frac: float = 1.0, tail_paid_s: float = 0.0
    ) -> tuple[float, float]:
        """Energy of sending and of receiving an answer right after: one promotion, one tail, both in the first. [J]

        Args:
            up_bytes: What is sent. [B]
            down_bytes: What is received. [B]
            rate_frac: The rates now, as a share of the usual ones.
            tail_paid_s: As in `uplink_energy_j`. [s]
        """
        up = self.uplink_energy_j(up_bytes, rate_bit_per_s=rate_frac * self.rate_up_bit_per_s, tail_paid_s=tail_paid_s)
        down = self.downlink_energy_j(
            down_bytes, rate_bit_per_s=rate_frac * self.rate_down_bit_per_s, tail_paid_s=self.tail_s
        )
        # Without a tail the radio is awake all the same, and is not promoted twice.
        return up, down if self.tail_s else down - self._promotion_j

    def upload_duration_s(self, size_bytes: int, *, rate_bit_per_s: float | None = None, awake: bool = False) -> float:
        """Time of sending, promotion included unless the radio is awake, tail excluded. [s]"""
        rate = self._rate(rate_bit_per_s, self.rate_up_bit_per_s)
        return (0.0 if awake else self.promotion_s) + 8 * size_bytes / rate

    def download_duration_s(
        self, size_bytes: int, *, rate_bit_per_s: float | None = None, awake: bool = False
    ) -> float:
        """Time of receiving, promotion included unless the radio is awake, tail excluded. [s]"""
        rate = self._rate(rate_bit_per_s, self.rate_down_bit_per_s)
        return (0.0 if awake else self.promotion_s) + 8 * size_bytes / rate

    def uplink_upper_j(self, size_bytes: int, *, lowest_rate_frac: float, retries: int = 0) -> float:
        """The most that sending can cost: asleep before, at the lowest rate, every retry used. For reservations. [J]

        Args:
            size_bytes: What is sent. [B]
            lowest_rate_frac: The worst state of the link; `LinkState.lowest_rate_frac`.
            retries: How often a lost transfer is repeated at most; each waits a whole tail.
        """
        rate = lowest_rate_frac * self.rate_up_bit_per_s
        return (1 + retries) * self.uplink_energy_j(size_bytes, rate_bit_per_s=rate)

    def downlink_upper_j(self, size_bytes: int, *, lowest_rate_frac: float, retries: int = 0) -> float:
        """The most that receiving can cost, as in `uplink_upper_j`. [J]"""
        rate = lowest_rate_frac * self.rate_down_bit_per_s
        return (1 + retries) * self.downlink_energy_j(size_bytes, rate_bit_per_s=rate)

    def broadcast_energy_j(self, macs: int, *, audio: bool = False) -> float:
        """Energy of a broadcast receiver's front end for `macs` multiplications with the weights on the air. [J]

        Raises:
            UsageError: The link is no broadcast.
        """
        if not self.broadcast:
            raise UsageError(f"link {self.name} is no broadcast; use downlink_energy_j")
        return macs * (self.per_mac_audio_j if audio else self.per_mac_j)

    @property
    def _promotion_j(self) -> float:
        return self.promotion_w * self.promotion_s

    def _energy_j(self, bits: int, power_w: float, per_bit_j: float, rate: float, tail_paid_s: float) -> float:
        if bits < 0 or tail_paid_s < 0:
            raise UsageError(f"a transfer of {bits} bits with {tail_paid_s} s of tail paid; neither may be negative")
        promotion_j = 0.0 if tail_paid_s > 0 else self._promotion_j
        tail_j = self.tail_w * (self.tail_s - min(tail_paid_s, self.tail_s))
        return promotion_j + power_w * bits / rate + per_bit_j * bits + tail_j

    def _rate(self, given: float | None, usual: float) -> float:
        rate = usual if given is None else given
        if self.broadcast:
            raise UsageError(
                f"link {self.name} is a broadcast and carries no transfer of one client's; use broadcast_energy_j"
            )
        if not rate > 0:
            raise UsageError(f"link {self.name} at {rate} bit/s moves nothing; give a rate above 0")
        return rate


@cache
def links() -> dict[str, Link]:
    """All links by name."""
    rows = tomllib.loads(resources.files("budjoule.training.links").joinpath("links.toml").read_text(encoding="utf-8"))
    return {name: Link(name=name, **{**row, "assumed": tuple(row["assumed"])}) for name, row in rows.items()}


def load_link(name: str) -> Link:
    """The link of that name.

    Raises:
        UsageError: There is none.
    """
    found = links().get(name)
    if found is None:
        raise UsageError(f"unknown link {name!r}; give one of {', '.join(links())}")
    return found
