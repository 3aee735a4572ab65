"""What FEC may do on a connection, in one direction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.fec.codes import SHARES
from jetstreamproto.reliability.fec.plans import MAX_WINDOW

ADAPTIVE: Final = "adaptive"
FIXED: Final = "fixed"
OFF: Final = "off"
_GROUP = re.compile(r"([1-9][0-9]{0,2})\+([1-9][0-9]{0,2})", re.ASCII)


@dataclass(frozen=True)
class FecSettings:
    """Fractions are of 1, times in seconds.

    - `mode`: "adaptive" (what channels have deadlines for, as much as losses call for), "off", or
      "fixed": `r` repairs for every `k` packets, whatever they carry.
    - `hold`: a fixed group that is not full by then gets its repairs all the same.
    - `overhead`: most repairs a packet in adaptive mode; but a packet that nothing follows in time
      is always sent twice. `floor`: fewest, even when nothing is lost.
    - `residual`: the part of groups that may stay incomplete.
    """

    mode: str = ADAPTIVE
    k: int = 10
    r: int = 2
    hold: float = 0.01
    overhead: float = 0.5
    floor: float = 0.0
    residual: float = 1e-3

    def __post_init__(self) -> None:
        if self.mode not in (ADAPTIVE, FIXED, OFF):
            raise ConfigurationError(f"fec must be {ADAPTIVE}, {OFF} or K+R, not {self.mode!r}")
        if self.k < 1 or self.r < 1 or self.k + self.r > SHARES:
            raise ConfigurationError(f"an FEC group has 2 to {SHARES} packets, some for repair")
        if not self.hold > 0:
            raise ConfigurationError("the hold time of FEC must be positive")
        if not 1 / MAX_WINDOW <= self.overhead <= 1:
            raise ConfigurationError(f"the overhead of FEC must be 1/{MAX_WINDOW} to 1")
        if not 0 <= self.floor <= self.overhead:
            raise ConfigurationError("the floor of FEC must be 0 to its overhead")
        if not 1e-9 <= self.residual <= 0.5:
            raise ConfigurationError("the residual loss of FEC must be 1e-9 to 0.5")

    @classmethod
    def parse(cls, text: str) -> FecSettings:
        """Settings from "off", "adaptive" or "K+R". Raises `ConfigurationError`."""
        match = _GROUP.fullmatch(text)
        if match is None:
            if text == FIXED:
                raise ConfigurationError("fec needs the size of its groups, such as 10+2")
            return cls(mode=text)
        k, r = map(int, match.groups())
        return cls(mode=FIXED, k=k, r=r)
