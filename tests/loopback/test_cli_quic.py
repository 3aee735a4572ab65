"""The `jetstream` command over QUIC, against servers in processes of their own."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.loopback.command import CliCase, Server
from tests.loopback.test_cli_udp import ELSEWHERE, shared_udp_server
from tests.ports import free_port


class QuicCase(CliCase):
    def quic(self, command: str, server: Server, *options: str) -> tuple[str, ...]:
        pin = ("--pin", server.fingerprint)
        return (command, server.address, "--transport", "quic", *pin, *options)

    def report(self, command: str, *options: str) -> dict[str, Any]:
        status, out, err = self.run_command(
            *self.quic(command, shared_udp_server(), *options, "--json")
        )
        self.assertEqual((status, err), (0, ""))
        report: dict[str, Any] = json.loads(out)
        self.assertEqual(report["transport"], "quic")
        return report


class CommandTests(QuicCase):
    def test_ping(self) -> None:
        for options in (
            (),
            ("--congestion", "newreno"),
            ("--congestion", "cubic", "--mtu", "1200"),
            ("--mtu", "9000"),
        ):
            with self.subTest(options):
                report = self.report("ping", "-c", "3", "-i", "0", *options)
                self.assertEqual((report["sent"], report["received"]), (3, 3))
                self.assertEqual(report["fingerprint"], shared_udp_server().fingerprint)

    def test_bench(self) -> None:
        for direction in ("up", "down"):
            amount = ("--bytes", "3MB", "--direction", direction)
            report = self.report("bench", "--mode", "bulk", *amount)
            self.assertEqual(report["bytes"], 3_000_000)
            self.assertGreater(report["link"]["mtu"], 1200)
            self.assertIn("outcome", report["link"]["settings"][0])
        self.assertEqual(self.report("bench", "--mode", "rpc", "--calls", "200")["calls"], 200)
        events = self.report("bench", "--mode", "events", "--count", "50", "--rate", "500")
        self.assertGreater(events["delivered"], 0)

    def test_user_and_password(self) -> None:
        server = self.server(log_in=True, udp=True)
        ping = self.quic("ping", server, "-c", "1")
        password = {"environ": {"JETSTREAM_PASSWORD": "secret"}}
        status, _, err = self.run_command(*ping, "--user", "al", **password)
        self.assertEqual((status, err), (0, ""))
        self.fails(4, "unknown user or wrong password", *ping)

    def test_client_certificates(self) -> None:
        self.run_command("identity")
        _, out, _ = self.run_command("identity", "--json")
        mine = json.loads(out)["fingerprint"]
        server = self.server(clients=[mine], udp=True)
        status, _, err = self.run_command(*self.quic("ping", server, "-c", "1"))
        self.assertEqual((status, err), (0, ""))
        other = self.server(clients=[ELSEWHERE], udp=True)
        self.fails(4, "does not trust our certificate", *self.quic("ping", other, "-c", "1"))


class RefusalTests(QuicCase):
    def test_a_wrong_pin(self) -> None:
        address = shared_udp_server().address
        ping = ("ping", address, "--transport", "quic", "--pin", ELSEWHERE)
        self.fails(3, "which is not trusted", *ping)

    def test_first_contact(self) -> None:
        server = shared_udp_server()
        ping = ("ping", server.address, "--transport", "quic", "-c", "1")
        self.fails(3, f"--pin {server.fingerprint} or --trust-new", *ping)
        status, _, err = self.run_command(*ping, "--trust-new")
        self.assertEqual(status, 0, err)
        status, _, err = self.run_command(*ping)
        self.assertEqual((status, err), (0, ""))

    def test_nothing_listens(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        ping = ("ping", address, "--transport", "quic", "--pin", ELSEWHERE)
        self.fails(1, "nothing listens", *ping)

    def test_nobody_answers(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{deaf.getsockname()[1]}"
            ping = ("ping", address, "--transport", "quic", "--pin", ELSEWHERE)
            self.fails(5, "no answer", *ping, "--timeout", "0.5")
