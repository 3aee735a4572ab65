from __future__ import annotations

import unittest
from collections.abc import Sequence

from jetstreamproto.errors import ConfigurationError, RpcError
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.model import RpcStatus
from jetstreamproto.services.rpc.offer import METHODS, REGISTER, RpcOffer
from jetstreamproto.session.session import Session
from tests.doubles import make_pair
from tests.unit.services.rpc import calculator

TARGET = "tests.unit.services.rpc.calculator:Calculator"
INSTANCE = calculator.Calculator()


def everything(
    session: Session, service: str, scope: str, default: Sequence[str] = ()
) -> tuple[str, ...]:
    return tuple(default)


class RpcOfferTests(unittest.TestCase):
    def test_a_class_is_made_at_start(self) -> None:
        offer = RpcOffer([TARGET], everything)
        pair = make_pair(offer.services)
        client = RpcClient(pair.client)
        with self.assertRaises(RpcError):
            pair.run(client.call("test.Calculator#add", 1))
        offer.start(pair.clock)
        self.assertEqual(pair.run(client.call("test.Calculator#add", 1)), 2)
        offer.stop()

    def test_an_object_is_taken_as_it_is(self) -> None:
        offer = RpcOffer(["tests.unit.services.rpc.test_offer:INSTANCE"], everything)
        pair = make_pair(offer.services)
        offer.start(pair.clock)
        pair.run(RpcClient(pair.client).call("test.Calculator#add", 1))
        self.assertEqual(INSTANCE.calls, 1)

    def test_what_cannot_be_served(self) -> None:
        for target, word in (
            ("nowhere.at_all:Thing", "nowhere"),
            ("tests.unit.services.rpc.calculator:Nothing", "Nothing"),
            ("tests.unit.services.rpc.calculator:deferLater", "rpc_service"),
        ):
            with self.subTest(target), self.assertRaisesRegex(ConfigurationError, word):
                RpcOffer([target], everything)
        with self.assertRaisesRegex(ConfigurationError, "twice"):
            RpcOffer([TARGET, "tests.unit.services.rpc.test_offer:INSTANCE"], everything)

    def test_the_rules_of_access_decide(self) -> None:
        asked = set()

        def permissions(
            session: Session, service: str, scope: str, default: Sequence[str] = ()
        ) -> tuple[str, ...]:
            asked.add((service, scope, tuple(default)))
            return ("jetstream.Registry#*",) if scope == METHODS else ("demo.*",)

        pair = make_pair(RpcOffer([], permissions).services)
        client = RpcClient(pair.client)
        register = "jetstream.Registry#register"
        pair.run(client.call(register, "demo.X", {"address": "h:1"}))
        for call in (
            client.call(register, "test.X", {"address": "h:1"}),
            client.call("jetstream.Health#check"),
        ):
            with self.assertRaises(RpcError) as raised:
                pair.run(call)
            self.assertIs(raised.exception.status, RpcStatus.PERMISSION_DENIED)
        self.assertEqual(asked, {("rpc", METHODS, ("*",)), ("rpc", REGISTER, ("*",))})
