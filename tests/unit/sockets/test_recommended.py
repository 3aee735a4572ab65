"""Tests for jetstreamproto.sockets.recommended."""

from __future__ import annotations

from pathlib import Path
from unittest import TestCase

from jetstreamproto.sockets.recommended import RECOMMENDED, Sysctl, sysctl_file

SHIPPED = Path(__file__).resolve().parents[3] / "conf" / "sysctl.d" / "90-jetstream.conf"


class RecommendedTests(TestCase):
    def test_the_shipped_file_is_current(self) -> None:
        self.assertEqual(SHIPPED.read_text(), sysctl_file())

    def test_the_file_says_what_was_decided(self) -> None:
        lines = [line for line in sysctl_file().splitlines() if line and line[0] != "#"]
        self.assertEqual(
            lines,
            [
                "net.core.rmem_default = 8388608",
                "net.core.wmem_default = 8388608",
                "net.core.rmem_max = 67108864",
                "net.core.wmem_max = 67108864",
                "net.ipv4.tcp_rmem = 4096 87380 67108864",
                "net.ipv4.tcp_wmem = 4096 65536 67108864",
                "net.ipv4.tcp_fastopen = 3",
                "net.ipv4.tcp_mtu_probing = 1",
                "net.core.somaxconn = 4096",
            ],
        )

    def test_each_says_what_it_costs_to_do_without(self) -> None:
        self.assertTrue(all(setting.without for setting in RECOMMENDED))

    def test_more_is_as_good(self) -> None:
        setting = Sysctl("some", (4096, 65536, 10), "")
        for found, met in (
            ((4096, 65536, 10), True),
            ((8192, 131072, 11), True),
            ((4096, 65536, 9), False),
            ((4096, 65536), False),
            ((), False),
        ):
            self.assertEqual(setting.is_met(found), met, found)

    def test_bits_are_compared_one_by_one(self) -> None:
        setting = Sysctl("some", (3,), "", mask=True)
        self.assertTrue(setting.is_met((1027,)))
        self.assertFalse(setting.is_met((1024,)))
        self.assertEqual(setting.better((1024,)), "1027")

    def test_nothing_is_recommended_to_be_lowered(self) -> None:
        setting = Sysctl("some", (4096, 65536, 100), "")
        self.assertEqual(setting.better((4096, 131072, 50)), "4096 131072 100")
        self.assertEqual(setting.better((1,)), "4096 65536 100")
