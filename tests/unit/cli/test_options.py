from __future__ import annotations

import unittest
from typing import Any

import click

from jetstreamproto.cli.options import TCP, UDP, ConnectionOptions, connection_options
from jetstreamproto.cli.target import Target
from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings


def options(**values: Any) -> ConnectionOptions:
    return ConnectionOptions(Target("host"), **values)


class BulkTests(unittest.TestCase):
    def test_it_is_up_to_the_command(self) -> None:
        given: list[Any] = []

        @click.command()
        @connection_options
        @click.option("--bulk", is_flag=True)
        def move(options: ConnectionOptions, bulk: bool) -> None:
            given.extend((options.bulk, bulk, options.transport))

        move.main(["host", "--bulk"], standalone_mode=False)
        self.assertEqual(given, [False, True, "auto"])


class DatagramOptionsTests(unittest.TestCase):
    def test_what_is_not_given_is_left_to_the_settings(self) -> None:
        self.assertEqual(options(transport=UDP).datagram_settings(), DEFAULT_DATAGRAM_SETTINGS)

    def test_what_is_given(self) -> None:
        given = options(transport=UDP, congestion="cubic", fec="10+2", mtu=1400)
        expected = DatagramSettings(congestion="cubic", fec="10+2", mtu=1400)
        self.assertEqual(given.datagram_settings(), expected)

    def test_they_go_with_udp_only(self) -> None:
        for given in ({"congestion": "bbr"}, {"fec": "off"}, {"mtu": 1200}):
            with self.subTest(given), self.assertRaisesRegex(click.UsageError, "--transport udp"):
                options(transport=TCP, **given)
