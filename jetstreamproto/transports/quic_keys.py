"""Key updates (RFC 9001 section 6), and the keys before them, which aioquic does not keep."""

from __future__ import annotations

import copy

from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext, CryptoError, CryptoPair
from aioquic.tls import Epoch


class KeyUpdates:
    """See to it that no key of a connection seals more than `key_packets`."""

    def __init__(self, quic: QuicConnection, key_packets: int) -> None:
        self.count = 0
        """How often the keys have changed, whoever began it."""
        self._quic = quic
        self._key_packets = key_packets
        self._keys: _Keys | None = None
        self._phase = 0
        self._first = 0  # number of the first packet that is sealed by these keys

    def update_if_due(self) -> None:
        """To be called before anything is sent."""
        quic = self._quic
        if not quic._handshake_confirmed or quic._close_event is not None:
            return
        keys = self._keys
        if keys is None:
            keys = self._keys = _Keys(quic._cryptos[Epoch.ONE_RTT])
            quic._cryptos[Epoch.ONE_RTT] = keys
        number = quic._packet_number
        if keys.key_phase != self._phase:
            self._phase = keys.key_phase
            self._first = number
            self.count += 1
        acknowledged = quic._spaces[Epoch.ONE_RTT].largest_acked_packet
        if number - self._first >= self._key_packets and acknowledged >= self._first:
            quic.request_key_update()
            quic.send_ping(0)  # so that the peer hears of it, however often that gets lost


class _Keys(CryptoPair):
    """Opens packets by the keys before the last update too.

    Otherwise all that is on its way would be lost, and if our first packets under the new keys are
    lost as well, neither side might ever understand the other again.
    """

    def __init__(self, keys: CryptoPair) -> None:
        super().__init__()
        self.recv, self.send = keys.recv, keys.send
        self._update_key_requested = keys._update_key_requested
        self._previous: CryptoContext | None = None

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        try:
            return super().decrypt_packet(packet, encrypted_offset, expected_packet_number)
        except CryptoError:
            if self._previous is None:
                raise
        opened = self._previous.decrypt_packet(packet, encrypted_offset, expected_packet_number)
        return opened[:3]

    def _update_key(self, trigger: str) -> None:
        previous = copy.copy(self.recv)
        super()._update_key(trigger)
        self._previous = previous
