"""The handshake over datagrams: TLS in INITIALs, until the peer has used the keys from it."""

from __future__ import annotations

from jetstreamproto.errors import ConfigurationError, JetStreamError, TrustError
from jetstreamproto.reliability.crypto import CryptoExchange, alert_plaintext
from jetstreamproto.reliability.settings import MIN_DATAGRAM
from jetstreamproto.security.datagrams import InitialProtection, initial_overhead
from jetstreamproto.security.handshake import Handshake, Role

_REPETITIONS = 3  # of what is said to a peer that is turned away


class Initials:
    """One side of a handshake. Has no socket: `datagrams` are to be sent after every call.

    `peer_id` is what the peer wants its datagrams addressed to; 0 for a server not heard of yet.
    """

    def __init__(self, handshake: Handshake, local_id: int, peer_id: int) -> None:
        self.handshake = handshake
        self.peer_id = peer_id
        self.is_client = handshake.role is Role.CLIENT
        self._local_id = local_id
        self._token = b""
        self._exchange = CryptoExchange()
        client_id = local_id if self.is_client else peer_id
        self._protection = InitialProtection(client_id, client=self.is_client)
        self._stopped = False
        self._last_words: list[bytes] = []
        self._repetitions = _REPETITIONS
        self._say_last_words = False

    def start(self) -> None:
        """Begin."""
        self.handshake.start()
        self._take_from_tls()

    @property
    def alert(self) -> str | None:
        """Why the peer has turned us away, if it has."""
        return self._exchange.alert

    @property
    def due_at(self) -> float | None:
        """When something has to be sent again."""
        return None if self._stopped else self._exchange.due_at

    def retry_received(self, server_id: int, token: bytes, rtt: float) -> bool:
        """The server wants its token back, to see that we receive what is sent to our address.

        False if it is not the first to ask. `rtt` is in seconds.
        """
        if self._stopped or self._token or not self.is_client:
            return False
        self._token, self.peer_id = token, server_id
        self._exchange.restart(rtt)
        return True

    def received(self, datagram: bytes, source_id: int) -> bool:
        """An INITIAL came; whether the handshake is complete with it.

        Raises what the handshake fails with, or `WireError` or `ProtocolViolation`.
        """
        if self._stopped:
            if self._repetitions:  # it has not heard our last words, or answers them by its own
                self._repetitions -= 1
                self._say_last_words = True
            return False
        plaintext = self._protection.open(datagram)
        if plaintext is None:
            return False
        if self.is_client:
            self.peer_id = source_id
        data = self._exchange.receive(plaintext)
        handshake = self.handshake
        if not data:
            return False
        was_complete = handshake.complete
        handshake.receive(data)
        if was_complete:
            return False
        if not handshake.complete or self.is_client:
            self._take_from_tls()  # a server's tickets, which come last, are not used
        return handshake.complete

    def failed(self, error: JetStreamError, now: float) -> None:
        """The handshake is over; the peer is told."""
        self._take_from_tls()  # TLS's own alert, if it is TLS that fails
        words = self._exchange.plaintexts(now)
        if not isinstance(error, TrustError | ConfigurationError):  # those name our files
            words.append(alert_plaintext(str(error)))
        self._end(words)

    def refuse(self, text: str) -> None:
        """Turn the peer away."""
        self._end([alert_plaintext(text)])

    def stop(self) -> None:
        """Send nothing more but last words, if there are any."""
        self._stopped = True

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now."""
        if not self._stopped:
            return [self._seal(plaintext) for plaintext in self._exchange.plaintexts(now)]
        if not self._say_last_words:
            return []
        self._say_last_words = False
        return [self._seal(plaintext) for plaintext in self._last_words]

    def _end(self, last_words: list[bytes]) -> None:
        self._stopped = self._say_last_words = True
        self._last_words = last_words

    def _take_from_tls(self) -> None:
        self._exchange.write(self.handshake.outgoing())

    def _seal(self, plaintext: bytes) -> bytes:
        if self.is_client:
            plaintext = plaintext.ljust(MIN_DATAGRAM - initial_overhead(self._token), b"\0")
        return self._protection.seal(self.peer_id, self._local_id, self._token, plaintext)
