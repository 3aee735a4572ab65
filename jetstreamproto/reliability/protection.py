"""FEC for a connection: what is protected, by how much, and what it has repaired."""

from __future__ import annotations

from jetstreamproto.reliability.frames import Repair
from jetstreamproto.reliability.rtt import RttEstimator


class Protection:
    def __init__(self, mode: str) -> None:
        self.protects_all = False
        self.active = False
        self.next_number = 0
        self.due_at: float | None = None
        self.repaired = 0
        self.recovered = 0

    def channel_opened(self, deadline: float | None) -> None: ...

    def add(self, symbol: memoryview, now: float) -> None: ...

    def take_repairs(self, now: float) -> list[bytes]:
        return []

    def source_received(self, number: int, symbol: memoryview) -> list[bytes]:
        return []

    def repair_received(self, repair: Repair) -> list[bytes]:
        return []

    def feedback(self) -> bytes:
        return b""

    def round_ended(self, sent: int, lost: int, rtt: RttEstimator, now: float) -> None: ...
