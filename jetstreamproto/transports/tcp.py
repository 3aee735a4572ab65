"""The TCP transport: a link over records on a byte stream.

It is fed by `data_received` and drives an `ITCPTransport` as a pull producer, so that at most one
record waits outside the kernel: what is sent next is decided when it can be sent. On Twisted's own
TCP connections a record is offered to the socket at once, which saves a round through the reactor
whenever the socket has room.
"""

from __future__ import annotations

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IPullProducer, ITransport
from zope.interface import implementer

from jetstreamproto.errors import (
    ConfigurationError,
    HandshakeError,
    JetStreamError,
    NotJetStream,
    ProtocolViolation,
    Refused,
    SessionCut,
    TrustError,
    WireError,
)
from jetstreamproto.security.handshake import Handshake, Role
from jetstreamproto.security.keys import TAG_SIZE
from jetstreamproto.security.records import (
    DEFAULT_LIMITS,
    HEADER_SIZE,
    MAX_BODY,
    MAX_PLAIN_BODY,
    OVERHEAD,
    RecordLimits,
    RecordOpener,
    RecordSealer,
    RecordType,
    alert_reason,
    alert_record,
    parse_header,
    plain_record,
)
from jetstreamproto.sockets.figures import stream_report
from jetstreamproto.sockets.unsent import Unsent
from jetstreamproto.transports.link import LinkStats, LinkUser, Peer, address_text
from jetstreamproto.transports.reading import ReadBuffer, Unread, read_into, read_no_more
from jetstreamproto.transports.strangers import recognise
from jetstreamproto.transports.tcp_state import TcpState
from jetstreamproto.transports.timeouts import Timeouts
from jetstreamproto.wire.packet import HEAD_SIZE, cut_batch, split_packets
from jetstreamproto.wire.session_messages import Mode

RECORD_SIZE = MAX_BODY - TAG_SIZE - HEAD_SIZE - (1 << 16)
"""Plaintext bytes at which a batch of packets is sealed: so many that one packet more fits."""

_HANDSHAKE, _SEALED, _ENDING, _ENDED, _CLOSING, _LOST = TcpState  # slow to get at in the enum
_CRYPTO, _ALERT, _PACKETS, _REKEY, _END = map(int, RecordType)
_EXPORTER_TRANSPORT = b"tcp"
_SMALL = 4096  # bytes: a copy costs less than a write of its own, or than pinning a whole read
_MAX_HANDSHAKE_BYTES = 1 << 16  # of CRYPTO records, over a connection's life
_MAX_PLAINTEXT = MAX_BODY - TAG_SIZE
_SCRATCH = MAX_BODY + OVERHEAD

# Records are sealed into and opened into these, one at a time, by all links of the process: a
# warm buffer is faster than a fresh one, and one a link would be most of an idle session's memory.
_sealed_into = memoryview(bytearray(_SCRATCH))
_opened_into = [memoryview(bytearray(_SCRATCH))]
_NO_PLAINTEXT = memoryview(bytearray())
_arrived = ReadBuffer()


@implementer(IPullProducer)
class TcpLink:
    """A `Link` over one TCP connection. The protocol that owns the connection feeds it.

    With `timeouts` what begins and what ends a session leaves at the end of the reactor's turn,
    together with that of other links: of all that wakes a process, only the first is dear.
    """

    streams = False  # one for all channels
    rtt = None

    __slots__ = (
        "_answers",
        "_batch",
        "_batch_size",
        "_blocked",
        "_closed",
        "_cork",
        "_crypto_bytes",
        "_eager",
        "_failure",
        "_handshake",
        "_late_crypto",
        "_limits",
        "_need",
        "_opener",
        "_peer_ended",
        "_received",
        "_sealer",
        "_sent",
        "_state",
        "_timeouts",
        "_transport",
        "_unread",
        "_unsent",
        "_user",
        "peer",
        "writable",
    )

    def __init__(
        self,
        transport: ITransport,
        user: LinkUser,
        handshake: Handshake,
        limits: RecordLimits = DEFAULT_LIMITS,
        unsent: Unsent | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.peer = Peer(address_text(transport))
        self._sent = self._received = 0  # bytes
        self._transport = transport
        self._user = user
        self._handshake: Handshake | None = handshake
        self._answers = handshake.role is Role.SERVER
        self._limits = limits
        self._unsent = unsent
        self._timeouts = timeouts
        self._state = _HANDSHAKE
        self._closed = False  # CLOSING or LOST, which is asked at every step
        self.writable = False  # packets: there are keys, nobody ends it, the transport takes more
        self._failure: JetStreamError | None = None
        self._peer_ended = False
        self._crypto_bytes, self._late_crypto = 0, b""
        self._sealer: RecordSealer | None = None
        self._opener: RecordOpener | None = None
        # sending: packets of the next record, and whether the transport still holds the last one
        self._batch: list[bytes | memoryview] = []
        self._batch_size = 0
        self._blocked = False
        self._cork: list[bytes] | None = []
        self._eager = isinstance(transport, FileDescriptor) and not getattr(transport, "TLS", False)
        # receiving: the pieces of a record that is not whole yet
        self._unread = Unread()
        self._need = HEADER_SIZE

    def start(self) -> None:
        """Begin the handshake. The user may be called before this returns."""
        assert self._handshake is not None
        read_into(_arrived, self._transport, self._unread)
        self._handshake.start()
        self._send_handshake(self._handshake)
        self._uncork_with_others()

    # --- sending ---------------------------------------------------------------------

    @property
    def stats(self) -> LinkStats:
        return LinkStats(self._sent, self._received, **stream_report(self._transport))

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        batch = self._batch
        batch.append(head)
        batch.append(payload)
        self._batch_size = size = self._batch_size + HEAD_SIZE + len(payload)
        if size >= RECORD_SIZE and not self._blocked:
            if self._unsent is not None:
                self._unsent.hold()  # the end of a record need not be a segment of its own
            self._write_batch()

    def set_mode(self, channel: int, mode: Mode, deadline: float | None) -> None:
        raise AssertionError("a TCP connection has one stream")

    def end_channel(self, channel: int) -> None:
        raise AssertionError("a TCP connection has one stream")

    def flush(self) -> None:
        if self._cork is None or self._batch_size > _SMALL:
            self._flush_now()  # else a few packets wait for others of the turn, in the same record

    def _flush_now(self) -> None:
        if self._batch and not self._blocked:
            self._write_batch()
        if self._unsent is not None:
            self._unsent.release()

    def _write_batch(self) -> None:
        batch, size = self._batch, self._batch_size
        self._batch, self._batch_size = [], 0
        if size <= _MAX_PLAINTEXT:
            self._write_sealed(_PACKETS, b"".join(batch))
        else:  # the transport was busy for long
            for part in cut_batch(batch, _MAX_PLAINTEXT):
                self._write_sealed(_PACKETS, b"".join(part))

    def close(self) -> None:
        if self._state is _SEALED:
            self._state = self._state.then(_ENDING)
            self.writable = False
            self._finish_sending()
        elif self._state is _HANDSHAKE:
            self.abort()

    def abort(self) -> None:
        self._cork = None
        self._open_to_close(SessionCut("this side dropped the connection"))
        if self._state is _CLOSING:  # also when it waits for a peer that does not read
            self._transport.abortConnection()  # type: ignore[attr-defined]

    def resumeProducing(self) -> None:
        """The transport has written everything it was given."""
        if not self._blocked:
            return  # it is only being registered
        self._blocked = False
        self.writable = self._sealer is not None and self._state in (_HANDSHAKE, _SEALED)
        if self._unsent is not None:
            self._unsent.drained()
        self._transport.unregisterProducer()  # type: ignore[attr-defined]
        if getattr(self._transport, "disconnecting", False):  # somebody else closes it
            self.fail(SessionCut("this side closed the connection"))
        elif not self._closed:
            self.flush()
            if self._state is _ENDING:
                self._finish_sending()
            elif self.writable:
                self._user.link_writable()

    def stopProducing(self) -> None:
        """The transport is gone; `connection_lost` follows."""

    def _write_sealed(self, kind: int, plaintext: bytes) -> None:
        if self._sealer is None or self._closed:
            return
        if len(plaintext) <= _SMALL:
            self._write(self._sealer.sealed(kind, plaintext))
        else:
            self._write(_sealed_into[: self._sealer.seal(kind, plaintext, _sealed_into)])

    def _write(self, record: bytes | memoryview) -> None:
        """Write `record`: small ones together at the end of a turn in which something arrived."""
        if self._cork is None:
            self._put(record)
        elif len(record) <= _SMALL:
            self._cork.append(bytes(record))
        else:
            self._uncork()
            self._put(record)

    def _uncork(self) -> None:
        """Write what was kept back, and keep nothing back any more."""
        if self._cork:
            self._flush_now()  # into it
        corked, self._cork = self._cork, None
        if corked:
            self._put(b"".join(corked))
        elif corked is not None:
            self._flush_now()

    def _uncork_with_others(self) -> None:
        if self._timeouts is None or not (self._cork or self._batch):
            self._uncork()
        else:
            self._timeouts.soon(self._uncork)

    def _put(self, record: bytes | memoryview) -> None:
        """Write now what the socket takes, and leave the rest, copied, to the transport."""
        self._sent += len(record)
        if self._eager and not self._blocked:
            written = self._transport.writeSomeData(record)  # type: ignore[attr-defined]
            if written == len(record):
                return
            if isinstance(written, int) and written > 0:
                record = record[written:]
            # an error will meet the transport again in its own write, where it is handled
        self._transport.write(bytes(record))
        if not self._blocked:
            # Only while there is something to wait for: some transports, as Twisted's TLS, ask a
            # pull producer for more all the time, and all of them stay open for one.
            self._transport.registerProducer(self, False)  # type: ignore[attr-defined]
            self._blocked, self.writable = True, False
            if self._unsent is not None:
                self._unsent.blocked()

    def _finish_sending(self) -> None:
        self._flush_now()
        if self._blocked:
            return
        self._write_sealed(_END, b"")
        self._state = self._state.then(_ENDED)
        if self._peer_ended:
            self.fail(None)

    # --- receiving -------------------------------------------------------------------

    def data_received(self, data: bytes | memoryview) -> None:
        """Take bytes from the connection, chopped in any way."""
        if self._closed:
            return
        self._received += len(data)
        unread = self._unread
        if unread.size:
            unread.add(data)
            if unread.size < self._need:
                unread.missing = self._need - unread.size
                return
            data = _arrived.all(unread)
            unread.clear()
        if self._cork is None:
            self._cork = []
        was_sealed = self._state is _SEALED
        try:
            self._read_records(data)
            if self._late_crypto:
                self._late_crypto_received()
        except (HandshakeError, ConfigurationError) as error:
            self._fail_handshake(error)
        except (WireError, ProtocolViolation) as error:
            self.fail(error)
        finally:
            if was_sealed and self._state is _SEALED:
                self._uncork()
            else:
                self._uncork_with_others()

    def connection_lost(self) -> None:
        """The connection is gone, by whichever side."""
        if self._state is not _CLOSING:
            self._failure = self._state.cut()
        self._state = self._state.then(_LOST)
        self._closed, self.writable = True, False
        self._cork = None
        self._batch.clear()
        self._unread.clear()
        _arrived.forget(self._unread)
        read_no_more(self._transport)
        self._handshake = None
        self._user.link_lost(self._failure)
        del self._user  # which has this link: neither is to keep the other alive

    def _read_records(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        offset, size = 0, len(data)
        while size - offset >= HEADER_SIZE:
            try:
                kind, length = parse_header(data, offset)
            except WireError as error:
                raise self._strange(data) or error from None
            if kind >= _PACKETS and self._opener is None:  # before its body is waited for
                raise ProtocolViolation("a sealed record came before the handshake was done")
            start = offset + HEADER_SIZE
            end = start + length
            if end > size:
                self._need = end - offset
                break
            if kind == _PACKETS:
                self._packets_received(view[offset:start], view[start:end])
            else:
                self._record_received(kind, view[offset:start], view[start:end])
            if self._closed:
                return
            offset = end
        else:
            self._need = HEADER_SIZE
        if offset < size:
            small = size - offset < _SMALL
            self._unread.add(data[offset:] if small else view[offset:])
            self._unread.missing = self._need - self._unread.size

    def _strange(self, data: bytes | memoryview) -> NotJetStream | None:
        """What is wrong with a peer that starts with bytes which are no record's."""
        if self._crypto_bytes or self._sealer is not None:
            return None
        stranger = recognise(bytes(data[:_SMALL]))
        if stranger.reply:
            self._write(stranger.reply)
        return NotJetStream(f"the peer does not speak JetStream but {stranger.name}")

    def _record_received(self, kind: int, header: memoryview, body: memoryview) -> None:
        if kind == _CRYPTO:
            self._crypto_received(bytes(body))
        elif kind == _ALERT:
            self._alert_received(bytes(body))
        else:
            self._open(header, body, _NO_PLAINTEXT)
            if kind == _END:
                self._peer_ended = True
                self._user.link_ended()
                if self._state is _ENDED:
                    self.fail(None)

    def _packets_received(self, header: memoryview, body: memoryview) -> None:
        """Open a record into the shared buffer, which its payloads are views of."""
        out = _opened_into.pop() if _opened_into else memoryview(bytearray(_SCRATCH))  # nested
        try:
            self._user.packets_received(split_packets(self._open(header, body, out)))
        finally:
            if not _opened_into:
                _opened_into.append(out)

    def _open(self, header: memoryview, body: memoryview, out: memoryview) -> memoryview:
        assert self._opener is not None  # or its header was refused
        if self._peer_ended:
            raise ProtocolViolation("a record came after the peer's end")
        if self._handshake is not None and self._handshake.complete:
            self._handshake = None  # the peer has the keys: nothing of TLS is needed any more
        return self._opener.open(header, body, out)

    # --- the handshake ---------------------------------------------------------------

    def _crypto_received(self, data: bytes) -> None:
        self._crypto_bytes += len(data)
        if self._crypto_bytes > _MAX_HANDSHAKE_BYTES:
            raise ProtocolViolation("the peer's handshake is too long")
        handshake = self._handshake
        if handshake is None:
            return  # session tickets, which are not used
        if handshake.complete:  # tickets, or a refusal: the rest of what has come will tell
            self._late_crypto += data
            return
        handshake.receive(data)
        if not (handshake.complete and self._answers):  # a server's tickets, which are not used
            self._send_handshake(handshake)
        if handshake.complete:
            self._completed(handshake)
        elif self._sealer is None:
            keys = handshake.early_keys(_EXPORTER_TRANSPORT)
            if keys is not None:
                self._sealer = RecordSealer(keys[0], self._limits)
                self.writable = not self._blocked
                self._user.link_half_ready()

    def _completed(self, handshake: Handshake) -> None:
        sending, receiving = handshake.traffic_keys(_EXPORTER_TRANSPORT)
        if self._sealer is None:
            self._sealer = RecordSealer(sending, self._limits)
        self._opener = RecordOpener(receiving, self._limits)
        if handshake.peer_certificate is not None:
            self.peer = Peer(self.peer.address, handshake.peer_fingerprint)
        self._state = self._state.then(_SEALED)
        self.writable = not self._blocked
        self._user.link_ready()

    def _late_crypto_received(self) -> None:
        """Look for a refusal of our certificate, unless the peer has gone on to the session."""
        late, self._late_crypto = self._late_crypto, b""
        if self._handshake is not None:
            self._handshake.receive(late)

    def _send_handshake(self, handshake: Handshake) -> None:
        flight = handshake.outgoing()
        for start in range(0, len(flight), MAX_PLAIN_BODY):
            self._write(plain_record(_CRYPTO, flight[start : start + MAX_PLAIN_BODY]))

    def _alert_received(self, body: bytes) -> None:
        if self._handshake is None:
            raise ProtocolViolation("an unsealed alert came inside the session")
        self._late_crypto_received()  # what TLS itself has to say comes first
        self.fail(Refused(f"the peer turned us away: {alert_reason(body) or 'it gave no reason'}"))

    def _fail_handshake(self, error: HandshakeError | ConfigurationError) -> None:
        if self._handshake is not None and not isinstance(error, NotJetStream):
            self._send_handshake(self._handshake)  # with TLS's own alert, if it is TLS that fails
            if not isinstance(error, TrustError | ConfigurationError):  # those name our files
                self._write(alert_record(str(error)))
        self.fail(error)

    # --- ends ------------------------------------------------------------------------

    def fail(self, failure: JetStreamError | None) -> None:
        """Close the connection once what was written has left; `link_lost` reports `failure`.

        A peer that does not read what was written for it is dropped without waiting, except when
        it is our end that it still has to read.
        """
        turned_away = self._state is _HANDSHAKE and self._answers
        if self._open_to_close(failure):
            if self._blocked and self._eager and failure is not None:
                self._transport.abortConnection()  # type: ignore[attr-defined]
            elif turned_away and hasattr(self._transport, "loseWriteConnection"):
                # Closing with bytes of the peer's unread would reset the connection and take what
                # was said with it. The peer closes when it has read that, or the deadline comes.
                self._transport.loseWriteConnection()
            elif failure is None and self._unread.being_read and not self._blocked:
                self._unread.finished = True  # nothing is left to be written or to be read
            else:
                self._transport.loseConnection()

    def _open_to_close(self, failure: JetStreamError | None) -> bool:
        if self._closed:
            return False
        self._uncork()
        self._closed, self.writable = True, False
        self._failure = failure
        self._batch.clear()
        self._state = self._state.then(_CLOSING)
        if self._blocked:
            self._transport.unregisterProducer()  # type: ignore[attr-defined]
        return True
