"""A small SSH server and client of Twisted's Conch."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import ISession
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ClientFactory
from zope.interface import implementer

USER = b"somebody"


@cache
def a_key(number: int) -> Key:
    return Key(rsa.generate_private_key(65537, 2048))


@implementer(ISession)
class CountingSession:
    """Runs `wc`: counts what it is sent and ends with status 7."""

    def __init__(self, avatar: Any) -> None:
        self.count = 0

    def execCommand(self, proto: Any, command: bytes) -> None:
        assert command == b"wc", command
        session = self

        class Process:
            def write(self, data: bytes) -> None:
                session.count += len(data)

            def loseConnection(self) -> None: ...

        self._proto = proto
        proto.makeConnection(Process())

    def eofReceived(self) -> None:
        channel = self._proto.session
        channel.write(b"%d" % self.count)
        channel.conn.sendRequest(channel, b"exit-status", struct.pack(">L", 7))
        channel.loseConnection()

    def getPty(self, term: Any, windowSize: Any, modes: Any) -> None:
        raise NotImplementedError

    def openShell(self, proto: Any) -> None:
        raise NotImplementedError

    def windowChanged(self, newWindowSize: Any) -> None: ...

    def closed(self) -> None: ...


class User(ConchUser):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.channelLookup[b"session"] = SSHSession


@implementer(IRealm)
class Realm:
    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        return interfaces[0], User(), lambda: None


def server_factory() -> SSHFactory:
    """A server that lets USER in by key."""
    from twisted.python.components import getRegistry, registerAdapter

    if getRegistry().lookup([_implemented(User)], ISession, "") is None:
        registerAdapter(CountingSession, User, ISession)
    factory = SSHFactory()
    factory.publicKeys = {b"ssh-rsa": a_key(1).public()}
    factory.privateKeys = {b"ssh-rsa": a_key(1)}
    keys = InMemorySSHKeyDB({USER: [a_key(2).public()]})
    factory.portal = Portal(Realm(), [SSHPublicKeyChecker(keys)])
    factory.getPrimes = lambda: None  # type: ignore[method-assign]
    return factory


def _implemented(kind: type) -> Any:
    from zope.interface import implementedBy

    return implementedBy(kind)


class _ClientAuth(SSHUserAuthClient):  # type: ignore[misc]
    offered = False

    def getPublicKey(self) -> Any:
        offered, self.offered = self.offered, True
        return None if offered else a_key(2).public()

    def getPrivateKey(self) -> Any:
        return succeed(a_key(2))


class _Command(SSHChannel):  # type: ignore[misc]
    name = b"session"

    def __init__(self, factory: Any) -> None:
        super().__init__()
        self._factory = factory
        self._output = b""
        self._status = -1

    def channelOpen(self, specificData: bytes) -> None:
        ran = self.conn.sendRequest(self, b"exec", NS(self._factory.command), wantReply=True)
        ran.addCallback(self._started)

    def _started(self, _: object) -> None:
        self.write(self._factory.input)
        self.conn.sendEOF(self)

    def dataReceived(self, data: bytes) -> None:
        self._output += data

    def request_exit_status(self, data: bytes) -> None:
        (self._status,) = struct.unpack(">L", data)

    def closeReceived(self) -> None:
        self.loseConnection()

    def closed(self) -> None:
        self._factory.done.callback((self._output, self._status))
        self.conn.transport.loseConnection()


class _ClientConnection(SSHConnection):  # type: ignore[misc]
    def serviceStarted(self) -> None:
        super().serviceStarted()
        self.openChannel(_Command(self.transport.factory))


class _ClientTransport(SSHClientTransport):  # type: ignore[misc]
    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Any:
        assert hostKey == a_key(1).blob()
        return succeed(True)

    def connectionSecure(self) -> None:
        self.requestService(_ClientAuth(USER, _ClientConnection()))


class _ClientFactory(ClientFactory):
    protocol = _ClientTransport

    def __init__(self, command: bytes, data: bytes) -> None:
        self.command = command
        self.input = data
        self.done: Deferred[tuple[bytes, int]] = Deferred()


def client_factory(command: bytes, data: bytes) -> _ClientFactory:
    """Runs `command` with `data` as its input; `done` fires with its output and status."""
    return _ClientFactory(command, data)
