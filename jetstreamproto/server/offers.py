"""What a server offers, by its configuration. Who may use which is up to the rules of access."""

from __future__ import annotations

from collections.abc import Sequence

from jetstreamproto.server.access import AccessRules
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.services.chat.messages import CHAT
from jetstreamproto.services.chat.service import ChatOffer
from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
from jetstreamproto.services.events.messages import EVENTS
from jetstreamproto.services.events.offer import EventOffer
from jetstreamproto.services.files.conversation import FILES
from jetstreamproto.services.files.service import FileOffer
from jetstreamproto.services.kv.model import KV
from jetstreamproto.services.kv.service import KeyValueOffer
from jetstreamproto.services.latency import LATENCY, Latency
from jetstreamproto.services.offer import Offer
from jetstreamproto.services.rpc.messages import RPC
from jetstreamproto.services.rpc.offer import RpcOffer
from jetstreamproto.services.source import SOURCE, Source
from jetstreamproto.services.tunnel.model import TunnelLimits
from jetstreamproto.services.tunnel.service import TunnelOffer
from jetstreamproto.sockets.resolving import resolve


def make_offers(config: ServerConfig, access: AccessRules) -> Sequence[Offer]:
    """All offers, not started yet. Raises `ConfigurationError`."""
    measuring = Offer({ECHO: Echo, DISCARD: Discard, SOURCE: Source, LATENCY: Latency})
    tunnel = TunnelOffer(
        access.patterns, resolve, TunnelLimits(connections=config.tunnel_connections)
    )
    calls = RpcOffer(config.rpc, access.patterns)
    offers: list[Offer] = [measuring, tunnel, calls]
    events = EventOffer(config.data_dir, access.patterns)
    offers.append(events)
    offers.append(ChatOffer(config.data_dir, events, access.patterns))

    def publish(topic: str, payload: bytes) -> object:
        return events.broker.publish(topic, payload)

    offers.append(KeyValueOffer(config.data_dir, access.patterns, config.kv_size, publish=publish))
    if config.files is not None:
        offers.append(FileOffer(config.files.path, config.files.writable, access.patterns))
    return offers


def opened_services(config: ServerConfig) -> Sequence[str]:
    """What every peer may use unless there are rules, because the configuration says so."""
    opened = [] if config.files is None else [FILES]
    if not config.allow_anonymous:
        opened += [CHAT, EVENTS, KV, RPC]
    return opened
