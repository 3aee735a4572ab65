"""Paths that change under a session: NATs that forget it, spoofed addresses, and their MTU."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from jetstreamproto.testing import LinkOptions
from jetstreamproto.testing.datagram_pair import CLIENT, NAT, SERVER
from jetstreamproto.testing.simnet import Datagram
from tests.doubles import MIB, noise
from tests.scenarios.udp_pairs import STRANGER, WAN, UdpPair, UdpTestCase, settings

BULK = noise(2 * MIB)
SLOW = LinkOptions(delay=0.025, rate=10e6)
ELSEWHERE = "203.0.113.5"


class RebindingTests(UdpTestCase):
    def move(self, address: str | None, *, down: bool, seed: int) -> None:
        pair = UdpPair(link=replace(SLOW, loss=0.01), behind_nat=True, seed=seed)
        inbox = pair.open("echo" if down else "sink")
        for start in range(0, len(BULK), 50_000):
            inbox.channel.send(BULK[start : start + 50_000])
        inbox.channel.end()
        pair.advance(0.5)
        assert pair.nat is not None
        received: Counter[tuple[str, int]] = Counter()
        sent: Counter[tuple[str, int]] = Counter()
        old, server = pair.server_link.address, pair.server_link

        def watch(datagram: Datagram) -> bool:
            if datagram.source[0] == SERVER and datagram.destination != old:
                if server.address == old:
                    sent[datagram.destination] += len(datagram.data)
            elif datagram.source != old:
                received[datagram.source] += len(datagram.data)
            return True

        pair.net.tap = watch
        pair.nat.rebind(address)
        pair.run_until(lambda: server.address != old)
        (new,) = sent
        self.assertLessEqual(sent[new], 3 * received[new])
        self.assertEqual(new, server.address)
        self.assertEqual(new[0], address or NAT)
        if down:
            got = [pair.run(inbox.get()) for _ in range(0, len(BULK), 50_000)]
            self.assertEqual(b"".join(got), BULK)
        else:
            pair.run(inbox.channel.when_closed())
            self.assertEqual(pair.received, BULK)
        self.assertEqual(server.stats.rebindings, 1)
        self.assert_closes(pair)

    def test_a_new_port(self) -> None:
        for seed in range(3):
            with self.subTest(seed=seed):
                self.move(None, down=False, seed=seed)
                self.move(None, down=True, seed=seed)

    def test_a_new_address(self) -> None:
        for seed in range(3):
            with self.subTest(seed=seed):
                self.move(ELSEWHERE, down=False, seed=seed)
                self.move(ELSEWHERE, down=True, seed=seed)

    def test_again_and_again(self) -> None:
        for seed in range(3):
            with self.subTest(seed=seed):
                pair = UdpPair(link=replace(SLOW, loss=0.02), behind_nat=True, seed=seed)
                assert pair.nat is not None
                inbox = pair.start_transfer(BULK)
                moves = 0
                while inbox.channel.state.value != "closed" and moves < 10:
                    pair.advance(0.3)
                    pair.nat.rebind()
                    moves += 1
                pair.run(inbox.channel.when_closed())
                self.assertEqual(pair.received, BULK)
                self.assertGreaterEqual(pair.server_link.stats.rebindings, 4)
                self.assert_closes(pair)

    def test_an_idle_session_is_found_again_by_its_heartbeat(self) -> None:
        pair = UdpPair(link=WAN, behind_nat=True)
        assert pair.nat is not None
        pair.advance(20.0)
        pair.nat.rebind()
        pair.advance(20.0)
        inbox = pair.open("echo")
        inbox.channel.send(b"here")
        self.assertEqual(pair.run(inbox.get()), b"here")
        self.assertEqual(pair.server_link.stats.rebindings, 1)
        pair.nat.rebind()
        pair.run(pair.server.ping())
        self.assertEqual(pair.server_link.stats.rebindings, 2)


class SpoofedAddressTests(UdpTestCase):
    """Genuine datagrams, played again by somebody who has seen them."""

    def spoof(self, *, early: bool, share: int) -> None:
        pair = UdpPair(link=SLOW if early else LinkOptions(delay=0.025), seed=4)
        pair.net.host(STRANGER)
        inbox = pair.start_transfer(BULK)
        genuine = pair.server_link.address
        to_stranger = from_stranger = 0

        def play(datagram: Datagram) -> bool:
            nonlocal to_stranger, from_stranger
            if datagram.destination[0] == STRANGER:
                to_stranger += len(datagram.data)
            if datagram.source[0] == CLIENT and datagram.number % share == 0:
                after = 0.001 if early else 0.2
                from_stranger += len(datagram.data)
                spoofed = (datagram.data, (STRANGER, 5000 + datagram.number % 3))
                pair.clock.callLater(after, pair.deliver, *spoofed)
            return True

        pair.net.tap = play
        pair.run(inbox.channel.when_closed())
        self.assertEqual(pair.received, BULK)
        self.assertEqual(pair.server_link.address, genuine)
        self.assertEqual(pair.server_link.stats.rebindings, 0)
        self.assertLessEqual(to_stranger, 3 * from_stranger)
        if not early:
            self.assertEqual(to_stranger, 0, "replays are not listened to")
        pair.net.tap = None
        self.assert_closes(pair)

    def test_delivered_before_the_original(self) -> None:
        for share in (1, 7, 100):
            with self.subTest(share=share):
                self.spoof(early=True, share=share)

    def test_delivered_after_the_original(self) -> None:
        for share in (1, 7):
            with self.subTest(share=share):
                self.spoof(early=False, share=share)


class MtuTests(UdpTestCase):
    def test_the_path_is_found_out(self) -> None:
        for mtu, size in ((1500, 1472), (8980, 8952), (1280, 1252), (1400, 1372), (1228, 1200)):
            with self.subTest(mtu=mtu):
                pair = UdpPair(link=replace(WAN, mtu=mtu), seed=mtu)
                self.assertEqual(pair.transfer(BULK), BULK)
                pair.advance(20.0)
                found = pair.connection("client").sender.mtu.size
                self.assertLessEqual(found, size)
                self.assertGreater(found, size - 17)
                if size in (1472, 8952):
                    self.assertEqual(found, size)
                self.assert_closes(pair)

    def test_no_larger_than_allowed(self) -> None:
        options = settings(max_mtu=2000)
        pair = UdpPair(link=replace(WAN, mtu=9000), datagrams=options)
        self.assertEqual(pair.transfer(BULK), BULK)
        self.assertEqual(pair.connection("client").sender.mtu.size, 2000)

    def test_the_path_becomes_narrower(self) -> None:
        for reports in (False, True):
            for seed in range(3):
                with self.subTest(reports=reports, seed=seed):
                    link = replace(SLOW, mtu=1500, mtu_reports=reports, loss=0.005 * seed)
                    pair = UdpPair(link=link, seed=seed)
                    inbox = pair.start_transfer(BULK)
                    pair.advance(0.5)
                    self.assertEqual(pair.connection("client").sender.mtu.size, 1472)
                    pair.change_link(mtu=1300)
                    pair.run(inbox.channel.when_closed())
                    self.assertEqual(pair.received, BULK)
                    self.assertLess(pair.clock.seconds(), 6.0)
                    found = pair.connection("client").sender.mtu.size
                    self.assertTrue(1200 <= found <= 1272, found)
                    self.assert_closes(pair)

    def test_answers_with_a_short_last_packet_do_not_hide_it(self) -> None:
        """The last packet of each flight arrives, and the full ones never do."""
        for seed in range(4):
            with self.subTest(seed=seed):
                pair = UdpPair(link=replace(WAN, mtu=1500), seed=seed)
                inbox = pair.open("echo")
                pair.advance(1.0)
                pair.change_link(mtu=1300)
                began = pair.clock.seconds()
                for number in range(10):
                    message = noise(1472 * 2 + 100 * seed, number)
                    inbox.channel.send(message)
                    self.assertEqual(pair.run(inbox.get()), message)
                self.assertLess(pair.clock.seconds() - began, 4.0)

    def test_the_path_becomes_wider(self) -> None:
        pair = UdpPair(link=replace(WAN, mtu=1300))
        pair.advance(5.0)
        self.assertLessEqual(pair.connection("client").sender.mtu.size, 1272)
        pair.change_link(mtu=1500)
        pair.advance(700.0)
        self.assertEqual(pair.transfer(BULK), BULK)
        pair.advance(5.0)
        self.assertEqual(pair.connection("client").sender.mtu.size, 1472)

    def test_random_loss_does_not_shrink_it_for_long(self) -> None:
        for seed in range(5):
            with self.subTest(seed=seed):
                link = replace(SLOW, mtu=1500, loss=0.1, burst_loss=0.05, burst_length=6.0)
                pair = UdpPair(link=link, seed=seed)
                self.assertEqual(pair.transfer(BULK), BULK)
                pair.change_link(loss=0.0, burst_loss=0.0)
                self.assertEqual(pair.transfer(BULK), BULK)
                self.assertGreaterEqual(pair.connection("client").sender.mtu.size, 1452)
                self.assert_closes(pair)

    def test_a_lying_router(self) -> None:
        """That nothing passes is believed no further than to the least that every path has."""
        pair = UdpPair(link=replace(SLOW, mtu=1500), seed=2)
        inbox = pair.start_transfer(BULK)
        for mtu in (0, 1, 68, 576, 1228, 1300, 1499, 1 << 31):
            pair.client_protocol.datagram_error(pair.client_link.address, 90, mtu)
            pair.advance(0.1)
            self.assertGreaterEqual(pair.connection("client").sender.mtu.size, 1200)
        pair.client_protocol.datagram_error(pair.client_link.address, 111, 0)
        pair.run(inbox.channel.when_closed())
        self.assertEqual(pair.received, BULK)
        self.assert_closes(pair)
