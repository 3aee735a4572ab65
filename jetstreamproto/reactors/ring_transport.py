"""What transports have in common that an io_uring moves by completions instead of readiness.

What a transport wants (to read, to write, neither) it only notes; once a turn the reactor has it
tell the ring, all of them with one system call. What the ring then tells comes back as events.
"""

# Mixins in front of Twisted's transports, which are mixins themselves: of what these have, a type
# checker sees nothing from here.
# mypy: disable-error-code="misc, has-type, attr-defined, no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetstreamproto.reactors._uring import STREAM, Ring

if TYPE_CHECKING:
    from jetstreamproto.reactors.uring import UringReactor


class RingTransport:
    """What all of them share; goes in front of a Twisted transport.

    `on_ring` says that the ring serves the transport: not while a connection is being made, nor
    after the kernel refused the ring; then everything is as with epoll.
    """

    reactor: UringReactor
    kind = STREAM
    on_ring = True
    slot: int | None = None
    reading = writing = queued = False
    log_context: Any = None
    log_key: Any = None
    _armed = False
    _held: list[tuple[int, Any]] | None = None

    # --- what Twisted calls ------------------------------------------------------------

    def startReading(self) -> None:
        if not self.on_ring:
            super().startReading()
        elif not self.reading:
            self.reading = True
            self._changed()
            if self._held:
                held, self._held = self._held, None
                self.reactor.tell_again(self, held)

    def stopReading(self) -> None:
        if not self.on_ring:
            super().stopReading()
        elif self.reading:
            self.reading = False
            self._changed()

    def startWriting(self) -> None:
        if not self.on_ring:
            super().startWriting()
        elif not self.writing:
            self.writing = True
            self._changed()

    def stopWriting(self) -> None:
        if not self.on_ring:
            super().stopWriting()
        else:
            self.writing = False

    # --- what the reactor calls --------------------------------------------------------

    def flush(self, ring: Ring) -> Any:
        """Tell the ring what has changed. Returns why the transport ends now, if it does."""
        if self.slot is None:
            if not self.reading:
                return None
            self._enter(ring)
        self._flush_reading(ring)
        return None

    def completed(self, kind: int, value: Any) -> Any:
        """Take an event. Returns why the transport ends now, if it does."""
        if self.reading:
            return self._read(kind, value)
        self.hold(kind, value)
        return None

    def hold(self, kind: int, value: Any) -> None:
        """Keep what had come before the transport was paused; told again when it goes on."""
        if self._held is None:
            self._held = []
        self._held.append((kind, value))

    def drop(self, kind: int, value: Any) -> None:
        """Give back what an event has that nobody is told."""

    def is_writing(self) -> bool:
        """Whether there is anything to be written."""
        return self.writing

    def reset(self) -> None:
        """The ring is gone; another one may follow."""
        self.slot = None
        self._armed = False

    def to_epoll(self) -> None:
        """There is no ring after all."""
        reading, writing = self.reading, self.writing
        self.reset()
        self.on_ring = self.reading = self.writing = False
        if reading:
            self.startReading()
        if writing:
            self.startWriting()

    # --- for subclasses ----------------------------------------------------------------

    def _read(self, kind: int, value: Any) -> Any:
        raise NotImplementedError

    def _changed(self) -> None:
        if not self.queued:
            self.queued = True
            self.reactor.ring_changed(self)

    def _enter(self, ring: Ring) -> int:
        slot = ring.add(self.fileno(), self, self.kind)
        self.slot = slot
        self.reactor.ring_entered(self)
        return slot

    def _leave(self) -> None:
        """The socket is about to be closed: end what the kernel does with it."""
        if self.slot is not None:
            held, self._held = self._held, None
            for kind, value in held or ():
                self.drop(kind, value)
            self.reactor.ring_left(self)

    def _flush_reading(self, ring: Ring) -> None:
        reading = self.reading
        if reading is not self._armed:
            assert self.slot is not None
            self._armed = reading
            ring.receive(self.slot, reading)
