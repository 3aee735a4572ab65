"""What software that nobody here wrote does over an endpoint: one coroutine for each.

A `World` says where: over real sockets, or over sessions in memory and in virtual time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols import amp
from twisted.web.client import Agent, FileBodyProducer, readBody
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from twisted.web.static import File
from zope.interface import implementer

from tests.doubles import noise

BIG = 1_000_000


class World:
    """A reactor, a way to listen, and an endpoint that connects there."""

    def __init__(
        self,
        reactor: Any,
        listen: Callable[[IProtocolFactory], Awaitable[object]],
        endpoint: Callable[[], IStreamClientEndpoint],
    ) -> None:
        self.reactor = reactor
        self.listen = listen
        self.endpoint = endpoint


# --- HTTP ---------------------------------------------------------------------------------


class Digest(Resource):
    """Answers with the digest of what was uploaded."""

    isLeaf = True

    def render_POST(self, request: Any) -> Any:
        body = request.content.read()
        request.write(hashlib.sha256(body).hexdigest().encode())
        request.finish()
        return NOT_DONE_YET


@implementer(IAgentEndpointFactory)
class Endpoints:
    """Connects an `Agent` to the world's server, whatever the URI says."""

    def __init__(self, world: World) -> None:
        self._world = world

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        return self._world.endpoint()


async def web(world: World, folder: str) -> None:
    """Twisted's web server and client: a file with a pull producer, uploads, many at a time."""
    import io

    root = File(folder)
    root.putChild(b"digest", Digest())
    data = noise(BIG)
    with open(f"{folder}/big", "wb") as file:
        file.write(data)
    await world.listen(Site(root, reactor=world.reactor))
    agent = Agent.usingEndpointFactory(world.reactor, Endpoints(world))

    async def download() -> bytes:
        response: Any = await agent.request(b"GET", b"http://server/big")
        assert response.code == 200, response.code
        body: bytes = await readBody(response)
        return body

    async def upload() -> bytes:
        from twisted.internet.task import Cooperator

        cooperator = Cooperator(scheduler=lambda call: world.reactor.callLater(0, call))
        producer = FileBodyProducer(io.BytesIO(data), cooperator=cooperator)
        response: Any = await agent.request(b"POST", b"http://server/digest", None, producer)
        body: bytes = await readBody(response)
        return body

    jobs = [Deferred.fromCoroutine(job()) for job in (download, upload) * 4]
    digest = hashlib.sha256(data).hexdigest().encode()
    for result in await gatherResults(jobs, consumeErrors=True):
        assert result in (data, digest)


# --- AMP ----------------------------------------------------------------------------------


class Sum(amp.Command):
    arguments = ((b"a", amp.Integer()), (b"b", amp.Integer()))
    response = ((b"total", amp.Integer()),)
    errors = {ZeroDivisionError: b"ZERO"}  # noqa: RUF012


class Calculator(amp.AMP):
    @Sum.responder  # type: ignore[untyped-decorator]
    def sum(self, a: int, b: int) -> dict[str, int]:
        if a == b == 0:
            raise ZeroDivisionError("nothing to add")
        return {"total": a + b}


async def remote_calls(world: World) -> None:
    """Calls with AMP, many at a time, and one that fails."""
    await world.listen(Factory.forProtocol(Calculator))
    protocol: Any = await world.endpoint().connect(Factory.forProtocol(amp.AMP))
    calls = [protocol.callRemote(Sum, a=number, b=1) for number in range(200)]
    totals = [answer["total"] for answer in await gatherResults(calls)]
    assert totals == list(range(1, 201)), totals
    try:
        await protocol.callRemote(Sum, a=0, b=0)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("no error came back")
    protocol.transport.loseConnection()


# --- SSH ----------------------------------------------------------------------------------


async def ssh(world: World) -> None:
    """A command in an SSH session, with Twisted's Conch on both sides."""
    from tests.live.conch import client_factory, server_factory

    await world.listen(server_factory())
    factory = client_factory(b"wc", noise(100_000))  # within the window: its EOF does not wait
    await world.endpoint().connect(factory)
    output, status = await factory.done
    assert (output, status) == (b"100000", 7), (output, status)


# --- WebSocket ------------------------------------------------------------------------------


async def web_socket(world: World) -> None:
    """Messages of many sizes through Autobahn's WebSocket, and its closing handshake."""
    from autobahn.twisted.websocket import (
        WebSocketClientFactory,
        WebSocketClientProtocol,
        WebSocketServerFactory,
        WebSocketServerProtocol,
    )

    class Echo(WebSocketServerProtocol):  # type: ignore[misc]
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.sendMessage(payload, isBinary)

    messages = [noise(size, size) for size in (0, 1, 125, 126, 65_535, 65_536, 300_000)]
    received: list[bytes] = []
    closed: Deferred[tuple[bool, int]] = Deferred()

    class Client(WebSocketClientProtocol):  # type: ignore[misc]
        def onOpen(self) -> None:
            for message in messages:
                self.sendMessage(message, isBinary=True)

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            received.append(payload)
            if len(received) == len(messages):
                self.sendClose(1000, "done")

        def onClose(self, wasClean: bool, code: int, reason: str) -> None:
            closed.callback((wasClean, code))

    server = WebSocketServerFactory("ws://server:9000", reactor=world.reactor)
    server.protocol = Echo
    client = WebSocketClientFactory("ws://server:9000", reactor=world.reactor)
    client.protocol = Client
    for factory in (server, client):  # these timers are of the global reactor
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
    client.setProtocolOptions(serverConnectionDropTimeout=0)
    await world.listen(server)
    await world.endpoint().connect(client)
    clean, code = await closed
    assert (clean, code) == (True, 1000), (clean, code)
    assert received == messages
