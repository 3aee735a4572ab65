"""The congestion controls by name."""

from __future__ import annotations

from collections.abc import Callable

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.congestion.base import Congestion
from jetstreamproto.reliability.congestion.bbr import Bbr
from jetstreamproto.reliability.congestion.cubic import Cubic
from jetstreamproto.reliability.congestion.newreno import NewReno

_KNOWN: dict[str, Callable[[int], Congestion]] = {"bbr": Bbr, "cubic": Cubic, "newreno": NewReno}


def check_congestion(name: str) -> None:
    """Raises `ConfigurationError`, which names the known ones, for an unknown name."""
    if name not in _KNOWN:
        known = ", ".join(_KNOWN)
        raise ConfigurationError(f"congestion {name!r} is not known; there are {known}")


def congestion_control(name: str, max_datagram: int) -> Congestion:
    """A new congestion control; `max_datagram` is in bytes of UDP payload.

    Raises `ConfigurationError` for an unknown name.
    """
    check_congestion(name)
    return _KNOWN[name](max_datagram)
