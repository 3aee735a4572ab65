"""The `jetstream` command as it is run: processes and real sockets."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

from jetstreamproto.security.identity import parse_fingerprint
from tests.loopback.command import DEADLINE, CliCase, read_line, shared_server


class PingTests(CliCase):
    def test_it_prints_each_round_trip(self) -> None:
        server = shared_server()
        status, out, err = self.run_command(
            "ping", server.address, "--pin", server.fingerprint, "-c", "3", "-i", "0"
        )
        self.assertEqual((status, err), (0, ""))
        lines = out.decode().splitlines()
        self.assertEqual(lines[0], f"{server.address} (tcp) {server.fingerprint}")
        for number, line in enumerate(lines[1:4], 1):
            self.assertRegex(line, rf"^{number}: \d+\.\d{{3}} ms$")
        self.assertRegex(lines[4], r"^3 of 3 answered: min .* ms, median .* ms, p99 .* ms$")

    def test_json(self) -> None:
        server = shared_server()
        status, out, err = self.run_command(
            "ping", server.address, "--pin", server.fingerprint, "-c", "9", "-i", "0.01", "--json"
        )
        self.assertEqual((status, err), (0, ""))
        report = json.loads(out)
        rtt = report.pop("rtt_ms")
        outcomes = {one["option"]: one["outcome"] for one in report.pop("link")["settings"]}
        self.assertEqual(outcomes["TCP_NODELAY"], "granted")
        expected = {
            "host": server.address,
            "transport": "tcp",
            "fingerprint": server.fingerprint,
            "sent": 9,
            "received": 9,
        }
        self.assertEqual(report, expected)
        self.assertEqual(list(rtt), ["min", "median", "p99"])
        self.assertTrue(0 < rtt["min"] <= rtt["median"] <= rtt["p99"])

    def test_by_host_name_over_either_address_family(self) -> None:
        server = shared_server()
        status, _, err = self.run_command(
            "ping", f"localhost:{server.port}", "--pin", server.fingerprint, "-c", "1"
        )
        self.assertEqual((status, err), (0, ""))

    def test_a_server_that_falls_silent(self) -> None:
        server = self.server()
        process = self.start(
            *("ping", server.address, "--pin", server.fingerprint),
            *("-c", "1000", "-i", "0", "--timeout", "1"),
        )
        assert process.stdout is not None
        read_line(process.stdout)
        server.process.send_signal(signal.SIGSTOP)
        _, err = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, 5)
        self.assertRegex(self.checked(err), r"^jetstream: no answer to ping \d+ within 1 s\n$")

    def test_ctrl_c(self) -> None:
        server = shared_server()
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start("ping", server.address, "--pin", server.fingerprint, "-i", "99")
            assert process.stdout is not None
            read_line(process.stdout)
            process.send_signal(number)
            _, err = process.communicate(timeout=DEADLINE)
            self.assertEqual((process.returncode, self.checked(err)), (-number, ""))

    def test_ctrl_c_with_json(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(DEADLINE)
            process = self.start("ping", f"127.0.0.1:{silent.getsockname()[1]}", "--json")
            with silent.accept()[0]:
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, err), (-signal.SIGINT, b""))
        self.assertEqual(json.loads(out)["error"]["kind"], "Interrupted")

    def test_a_reader_that_goes_away(self) -> None:
        server = shared_server()
        process = self.start("ping", server.address, "--pin", server.fingerprint, "-i", "0.1")
        assert process.stdout is not None
        read_line(process.stdout)
        process.stdout.close()
        self.assertEqual(process.wait(DEADLINE), -signal.SIGPIPE)
        assert process.stderr is not None
        self.assertEqual(process.stderr.read(), b"")


class IdentityTests(CliCase):
    def test_it_is_made_at_first_use(self) -> None:
        status, out, err = self.run_command("identity")
        self.assertEqual((status, err), (0, ""))
        fingerprint = out.decode().strip()
        self.assertEqual(parse_fingerprint(fingerprint), fingerprint)
        self.assertEqual(self.run_command("identity"), (status, out, err))
        self.assertEqual((self.home / "identity.pem").stat().st_mode & 0o777, 0o600)

    def test_a_full_disk(self) -> None:
        for options in ((), ("--json",)):
            with open("/dev/full", "wb") as full:
                status, _, err = self.run_command("identity", *options, stdout=full)
            self.assertEqual(status, 1)
            self.assertEqual(err, "jetstream: standard output: No space left on device\n")


class BenchTests(CliCase):
    def bench(self, *options: str) -> dict[str, Any]:
        server = shared_server()
        pin = ("--pin", server.fingerprint)
        status, out, err = self.run_command("bench", server.address, *pin, *options, "--json")
        self.assertEqual((status, err), (0, ""))
        report: dict[str, Any] = json.loads(out)
        return report

    def test_the_link_tells_what_the_socket_was_granted(self) -> None:
        report = self.bench("--mode", "bulk", "--bytes", "1MB", "--profile", "low-latency")
        found = report["link"]["socket"]
        self.assertEqual((found["profile"], found["TCP_NODELAY"]), ("low-latency", 1))
        self.assertGreater(found["SO_RCVBUF"], 0)
        outcomes = {one["option"]: one["outcome"] for one in report["link"]["settings"]}
        self.assertEqual(outcomes["TCP_QUICKACK"], "granted")

    def test_bulk(self) -> None:
        for direction in ("up", "down"):
            report = self.bench("--mode", "bulk", "--bytes", "10MB", "--direction", direction)
            self.assertEqual(
                list(report),
                ["MB_per_s", "Mbit_per_s", "bytes", "seconds", "direction", "link", "transport"],
            )
            self.assertEqual((report["bytes"], report["direction"]), (10_000_000, direction))
            rate = 10 / report["seconds"]  # which is rounded to a microsecond
            self.assertAlmostEqual(report["MB_per_s"], rate, delta=0.1 + rate / 1000)
            self.assertAlmostEqual(report["Mbit_per_s"], 8 * rate, delta=1 + rate / 100)
            self.assertEqual(report["transport"], "tcp")

    def test_rpc(self) -> None:
        report = self.bench(
            *("--mode", "rpc", "--calls", "500", "--concurrency", "7", "--size", "1KiB")
        )
        self.assertEqual(
            list(report),
            [
                "calls_per_s",
                "p50_us",
                "p99_us",
                "calls",
                "concurrency",
                "size",
                "link",
                "transport",
            ],
        )
        self.assertEqual((report["calls"], report["concurrency"], report["size"]), (500, 7, 1024))
        self.assertTrue(0 < report["p50_us"] <= report["p99_us"])

    def test_events(self) -> None:
        report = self.bench(
            *("--mode", "events", "--count", "200", "--rate", "1000", "--size", "100")
        )
        self.assertEqual((report["delivered"], report["count"]), (200, 200))
        self.assertEqual((report["payload_bytes"], report["transport"]), (20_000, "tcp"))
        self.assertGreater(report["wire_bytes"], report["payload_bytes"])
        self.assertGreater(report["seconds"], 0.199)
        times = [report[f"{name}_ms"] for name in ("p50", "p90", "p99", "p999", "max")]
        self.assertEqual(times, sorted(times))
        self.assertGreaterEqual(times[0], 0)

    def test_for_people(self) -> None:
        server = shared_server()
        for options, line in [
            (
                ("events", "--count", "9"),
                rb"^9 of 9 events in .* s: p50 .* ms, .*; \d+ bytes on the wire for 1800\n$",
            ),
            (("bulk", "--bytes", "1MB"), rb"^1000000 bytes up in \d.* s: \d.* MB/s\n$"),
            (("rpc", "--calls", "9"), rb"^9 calls of 64 bytes, 64 at a time: .* calls/s, p50 .*\n"),
        ]:
            status, out, err = self.run_command(
                "bench", server.address, "--pin", server.fingerprint, "--mode", *options
            )
            self.assertEqual((status, err), (0, ""))
            self.assertRegex(out, line)

    def test_a_server_without_the_service(self) -> None:
        server = self.server(empty=True)
        self.fails(
            *(1, "the server refused: no service 'discard'"),
            *("bench", server.address, "--pin", server.fingerprint, "--mode", "bulk"),
        )
