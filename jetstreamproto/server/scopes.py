"""The scopes that rules of access may have: what of a service they allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jetstreamproto.server.access import ANYONE
from jetstreamproto.services.chat.hall import ROOMS
from jetstreamproto.services.chat.messages import CHAT
from jetstreamproto.services.chat.model.names import read_room_pattern
from jetstreamproto.services.events.messages import EVENTS
from jetstreamproto.services.events.model.topics import check_pattern as check_topics
from jetstreamproto.services.events.service import DEFAULT_SCOPES as EVENT_SCOPES
from jetstreamproto.services.files.conversation import FILES
from jetstreamproto.services.files.model import read_pattern
from jetstreamproto.services.files.service import READ, WRITE
from jetstreamproto.services.kv import model as kv
from jetstreamproto.services.kv.patterns import read_pattern as read_key_pattern
from jetstreamproto.services.rpc.messages import RPC
from jetstreamproto.services.rpc.model import check_pattern
from jetstreamproto.services.rpc.offer import METHODS, REGISTER
from jetstreamproto.services.tunnel.model import (
    LISTEN,
    TARGETS,
    TUNNEL,
    read_listen_pattern,
    read_target_pattern,
)

ReadPattern = Callable[[str], str]
"""A pattern in its canonical form; raises `ValueError` for what is none."""

SCOPES: Mapping[str, Mapping[str, ReadPattern]] = {
    CHAT: {ROOMS: read_room_pattern},
    EVENTS: dict.fromkeys(EVENT_SCOPES, check_topics),
    FILES: {READ: read_pattern, WRITE: read_pattern},
    RPC: {METHODS: check_pattern, REGISTER: check_pattern},
    kv.KV: {kv.READ: read_key_pattern, kv.WRITE: read_key_pattern},
    TUNNEL: {TARGETS: read_target_pattern, LISTEN: read_listen_pattern},
}
"""By service, by the key of the scope in a rule."""


def scopes_of(services: Iterable[str]) -> dict[str, ReadPattern]:
    """The scopes that a rule about these services may have."""
    found: dict[str, ReadPattern] = {}
    for name in SCOPES if ANYONE in services else services:
        for key, read in SCOPES.get(name, {}).items():
            found[key] = read if found.get(key, read) is read else _ambiguous
    return found


def _ambiguous(_pattern: str) -> str:
    raise ValueError("several of these services have a scope of that name: write a rule for each")
