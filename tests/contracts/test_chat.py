"""Chat over each transport, in virtual time: the same service, whatever carries the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.services.chat.model.limits import ChatLimits
from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.doubles import IDENTITY, make_pair
from tests.unit.services.chat.house import ChatCase

_Case = ChatCase if TYPE_CHECKING else object


class ChatContract(_Case):
    limits = ChatLimits(burst=200)

    def test_everybody_hears_everything_in_one_order(self) -> None:
        people = [self.person(name) for name in ("al", "bo", "cy")]
        for client in people:
            self.heard(client)
        saying = [
            client.say("lobby", f"{client.name} {number}")
            for number in range(30)
            for client in people
        ]
        for one in saying:
            self.run_now(one)
        first, *others = [self.said(client) for client in people]
        self.assertEqual(len(first), 90)
        self.assertEqual(others, [first, first])
        for name in ("al", "bo", "cy"):
            mine = [text for text in first if text.startswith(name)]
            self.assertEqual(mine, [f"{name} {number}" for number in range(30)])

    def test_a_history_of_many_packets(self) -> None:
        al = self.person("al")
        for number in range(60):
            self.run_now(al.say("lobby", f"{number:04000d}"))
        room = self.run_now(self.client("bo").join("lobby", history=60))
        self.assertEqual([int(one.text) for one in room.history], list(range(60)))


class ChatOverTcpTests(ChatContract, ChatCase):
    def connect(self, services: Any, **options: Any) -> Any:
        return make_pair(services, latency=0.01, **options)


class _OverDatagrams(ChatContract):
    transport = "udp"
    link = LinkOptions(delay=0.01)

    def connect(self, services: Any, **options: Any) -> Any:
        return DatagramPair(
            services,
            transport=self.transport,
            link=self.link,
            identity=IDENTITY,
            datagrams=DatagramSettings(mtu=1452),
            **options,
        )


class ChatOverLossyUdpTests(_OverDatagrams, ChatCase):
    link = LinkOptions(delay=0.02, jitter=0.005, loss=0.05, duplicate=0.05, reorder=0.05)


class ChatOverQuicTests(_OverDatagrams, ChatCase):
    transport = "quic"
