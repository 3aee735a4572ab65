"""What a server offers, by its configuration. Who may use which is up to the rules of access."""

from __future__ import annotations

from collections.abc import Sequence

from jetstreamproto.server.access import AccessRules
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
from jetstreamproto.services.latency import LATENCY, Latency
from jetstreamproto.services.offer import Offer
from jetstreamproto.services.source import SOURCE, Source


def make_offers(config: ServerConfig, access: AccessRules) -> Sequence[Offer]:
    """All offers, not started yet. Raises `ConfigurationError`."""
    measuring = Offer({ECHO: Echo, DISCARD: Discard, SOURCE: Source, LATENCY: Latency})
    return [measuring]
