"""FEC for a connection: what the sender protects and the receiver restores."""

from __future__ import annotations

from collections import deque

from jetstreamproto.reliability.fec.decoder import FecDecoder
from jetstreamproto.reliability.fec.encoder import FecEncoder
from jetstreamproto.reliability.fec.rate import FecRate, random_losses
from jetstreamproto.reliability.fec.settings import FIXED, FecSettings
from jetstreamproto.reliability.frames import (
    REPAIR,
    REPAIR_HEAD,
    Repair,
    encode_recovered,
)
from jetstreamproto.reliability.rtt import RttEstimator

_REMEMBERED = 1024
"""Symbols of which the sender knows the packet, in case the peer says that it restored them."""
_REPORTED = 256
"""Symbols back to which the receiver says what it has restored."""
_REPORTS = 3
"""Acknowledgements that say so, for some may get lost."""


class Protector:
    """The sending side: makes repairs for what needs them, as much as the path calls for."""

    __slots__ = (
        "_deadlines",
        "_encoder",
        "_packets",
        "_rate",
        "_reported",
        "_reported_repairs",
        "protects_all",
        "repaired",
    )

    def __init__(self, fec: str, rtt: RttEstimator) -> None:
        settings = FecSettings.parse(fec)
        self.protects_all = settings.mode == FIXED
        """Whether every packet with data is protected, and not just those with a deadline."""
        self.repaired = 0
        """Packets that the peer has restored."""
        self._rate = FecRate(settings, rtt.smoothed, rtt.variation)
        self._encoder = FecEncoder(self._rate.plan(None))
        self._packets: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._deadlines: dict[int, float] = {}
        self._reported = self._reported_repairs = 0

    def channel_opened(self, channel: int, deadline: float) -> None:
        """Messages of `channel` should arrive within `deadline` seconds."""
        self._deadlines[channel] = deadline
        self._plan()

    def channel_ended(self, channel: int) -> None:
        """Nothing more is sent on `channel`."""
        if self._deadlines.pop(channel, None) is not None:
            self._plan()

    def protects(self, now: float) -> bool:
        """Whether data with a deadline that are sent now become a symbol."""
        self._rate.symbol_added(now)
        return self._encoder.plan.repairs > 0

    @property
    def active(self) -> bool:
        """Whether what has a deadline is protected at present."""
        return self._encoder.plan.repairs > 0

    @property
    def next_symbol(self) -> int:
        """The number of the next symbol."""
        return self._encoder.next_number

    def add(self, symbol: memoryview, packet: int, now: float) -> None:
        """Packet number `packet` carries `symbol`, whose bytes do not change any more."""
        self._packets.append((self._encoder.next_number, packet))
        self._encoder.add(symbol, now)

    @property
    def due_at(self) -> float | None:
        """When to call `take_repairs` if nothing else is sent."""
        return self._encoder.deadline

    def take_repairs(self, now: float) -> list[bytes]:
        """The REPAIR frames that are due."""
        return [
            REPAIR_HEAD.pack(REPAIR, base, covers, k, row) + data
            for base, covers, k, row, data in self._encoder.take_repairs(now)
        ]

    def repairable(self, packets: int) -> int:
        """How many lost ones of `packets`, sent together, are better left to FEC for a while.

        None where a deadline does not leave the time.
        """
        plan = self._encoder.plan
        if not self.protects_all or self._deadlines:
            return 0
        return max(packets * plan.repairs // (plan.every + plan.repairs), 1)

    def hold(self, rtt: RttEstimator) -> float:
        """Seconds from sending after which the peer should have reported what it restored."""
        return self._encoder.plan.hold + rtt.loss_delay + rtt.max_ack_delay

    def restored_packets(self, newest: int, bitmap: int) -> list[int]:
        """The packets of the symbols that the peer has restored: bit i is `newest` - i."""
        length = bitmap.bit_length()
        found = []
        for symbol, packet in reversed(self._packets):
            behind = newest - symbol & 0xFFFFFFFF
            if behind < length:
                if bitmap >> behind & 1:
                    found.append(packet)
            elif behind < _REMEMBERED:
                break
        return found

    def round_ended(self, sent: int, lost: int, rtt: RttEstimator) -> None:
        """A round trip is over, in which `lost` of `sent` packets were lost."""
        latest = rtt.smoothed if rtt.latest is None else rtt.latest
        self._rate.round_ended(
            sent, random_losses(lost, latest, rtt.least), rtt.smoothed, rtt.variation
        )
        repairs, repaired = self._encoder.repairs, self.repaired
        self._rate.repairs_used(repairs - self._reported_repairs, repaired - self._reported)
        self._reported_repairs, self._reported = repairs, repaired
        self._plan()

    def _plan(self) -> None:
        deadline = min(self._deadlines.values(), default=None)
        plan = self._rate.plan(deadline)
        if plan != self._encoder.plan:
            self._encoder.use(plan)


class Restorer:
    """The receiving side: restores symbols and reports them."""

    __slots__ = ("_bitmap", "_decoder", "_newest", "_reports")

    def __init__(self) -> None:
        self._decoder = FecDecoder()
        self._newest = 0
        self._bitmap = 0  # of restored symbols, from `_newest` down
        self._reports = 0

    @property
    def restored(self) -> int:
        """How many symbols were restored."""
        return self._decoder.recovered

    @property
    def repairs(self) -> int:
        """How many repairs came."""
        return self._decoder.repairs

    @property
    def kept_bytes(self) -> int:
        """Bytes of symbols and repairs that are kept."""
        return self._decoder.kept_bytes

    def source_received(self, number: int, symbol: memoryview) -> list[bytes]:
        """Symbol `number` came; those that it helps to restore. Raises `ProtocolViolation`."""
        restored = self._decoder.source(number, symbol)
        return self._note(restored) if restored else []

    def repair_received(self, repair: Repair) -> list[bytes]:
        """A repair came; the symbols that it helps to restore. Raises `ProtocolViolation`."""
        base, covers, k, row, data = repair
        restored = self._decoder.repair(base, covers, k, row, data)
        return self._note(restored) if restored else []

    def report(self) -> bytes:
        """The RECOVERED frame to go with an acknowledgement; empty if there is no news."""
        if not self._reports:
            return b""
        self._reports -= 1
        return encode_recovered(self._newest, self._bitmap)

    @property
    def has_news(self) -> bool:
        """Whether something was restored that no acknowledgement has told of."""
        return self._reports == _REPORTS

    def _note(self, restored: list[tuple[int, bytes]]) -> list[bytes]:
        for number, _ in restored:
            ahead = (number - self._newest + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
            if not self._bitmap or ahead > _REPORTED:
                self._newest, self._bitmap = number, 1
            elif ahead > 0:
                mask = (1 << _REPORTED) - 1
                self._newest, self._bitmap = number, (self._bitmap << ahead | 1) & mask
            elif ahead > -_REPORTED:
                self._bitmap |= 1 << -ahead
        self._reports = _REPORTS
        return [symbol for _, symbol in restored]
