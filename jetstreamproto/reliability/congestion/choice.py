"""The congestion controls by name."""

from __future__ import annotations

from collections.abc import Callable

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.congestion.base import Congestion
from jetstreamproto.reliability.congestion.bbr import Bbr
from jetstreamproto.reliability.congestion.cubic import Cubic
from jetstreamproto.reliability.congestion.newreno import NewReno

DEFAULT_CONGESTION = "bbr"

_KNOWN: dict[str, Callable[[int], Congestion]] = {"bbr": Bbr, "cubic": Cubic, "newreno": NewReno}


def congestion_control(name: str, max_datagram: int) -> Congestion:
    """A new congestion control; `max_datagram` is in bytes of UDP payload.

    Raises `ConfigurationError`, which names the known ones, for any other name.
    """
    try:
        make = _KNOWN[name]
    except KeyError:
        known = ", ".join(_KNOWN)
        raise ConfigurationError(f"congestion {name!r} is not known; there are {known}") from None
    return make(max_datagram)
