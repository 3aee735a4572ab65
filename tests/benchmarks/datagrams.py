"""Datagrams a second on loopback: Twisted's UDP port against ours, a process for each end.

The sender sends as fast as it can, so the receiver works without a pause and the rest is lost;
both are counted. With `--duplex` both ends send; with `--joined` Twisted's port gets what ours
sends, many with one call, which the kernel may join again for it (on the io_uring reactor).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.protocol import DatagramProtocol

from jetstreamproto.reactors.uring import UringReactor
from jetstreamproto.sockets.offload import listen_datagrams

BATCH = 46  # datagrams of 1400 bytes in one call
CALLS_A_TURN = 10
STOCK, OURS = "twisted", "jetstream"
HOST = "127.0.0.1"


class Counter(DatagramProtocol):
    """Counts what comes, one at a time."""

    received = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.received += 1


class BatchCounter(Counter):
    """Counts what comes, in batches."""

    def datagrams_received(
        self, buffer: memoryview, segment_size: int, length: int, address: tuple[str, int]
    ) -> None:
        self.received += -(-length // segment_size)


class Pump:
    """Sends a fixed number of datagrams a turn of the reactor."""

    def __init__(self, reactor: Any, port: Any, ours: bool, size: int) -> None:
        self.sent = 0
        self._reactor = reactor
        self._port = port
        self._size = size
        self._data = memoryview(bytes(size * BATCH))
        self._send: Callable[[Any], None] = self._send_batch if ours else self._send_each

    def start(self, address: Any) -> None:
        for _ in range(CALLS_A_TURN):
            self._send(address)
        self._reactor.callLater(0, self.start, address)

    def _send_batch(self, address: Any) -> None:
        if self._port.write_segments(self._data, self._size, address):
            self.sent += BATCH

    def _send_each(self, address: Any) -> None:
        datagram = bytes(self._data[: self._size])
        for _ in range(BATCH):
            try:
                self._port.write(datagram, address)
                self.sent += 1
            except BlockingIOError:
                return


def child(options: argparse.Namespace) -> None:
    """One end: says its port, reads the other's, works, and says what it did."""
    reactor = UringReactor() if options.reactor == "uring" else epollreactor.EPollReactor()
    ours = options.child == OURS
    counter = BatchCounter() if ours else Counter()
    if ours:
        on = not options.plain
        port: Any = listen_datagrams(reactor, 0, counter, HOST, gso=on, gro=on)
    else:
        port = reactor.listenUDP(0, counter, HOST, maxPacketSize=options.size)
    print(port.getHost().port, flush=True)
    pump = Pump(reactor, port, ours, options.size)
    peer = int(sys.stdin.readline())
    if peer:
        reactor.callWhenRunning(pump.start, (HOST, peer))
    started, began = time.perf_counter(), time.process_time()
    reactor.callLater(options.seconds, reactor.stop)
    reactor.run(installSignalHandlers=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - began
    print(
        json.dumps(
            {
                "sent": pump.sent / seconds,
                "received": counter.received / seconds,
                "us": 1e6 * cpu / max(1, pump.sent + counter.received),
            }
        ),
        flush=True,
    )


def run(contender: str, options: argparse.Namespace) -> dict[str, float]:
    """Two processes for a while: what the sender sent and the receiver received a second."""
    command = [sys.executable, "-m", "tests.benchmarks.datagrams", "--reactor", options.reactor]
    command += ["--seconds", str(options.seconds), "--size", str(options.size)]
    command += ["--plain"] if options.plain else []
    ends = [
        subprocess.Popen(
            [*command, "--child", end], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for end in (OURS if options.joined else contender, contender)
    ]
    ports = [int(end.stdout.readline()) for end in ends]  # type: ignore[union-attr]
    peers = [ports[1], ports[0] if options.duplex else 0]
    for end, peer in zip(ends, peers, strict=True):
        end.stdin.write(f"{peer}\n")  # type: ignore[union-attr]
        end.stdin.flush()  # type: ignore[union-attr]
    sender, receiver = (json.loads(end.communicate()[0]) for end in ends)
    return {
        "sent": sender["sent"],
        "received": receiver["received"],
        "sender_us": sender["us"],
        "receiver_us": receiver["us"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Datagrams a second, one UDP port each end.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--size", type=int, default=1400, help="of a datagram, in bytes")
    parser.add_argument("--duplex", action="store_true", help="both ends send")
    parser.add_argument("--plain", action="store_true", help="ours without GSO and GRO")
    parser.add_argument("--joined", action="store_true", help="it is ours that sends to Twisted's")
    parser.add_argument("--reactor", choices=("epoll", "uring"), default="epoll")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=(STOCK, OURS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    runs: dict[str, list[dict[str, float]]] = {STOCK: [], OURS: []}
    for _ in range(options.rounds):  # alternately, so that a slow minute meets both
        for contender, results in runs.items():
            results.append(run(contender, options))
    medians = {
        contender: {key: median(one[key] for one in results) for key in results[0]}
        for contender, results in runs.items()
    }
    if options.json:
        print(json.dumps({"benchmark": "datagrams", "settings": vars(options), "cases": medians}))
        return
    for key, unit in (
        ("sent", "sent /s"),
        ("received", "received /s"),
        ("sender_us", "sender CPU us each"),
        ("receiver_us", "receiver CPU us each"),
    ):
        stock, ours = medians[STOCK][key], medians[OURS][key]
        digits = 2 if key.endswith("us") else 0
        ratio = ours / stock
        print(
            f"{unit:22} Twisted {stock:12,.{digits}f}  BatchingPort {ours:12,.{digits}f}"
            f"  ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
