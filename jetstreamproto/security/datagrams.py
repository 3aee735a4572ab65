"""Sealed datagrams: the AEAD around what the UDP transport sends, one packet at a time.

    SEALED   type and epoch (1) | connection id (8) | packet number, low half (4) | body

The header is the associated data and the nonce is the direction's IV XOR the full packet number
(RFC 9001 section 5.3), so every packet opens by itself, in any order, and nowhere else.
INITIAL and RETRY datagrams are sealed too, with keys that anybody can derive from the client's
connection id (as RFC 9001 section 5.2): that keeps damage out, not attackers.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.security.keys import SECRET_SIZE, TAG_SIZE, Cipher, TrafficKeys
from jetstreamproto.security.replay import ReplayWindow

INITIAL, RETRY, SEALED = 0x01, 0x02, 0x20
NOT_OURS = 0x40
"""The bit that QUIC always sets in the first byte, and we never do."""

HEADER = struct.Struct(">BQI")
OVERHEAD = HEADER.size + TAG_SIZE
"""What sealing adds to the plaintext of a packet."""

VERSION = 1

_LONG_HEADER = struct.Struct(">BIQQ")
_PACKET_NUMBER = struct.Struct(">I")
_EPOCH_BITS = 0x0F
_LOW = 0xFFFFFFFF
_HALF = 1 << 31
_INITIAL_SALT = b"JetStream datagrams, version 1"
_MAX_TOKEN = 255


class DatagramSealer:
    """Seals one direction's packets, numbers them and ratchets the keys.

    A key serves `packets` packets. The next one is used only once the peer has acknowledged a
    packet under the last (RFC 9001 section 6.1), so it is never more than one epoch behind.
    """

    __slots__ = ("_encrypt", "_epoch_start", "_iv", "_keys", "_packets", "_type", "dcid", "number")

    def __init__(self, keys: TrafficKeys, dcid: int, packets: int) -> None:
        self.dcid = dcid
        self.number = 0
        """Of the next packet."""
        self._packets = packets
        self._use(keys)

    @property
    def epoch(self) -> int:
        return self._keys.epoch

    def seal(self, plaintext: bytes, out: memoryview, start: int) -> int:
        """Write the next packet to `out` from `start` on; where it ends."""
        number = self.number
        self.number = number + 1
        header = HEADER.pack(self._type, self.dcid, number & _LOW)
        body = start + 13
        end = body + len(plaintext) + 16
        out[start:body] = header
        self._encrypt((self._iv ^ number).to_bytes(12, "big"), plaintext, header, out[body:end])
        return end

    def acknowledged(self, number: int) -> None:
        """The peer has packet `number`: change the keys if they are used up."""
        if self.number - self._epoch_start >= self._packets and number >= self._epoch_start:
            self._use(self._keys.next_epoch())

    def _use(self, keys: TrafficKeys) -> None:
        self._keys = keys
        self._epoch_start = self.number
        self._encrypt = keys.aead.encrypt_into
        self._iv = keys.iv
        self._type = SEALED | keys.epoch & _EPOCH_BITS


class DatagramOpener:
    """Opens the peer's packets in any order, each at most once.

    `window` remembers which numbers came. `forged` counts what did not open; above `max_forged`
    the connection must end, before an attacker has had too many tries (RFC 9001 section 6.6).
    """

    __slots__ = ("_keys", "_max_forged", "_next", "_previous", "forged", "window")

    def __init__(self, keys: TrafficKeys, max_forged: int, window: ReplayWindow) -> None:
        self.window = window
        self.forged = 0
        self._max_forged = max_forged
        self._keys = keys
        self._previous: TrafficKeys | None = None
        self._next: TrafficKeys | None = None

    @property
    def epoch(self) -> int:
        return self._keys.epoch

    def open(self, data: memoryview, start: int, end: int) -> tuple[int, bytes] | None:
        """The number and plaintext of the SEALED packet at `start`; None if it is no good.

        The number is not remembered: `window.commit` it. Raises `ProtocolViolation` when too
        many packets did not open.
        """
        body = start + 13
        if end - body < 16:
            return None
        first, _, low = HEADER.unpack_from(data, start)
        number = self.expand(low)
        if number < 0 or not self.window.check(number):
            return None
        keys = self._keys
        if (first ^ keys.epoch) & 15:
            return self._open_other_epoch(first, number, data, start, end)
        try:
            return number, keys.aead.decrypt(
                (keys.iv ^ number).to_bytes(12, "big"), data[body:end], data[start:body]
            )
        except InvalidTag:
            self._failed()
            return None

    def expand(self, low: int) -> int:
        """The full number nearest to what is expected next (RFC 9000 appendix A.3)."""
        expected = self.window.highest + 1
        number = expected & ~_LOW | low
        if number > expected + _HALF:
            return number - (1 << 32)
        if number + _HALF <= expected:
            return number + (1 << 32)
        return number

    def _open_other_epoch(
        self, first: int, number: int, data: memoryview, start: int, end: int
    ) -> tuple[int, bytes] | None:
        epoch = first & _EPOCH_BITS
        previous, following = self._previous, self._next
        if following is None:
            following = self._next = self._keys.next_epoch()
        if following.epoch & _EPOCH_BITS == epoch:
            keys = following
        elif previous is not None and previous.epoch & _EPOCH_BITS == epoch:
            keys = previous
        else:
            self._failed()
            return None
        body = start + HEADER.size
        nonce = (keys.iv ^ number).to_bytes(12, "big")
        try:
            plaintext = keys.aead.decrypt(nonce, data[body:end], data[start:body])
        except InvalidTag:
            self._failed()
            return None
        if keys is following:
            self._previous, self._keys, self._next = self._keys, keys, None
        return number, plaintext

    def _failed(self) -> None:
        self.forged += 1
        if self.forged > self._max_forged:
            raise ProtocolViolation("too many forged packets came for this connection")


class InitialProtection:
    """Seals and opens one side's INITIAL datagrams for the client's connection id."""

    __slots__ = ("_number", "_receiving", "_sending")

    def __init__(self, client_id: int, *, client: bool) -> None:
        secrets = HKDF(SHA384(), 2 * SECRET_SIZE, _INITIAL_SALT, b"initial").derive(
            client_id.to_bytes(8, "big")
        )
        to_server = TrafficKeys(secrets[:SECRET_SIZE], Cipher.AES_256_GCM)
        to_client = TrafficKeys(secrets[SECRET_SIZE:], Cipher.AES_256_GCM)
        self._sending, self._receiving = (
            (to_server, to_client) if client else (to_client, to_server)
        )
        self._number = 0

    def seal(self, dcid: int, scid: int, token: bytes, plaintext: bytes) -> bytes:
        """The next INITIAL datagram. Raises ValueError for a token of over 255 bytes."""
        _check_token(token)
        number, self._number = self._number, self._number + 1
        header = b"".join(
            (
                _LONG_HEADER.pack(INITIAL, VERSION, dcid, scid),
                bytes((len(token),)),
                token,
                _PACKET_NUMBER.pack(number),
            )
        )
        nonce = (self._sending.iv ^ number).to_bytes(12, "big")
        sealed = bytearray(len(plaintext) + TAG_SIZE)
        self._sending.aead.encrypt_into(nonce, plaintext, header, memoryview(sealed))
        return header + sealed

    def open(self, datagram: bytes) -> bytes | None:
        """The plaintext of an INITIAL datagram; None if it is damaged or for somebody else."""
        if len(datagram) <= _LONG_HEADER.size:
            return None
        end = _LONG_HEADER.size + 1 + datagram[_LONG_HEADER.size] + _PACKET_NUMBER.size
        if len(datagram) < end + TAG_SIZE:
            return None
        (number,) = _PACKET_NUMBER.unpack_from(datagram, end - _PACKET_NUMBER.size)
        nonce = (self._receiving.iv ^ number).to_bytes(12, "big")
        try:
            return self._receiving.aead.decrypt(nonce, datagram[end:], datagram[:end])
        except InvalidTag:
            return None


def initial_overhead(token: bytes) -> int:
    """Bytes that an INITIAL datagram with `token` needs beside its plaintext."""
    return _LONG_HEADER.size + 1 + len(token) + _PACKET_NUMBER.size + TAG_SIZE


def parse_initial(datagram: bytes) -> tuple[int, int, int, bytes]:
    """Version, destination id, source id and token of an INITIAL or RETRY datagram.

    A RETRY's token is everything between its ids and its tag, a byte at least. Raises `WireError`.
    """
    if len(datagram) < _LONG_HEADER.size + 1 + TAG_SIZE:
        raise WireError("a handshake datagram is too short")
    kind, version, dcid, scid = _LONG_HEADER.unpack_from(datagram)
    start = _LONG_HEADER.size
    if kind == RETRY:
        token = datagram[start:-TAG_SIZE]
        if len(token) > _MAX_TOKEN:
            raise WireError(f"a token of {len(token)} bytes; at most {_MAX_TOKEN}")
        return version, dcid, scid, token
    if kind != INITIAL:
        raise WireError(f"not a handshake datagram: type 0x{kind:02x}")
    length = datagram[start]
    if start + 1 + length + _PACKET_NUMBER.size + TAG_SIZE > len(datagram):
        raise WireError("a handshake datagram ends within its token")
    return version, dcid, scid, datagram[start + 1 : start + 1 + length]


def retry_datagram(client_id: int, server_id: int, token: bytes) -> bytes:
    """What a server answers an INITIAL without a token. Raises ValueError as `seal` does."""
    _check_token(token)
    header = _LONG_HEADER.pack(RETRY, VERSION, client_id, server_id) + token
    return header + _retry_tag(client_id, header)


def is_genuine_retry(datagram: bytes, client_id: int) -> bool:
    """Whether a RETRY came undamaged from somebody who knows the client's connection id."""
    header, tag = datagram[:-TAG_SIZE], datagram[-TAG_SIZE:]
    return _retry_tag(client_id, header) == tag


def _check_token(token: bytes) -> None:
    if len(token) > _MAX_TOKEN:
        raise ValueError(f"a token has at most {_MAX_TOKEN} bytes")


def _retry_tag(client_id: int, header: bytes) -> bytes:
    key = HKDF(SHA384(), 32, _INITIAL_SALT, b"retry").derive(client_id.to_bytes(8, "big"))
    return AESGCM(key).encrypt(bytes(12), b"", header)
