from __future__ import annotations

import unittest
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, succeed

from jetstreamproto.errors import NotAllowed
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.server.access import AccessRules, AllowRule, peer_names, read_peer
from jetstreamproto.services.echo import Discard, Echo
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.testing import SessionPair

SERVICES = {"echo": Echo, "discard": Discard, "private": Echo}


def rule(peers: str, services: str) -> AllowRule:
    return AllowRule(frozenset(peers.split()), frozenset(services.split()))


def pair_under(*rules: AllowRule, user: str | None = None, **options: Any) -> SessionPair:
    """A pair whose server has these rules, and whose client is `user` if it is anyone."""
    server = {"access": AccessRules(rules), **options.pop("server_options", {})}
    if user is not None:
        server["authenticate"] = lambda session, hello: succeed(user)
    return SessionPair(SERVICES, server_options=server, **options)


class AccessTests(unittest.TestCase):
    def assert_may(self, pair: SessionPair, *services: str) -> None:
        """The client may use exactly these."""
        for service in SERVICES:
            with self.subTest(service):
                opening: Deferred[Inbox] = pair.client.open(service)
                if service in services:
                    pair.run(opening)
                else:
                    with self.assertRaises(NotAllowed) as caught:
                        pair.run(opening)
                    self.assertEqual(caught.exception.code, ResetCode.NOT_ALLOWED)
                    self.assertIn(service, str(caught.exception))

    def test_without_rules_echo_and_discard_are_for_everyone(self) -> None:
        self.assert_may(pair_under(), "echo", "discard")

    def test_with_a_rule_what_it_does_not_allow_is_refused(self) -> None:
        self.assert_may(pair_under(rule("*", "private")), "private")

    def test_patterns_are_of_the_rules_that_let_this_peer_use_the_service(self) -> None:
        rules = AccessRules(
            [
                AllowRule(frozenset({"*"}), frozenset({"echo"}), {"targets": ("a", "b")}),
                AllowRule(frozenset({"anonymous"}), frozenset({"*"}), {"targets": ("b", "c")}),
                AllowRule(frozenset({"user:al"}), frozenset({"echo"}), {"targets": ("d",)}),
                AllowRule(frozenset({"*"}), frozenset({"private"}), {"targets": ("e",)}),
                AllowRule(frozenset({"*"}), frozenset({"echo"})),
            ]
        )
        session = pair_under().server
        self.assertEqual(rules.patterns(session, "echo", "targets"), ("a", "b", "c"))
        self.assertEqual(rules.patterns(session, "echo", "targets", ("z",)), ("a", "b", "c", "z"))
        self.assertEqual(rules.patterns(session, "echo", "topics", ("z",)), ("z",))
        self.assertEqual(rules.patterns(session, "other", "targets"), ("b", "c"))

    def test_rules_add_up(self) -> None:
        rules = rule("*", "echo"), rule("anonymous", "private")
        self.assert_may(pair_under(*rules), "echo", "private")

    def test_a_star_is_every_service(self) -> None:
        self.assert_may(pair_under(rule("*", "*")), *SERVICES)

    def test_a_user_has_the_rules_of_that_name_only(self) -> None:
        rules = rule("user:al", "private"), rule("user:bo", "echo"), rule("anonymous", "discard")
        self.assert_may(pair_under(*rules, user="al"), "private")
        self.assert_may(pair_under(*rules, user="bo"), "echo")
        self.assert_may(pair_under(*rules, user="eve"))
        self.assert_may(pair_under(*rules), "discard")

    def test_a_user_cannot_pass_for_another_kind_of_peer(self) -> None:
        rules = rule("anonymous", "discard"), rule("sha256:x", "private"), rule("user:al", "echo")
        for name in ("anonymous", "sha256:x", "user:al"):
            self.assert_may(pair_under(*rules, user=name))

    def test_a_certificate_has_the_rules_of_its_fingerprint(self) -> None:
        identity = Identity.create(datetime.now(UTC))
        server = Identity.create(datetime.now(UTC))
        options: dict[str, Any] = {
            "server_options": {"clients": PinnedKeys([identity.fingerprint])},
            "client_options": {"identity": identity, "trust": PinnedKeys([server.fingerprint])},
        }
        rules = rule(identity.fingerprint, "private"), rule("anonymous", "echo")
        pair = pair_under(*rules, identity=server, **options)
        self.assert_may(pair, "private")
        pair = pair_under(*rules, rule("user:al", "discard"), user="al", identity=server, **options)
        self.assertEqual(peer_names(pair.server), {"*", identity.fingerprint, "user:al"})
        self.assert_may(pair, "private", "discard")

    def test_a_refusal_tells_nothing_of_which_services_there_are(self) -> None:
        pair = pair_under(rule("*", "echo"))
        refusals = []
        for service in ("private", "unknown"):
            with self.assertRaises(NotAllowed) as caught:
                pair.run(pair.client.open(service))
            refusals.append(str(caught.exception).replace(service, "X"))
        self.assertEqual(refusals[0], refusals[1])


class ReadPeerTests(unittest.TestCase):
    def test_the_ways_to_name_a_peer(self) -> None:
        for text in ("*", "anonymous", "user:al", "user:*"):
            self.assertEqual(read_peer(text), text)
        self.assertEqual(
            read_peer("SHA256:" + "ab" * 32), "sha256:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s"
        )

    def test_anything_else_is_refused(self) -> None:
        for text in ("", "al", "user:", "sha256:", "sha256:abc", "Anonymous"):
            with self.subTest(text), self.assertRaises(ValueError):
                read_peer(text)
