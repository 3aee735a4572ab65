"""`ReconnectingClient` with a `Destination`: it comes back over whatever is left, and says why."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.logger import capturedLogs, formatEvent

from jetstreamproto.client import ReconnectingClient
from jetstreamproto.errors import PeerSilent, WrongFingerprint
from jetstreamproto.session.session import Session
from tests.scenarios.race_network import NAME, RaceCase, RaceNetwork
from tests.scenarios.test_races import AWAY, ELSEWHERE, NEARBY


class ReconnectingTests(RaceCase):
    def start(self, network: RaceNetwork, factory: Any = None, **options: Any) -> Any:
        client = ReconnectingClient(
            network.destination(**options),
            factory or network.factory(),
            retry_policy=lambda failures: min(2.0**failures, 30),
            clock=network.clock,
        )
        client.startService()
        return client

    def session(self, network: RaceNetwork, client: Any) -> Session:
        session: Session = network.run(client.when_connected())
        network.ask(session)
        return session

    def assert_stops(self, network: RaceNetwork, client: Any) -> None:
        network.run(client.stopService())
        self.assert_nothing_left(network)

    def test_udp_filtered_in_the_middle(self) -> None:
        for bulk, name in ((False, "quic"), (True, "udp")):
            with self.subTest(name), self.network(AWAY) as network:
                client = self.start(network, bulk=bulk)
                first = self.session(network, client)
                self.assertEqual(first.transport, name)
                network.filter_udp()
                with capturedLogs() as events:
                    network.run(first.when_closed())
                    second = self.session(network, client)
                self.assertIsInstance(first.close_reason, PeerSilent)
                self.assertEqual(second.transport, "tcp")
                self.assertRegex(second.fallback or "", f"^{name} fell silent, . s ago$")
                log = [formatEvent(event) for event in events]
                for line in (
                    f"{NAME}:9000: {name} fell silent: no sign of the peer",
                    f"the session over {name} is lost: no sign of the peer",
                    f"{NAME}:9000: over tcp, because {name} fell silent",
                ):
                    self.assertEqual(sum(text.startswith(line) for text in log), 1, (line, log))
                self.assert_stops(network, client)

    def test_a_server_that_is_restarted(self) -> None:
        for latency, bulk in ((NEARBY, False), (AWAY, False), (AWAY, True)):
            with self.subTest(latency, bulk=bulk), self.network(latency) as network:
                client = self.start(network, bulk=bulk)
                first = self.session(network, client)
                network.crash()
                network.advance(20)
                self.assertIsNotNone(first.close_reason)
                network.restart()
                begun = network.clock.seconds()
                self.session(network, client)
                self.assertLess(network.clock.seconds() - begun, 31)
                self.assert_stops(network, client)

    def test_it_waits_longer_and_longer(self) -> None:
        with self.network(NEARBY, udp=False, quic=False) as network:
            network.tcp = "refused"
            with capturedLogs() as events:
                client = self.start(network)
                network.advance(40)
            lines = [formatEvent(event) for event in events]
            self.assertEqual(sum("no session: " in line for line in lines), 5)  # 0, 2, 6, 14, 30 s
            waiting = client.when_connected(fail_after=1)
            network.advance(40)
            self.failureResultOf(waiting, ConnectionRefusedError)
            self.assert_stops(network, client)

    def test_a_server_that_is_not_trusted(self) -> None:
        with self.network(NEARBY) as network:
            client = self.start(network, network.factory(ELSEWHERE))
            with self.assertRaises(WrongFingerprint):
                network.run(client.when_connected(fail_after=1))
            self.assertEqual(network.first_sent, {})
            self.assert_stops(network, client)

    def test_it_is_stopped_in_the_middle_of_a_race(self) -> None:
        with self.network(AWAY) as network:
            network.tcp = "silent"
            network.filter_udp()
            client = self.start(network)
            network.advance(2)
            network.run(client.stopService())
            self.assert_nothing_left(network, 0.001)
