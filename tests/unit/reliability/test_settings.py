"""The settings of connections over datagrams: what is refused, and how that is said."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.settings import DatagramSettings


class SettingsTests(TestCase):
    def test_what_cannot_be_is_refused_by_name(self) -> None:
        bad: list[tuple[str, Any]] = [
            ("congestion", "vegas"),
            ("fec", "10+"),
            ("fec", "fixed"),
            ("mtu", 1199),
            ("mtu", 65508),
            ("max_mtu", 1199),
            ("send_window", 1000),
            ("receive_window", 1000),
            ("tick", 0),
            ("heartbeat", 0),
            ("heartbeat", 45.0),
            ("max_ack_delay", -1),
            ("key_packets", 15),
            ("max_forged", 0),
            ("status_interval", -1),
        ]
        for name, value in bad:
            with (
                self.subTest(name, value=value),
                self.assertRaisesRegex(ConfigurationError, name.split("_")[-1]),
            ):
                DatagramSettings(**{name: value})

    def test_what_can_be_is_taken(self) -> None:
        settings = DatagramSettings(congestion="cubic", fec="20+4", mtu=1200, status_interval=5)
        self.assertEqual((settings.fec, settings.mtu), ("20+4", 1200))
