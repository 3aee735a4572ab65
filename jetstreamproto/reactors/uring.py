"""A reactor that waits on an io_uring: many connections' messages with one system call a turn.

    import jetstreamproto.reactors.uring

    jetstreamproto.reactors.uring.install()  # before anything imports the reactor

or `twistd --reactor=jetstream-uring`. TCP and UDP are moved by completions; whatever else there is
(processes, UNIX sockets, standard I/O, connections being made) is waited for by epoll, which the
ring watches. Sockets have profiles, as with `jetstreamproto.reactors.tuned`.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections import deque
from typing import Any

from twisted.internet.interfaces import IReactorDaemonize
from twisted.internet.main import installReactor
from twisted.logger import Logger
from twisted.python import context, log
from zope.interface import implementer

from jetstreamproto.reactors.tuned import TunedReactor, chosen_profile
from jetstreamproto.reactors.tuned import install as install_tuned
from jetstreamproto.sockets.profiles import SocketProfile

try:
    from jetstreamproto.reactors._uring import RECEIVED, Ring
    from jetstreamproto.reactors.ring_ports import RING_CLASSES
    from jetstreamproto.reactors.ring_streams import READS
    from jetstreamproto.reactors.ring_transport import RingTransport
except ImportError as error:
    _MISSING = str(error)
else:
    _MISSING = ""

_log = Logger(namespace="jetstream")


def why_not() -> str | None:
    """Why this process cannot have the reactor; None if it can. Asks the kernel for a ring."""
    if _MISSING:
        return f"the extension was not built when the package was installed ({_MISSING})"
    try:
        Ring(8, 16, 8, 4096).close()
    except OSError as error:
        return _explain(error)
    return None


def _explain(error: OSError) -> str:
    """What the kernel's refusal of a ring means."""
    meaning = {
        errno.ENOSYS: "the kernel has no io_uring, or a seccomp filter hides it",
        errno.EPERM: "a seccomp filter or kernel.io_uring_disabled forbids io_uring here",
        errno.EINVAL: "the kernel's io_uring is too old: Linux 6.1 is the first that will do",
        errno.ENOMEM: "there is not enough memory, or RLIMIT_MEMLOCK is too low",
        errno.EMFILE: "the process has no file descriptor left",
    }
    return meaning.get(error.errno or 0, f"the kernel refuses a ring: {error.strerror}")


def _ring() -> Ring:
    """A ring, a small one where RLIMIT_MEMLOCK allows no more: some 115 KiB, or 30."""
    try:
        return Ring()
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return Ring(128, 512, 512)


@implementer(IReactorDaemonize)
class UringReactor(TunedReactor):
    """The tuned epoll reactor, with TCP and UDP on an io_uring.

    The ring is made by the first turn, on the thread that runs it: a ring belongs to one thread,
    and twistd makes the reactor before it forks. Raises `NotImplementedError` where the extension
    is missing; where the kernel refuses the ring, the reason is logged and epoll does everything.
    """

    ring: Ring | None = None
    may_use_ring = True
    called_out = False
    """Set by a transport whose `flush` calls the application, which may have timed a call."""

    def __init__(self) -> None:
        if _MISSING:
            raise NotImplementedError(why_not())
        self.transport_classes = RING_CLASSES
        self._ring_events: deque[tuple[Any, int, Any]] = deque()
        self._changed: list[RingTransport] = []
        self._on_ring: set[RingTransport] = set()
        super().__init__()
        _reactors.add(self)

    # --- what transports call -------------------------------------------------------------

    def ring_changed(self, transport: RingTransport) -> None:
        """A transport has something to tell the ring. It says so once a turn."""
        if self.may_use_ring:
            self._changed.append(transport)
        else:
            transport.to_epoll()

    def ring_entered(self, transport: RingTransport) -> None:
        """A transport has a slot of the ring."""
        self._on_ring.add(transport)

    def ring_left(self, transport: RingTransport) -> None:
        """A transport is done with the ring, and its socket is about to be closed."""
        slot = transport.slot
        transport.reset()
        self._on_ring.discard(transport)
        if self.ring is not None and slot is not None:
            try:
                self.ring.discard(slot)
            except OSError:  # on another thread, say; the socket has to be closed all the same
                log.err()

    def tell_again(self, transport: RingTransport, held: list[tuple[int, Any]]) -> None:
        """Events that came while a transport was paused come before all others."""
        self._ring_events.extendleft((transport, *event) for event in reversed(held))

    def unsent(self, transport: RingTransport) -> int:
        """How many bytes of a transport the ring has not sent yet."""
        if self.ring is None or transport.slot is None:
            return 0
        return self.ring.unsent(transport.slot)

    def read_small(self, slot: int) -> None:
        """A stream reads little at a time again."""
        if self.ring is not None:
            self.ring.read_small(slot)

    # --- the turn -------------------------------------------------------------------------

    def doIteration(self, timeout: float | None) -> None:
        """Wait for events, for `timeout` seconds at most, and act on them."""
        ring = self.ring
        if ring is None:
            ring = self._make_ring()
            if ring is None:
                self.doPoll(timeout)
                return
        if self._changed:
            self._flush(ring)
            if self.called_out or self._changed:
                self.called_out = False
                timeout = 0
        if self._ring_events:
            timeout = 0
        if self.ring is ring:  # what was flushed may have run anything
            self._ring_events.extend(ring.wait(timeout))
        self._act()

    def _make_ring(self) -> Ring | None:
        if not self.may_use_ring:
            return None
        try:
            ring = _ring()
            ring.watch(self._poller.fileno())
        except OSError as error:
            _log.warn("going on with epoll: {reason}", reason=_explain(error))
            self.may_use_ring = False
            changed, self._changed = self._changed, []
            for transport in changed:
                transport.queued = False
                transport.to_epoll()
            return None
        self.ring = ring
        return ring

    def _flush(self, ring: Ring) -> None:
        changed, self._changed = self._changed, []
        for transport in changed:
            transport.queued = False
            if not transport.on_ring or not hasattr(transport, "socket"):
                continue  # closed since
            try:
                why = transport.flush(ring)
            except BaseException as error:
                log.err()
                why = error
            if why:
                self.called_out = True
                log.callWithLogger(transport, self._disconnectSelectable, transport, why, False)

    def _act(self) -> None:
        """Act on all events. One that is iterated from within goes on with the same events."""
        events = self._ring_events
        contexts = context.theContextTracker.currentContext().contexts
        outer = context.get(log.ILogContext)
        while events:
            transport, kind, value = events.popleft()
            if transport is None:
                self.doPoll(0)
                continue
            if transport.slot is None:
                transport.drop(kind, value)
                continue
            contexts.append(self._log_context(transport, outer))
            try:
                if kind == RECEIVED and transport.reading:
                    why = transport._dataReceived(value)
                else:
                    why = transport.completed(kind, value)
                if why:
                    self._end(transport, kind, why)
            except BaseException as error:
                log.err()
                self._end(transport, kind, error)
            finally:
                contexts.pop()

    def _end(self, transport: Any, kind: int, why: BaseException) -> None:
        try:
            self._disconnectSelectable(transport, why, kind in READS)
        except Exception:
            log.err()

    def _log_context(self, transport: Any, outer: Any) -> Any:
        """What `log.callWithLogger` would make for each event, made once."""
        try:
            prefix = transport.logPrefix()
        except Exception:
            prefix = "(buggy logPrefix method)"
            log.err(system=prefix)
        key = transport.log_key
        if key is None or key[0] is not outer or key[1] != prefix:
            transport.log_key = outer, prefix
            transport.log_context = {log.ILogContext: {**outer, "system": prefix}}
        return transport.log_context

    # --- IReactorFDSet, for transports of ours too ------------------------------------------

    def addReader(self, reader: Any) -> None:
        if getattr(reader, "on_ring", False):
            reader.startReading()
        else:
            super().addReader(reader)

    def addWriter(self, writer: Any) -> None:
        if getattr(writer, "on_ring", False):
            writer.startWriting()
        else:
            super().addWriter(writer)

    def removeReader(self, reader: Any) -> None:
        if getattr(reader, "on_ring", False):
            reader.stopReading()
        else:
            super().removeReader(reader)

    def removeWriter(self, writer: Any) -> None:
        if getattr(writer, "on_ring", False):
            writer.stopWriting()
        else:
            super().removeWriter(writer)

    def getReaders(self) -> list[Any]:
        return [*super().getReaders(), *(one for one in self._ring_transports() if one.reading)]

    def getWriters(self) -> list[Any]:
        return [
            *super().getWriters(),
            *(one for one in self._ring_transports() if one.is_writing()),
        ]

    def removeAll(self) -> list[Any]:
        ours = [one for one in self._ring_transports() if one.reading or one.is_writing()]
        for transport in ours:
            transport.stopReading()
            transport.stopWriting()
        return [*super().removeAll(), *ours]

    def _ring_transports(self) -> set[RingTransport]:
        return {
            one
            for one in [*self._on_ring, *self._changed]
            if one.on_ring and hasattr(one, "socket")
        }

    # --- processes ------------------------------------------------------------------------

    def beforeDaemonize(self) -> None:
        """End the ring, if there is one: it cannot follow the process into a child."""
        if self.ring is not None:
            self.ring.close()
        self._forget_ring()

    def afterDaemonize(self) -> None:
        """The next turn makes a new ring."""

    def forked(self) -> None:
        """This is a child: the ring, and what it is doing, is the parent's."""
        if self.ring is not None:
            self.ring.abandon()
        self._forget_ring()

    def _forget_ring(self) -> None:
        self.ring = None
        self._ring_events.clear()
        for transport in self._on_ring:
            transport.reset()
            if not transport.queued:
                transport.queued = True
                self._changed.append(transport)
        self._on_ring.clear()


_reactors: weakref.WeakSet[UringReactor] = weakref.WeakSet()


def _forked() -> None:
    for reactor in list(_reactors):
        reactor.forked()


os.register_at_fork(after_in_child=_forked)


def install(profile: SocketProfile | str | None = None) -> None:
    """Install the reactor; where it cannot be had, the tuned epoll reactor, and log the reason.

    For `profile` and errors see `jetstreamproto.reactors.install`.
    """
    reason = why_not()
    if reason is not None:
        install_tuned(profile)
        _log.warn("no io_uring reactor, but the one for epoll: {reason}", reason=reason)
        return
    found = chosen_profile(profile)
    reactor = UringReactor()
    reactor.socket_profile = found
    installReactor(reactor)
