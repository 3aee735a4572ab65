"""Where a client connects from, so that very many sessions do not run out of ports."""

from __future__ import annotations

_PER_ADDRESS = 20_000  # below the ephemeral ports that Linux has for one address


def source_address(number: int) -> tuple[str, int] | None:
    """The address to bind the connection with this number to; None leaves it to the system."""
    if number < _PER_ADDRESS:
        return None
    return f"127.0.0.{1 + number // _PER_ADDRESS}", 0
