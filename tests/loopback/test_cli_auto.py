"""`--transport auto`, against servers in processes of their own."""

from __future__ import annotations

import json
import socket
import stat
from typing import Any

from tests.loopback.command import CliCase, Server, shared_server
from tests.loopback.test_cli_udp import ELSEWHERE, shared_udp_server
from tests.ports import free_port


class AutoCase(CliCase):
    def ping(self, server: Server, *options: str, count: int = 1) -> tuple[dict[str, Any], str]:
        """The report, and what stood on stderr."""
        status, out, err = self.run_command(
            *("ping", server.address, "--pin", server.fingerprint),
            *("-c", str(count), "-i", "0", "--json", *options),
        )
        self.assertEqual(status, 0, err)
        report: dict[str, Any] = json.loads(out)
        return report, err


class ChoiceTests(AutoCase):
    def test_tcp_on_this_host(self) -> None:
        for server in (shared_udp_server(), shared_server()):
            for options in ((), ("--transport", "auto")):
                report, err = self.ping(server, *options)
                self.assertEqual((report["transport"], err), ("tcp", ""))
                self.assertNotIn("fallback", report)

    def test_bench_goes_the_same_way(self) -> None:
        server = shared_udp_server()
        status, out, err = self.run_command(
            *("bench", server.address, "--pin", server.fingerprint),
            *("--mode", "bulk", "--bytes", "1MB", "--json"),
        )
        self.assertEqual((status, json.loads(out)["transport"], err), (0, "tcp", ""))

    def test_a_server_without_tcp(self) -> None:
        server = self.server(udp=True, no_tcp=True)
        report, err = self.ping(server)
        self.assertEqual(report["transport"], "quic")
        self.assertEqual(report["fallback"], "tcp: nothing listens there")
        self.assertEqual(err, "over quic: tcp: nothing listens there\n")

    def test_an_error_says_what_the_session_was_over(self) -> None:
        server = self.server(udp=True, no_tcp=True, empty=True)
        status, out, err = self.run_command(
            *("bench", server.address, "--pin", server.fingerprint, "--json", "--mode", "rpc"),
        )
        found = json.loads(out)
        self.assertEqual((status, found["error"]["kind"]), (1, "ServiceNotFound"), err)
        self.assertEqual(
            (found["transport"], found["fallback"]), ("quic", "tcp: nothing listens there")
        )

    def test_what_is_learnt_is_kept(self) -> None:
        server = self.server(udp=True, no_tcp=True)
        self.ping(server)
        file = self.home / "transports.json"
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        records = {tuple(record[:4]) for record in json.loads(file.read_text())}
        place = ("127.0.0.1", server.port)
        self.assertEqual(
            records,
            {(*place, "any", "quic"), (*place, "tcp", "tcp: nothing listens there")},
        )
        file.write_text("not ours")
        self.assertEqual(self.ping(server)[0]["transport"], "quic")


class FailureTests(AutoCase):
    def test_nothing_listens(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        ping = ("ping", address, "--pin", ELSEWHERE)
        self.fails(1, f"^nothing listens at {address}$", *ping)

    def test_a_wrong_pin_is_not_tried_elsewhere(self) -> None:
        ping = ("ping", shared_udp_server().address, "--pin", ELSEWHERE)
        self.fails(3, "which is not trusted", *ping)

    def test_a_program_that_is_not_ours(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            ping = ("ping", address, "--pin", ELSEWHERE, "--timeout", "1")
            self.fails(5, f"{address} accepts connections, but no session within 1 s", *ping)
