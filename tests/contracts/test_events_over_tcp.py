"""The contract of events over TCP, in virtual time."""

from __future__ import annotations

from tests.contracts import event_contract


class EventsOverTcpTests(event_contract.EventContract):
    """At 10 ms each way."""
