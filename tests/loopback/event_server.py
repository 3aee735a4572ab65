"""Servers of events that are started at once, to be killed: each is a fork of a process that has
everything imported already. It reads a folder a line, and answers with the port and the pid.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.services.events.offer import EventOffer


def serve(folder: Path, identity: Identity) -> None:
    """Run a server until it is killed."""
    from twisted.internet import reactor

    offer = EventOffer(folder, lambda _session, _service, _scope, default=(): tuple(default))
    offer.start(reactor)
    factory = JetStreamServerFactory(identity, offer.services)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(port.getHost().port, os.getpid(), flush=True)
    reactor.run(installSignalHandlers=False)


def main() -> None:
    identity = Identity.from_files(Path(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            signal.alarm(60)
            serve(Path(line.strip()), identity)
            os._exit(0)


if __name__ == "__main__":
    main()
