"""Tests for jetstreamproto.cli.doctor."""

from __future__ import annotations

import json
from unittest import TestCase, mock

from click.testing import CliRunner, Result

from jetstreamproto.cli.doctor import doctor
from jetstreamproto.sockets.host import Finding, State
from jetstreamproto.sockets.profiles import PROFILES
from jetstreamproto.sockets.recommended import sysctl_file

FINE = Finding("io_uring", "available", "available", State.FINE)
ABSENT = Finding("UDP_GRO", "", "available", State.ABSENT)
LOW = Finding(
    "net.core.rmem_max",
    "21\x1b[31m2992",
    "67108864",
    State.LOW,
    "it is slow",
    "sysctl -w net.core.rmem_max=67108864",
)


class DoctorTests(TestCase):
    def run_doctor(self, findings: list[Finding], *arguments: str) -> Result:
        with mock.patch("jetstreamproto.sockets.host.examine", return_value=findings):
            return CliRunner().invoke(doctor, arguments)

    def test_all_is_well(self) -> None:
        done = self.run_doctor([FINE, ABSENT])
        self.assertEqual(done.exit_code, 0)
        self.assertEqual(
            done.output,
            "ok  io_uring  available           available\n"
            "--  UDP_GRO   not on this system  available\n",
        )

    def test_what_is_short_is_told_with_the_command_that_mends_it(self) -> None:
        done = self.run_doctor([FINE, LOW])
        self.assertEqual(done.exit_code, 1)
        self.assertNotIn("\x1b", done.output)
        self.assertIn(
            "\nnet.core.rmem_max: it is slow.\n    sysctl -w net.core.rmem_max=67108864\n",
            done.output,
        )
        self.assertIn("jetstream doctor --sysctl > /etc/sysctl.d/90-jetstream.conf", done.output)

    def test_json_has_the_profiles_too(self) -> None:
        for findings, fine, status in (([FINE], True, 0), ([FINE, LOW], False, 1)):
            done = self.run_doctor(findings, "--json")
            self.assertEqual(done.exit_code, status)
            report = json.loads(done.output)
            self.assertEqual(report["fine"], fine)
            self.assertEqual(len(report["findings"]), len(findings))
            self.assertEqual(set(report["profiles"]), set(PROFILES))
            (option, *_) = report["profiles"]["default"]["listening"]
            self.assertEqual(
                option,
                {
                    "option": "SO_REUSEADDR",
                    "asked": 1,
                    "granted": 1,
                    "outcome": "granted",
                    "why": "",
                },
            )

    def test_the_recommended_file(self) -> None:
        done = self.run_doctor([], "--sysctl")
        self.assertEqual((done.exit_code, done.output), (0, sysctl_file()))
        self.assertEqual(self.run_doctor([], "--sysctl", "--json").exit_code, 2)

    def test_this_host(self) -> None:
        done = CliRunner().invoke(doctor, ["--json"])
        self.assertIn(done.exit_code, (0, 1), done.output)
        report = json.loads(done.output)
        self.assertEqual(report["fine"], done.exit_code == 0)
