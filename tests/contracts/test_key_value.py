"""Key-value over every transport, in virtual time; over UDP and QUIC with losses."""

from __future__ import annotations

from typing import Any

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.services.kv.client import KeyValueClient
from jetstreamproto.testing import DatagramPair, LinkOptions, SessionPair
from tests.doubles import IDENTITY
from tests.unit.services.kv.house import KeyValueCase, take

LOSSY = LinkOptions(delay=0.02, jitter=0.005, loss=0.05, duplicate=0.02, reorder=0.02)


class KeyValueOverTcpTests(KeyValueCase):
    def connect_sessions(self) -> Any:
        return SessionPair(
            self.offer().services, identity=IDENTITY, clock=self.clock, latency=0.02, chop=700
        )

    def test_requests_of_every_kind(self) -> None:
        pair = self.connect_sessions()
        b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
        watch = pair.run(b.watch())
        large = bytes(300_000)
        written = [b.set(f"k{number}", b"%d" % number) for number in range(50)]
        written.append(b.set("large", large))
        self.assertEqual([pair.run(one) for one in written], list(range(1, 52)))
        self.assertEqual(pair.run(b.get("large")), large)
        pair.run(b.batch().hmset("h", {"a": b"1"}).delete("k0").increment("n").send())
        self.assertEqual(pair.run(b.hgetall("h")), {"a": b"1"})
        page = pair.run(b.page("k", limit=10))
        self.assertEqual((len(page.entries), page.after), (10, "k18"))
        keys = [entry.key for entry in take(pair, watch, 54)]
        self.assertEqual(keys[-3:], ["h", "k0", "n"])
        self.assertEqual(watch.revision, 52)


class KeyValueOverUdpTests(KeyValueOverTcpTests):
    transport = "udp"

    def connect_sessions(self) -> Any:
        return DatagramPair(
            self.offer().services,
            transport=self.transport,
            link=LOSSY,
            identity=IDENTITY,
            clock=self.clock,
            datagrams=DatagramSettings(mtu=1452),
        )


class KeyValueOverQuicTests(KeyValueOverUdpTests):
    transport = "quic"
