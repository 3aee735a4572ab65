from __future__ import annotations

import json
import unittest
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jetstreamproto.cli.figures import growth, read_figures, wire_bytes
from jetstreamproto.sockets.options import Outcome, Setting
from jetstreamproto.transports.link import LinkStats


@dataclass
class Datagrams(LinkStats):
    datagrams_sent: int = 0
    packets_received: int = 0
    retransmitted_bytes: int = 0
    phase: str = "startup"


def link(stats: LinkStats) -> Any:
    return SimpleNamespace(stats=stats)


class FiguresTests(unittest.TestCase):
    def test_they_are_a_copy(self) -> None:
        stats = LinkStats(1, 2)
        figures = read_figures(link(stats))
        stats.bytes_sent = 100
        self.assertEqual(figures, {"bytes_sent": 1, "bytes_received": 2})

    def test_what_became_of_the_socket_s_options(self) -> None:
        asked = Setting("SO_RCVBUF", 4096, 2048, Outcome.CLAMPED)
        figures = read_figures(link(LinkStats(1, 2, settings=(asked,))))
        self.assertEqual(
            json.loads(json.dumps(figures))["settings"],
            [
                {
                    "option": "SO_RCVBUF",
                    "asked": 4096,
                    "granted": 2048,
                    "outcome": "clamped",
                    "why": "",
                }
            ],
        )

    def test_bytes_on_the_wire(self) -> None:
        before = read_figures(link(LinkStats(10, 20)))
        after = read_figures(link(LinkStats(110, 30)))
        self.assertEqual(wire_bytes(before, after, "127.0.0.1:9000"), 110)

    def test_datagrams_have_headers(self) -> None:
        before = read_figures(link(Datagrams(10, 20, 1, 1)))
        after = read_figures(link(Datagrams(110, 30, 4, 2)))
        self.assertEqual(wire_bytes(before, after, "127.0.0.1:9000"), 110 + 4 * 28)
        self.assertEqual(wire_bytes(before, after, "[::1]:9000"), 110 + 4 * 48)
        self.assertEqual((after["packets_sent"], after["phase"]), (4, "startup"))

    def test_growth_of_what_there_is(self) -> None:
        before = read_figures(link(Datagrams(retransmitted_bytes=2)))
        after = read_figures(link(Datagrams(retransmitted_bytes=5)))
        grown = growth(before, after, again="retransmitted_bytes", other="no_such_counter")
        self.assertEqual(grown, {"again": 3})
        self.assertEqual(growth({}, {}, again="retransmitted_bytes"), {})
