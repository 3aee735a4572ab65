"""Hosts joined by links that lose, delay and damage datagrams, in virtual time.

    net = SimulatedNetwork(seed=7)
    net.join("10.0.0.1", "10.0.0.2", LinkOptions(rate=10e6, delay=0.05, loss=0.02))
    net.listen_udp(server, host="10.0.0.2", port=9000)
    net.listen_udp(client, host="10.0.0.1")
    net.run_until(lambda: client.done)

Any Twisted `DatagramProtocol` runs here. Code that wants a reactor is given a host, which has
`listenUDP`, `callLater` and `seconds`. What happens is decided by the seed alone, as long as the
protocols do the same. An exception out of a protocol ends the `run_until` in which it happens.

Routers are not simulated: any two hosts are joined by one link in each direction, on which all
traffic from the one to the other shares one line. A link is made with the network's `options` when
it is first needed.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from jetstreamproto.testing.linkmodel import Fate, LinkCounters, LinkModel, LinkOptions
from jetstreamproto.testing.simhost import Address, Nat, SimulatedHost, SimulatedPort

T = TypeVar("T")

DEFAULT_LINK = LinkOptions(delay=0.01)
"""What joins hosts for which nothing else was said."""

_STEPS = 10_000_000
_AT_ONCE = 100_000  # datagrams sent and calls made by hosts in one instant
_ROUNDING = 1e-12  # seconds


@dataclass(slots=True, eq=False)
class Datagram:
    """One that has been sent, as `SimulatedNetwork.tap` sees it. `data` may be replaced."""

    index: int
    """How many were sent in this network before it."""
    number: int
    """How many were sent before it from this host to that one."""
    time: float
    source: Address
    """As the receiver will see it."""
    destination: Address
    """As the sender has addressed it."""
    data: bytes


@dataclass(slots=True, eq=False)
class _Flight:
    """A datagram on its way, or (with a `code`) a report of what became of one."""

    sender: SimulatedPort
    source: Address
    destination: Address
    data: bytes
    index: int
    code: int = 0
    mtu: int = 0


class SimulatedLink:
    """One direction between two hosts. Its `options` may be replaced at any time."""

    def __init__(self, name: str, options: LinkOptions, random: Random) -> None:
        self.name = name
        self.model = LinkModel(options, random if options.seed is None else None)
        """Give two links the same model, and they share one line."""
        self.sent = 0

    @property
    def options(self) -> LinkOptions:
        return self.model.options

    @options.setter
    def options(self, options: LinkOptions) -> None:
        self.model.options = options

    @property
    def counters(self) -> LinkCounters:
        """What has become of its packets so far."""
        return self.model.counters

    def __repr__(self) -> str:
        return f"<SimulatedLink {self.name} {self.counters}>"


class SimulatedNetwork:
    """A network of which `seed` decides what happens, and `clock` when.

    `trace` is how many of the last events an `AssertionError` tells of.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        seed: int = 0,
        *,
        options: LinkOptions = DEFAULT_LINK,
        trace: int = 40,
    ) -> None:
        self.clock = clock or Clock()
        self.seed = seed
        self.options = options
        self.tap: Callable[[Datagram], bool] | None = None
        """Called for each datagram before its link has it; it vanishes unless this is true."""
        self.trace: deque[tuple[float, str, Address, Address, int, int]] = deque(maxlen=trace)
        """The last events: time, what, source, destination, length and index of the datagram."""
        self.sent = 0
        """Datagrams so far."""
        self._hosts: dict[str, SimulatedHost] = {}
        self._nats: dict[str, Nat] = {}
        self._links: dict[tuple[str, str], SimulatedLink] = {}
        self._heap: list[tuple[float, int, _Flight]] = []
        self._pushed = 0
        self._arriving = False
        self._wake: IDelayedCall | None = None
        self._wake_at = 0.0
        self._instant = 0.0
        self._at_once = 0

    def __repr__(self) -> str:
        return f"<SimulatedNetwork seed={self.seed} at {self.clock.seconds():.6f} s>"

    # --- building ------------------------------------------------------------------------

    def host(self, address: str, nat: Nat | None = None) -> SimulatedHost:
        """The host of that IP address; one that is new is placed behind `nat`."""
        host = self._hosts.get(address)
        if host is None:
            if address in self._nats:
                raise ValueError(f"{address} is the address of a NAT")
            host = self._hosts[address] = SimulatedHost(self, address, nat)
        elif nat is not None and host.nat is not nat:
            raise ValueError(f"{address} has been placed elsewhere")
        return host

    def nat(self, address: str) -> Nat:
        """The NAT with that address outside; `host(inside, nat)` places hosts behind it."""
        if address in self._hosts:
            raise ValueError(f"{address} is the address of a host")
        return self._nats.get(address) or Nat(self._nats, address)

    def link(self, source: str | SimulatedHost, destination: str | SimulatedHost) -> SimulatedLink:
        """What carries datagrams from one host to another. NATs are no ends of links."""
        ends = str(source), str(destination)
        link = self._links.get(ends)
        if link is None:
            name = ">".join(ends)
            link = SimulatedLink(name, self.options, Random(f"{self.seed} {name}"))
            self._links[ends] = link
        return link

    def join(
        self,
        one: str | SimulatedHost,
        other: str | SimulatedHost,
        options: LinkOptions,
        back: LinkOptions | None = None,
    ) -> None:
        """Set both directions between two hosts; `back` if the way back is different."""
        self.link(one, other).options = options
        self.link(other, one).options = back or options

    def listen_udp(
        self, protocol: Any, host: str | SimulatedHost, port: int = 0, *, batches: bool = False
    ) -> SimulatedPort:
        """Run `protocol` on a UDP port of a host; 0 chooses one. Raises `CannotListenError`.

        With `batches` it is a port as `sockets.offload` makes them: it has `write_segments`, and
        the protocol's `datagrams_received` and `batch_ended` are called if it has them.
        """
        where = host if isinstance(host, SimulatedHost) else self.host(host)
        opened = SimulatedPort(where, port, protocol, batches=batches)
        opened.startListening()
        return opened

    # --- running -------------------------------------------------------------------------

    def run(self, deferred: Deferred[T], within: float = 3600.0) -> T:
        """`run_until` it fires; its result or exception."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.run_until(lambda: bool(results), within)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def run_until(self, condition: Callable[[], bool], within: float = 3600.0) -> None:
        """Move the clock from event to event until `condition()` holds.

        Raises `AssertionError` when nothing is left to happen, `within` seconds have passed, or
        hosts go on and on without any time passing.
        """
        end = self.clock.seconds() + within
        for _ in range(_STEPS):
            if condition():
                return
            when = self._next_event()
            if when is None:
                raise AssertionError(self._complaint("nothing happens any more"))
            if when > end:
                raise AssertionError(self._complaint(f"{within:g} seconds have passed"))
            self._move_to(when)
        raise AssertionError(self._complaint(f"{_STEPS} events have happened"))

    def advance(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass, with everything that happens in them."""
        end = self.clock.seconds() + seconds
        while (when := self._next_event()) is not None and when <= end:
            self._move_to(when)
        self._move_to(end)

    def _next_event(self) -> float | None:
        # The clock only sorts its calls when it moves.
        times = [call.getTime() for call in self.clock.getDelayedCalls()]
        return min(times) if times else None

    def _move_to(self, when: float) -> None:
        self.clock.advance(max(0.0, when - self.clock.seconds()))

    def _complaint(self, why: str) -> str:
        links = [f"  {link!r}" for link in self._links.values()]
        return "\n".join(
            [f"{why}, and what was waited for has not happened", repr(self), *links, self.history()]
        )

    def history(self) -> str:
        """The last events, one a line."""
        return "\n".join(
            f"  {time:.6f} #{index} {what}: {source[0]}:{source[1]} > "
            f"{destination[0]}:{destination[1]}, {length} bytes"
            for time, what, source, destination, length, index in self.trace
        )

    # --- what ports ask of it --------------------------------------------------------------

    def check_progress(self) -> None:
        """Something happens: raise `AssertionError` if for ever so long at the same instant."""
        now = self.clock.seconds()
        if now != self._instant:
            self._instant, self._at_once = now, 0
        self._at_once += 1
        if self._at_once > _AT_ONCE:
            self._at_once = 0
            raise AssertionError(self._complaint("time stands still"))

    def send(self, sender: SimulatedPort, data: bytes, destination: Address) -> None:
        """Send a datagram, or lose it. For ports."""
        self.check_progress()
        now = self.clock.seconds()
        target = self._find(sender.host, destination)
        source = sender.host.seen_as(sender.number, target)
        index, self.sent = self.sent, self.sent + 1
        flight = _Flight(sender, source, destination, data, index)
        if target is None:
            self._note("no such address", flight)
            return
        link = self.link(sender.host, target)
        number, link.sent = link.sent, link.sent + 1
        if self.tap is not None:
            seen = Datagram(index, number, now, source, destination, data)
            if not self.tap(seen):
                self._note("tapped", flight)
                return
            flight.data = seen.data
        model = link.model
        arrivals = model.offer(now, flight.data)
        if not arrivals:
            self._note(model.fate.value, flight)
            if model.fate is Fate.TOO_BIG and model.options.mtu_reports:
                report = replace(flight, code=errno.EMSGSIZE, mtu=model.options.mtu or 0)
                self._push(now + 2 * model.options.delay, report)
            return
        self._note("sent", flight)
        for arrival, carried in arrivals:
            if carried is not flight.data:
                self._note("corrupted", flight)
                flight = _Flight(sender, source, destination, carried, index)
            self._push(arrival, flight)

    def _find(self, asking: SimulatedHost, address: Address) -> SimulatedHost | None:
        """The host that what `asking` sends to `address` would reach, as things are now."""
        nat = self._nats.get(address[0])
        if nat is not None:
            inner = nat.inside(address[1])
            return self._hosts.get(inner[0]) if inner is not None else None
        host = self._hosts.get(address[0])
        if host is None or host.nat not in (None, asking.nat):
            return None
        return host

    def _port(self, flight: _Flight) -> tuple[SimulatedHost | None, SimulatedPort | None]:
        host = self._find(flight.sender.host, flight.destination)
        if host is None:
            return None, None
        number = flight.destination[1]
        nat = self._nats.get(flight.destination[0])
        if nat is not None:
            inner = nat.inside(number)
            assert inner is not None
            number = inner[1]
        return host, host.ports.get(number)

    def _push(self, when: float, flight: _Flight) -> None:
        heappush(self._heap, (when, self._pushed, flight))
        self._pushed += 1
        if not self._arriving:
            self._schedule()

    def _schedule(self) -> None:
        """Have the clock call for the earliest arrival, and only for that."""
        if not self._heap:
            return
        when = self._heap[0][0]
        if self._wake is not None:
            if self._wake_at <= when:
                return
            self._wake.cancel()
        self._wake_at = when
        self._wake = self.clock.callLater(max(0.0, when - self.clock.seconds()), self._arrive)

    def _arrive(self) -> None:
        """Hand over all that has arrived by now."""
        self._wake = None
        heap, due = self._heap, []
        now = self.clock.seconds() + _ROUNDING
        while heap and heap[0][0] <= now:
            due.append(heappop(heap)[2])
        self._arriving = True
        batched: dict[SimulatedPort, None] = {}
        try:
            for flight in due:
                if flight.code:
                    self._report(flight)
                else:
                    self._deliver(flight, batched)
            for port in batched:
                port.end_batch()
        finally:
            self._arriving = False
            self._schedule()

    def _deliver(self, flight: _Flight, batched: dict[SimulatedPort, None]) -> None:
        host, port = self._port(flight)
        if port is not None and port.takes_from(flight.source):
            self._note("arrived", flight)
            if port.batches:
                batched[port] = None
            port.receive(flight.data, flight.source)
        elif host is None:
            self._note("no such address any more", flight)
        else:
            self._note("no such port", flight)
            if host.refuses:
                back = self.link(host, flight.sender.host).options.delay
                report = replace(flight, code=errno.ECONNREFUSED)
                self._push(self.clock.seconds() + back, report)

    def _report(self, flight: _Flight) -> None:
        if flight.sender.host.ports.get(flight.sender.number) is flight.sender:
            self._note("reported to the sender", flight)
            flight.sender.error(flight.destination, flight.code, flight.mtu)

    def _note(self, what: str, flight: _Flight) -> None:
        self.trace.append(
            (
                self.clock.seconds(),
                what,
                flight.source,
                flight.destination,
                len(flight.data),
                flight.index,
            )
        )
