"""The `jetstream` command over UDP, against servers in processes of their own."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import unittest
from typing import Any

from tests.loopback.command import DEADLINE, CliCase, Server, keep_server, read_line
from tests.ports import free_port

try:
    import jetstreamproto.datagram  # noqa: F401
except ImportError:
    HAS_UDP = False
else:
    HAS_UDP = True
ELSEWHERE = "sha256:LGSw9rHTjRX3IVpHRLkc7xXRDVTI67hEWFzGVNS_QPk"


@functools.cache
def shared_udp_server() -> Server:
    """A server on TCP and UDP, for all tests that do it no harm."""
    return keep_server(Server(udp=True))


@unittest.skipUnless(HAS_UDP, "this version has no UDP yet")
class UdpCase(CliCase):
    def udp(self, command: str, server: Server, *options: str) -> tuple[str, ...]:
        pin = ("--pin", server.fingerprint)
        return (command, server.address, "--transport", "udp", *pin, *options)

    def report(self, command: str, *options: str) -> dict[str, Any]:
        status, out, err = self.run_command(
            *self.udp(command, shared_udp_server(), *options, "--json")
        )
        self.assertEqual((status, err), (0, ""))
        report: dict[str, Any] = json.loads(out)
        self.assertEqual(report["transport"], "udp")
        return report


class PingTests(UdpCase):
    def test_ping(self) -> None:
        report = self.report("ping", "-c", "3", "-i", "0")
        self.assertEqual((report["sent"], report["received"]), (3, 3))
        self.assertEqual(report["fingerprint"], shared_udp_server().fingerprint)

    def test_every_option(self) -> None:
        for options in (
            ("--congestion", "cubic"),
            ("--congestion", "newreno", "--fec", "off"),
            ("--congestion", "bbr", "--fec", "10+2"),
            ("--fec", "adaptive", "--mtu", "1400"),
        ):
            with self.subTest(options):
                self.report("ping", "-c", "2", "-i", "0", *options)

    def test_by_host_name(self) -> None:
        server = shared_udp_server()
        status, _, err = self.run_command(
            *("ping", f"localhost:{server.port}", "--transport", "udp"),
            *("--pin", server.fingerprint, "-c", "1"),
        )
        self.assertEqual((status, err), (0, ""))

    def test_first_contact(self) -> None:
        server = shared_udp_server()
        ping = ("ping", server.address, "--transport", "udp", "-c", "1")
        self.fails(3, f"--pin {server.fingerprint} or --trust-new", *ping)
        self.assertFalse(self.known_hosts.exists())
        status, _, err = self.run_command(*ping, "--trust-new")
        self.assertEqual(status, 0, err)
        line = f"{server.address} {server.fingerprint}\n"
        self.assertEqual(self.known_hosts.read_text(), line)
        status, _, err = self.run_command(*ping)
        self.assertEqual((status, err), (0, ""))

    def test_a_wrong_pin(self) -> None:
        server = shared_udp_server()
        self.fails(
            *(3, "which is not trusted"),
            *("ping", server.address, "--transport", "udp", "--pin", ELSEWHERE),
        )

    def test_ctrl_c(self) -> None:
        process = self.start(*self.udp("ping", shared_udp_server(), "-i", "99"))
        assert process.stdout is not None
        read_line(process.stdout)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, self.checked(err)), (-signal.SIGINT, ""))

    def test_user_and_password(self) -> None:
        server = self.server(log_in=True, udp=True)
        ping = self.udp("ping", server, "-c", "1")
        password = {"environ": {"JETSTREAM_PASSWORD": "secret"}}
        status, _, err = self.run_command(*ping, "--user", "al", **password)
        self.assertEqual((status, err), (0, ""))
        self.fails(4, "unknown user or wrong password", *ping)


class NoServerTests(UdpCase):
    def ping(self, address: str, *options: str) -> tuple[str, ...]:
        return ("ping", address, "--transport", "udp", "--pin", ELSEWHERE, *options)

    def test_nothing_listens(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.fails(1, f"^nothing listens at {address}$", *self.ping(address))

    def test_nobody_answers(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{deaf.getsockname()[1]}"
            ping = self.ping(address, "--timeout", "0.5")
            self.fails(5, f"no answer from {address} within", *ping)

    def test_an_unknown_host_name(self) -> None:
        self.fails(1, "host name nothing.invalid has no address", *self.ping("nothing.invalid"))

    def test_a_full_server(self) -> None:
        server = self.server(sessions=1, udp=True)
        first = self.start(*self.udp("ping", server, "-i", "99"))
        assert first.stdout is not None
        read_line(first.stdout)
        self.fails(1, "too many connections", *self.udp("ping", server))


class EchoTests(UdpCase):
    def test_everything_comes_back(self) -> None:
        for size in (0, 1, 65536, 5_000_000):
            data = os.urandom(size)
            status, out, err = self.run_command(*self.udp("echo", shared_udp_server()), given=data)
            self.assertEqual((status, err), (0, ""))
            self.assertTrue(out == data, f"{len(out)} of {size} bytes")


class BenchTests(UdpCase):
    def test_bulk(self) -> None:
        for direction in ("up", "down"):
            report = self.report(
                *("bench", "--mode", "bulk", "--bytes", "10MB", "--direction", direction)
            )
            self.assertEqual((report["bytes"], report["direction"]), (10_000_000, direction))
            self.assertGreater(report["link"]["packets_sent"], 0)
            self.assertIn("rtt_ms", report["link"])
            options = {one["option"] for one in report["link"]["settings"]}
            self.assertLessEqual({"SO_RCVBUF", "UDP_GRO"}, options)

    def test_rpc(self) -> None:
        report = self.report("bench", "--mode", "rpc", "--calls", "500", "--concurrency", "7")
        self.assertEqual((report["calls"], report["concurrency"]), (500, 7))

    def test_events(self) -> None:
        for fec in ("off", "adaptive", "10+2"):
            with self.subTest(fec):
                report = self.report(
                    *("bench", "--mode", "events", "--count", "300", "--rate", "1000"),
                    *("--fec", fec, "--deadline", "45"),
                )
                self.assertEqual((report["delivered"], report["payload_bytes"]), (300, 60_000))
                self.assertGreater(report["wire_bytes"], 60_000 + 300 * 28)
                self.assertLessEqual({"fec_recovered", "retransmitted"}, set(report))
