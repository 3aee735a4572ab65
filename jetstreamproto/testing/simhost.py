"""The hosts of a `SimulatedNetwork`, their UDP ports, and the NATs they may be behind."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, InvalidAddressError, MessageLengthError
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IReactorTime,
    IReactorUDP,
    IUDPTransport,
)
from zope.interface import implementer

if TYPE_CHECKING:
    from jetstreamproto.testing.simnet import SimulatedNetwork

Address = tuple[str, int]

MAX_DATAGRAM = 65507
"""Bytes of UDP payload that fit in one IPv4 packet."""

_FIRST_PORT = 49152  # of those a host chooses
_FIRST_EXTERNAL_PORT = 20000  # of those a NAT chooses
_ANY = ("", "0.0.0.0", "::")


class Nat:
    """A network address translator, with one address outside. Made by `SimulatedNetwork.nat`.

    A port inside has one port outside, whomever it talks to, and anybody may send to that.
    """

    def __init__(self, nats: dict[str, Nat], address: str) -> None:
        self.address = address
        self._nats = nats
        self._outside: dict[Address, int] = {}
        self._inside: dict[int, Address] = {}
        self._next_port = _FIRST_EXTERNAL_PORT
        nats[address] = self

    def rebind(self, address: str | None = None) -> None:
        """Forget all translations: what was inside appears at new ports, and at `address` if given.

        Whatever is sent to an old address or port vanishes, also what is on its way there.
        """
        if address is not None and address != self.address:
            if address in self._nats:
                raise ValueError(f"{address} is the address of another NAT")
            del self._nats[self.address]
            self.address = address
            self._nats[address] = self
        self._outside.clear()
        self._inside.clear()

    def outside(self, inner: Address) -> Address:
        """The address outside of one inside, from now on if it had none."""
        port = self._outside.get(inner)
        if port is None:
            port, self._next_port = self._next_port, self._next_port + 1
            self._outside[inner] = port
            self._inside[port] = inner
        return self.address, port

    def inside(self, port: int) -> Address | None:
        """The address inside that now appears at `port` outside."""
        return self._inside.get(port)


@implementer(IReactorTime, IReactorUDP)
class SimulatedHost:
    """A host of a `SimulatedNetwork`, as the reactor of what runs on it. Made by its `host`."""

    def __init__(self, net: SimulatedNetwork, address: str, nat: Nat | None) -> None:
        if not isIPAddress(address) and not isIPv6Address(address):
            raise ValueError(f"{address!r} is not an IP address")
        self.net = net
        self.address = address
        self.nat = nat
        self.ports: dict[int, SimulatedPort] = {}
        self.refuses = True
        """Whether the sender is told when nothing listens on a port; if not, it hears nothing."""
        self._next_port = _FIRST_PORT

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"<SimulatedHost {self.address}>"

    def free_port(self) -> int:
        """A port on which nothing listens."""
        while self._next_port in self.ports:
            self._next_port += 1
        port, self._next_port = self._next_port, self._next_port + 1
        return port

    def seen_as(self, port: int, other: SimulatedHost | None) -> Address:
        """The address of one of its ports for another host."""
        if self.nat is None or (other is not None and other.nat is self.nat):
            return self.address, port
        return self.nat.outside((self.address, port))

    # --- IReactorTime --------------------------------------------------------------------

    def seconds(self) -> float:
        return self.net.clock.seconds()

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall:
        self.net.check_progress()
        return self.net.clock.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return self.net.clock.getDelayedCalls()

    # --- IReactorUDP ---------------------------------------------------------------------

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> SimulatedPort:
        """As of a reactor. Longer datagrams than `maxPacketSize` arrive cut off."""
        if interface not in (*_ANY, self.address):
            reason = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            raise CannotListenError(interface, port, reason)
        opened = SimulatedPort(self, port, protocol, max_packet_size=maxPacketSize)
        opened.startListening()
        return opened


@implementer(IUDPTransport, IListeningPort)
class SimulatedPort:
    """A UDP port of a host, as the transport of its protocol.

    `number` is its port number. Errors are told to the protocol's `datagram_error(address, errno,
    mtu)`, if it has that (see `sockets.offload.BatchReceiver`), and `connectionRefused` to the
    protocol of a connected port.
    """

    def __init__(
        self,
        host: SimulatedHost,
        number: int,
        protocol: Any,
        *,
        batches: bool = False,
        max_packet_size: int = MAX_DATAGRAM,
    ) -> None:
        self.host = host
        self.number = number
        self.protocol = protocol
        self.batches = batches
        self.gso = batches
        self.connected_to: Address | None = None
        self.datagrams_in = self.datagrams_out = self.bytes_in = self.bytes_out = 0
        self._max_packet_size = max_packet_size
        self._listening = False
        self._broadcast = False
        self._stopped: Deferred[None] | None = None
        self._waiting = bytearray()  # datagrams of one batch
        self._segment = 0  # their size
        self._waiting_from: Address = ("", 0)
        if batches:
            self.write_segments = self._write_segments

    # --- IListeningPort, IUDPTransport ---------------------------------------------------

    def startListening(self) -> None:
        if self.number in self.host.ports:
            reason = OSError(errno.EADDRINUSE, "Address already in use")
            raise CannotListenError(self.host.address, self.number, reason)
        self.number = self.number or self.host.free_port()
        self.host.ports[self.number] = self
        self._listening = True
        self.protocol.makeConnection(self)

    def stopListening(self) -> Deferred[None] | None:
        if not self._listening:
            return self._stopped
        self._listening = False
        self._stopped = Deferred()
        self.host.callLater(0, self._close)
        return self._stopped

    def loseConnection(self) -> None:
        self.stopListening()

    def getHost(self) -> IPv4Address | IPv6Address:
        kind = IPv6Address if ":" in self.host.address else IPv4Address
        return kind("UDP", self.host.address, self.number)

    def connect(self, host: str, port: int) -> None:
        if self.connected_to is not None:
            raise RuntimeError("already connected, reconnecting is not currently supported")
        _check_address(host)
        self.connected_to = (host, port)

    def write(self, packet: bytes, addr: Address | None = None) -> None:
        """Send a datagram. Raises `MessageLengthError` and `InvalidAddressError`."""
        target = addr if self.connected_to is None else self.connected_to
        if target is None or addr not in (None, target):
            raise ValueError("a datagram needs an address, and that of a connected port is fixed")
        _check_address(target[0])
        if len(packet) > MAX_DATAGRAM:
            raise MessageLengthError("message too long")
        if self._listening:
            self.datagrams_out += 1
            self.bytes_out += len(packet)
            self.host.net.send(self, bytes(packet), target)

    def writeSequence(self, seq: Sequence[bytes], addr: Address | None = None) -> None:
        self.write(b"".join(seq), addr)

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """Broadcasts are not simulated."""
        self._broadcast = enabled

    def getBroadcastAllowed(self) -> bool:
        return self._broadcast

    def _write_segments(
        self, data: bytes | bytearray | memoryview, segment_size: int, address: Address
    ) -> bool:
        """As `sockets.offload.BatchingPort.write_segments`."""
        if segment_size < 1 and data:
            raise ValueError("a segment has a byte at least")
        for start in range(0, len(data), segment_size) if data else (0,):
            self.write(bytes(data[start : start + segment_size]), address)
        return True

    def _close(self) -> None:
        del self.host.ports[self.number]
        self.protocol.doStop()
        assert self._stopped is not None
        self._stopped.callback(None)

    # --- for the network -------------------------------------------------------------------

    def takes_from(self, source: Address) -> bool:
        """Whether it would receive a datagram from there."""
        return self._listening and self.connected_to in (None, source)

    def receive(self, data: bytes, source: Address) -> None:
        """Hand a datagram to the protocol, or keep it for the batch."""
        self.datagrams_in += 1
        self.bytes_in += len(data)
        data = data[: self._max_packet_size]
        if not self.batches or not hasattr(self.protocol, "datagrams_received"):
            self.protocol.datagramReceived(data, source)
            return
        fits = source == self._waiting_from and 0 < len(data) <= self._segment
        whole = self._segment and len(self._waiting) % self._segment == 0
        if not fits or not whole or len(self._waiting) + len(data) > MAX_DATAGRAM:
            self._hand_over()
            self._segment, self._waiting_from = len(data), source
        self._waiting += data

    def end_batch(self) -> None:
        """All that has arrived by now was handed over."""
        self._hand_over()
        end = getattr(self.protocol, "batch_ended", None)
        if end is not None and self._listening:
            end()

    def error(self, address: Address, code: int, mtu: int) -> None:
        """What was sent to `address` did not arrive."""
        tell = getattr(self.protocol, "datagram_error", None)
        if tell is not None:
            tell(address, code, mtu)
        elif code == errno.ECONNREFUSED and self.connected_to is not None:
            self.protocol.connectionRefused()

    def _hand_over(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        if waiting and self._listening:
            # The buffer of a real port is longer, and used again for the next batch.
            view = memoryview(waiting + b"\xee" * 16)
            self.protocol.datagrams_received(view, self._segment, len(waiting), self._waiting_from)
            view[:] = b"\xee" * len(view)


def _check_address(host: str) -> None:
    if not isIPAddress(host) and not isIPv6Address(host):
        raise InvalidAddressError(host, "not an IP address")
