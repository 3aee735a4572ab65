"""Which channels compress: not secret ones, and only where both sides say so."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.services.echo import Echo
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.wire.compression import CompressionPolicy
from tests.doubles import MIB, Recorder, Registry, make_pair, noise

NEVER = SessionSettings(compression=None)
DULL = b"the same again and again; " * (MIB // 26)


def carried(pair: SessionPair) -> tuple[int, int]:
    """Bytes on the wire so far, from the client and from the server."""
    return pair.client.link.stats.bytes_sent, pair.server.link.stats.bytes_sent


class CompressionTests(SynchronousTestCase):
    def echo(self, content: bytes, secret: bool = False, **options: object) -> tuple[int, int]:
        """What the wire carries when `content` goes to the echo service and back."""
        pair = make_pair({"echo": Echo}, **options)
        inbox = pair.run(pair.client.open("echo", secret=secret))
        before = carried(pair)
        inbox.channel.send(content)
        self.assertTrue(pair.run(inbox.get()) == content)
        after = carried(pair)
        return after[0] - before[0], after[1] - before[1]

    def test_compressible_data_takes_little_of_the_wire(self) -> None:
        for size in self.echo(DULL):
            self.assertLess(size, len(DULL) // 50)

    def test_noise_takes_hardly_more_than_its_size(self) -> None:
        for size in self.echo(noise(MIB)):
            self.assertTrue(MIB <= size < MIB * 1.02)

    def test_either_side_can_turn_it_off(self) -> None:
        both = SessionSettings()
        for ours, theirs in ((NEVER, both), (both, NEVER), (NEVER, NEVER)):
            for size in self.echo(DULL, settings=theirs, client_settings=ours):
                self.assertGreaterEqual(size, len(DULL))

    def test_a_secret_channel_is_not_compressed_by_its_opener(self) -> None:
        self.assertGreaterEqual(self.echo(DULL, secret=True)[0], len(DULL))

    def test_a_secret_channel_is_not_compressed_by_the_other_side_either(self) -> None:
        self.assertGreaterEqual(self.echo(DULL, secret=True)[1], len(DULL))

    def test_a_channel_beside_a_secret_one_still_is(self) -> None:
        service = Registry()
        pair = make_pair({"service": service})
        secret = pair.run(pair.client.open("service", Recorder(), secret=True))
        plain = pair.run(pair.client.open("service", Recorder()))
        before = carried(pair)[0]
        plain.channel.send(DULL)
        pair.advance(1)
        middle = carried(pair)[0]
        secret.channel.send(DULL)
        pair.advance(1)
        self.assertLess(middle - before, len(DULL) // 50)
        self.assertGreaterEqual(carried(pair)[0] - middle, len(DULL))

    def test_the_policys_smallest_size_is_kept(self) -> None:
        settings = SessionSettings(compression=CompressionPolicy(min_size=10_000))
        self.assertGreater(self.echo(bytes(9_999), settings=settings)[0], 9_999)
        self.assertLess(self.echo(bytes(10_000), settings=settings)[0], 1_000)

    def test_changing_content_survives_any_policy(self) -> None:
        settings = SessionSettings(compression=CompressionPolicy(min_size=0, min_saving=0.0))
        pair = make_pair({"echo": Echo}, settings=settings)
        inbox = pair.run(pair.client.open("echo"))
        messages = [
            content
            for size in (0, 1, 2, 12, 13, 100, 65_535, 65_536, 65_537, 200_000)
            for content in (bytes(size), noise(size), noise(size // 2) + bytes(size - size // 2))
        ]
        for message in messages:
            inbox.channel.send(message)
        for message in messages:
            self.assertTrue(pair.run(inbox.get()) == message)
