"""The servers at the far end of a link: ours over TCP and UDP, and plain TCP in its own process.

    python -m tests.benchmarks.far_end FOLDER

A file in the folder says when each is ready. They run until they are killed. What bulk receivers
have had by when goes into files there, too (`samples`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from jetstreamproto.datagram import listen_udp
from jetstreamproto.errors import JetStreamError
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.services.echo import DISCARD, Discard
from jetstreamproto.services.latency import LATENCY, Latency
from jetstreamproto.session.settings import SessionSettings
from tests.benchmarks.certificate import FILE
from tests.benchmarks.plain_tcp import READY as TCP_READY
from tests.benchmarks.samples import SampleWriter

OURS_PORT = 9000
_OURS_READY = "jetstream.ready"
READY = (_OURS_READY, TCP_READY)


class SampledDiscard(Discard):
    """The discard service, which also writes down when how much had come."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._samples = SampleWriter(folder)

    def message_received(self, message: bytes) -> None:
        super().message_received(message)
        self._samples.count(self._received)

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._samples.close()


def serve(reactor: Any, folder: Path) -> None:
    """Listen on both transports, and say so."""
    factory = JetStreamServerFactory(
        Identity.from_files(folder / FILE),
        {DISCARD: lambda: SampledDiscard(folder), LATENCY: Latency},
        settings=SessionSettings(compression=None),
    )
    reactor.listenTCP(OURS_PORT, factory)
    listen_udp(reactor, OURS_PORT, factory)
    (folder / _OURS_READY).touch()


def main() -> None:
    from twisted.internet import reactor

    folder = Path(sys.argv[1])
    with subprocess.Popen([sys.executable, "-m", "tests.benchmarks.plain_tcp", "serve", folder]):
        serve(reactor, folder)
        reactor.run()


if __name__ == "__main__":
    main()
