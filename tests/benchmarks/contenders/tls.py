"""Twisted's TLS 1.3 on the stock epoll reactor; the client checks certificate and name."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from tests.benchmarks.certificate import HOST
from tests.benchmarks.contenders import tcp
from tests.benchmarks.job import Job
from tests.benchmarks.source_address import source_address

_MINIMUM = {"raiseMinimumTo": TLSVersion.TLSv1_3}


def server(job: Job) -> Factory:
    """What `listenSSL` makes of the plain server's factory."""
    shown = PrivateCertificate.loadPEM(Path(job.certificate).read_bytes())
    options = CertificateOptions(
        privateKey=shown.privateKey.original, certificate=shown.original, **_MINIMUM
    )
    return TLSMemoryBIOFactory(options, False, tcp.server(job))


@implementer(IHandshakeListener)
class SecureLine(tcp.Line):
    """A line that is up when its handshake is done."""

    def connectionMade(self) -> None:
        pass

    def handshakeCompleted(self) -> None:
        self.ready.callback(None)


class _Dialer:
    """Makes endpoints that share one TLS context, as the sessions of one of our factories do."""

    def __init__(self, reactor: Any, job: Job) -> None:
        self._reactor = reactor
        self._port = job.port
        self._numbers = count()
        certificate = Certificate.loadPEM(Path(job.certificate).read_bytes())
        self._options = optionsForClientTLS(
            HOST, trustRoot=certificate, extraCertificateOptions=_MINIMUM
        )

    def endpoint(self) -> IStreamClientEndpoint:
        source = source_address(next(self._numbers))
        plain = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._port, bindAddress=source)
        return wrapClientTLS(self._options, plain)


async def bulk(reactor: Any, job: Job) -> dict[str, float]:
    return await tcp.bulk_over(_Dialer(reactor, job).endpoint(), SecureLine, job)


class Sessions:
    """Opens connections for the session benchmark, one TLS context for all of them."""

    def __init__(self, reactor: Any, job: Job) -> None:
        self._dialer = _Dialer(reactor, job)
        self._factory = Factory.forProtocol(SecureLine)

    async def open(self) -> SecureLine:
        """A connection that has finished its handshake."""
        line: Any = await self._dialer.endpoint().connect(self._factory)
        await line.ready
        return line

    async def idle(self) -> SecureLine:
        """A connection over which the server has answered."""
        line = await self.open()
        await self.first_byte(line)
        return line

    async def first_byte(self, line: SecureLine) -> None:
        """Have one byte echoed."""
        assert line.transport is not None
        line.transport.write(b"1")
        await line.read(1)

    def close(self, line: SecureLine) -> Deferred[None]:
        """End it cleanly; fires when the connection is gone."""
        assert line.transport is not None
        line.transport.loseConnection()
        return line.closed
