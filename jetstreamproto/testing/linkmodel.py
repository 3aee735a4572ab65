"""What happens to packets on one direction of a link: a seeded model, with the time as argument.

    link = LinkModel(LinkOptions(rate=10e6, delay=0.05, loss=0.02, seed=7))
    for arrival, data in link.offer(now, datagram):
        ...  # it arrives then, as that

In this order a packet may fall into a blackhole, be too big, be lost, find the queue full, wait
there, take its time on the line, be overtaken or damaged, and arrive twice. The random sequence
depends on the seed alone: the same packets at the same times meet the same fate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

UDP_OVERHEAD = 28
"""Bytes of IPv4 and UDP headers in front of a datagram's payload."""

Damage = Callable[[bytes, Random], bytes]
Arrival = tuple[float, bytes]

_FRACTIONS = ("loss", "burst_loss", "duplicate", "reorder", "corrupt")


@dataclass(frozen=True, slots=True)
class Outages:
    """A blackhole of `length` seconds every `every` seconds, the first of them at time `first`."""

    every: float
    length: float
    first: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.length < self.every:
            raise ValueError("outages are longer than nothing and shorter than their period")

    def cover(self, now: float) -> bool:
        """Whether there is one at the time `now`."""
        return now >= self.first and (now - self.first) % self.every < self.length


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """One direction of a link. Times are in seconds, sizes in bytes, fractions from 0 to 1.

    Raises `ValueError` for what cannot be.
    """

    rate: float | None = None
    """Bits per second, or None for a link on which packets take no time."""
    delay: float = 0.0
    """One way."""
    jitter: float = 0.0
    """Each packet is delayed by up to that much more, all values being equally likely."""
    keep_order: bool = False
    """With jitter, a packet waits for those before it instead of overtaking them."""
    loss: float = 0.0
    """The fraction that is lost, each packet for itself."""
    burst_loss: float = 0.0
    """The fraction that is lost in bursts (a Gilbert-Elliott model), besides `loss`."""
    burst_length: float = 4.0
    """How many packets in a row such a burst takes, on the average."""
    duplicate: float = 0.0
    """The fraction that arrives twice, at the same time."""
    reorder: float = 0.0
    """The fraction that leaves its place: see `reorder_delay`."""
    reorder_delay: float | None = None
    """How much later those arrive; None: early, half of `delay` after they were sent."""
    corrupt: float = 0.0
    """The fraction that arrives with one bit flipped."""
    queue: float = 0.1
    """A packet that would have to wait longer than this for the line is dropped."""
    mtu: int | None = None
    """The longest packet that passes, counted with `overhead`: 1500 passes 1472 of UDP payload."""
    mtu_reports: bool = False
    """Whether whoever sends a longer packet is told so; if not, it merely vanishes."""
    overhead: int = UDP_OVERHEAD
    """What headers add to each packet's length. 48 for IPv6, 0 for packets that include them."""
    blackholes: tuple[tuple[float, float], ...] | Outages = ()
    """When all that is sent is lost: from a pair's first time to just before its second."""
    seed: int | None = None
    """Where the random sequence starts, or starts again; None: where the network says, or 0."""

    def __post_init__(self) -> None:
        for name in _FRACTIONS:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a fraction, from 0 to 1")
        for name in ("delay", "jitter", "queue", "overhead", "reorder_delay"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} cannot be negative")
        if self.rate is not None and self.rate <= 0:
            raise ValueError("a link without a limit has the rate None")
        if self.burst_length < 1:
            raise ValueError("a burst takes one packet at least")
        if self.burst_loss > self.burst_length / (self.burst_length + 1):
            raise ValueError("bursts of that length cannot take so much")


class Fate(Enum):
    """What became of a packet."""

    CARRIED = "carried"
    LOST = "lost"
    OVERFLOWED = "overflowed"
    TOO_BIG = "too big"


@dataclass(slots=True)
class LinkCounters:
    """Packets so far: `offered + duplicated == delivered + lost + overflowed + too_big`."""

    offered: int = 0
    delivered: int = 0
    """That have arrived or will, duplicates included."""
    lost: int = 0
    """At random, or in a blackhole."""
    overflowed: int = 0
    """That found the queue full."""
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0
    """That left their place because of `reorder`; `jitter` is not counted."""
    too_big: int = 0


def flip_bit(data: bytes, random: Random) -> bytes:
    """`data` with one of its bits flipped, unless it is empty."""
    if not data:
        return data
    position, mask = random.randrange(len(data)), 1 << random.randrange(8)
    return data[:position] + bytes((data[position] ^ mask,)) + data[position + 1 :]


class LinkModel:
    """One direction of a link. `options` may be replaced at any time.

    What has been sent by then keeps its arrival time. `random` is used instead of the options'
    seed, and `damage` corrupts in its own way.
    """

    __slots__ = (
        "_bad",
        "_burst_ends",
        "_burst_starts",
        "_busy_until",
        "_damage",
        "_latest",
        "_options",
        "_per_byte",
        "_random",
        "counters",
        "fate",
    )

    def __init__(
        self,
        options: LinkOptions | None = None,
        random: Random | None = None,
        damage: Damage = flip_bit,
    ) -> None:
        self.counters = LinkCounters()
        self.fate = Fate.CARRIED
        """Of the last packet."""
        options = options or LinkOptions()
        self._random = random or Random(options.seed or 0)
        self._options = options
        self._damage = damage
        self._bad = False  # in a burst of losses
        self._busy_until = 0.0  # the line, with what is in the queue
        self._latest = 0.0  # arrival so far
        self.options = options

    @property
    def options(self) -> LinkOptions:
        return self._options

    @options.setter
    def options(self, options: LinkOptions) -> None:
        if options.seed is not None and options.seed != self._options.seed:
            self._random = Random(options.seed)
        self._options = options
        self._per_byte = 8.0 / options.rate if options.rate else 0.0
        self._burst_ends = 1.0 / options.burst_length
        good = 1.0 - options.burst_loss
        self._burst_starts = options.burst_loss * self._burst_ends / good if good else 1.0
        if not options.rate:
            self._busy_until = 0.0

    def offer(self, now: float, datagram: bytes) -> list[Arrival]:
        """Send a packet at `now` (never decreasing): when it arrives and as what, or nothing."""
        options, counters = self._options, self.counters
        counters.offered += 1
        size = len(datagram) + options.overhead
        if options.blackholes and self._is_dark(now):
            counters.lost += 1
            self.fate = Fate.LOST
            return []
        if options.mtu is not None and size > options.mtu:
            counters.too_big += 1
            self.fate = Fate.TOO_BIG
            return []
        if self._is_lost():
            counters.lost += 1
            self.fate = Fate.LOST
            return []
        leaves = now
        if self._per_byte:
            if self._busy_until > now:
                leaves = self._busy_until
                if leaves - now > options.queue:
                    counters.overflowed += 1
                    self.fate = Fate.OVERFLOWED
                    return []
            leaves += size * self._per_byte
            self._busy_until = leaves
        self.fate = Fate.CARRIED
        return self._carry(now, leaves, datagram)

    def _carry(self, now: float, leaves: float, datagram: bytes) -> list[Arrival]:
        """What becomes of a packet that is on the line until the time `leaves`."""
        options, counters, random = self._options, self.counters, self._random.random
        arrival = leaves + options.delay
        if options.jitter:
            arrival += random() * options.jitter
            if options.keep_order:
                arrival = self._latest = max(arrival, self._latest)
        if options.reorder and random() < options.reorder:
            counters.reordered += 1
            late = options.reorder_delay
            arrival = now + options.delay / 2 if late is None else arrival + late
        if options.corrupt and random() < options.corrupt:
            damaged = self._damage(datagram, self._random)
            counters.corrupted += damaged is not datagram
            datagram = damaged
        counters.delivered += 1
        if options.duplicate and random() < options.duplicate:
            counters.duplicated += 1
            counters.delivered += 1
            return [(arrival, datagram), (arrival, datagram)]
        return [(arrival, datagram)]

    def _is_lost(self) -> bool:
        options, random = self._options, self._random.random
        if options.burst_loss:
            if self._bad:
                self._bad = random() >= self._burst_ends
            else:
                self._bad = random() < self._burst_starts
            if self._bad:
                return True
        return options.loss > 0 and random() < options.loss

    def _is_dark(self, now: float) -> bool:
        blackholes = self._options.blackholes
        if isinstance(blackholes, Outages):
            return blackholes.cover(now)
        return any(start <= now < end for start, end in blackholes)
