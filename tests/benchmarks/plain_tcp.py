"""Plain TCP, the peer of ours over a link: blocking sockets, and nothing else in between.

    python -m tests.benchmarks.plain_tcp serve FOLDER
    python -m tests.benchmarks.plain_tcp bulk HOST --congestion cubic --bytes 30000000 --limit 20
    python -m tests.benchmarks.plain_tcp events HOST --congestion bbr --count 4000

The senders print one JSON object, with the names of `jetstream bench`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import struct
import sys
import termios
import threading
from array import array
from pathlib import Path
from time import monotonic_ns, perf_counter, sleep
from typing import Any

from jetstreamproto.cli.pace import Pace
from jetstreamproto.cli.percentile import percentile
from jetstreamproto.services.latency import STAMP_SIZE, stamp
from tests.benchmarks.samples import SampleWriter

PORT = 9001
READY = "tcp.ready"

_BLOCK = 1 << 16
_BUFFER = 1 << 18
_COUNT_SIZE = 8
_HELLO = struct.Struct(">I")  # bytes of each event, or 0 for bulk
_CONNECT = 30.0  # seconds
_ANSWER = 60.0


# --- the receiver --------------------------------------------------------------------------


def serve(folder: Path) -> None:
    """Take connections, each in a thread, until killed."""
    with socket.create_server(("", PORT), backlog=16) as listener:
        (folder / READY).touch()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_receive, args=(connection, folder), daemon=True).start()


def _receive(connection: socket.socket, folder: Path) -> None:
    with connection:
        try:
            (size,) = _HELLO.unpack(connection.recv(_HELLO.size, socket.MSG_WAITALL))
            if size:
                _time_events(connection, size)
            else:
                _count_bytes(connection, folder)
        except OSError:
            pass  # the sender gave up


def _count_bytes(connection: socket.socket, folder: Path) -> None:
    """Answer the end of the stream with how many bytes there were."""
    samples = SampleWriter(folder)
    buffer = bytearray(_BUFFER)
    total = 0
    while count := connection.recv_into(buffer):
        total += count
        samples.count(total)
    samples.close()
    connection.sendall(total.to_bytes(_COUNT_SIZE, "big"))


def _time_events(connection: socket.socket, size: int) -> None:
    """Answer the end of the stream with the microseconds that each event took (native order)."""
    latencies = array("Q")
    waiting = bytearray()
    while data := connection.recv(_BUFFER):
        now = monotonic_ns()
        waiting += data
        whole = len(waiting) - len(waiting) % size
        for at in range(0, whole, size):
            sent = int.from_bytes(waiting[at : at + STAMP_SIZE], "big")
            latencies.append((now - sent) // 1000)
        del waiting[:whole]
    connection.sendall(latencies.tobytes())


# --- the senders ---------------------------------------------------------------------------


def connect(host: str, congestion: str, size: int) -> socket.socket:
    """A connection with that congestion control, on which `size` has been announced."""
    line = socket.socket()
    try:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    except OSError as error:
        sys.exit(
            f"TCP_CONGESTION {congestion}: {error.strerror}; load its module (modprobe "
            f"tcp_{congestion}) and allow it (sysctl net.ipv4.tcp_allowed_congestion_control)"
        )
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.settimeout(_CONNECT)
    line.connect((host, PORT))
    line.sendall(_HELLO.pack(size))
    return line


def bulk(options: argparse.Namespace) -> dict[str, Any]:
    """Send `bytes` and wait for the confirmation, or report what was acknowledged in time."""
    block = memoryview(os.urandom(_BLOCK))
    with connect(options.host, options.congestion, 0) as line:
        begun = perf_counter()
        sent, finished = 0, False
        try:
            while sent < options.bytes:
                line.settimeout(_left(begun, options.limit))
                sent += line.send(block[: options.bytes - sent])
            line.shutdown(socket.SHUT_WR)
            line.settimeout(_left(begun, options.limit))
            finished = line.recv(_COUNT_SIZE, socket.MSG_WAITALL) == sent.to_bytes(
                _COUNT_SIZE, "big"
            )
            seconds, delivered = perf_counter() - begun, sent
        except TimeoutError:
            seconds = perf_counter() - begun
            delivered = max(0, sent - _unacknowledged(line))
    return {
        "Mbit_per_s": 8 * delivered / seconds / 1e6,
        "bytes": delivered,
        "seconds": seconds,
        "finished": finished,
    }


def _left(begun: float, limit: float) -> float:
    """Seconds that are left. Raises `TimeoutError` when there are none."""
    left = begun + limit - perf_counter()
    if left <= 0:
        raise TimeoutError
    return left


def _unacknowledged(line: socket.socket) -> int:
    answer = fcntl.ioctl(line, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def events(options: argparse.Namespace) -> dict[str, Any]:
    """Send events at a steady pace; the percentiles of what each took, in milliseconds."""
    pace = Pace(options.rate, options.count)
    payload = os.urandom(options.size - STAMP_SIZE)
    with connect(options.host, options.congestion, options.size) as line:
        line.settimeout(_ANSWER)
        begun = perf_counter()
        for number in range(options.count):
            sleep(pace.until(number, perf_counter() - begun))
            line.sendall(stamp(payload, monotonic_ns()))
        line.shutdown(socket.SHUT_WR)
        answer = b""
        while data := line.recv(_BUFFER):
            answer += data
    ordered = sorted(array("Q", answer))
    names = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}
    return {
        "delivered": len(ordered),
        **{name: percentile(ordered, percent) / 1000 for name, percent in names.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("serve").add_argument("folder", type=Path)
    sender = argparse.ArgumentParser(add_help=False)
    sender.add_argument("host")
    sender.add_argument("--congestion", default="cubic")
    of_bulk = tasks.add_parser("bulk", parents=[sender])
    of_bulk.add_argument("--bytes", type=int, default=30_000_000)
    of_bulk.add_argument("--limit", type=float, default=20.0, help="seconds")
    of_events = tasks.add_parser("events", parents=[sender])
    of_events.add_argument("--count", type=int, default=4000)
    of_events.add_argument("--rate", type=float, default=100.0, help="events a second")
    of_events.add_argument("--size", type=int, default=200, help="bytes of each")
    options = parser.parse_args()
    if options.task == "serve":
        serve(options.folder)
    else:
        print(json.dumps((bulk if options.task == "bulk" else events)(options)))


if __name__ == "__main__":
    main()
