"""The scopes that rules of access may have: what of a service they allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jetstreamproto.server.access import ANYONE

ReadPattern = Callable[[str], str]
"""A pattern in its canonical form; raises `ValueError` for what is none."""

SCOPES: Mapping[str, Mapping[str, ReadPattern]] = {}
"""By service, by the key of the scope in a rule."""


def scopes_of(services: Iterable[str]) -> dict[str, ReadPattern]:
    """The scopes that a rule about these services may have."""
    names = SCOPES if ANYONE in services else services
    return {key: read for name in names for key, read in SCOPES.get(name, {}).items()}
