"""Publishes and deliveries a second of small events, beside mosquitto and nats-server.

One publisher, and 1, 10 and 100 subscribers on a connection each; all clients are Python programs.
Live: ours without a stream, MQTT with QoS 0, NATS without JetStream. Durable: ours in a stream,
which confirms after fsync; MQTT with QoS 1 and persistence (written now and then), and NATS with
file storage, which both confirm before. Ours is encrypted, the others are not. Publishes count
until all are confirmed (QoS 0: handed to the kernel), deliveries until the last has come.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.benchmarks import arguments
from tests.benchmarks.runner import OURS, Figures, certificate, note, rounds
from tests.benchmarks.table import NAMES, Column
from tests.ports import free_port

PEERS = {"mosquitto": "paho", "nats": "nats"}
"""The peers, and the packages of their clients (pip install paho-mqtt nats-py)."""
_PROGRAMS = {"mosquitto": "mosquitto", "nats": "nats-server"}
COLUMNS = (
    Column("deliveries_per_s", "deliveries/s", ranged=True, compared=True),
    Column("publishes_per_s", "publishes/s", ranged=True, compared=True),
    Column("received", "received %", "{:.1f}"),
)
_LIVE, _DURABLE = "live", "durable"
_PATIENCE = 300.0  # seconds for a process to say something

_SERVER = """
import sys
from pathlib import Path
from twisted.internet import epollreactor
epollreactor.install()
from twisted.internet import reactor
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.services.events.offer import EventOffer
folder, certificate, port = sys.argv[1:]
offer = EventOffer(Path(folder), lambda session, service, scope, default=(): default)
offer.start(reactor)
factory = JetStreamServerFactory(Identity.from_files(Path(certificate)), offer.services)
reactor.listenTCP(int(port), factory, interface="127.0.0.1")
reactor.run()
"""


def _command(kind: str, folder: Path, port: int, file: str) -> list[str]:
    if kind == OURS:
        return [sys.executable, "-c", _SERVER, str(folder / "data"), file, str(port)]
    if kind == "nats":
        store = ["--jetstream", "--store_dir", str(folder)]
        return ["nats-server", "-a", "127.0.0.1", "-p", str(port), *store]
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
        f"max_inflight_messages 0\npersistence true\npersistence_location {folder}/\n"
        "set_tcp_nodelay true\n"
    )
    return ["mosquitto", "-c", str(config)]


@contextmanager
def _server(kind: str, file: str) -> Iterator[int]:
    """A server of its own, with an empty folder; its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)  # mosquitto gives up being root
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                _command(kind, folder, port, file), stdout=log, stderr=log, cwd=_ROOT
            )
            try:
                _wait_for(port, process)
                yield port
            finally:
                process.terminate()
                process.wait()


_ROOT = Path(__file__).resolve().parents[2]


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = monotonic() + _PATIENCE
    while monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            sleep(0.05)
    raise SystemExit(f"the server does not start: {process.args}")


class _Client:
    """A process of `event_clients`."""

    def __init__(self, kind: str, role: str, options: dict[str, Any]) -> None:
        words = ["-m", "tests.benchmarks.event_clients", kind, role, json.dumps(options)]
        self._process = subprocess.Popen(
            [sys.executable, *words], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a client broke off: {self._process.args}")
        found: dict[str, Any] = json.loads(line)
        return found

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def measure(kind: str, file: str, options: dict[str, Any]) -> Figures:
    """One run."""
    with _server(kind, file) as port:
        options = {**options, "port": port, "certificate": file}
        clients = []
        try:
            if options["durable"] and kind != "mosquitto":  # there must be a stream first
                publisher = _Client(kind, "publish", options)
                clients.append(publisher)
                publisher.answer()
            subscriber = _Client(kind, "subscribe", options)
            clients.append(subscriber)
            subscriber.answer()
            if len(clients) == 1:
                publisher = _Client(kind, "publish", options)
                clients.append(publisher)
            else:
                publisher.go()
            published, received = publisher.answer(), subscriber.answer()
        finally:
            for client in clients:
                client.stop()
    start = published["start"]
    return {
        "deliveries_per_s": received["received"] / (received["last"] - start),
        "publishes_per_s": options["count"] / (published["confirmed"] - start),
        "received": 100 * received["received"] / (options["count"] * options["subscribers"]),
    }


def main() -> None:
    options = arguments.parser("Events, live and durable.", list(PEERS), 3)
    options.add_argument("--subscribers", type=int, nargs="+", default=[1, 10, 100])
    options.add_argument("--modes", nargs="+", choices=[_LIVE, _DURABLE], default=[_LIVE, _DURABLE])
    options.add_argument("--deliveries", type=int, default=1_000_000, help="of a run, at most")
    options.add_argument("--count", type=int, default=102_400, help="events of a run, at most")
    options.add_argument("--size", type=int, default=64, help="bytes of each (64)")
    chosen: argparse.Namespace = options.parse_args()
    peers = [name for name in chosen.peers if _is_there(name)]
    NAMES.update(mosquitto="mosquitto, paho-mqtt", nats="nats-server, nats-py")
    cases = {
        f"{mode}, {number} subscribers": {
            "durable": mode == _DURABLE,
            "subscribers": number,
            "count": max(1024, min(chosen.count, chosen.deliveries // number) // 256 * 256),
            "size": chosen.size,
        }
        for mode in chosen.modes
        for number in chosen.subscribers
    }
    with certificate() as file:
        results = rounds(
            chosen.rounds,
            [OURS, *peers],
            list(cases),
            lambda contender, case: measure(contender, file, cases[case]),
        )
    arguments.show("event_streams", chosen, results, lambda _: COLUMNS)


def _is_there(name: str) -> bool:
    found = shutil.which(_PROGRAMS[name], path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None or find_spec(PEERS[name]) is None:
        note(f"{name} is skipped: it needs {_PROGRAMS[name]} and the Python package {PEERS[name]}")
        return False
    return True


if __name__ == "__main__":
    main()
