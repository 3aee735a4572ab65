"""TCP Fast Open: the time from connecting to the first answer, with and without. Root, Linux.

    python -m tests.benchmarks.fastopen [--rtt-ms 50] [--count 20] [--rounds 3] [--json]

Each round runs fresh servers and a client over an emulated link, once for each way. The client
opens `--count` sessions one after another, after one that is not counted and brings the cookie,
and has a message echoed in each. It does the same on bare TCP connections, which is what Fast Open
gives to a protocol whose first message fits a SYN.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from jetstreamproto.sockets.options import FAST_OPEN, FAST_OPEN_CONNECT
from jetstreamproto.testing.netns import missing
from jetstreamproto.testing.wan import SERVER_ADDRESS

_ROOT = Path(__file__).resolve().parents[2]
_PORT, _PLAIN_PORT = 9473, 9474
_SYSCTL = Path("/proc/sys/net/ipv4/tcp_fastopen")
_WAYS = ("with", "without")
_KINDS = {"ms": "JetStreamProto", "plain_ms": "bare TCP, 5 bytes"}
_LIMIT = 120


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.end == "server":
        _serve(arguments.folder)
    elif arguments.end == "client":
        _measure(arguments.folder, arguments.way, arguments.count)
    else:
        _compare(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rtt-ms", type=float, default=50.0)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", dest="as_json")
    for name in ("--end", "--way", "--folder"):  # of the programs at the ends of the link
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    return parser


def _compare(arguments: argparse.Namespace) -> None:
    if why := missing():
        sys.exit(f"fastopen: {why}")
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in _WAYS}
    for number in range(arguments.rounds):
        for way in _WAYS:
            found[way].append(_run(way, arguments.rtt_ms, arguments.count, number + 1))
            print(f"round {number + 1}, {way}: {found[way][-1]}", file=sys.stderr)
    medians = {
        (kind, way): statistics.median(time for one in found[way] for time in one[kind])
        for kind in _KINDS
        for way in _WAYS
    }
    if arguments.as_json:
        ratios = {kind: medians[kind, "with"] / medians[kind, "without"] for kind in _KINDS}
        print(json.dumps({"rtt_ms": arguments.rtt_ms, "rounds": found, "ratios": ratios}))
        return
    print(f"| first answer, {arguments.rtt_ms:g} ms round trip | with | without | with/without |")
    print("|---|---|---|---|")
    for kind, title in _KINDS.items():
        ours, other = medians[kind, "with"], medians[kind, "without"]
        print(f"| {title} | {ours:.1f} ms | {other:.1f} ms | {ours / other:.2f} |")


def _run(way: str, rtt_ms: float, count: int, seed: int) -> dict[str, Any]:
    """One client against one server over one link."""
    with tempfile.TemporaryDirectory() as folder:
        me = [sys.executable, "-m", "tests.benchmarks.fastopen", "--folder", folder, "--end"]
        words = [sys.executable, "-m", "jetstreamproto.testing.wan", f"--delay-ms={rtt_ms / 2:g}"]
        words += [f"--seed={seed}", f"--limit={_LIMIT}", "--wait=4", "--", *me, "server", ":::"]
        words += [*me, "client", "--way", way, "--count", str(count)]
        done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"fastopen: the run failed: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _serve(folder: str) -> None:
    """Run the servers, in a network whose kernel takes data with a SYN."""
    from twisted.scripts.twistd import run

    _SYSCTL.write_text("3")
    words = ["-n", "--pidfile", f"{folder}/pid", "jetstream", "--interface", SERVER_ADDRESS]
    words += ["--port", str(_PORT), "--state-dir", f"{folder}/server", "--allow-anonymous"]
    words += ["--transports", "tcp", "--profile", "low-latency"]
    with open(f"{folder}/log", "w") as log:
        os.dup2(log.fileno(), 1)
    threading.Thread(target=_echo, daemon=True).start()
    sys.argv = ["twistd", *words]
    run()


def _echo() -> None:
    """A server of bare TCP."""
    with socket.create_server((SERVER_ADDRESS, _PLAIN_PORT)) as listener:
        FAST_OPEN.set(listener, 256)
        while True:
            met, _ = listener.accept()
            with met:
                met.sendall(met.recv(100))


def _measure(folder: str, way: str, count: int) -> None:
    """Open sessions one after another; print the milliseconds to the first answer of each."""
    from twisted.internet import task

    _SYSCTL.write_text("1")

    def start(reactor: Any) -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromCoroutine(_sessions(reactor, Path(folder), way, count))

    task.react(start)


async def _sessions(reactor: Any, folder: Path, way: str, count: int) -> None:
    from jetstreamproto import Inbox, KnownHosts, connect
    from jetstreamproto.sockets.profiles import PROFILES

    profile = PROFILES["low-latency"]
    if way == "without":
        profile = dataclasses.replace(profile, fast_open=0)
    trust = KnownHosts(folder / "known", f"{SERVER_ADDRESS}:{_PORT}", trust_new=True)
    times = []
    for _ in range(count + 1):
        start = reactor.seconds()
        session = await connect(
            reactor, SERVER_ADDRESS, _PORT, trust, transport="tcp", profile=profile
        )
        inbox = Inbox()
        opened = session.open("echo", inbox)
        inbox.channel.send(b"hello")  # it travels with the request
        await inbox.get()
        times.append(round((reactor.seconds() - start) * 1000, 2))
        await opened
        await session.close()
    before = _fast_opens()
    plain = [_plain(way) for _ in range(count + 1)]
    counts = {"syn_data": before, "plain_syn_data": _fast_opens() - before}
    print(json.dumps({"ms": times[1:], "plain_ms": plain[1:], **counts}))


def _plain(way: str) -> float:
    """The milliseconds to the first answer over bare TCP."""
    with socket.socket() as line:
        if way == "with":
            FAST_OPEN_CONNECT.set(line, 1)
        start = time.monotonic()
        line.connect((SERVER_ADDRESS, _PLAIN_PORT))
        line.sendall(b"hello")
        line.recv(100)
        return round((time.monotonic() - start) * 1000, 2)


def _fast_opens() -> int:
    """How many connections of this network have sent data with their SYN, and had it taken."""
    lines = Path("/proc/self/net/netstat").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        table = dict(zip(names.split(), values.split(), strict=True))
        if "TCPFastOpenActive" in table:
            return int(table["TCPFastOpenActive"])
    return 0


if __name__ == "__main__":
    main()
