"""A caller that sends frames at random: sessions live, and nothing is left running."""

from __future__ import annotations

import os
import random

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.messages import RPC, Kind, encode_call, encode_frame
from jetstreamproto.services.rpc.model import RpcLimits
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.session.protocol import Inbox
from tests.doubles import make_pair
from tests.unit.services.rpc.calculator import Calculator

ROUNDS = 150
METHODS = (
    *("add", "slow", "later", "metadata", "refuse", "zeros", "upper", "count", "forever"),
    *("total", "stuck", "squares", "nothing"),
)
ARGUMENTS = ((), (1,), (1, 2), ("x",), (0.5,), (2000,), {"a": 1}, {"upto": 3}, [[[]]])


class RandomCallerTests(SynchronousTestCase):
    def test_random_frames(self) -> None:
        seed = int(os.environ.get("RPC_SEED", random.randrange(1 << 32)))
        chance = random.Random(seed)
        target = Calculator()
        pair = make_pair(RpcServer([target], limits=RpcLimits(calls=20)).services)
        try:
            for _ in range(ROUNDS):
                self.one_channel(pair, chance)
            pair.advance(1.0)
            self.assertEqual(pair.server.channels, ())
            self.assertTrue(pair.client.accepts_channels)
            client = RpcClient(pair.client)
            # The tally is at zero: as many as are allowed can be made again.
            calls = [client.call("test.Calculator#slow", 1.0) for _ in range(20)]
            for call in calls:
                pair.run(call)
            self.assertEqual(self.flushLoggedErrors(), [])
        except BaseException:
            print(f"RPC_SEED={seed}")
            raise

    def one_channel(self, pair: object, chance: random.Random) -> None:
        inbox: Inbox = pair.run(pair.client.open(RPC))  # type: ignore[attr-defined]
        for _ in range(chance.randint(1, 6)):
            if inbox.channel.state.value != "open":
                break
            inbox.channel.send(b"".join(self.frame(chance) for _ in range(chance.randint(1, 5))))
            pair.advance(chance.choice((0.0, 0.0, 0.2)))  # type: ignore[attr-defined]
        if chance.random() < 0.5:
            inbox.channel.end()
            pair.advance(0.1)  # type: ignore[attr-defined]
        inbox.channel.reset()
        pair.advance(0.1)  # type: ignore[attr-defined]

    def frame(self, chance: random.Random) -> bytes:
        call = chance.randint(1, 3)
        if chance.random() < 0.02:
            return chance.randbytes(chance.randint(1, 60))
        if chance.random() < 0.5:
            kind = chance.choice((Kind.ITEM, Kind.ITEM, Kind.END, Kind.CANCEL, Kind.CLOSING))
            item = msgspec.msgpack.encode(chance.choice((1, -1, "x", b"y")))
            return encode_frame(kind, call, item)
        name = f"test.Calculator#{chance.choice(METHODS)}".encode()
        payload = msgspec.msgpack.encode(chance.choice(ARGUMENTS))
        metadata = chance.choice((b"", b"", b"\x80", b"\x81\xa1a\xa1b", b"\x01"))
        timeout = chance.choice((0, 1, 100, 5000))
        return encode_call(call, timeout, name, metadata, payload, chance.choice((0, 1, 8, 9)))
