"""The command line of the emulated link; `tests/live/test_wan.py` runs it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import unittest
from unittest import mock

from jetstreamproto.testing import netns, wan
from jetstreamproto.testing.linkmodel import LinkOptions


class PlanTests(unittest.TestCase):
    def test_defaults(self) -> None:
        plan = wan.parse_plan(["--", "server", "-x", ":::", "client", "--loss", "3"])
        self.assertEqual(plan.there, LinkOptions(queue=0.05, overhead=0))
        self.assertEqual(plan.back, plan.there)
        self.assertEqual((plan.seed, plan.wait, plan.limit), (1, 1.0, 120.0))
        self.assertEqual(plan.server, ["server", "-x"])
        self.assertEqual(plan.client, ["client", "--loss", "3"])

    def test_every_option(self) -> None:
        words = (
            "--rate-mbit 20 --delay-ms 25 --jitter-ms 5 --loss 1 --burst-loss 2 --burst-len 6 "
            "--back-loss 3 --corrupt 4 --dup 5 --reorder 6 --queue-ms 70 --seed 8 --wait 0.5 "
            "--limit 9 --cc bbr -- server ::: client"
        )
        plan = wan.parse_plan(words.split())
        self.assertEqual(
            plan.there,
            LinkOptions(
                rate=20e6,
                delay=0.025,
                jitter=0.005,
                loss=0.01,
                burst_loss=0.02,
                burst_length=6,
                corrupt=0.04,
                duplicate=0.05,
                reorder=0.06,
                queue=0.07,
                overhead=0,
            ),
        )
        self.assertEqual(plan.back.loss, 0.03)
        self.assertEqual((plan.seed, plan.wait, plan.limit), (8, 0.5, 9.0))
        self.assertEqual(plan.congestion_control, "bbr")

    def test_what_is_wrong_is_said(self) -> None:
        for words, why in (
            ("", "a -- goes before the commands"),
            ("--loss 3", "a -- goes before the commands"),
            ("-- server client", "a ::: goes between the commands"),
            ("-- ::: client", "there must be two commands"),
            ("-- server :::", "there must be two commands"),
            ("--loss 101 -- server ::: client", "from 0 to 100"),
            ("--delay-ms -1 -- server ::: client", "cannot be negative"),
            ("--delay-ms nan -- server ::: client", "cannot be negative"),
            ("--burst-loss 95 -- server ::: client", "bursts of that length"),
            ("--burst-len 0 -- server ::: client", "a burst takes one packet"),
            ("--colour 1 -- server ::: client", "unrecognized"),
        ):
            errors = io.StringIO()
            with self.subTest(words), contextlib.redirect_stderr(errors):
                with self.assertRaises(SystemExit) as caught:
                    wan.parse_plan(words.split())
                self.assertEqual(caught.exception.code, 2)
                self.assertIn(why, errors.getvalue())


class MissingTests(unittest.TestCase):
    """One line says what the machine lacks."""

    def missing(self, platform: str = "linux", user: int = 0, ip: bool = True) -> str | None:
        with (
            mock.patch.object(sys, "platform", platform),
            mock.patch.object(os, "geteuid", lambda: user, create=True),
            mock.patch.object(shutil, "which", lambda name: "/sbin/ip" if ip else None),
            mock.patch.object(os.path, "exists", lambda path: False),
        ):
            return netns.missing()

    def test_each(self) -> None:
        self.assertIn("Linux", self.missing(platform="darwin") or "")
        self.assertIn("root", self.missing(user=1000) or "")
        self.assertIn("command ip", self.missing(ip=False) or "")
        self.assertIn("/dev/net/tun", self.missing() or "")

    def test_the_program_says_so_and_ends(self) -> None:
        errors = io.StringIO()
        with (
            mock.patch.object(wan, "missing", lambda: "this needs root"),
            contextlib.redirect_stderr(errors),
        ):
            self.assertEqual(wan.main(["--", "server", ":::", "client"]), 2)
        self.assertEqual(errors.getvalue(), "wan: this needs root\n")
