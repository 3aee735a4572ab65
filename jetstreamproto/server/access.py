"""Access: which services a peer may use. What no rule allows is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jetstreamproto.errors import ConfigurationError, NotAllowed
from jetstreamproto.security.identity import parse_fingerprint
from jetstreamproto.services.echo import DISCARD, ECHO
from jetstreamproto.services.latency import LATENCY
from jetstreamproto.services.source import SOURCE
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.session import Session

ANYONE = "*"
"""In a rule: every peer that was let in; or every service."""
ANONYMOUS = "anonymous"
"""In a rule: every peer that showed neither a certificate nor a user's password."""
USER_PREFIX = "user:"
"""In a rule, before the name of a user who was let in by password."""


@dataclass(frozen=True)
class AllowRule:
    """The peers that one rule names, and the services they may use.

    `peers` are fingerprints, `user:NAME`, `ANONYMOUS` and `ANYONE`; `services` are names, or
    `ANYONE` for all. `scopes` are patterns that say what of a service, by the name of the scope.
    """

    peers: frozenset[str]
    services: frozenset[str]
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def allows(self, peer: frozenset[str], service: str) -> bool:
        """Whether this rule lets a peer with these names (see `peer_names`) use `service`."""
        return not self.peers.isdisjoint(peer) and not self.services.isdisjoint((service, ANYONE))


DEFAULT_RULES = (AllowRule(frozenset({ANYONE}), frozenset({ECHO, DISCARD, SOURCE, LATENCY})),)
"""Without rules of its own a server lets its peers use what gives nothing away."""


class AccessRules:
    """Given to `JetStreamServerFactory` as its `access`."""

    def __init__(self, rules: Iterable[AllowRule] = (), opened: Iterable[str] = ()) -> None:
        """Without `rules` every peer may use what `DEFAULT_RULES` say, and the `opened` ones."""
        more = [AllowRule(frozenset({ANYONE}), frozenset({name})) for name in opened]
        self.rules = tuple(rules) or (*DEFAULT_RULES, *more)

    def __call__(self, session: Session, service: str) -> None:
        """Return if the session's peer may use `service`, raise `NotAllowed` otherwise."""
        peer = peer_names(session)
        if not any(rule.allows(peer, service) for rule in self.rules):
            raise NotAllowed(ResetCode.NOT_ALLOWED, f"you may not use the service {service!r} here")

    def patterns(
        self, session: Session, service: str, scope: str, default: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """The patterns of a scope for the session's peer, from all rules that let it use `service`.

        A rule that says nothing of the scope counts as one with `default`.
        """
        peer = peer_names(session)
        allowing = [rule for rule in self.rules if rule.allows(peer, service)]
        found = [pattern for rule in allowing for pattern in rule.scopes.get(scope, default)]
        return tuple(dict.fromkeys(found))


def peer_names(session: Session) -> frozenset[str]:
    """Every name by which a rule may mean the session's peer."""
    proved = set()
    if session.peer.fingerprint is not None:
        proved.add(session.peer.fingerprint)
    if session.avatar is not None:
        proved.add(f"{USER_PREFIX}{session.avatar}")
    return frozenset(proved or {ANONYMOUS}) | {ANYONE}


def read_peer(text: str) -> str:
    """One entry of a rule's `peers` in its canonical form; raises `ValueError` for another."""
    if text in (ANYONE, ANONYMOUS) or (text.startswith(USER_PREFIX) and text != USER_PREFIX):
        return text
    try:
        return parse_fingerprint(text)
    except ConfigurationError:
        raise ValueError(
            f"{text!r} is not a peer: sha256:FINGERPRINT, user:NAME, {ANONYMOUS} or {ANYONE}"
        ) from None
