"""Traffic keys: from the TLS exporter to one AEAD key a direction and epoch.

The TLS 1.3 handshake exports 96 bytes (RFC 8446 section 7.5, RFC 5705), 48 for each direction.
Each 48-byte secret expands with HKDF-SHA384 (RFC 5869) into an AEAD key, an IV and the secret of
the next epoch, so that an old epoch's keys cannot be found from a newer one's.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

EXPORTER_LABEL = b"EXPORTER-JetStream-1"
SECRET_SIZE = 48
TAG_SIZE = 16

_KEY_SIZE, _IV_SIZE = 32, 12
_EPOCH_SIZE = _KEY_SIZE + _IV_SIZE  # bytes, before the secret of the next epoch
_LABEL = b"jetstream keys"


class Cipher(Enum):
    """The AEADs that seal records, by their TLS 1.3 cipher suite (the handshake negotiates it)."""

    AES_256_GCM = "TLS_AES_256_GCM_SHA384"
    CHACHA20_POLY1305 = "TLS_CHACHA20_POLY1305_SHA256"


_AES = Cipher.AES_256_GCM


class Aead(Protocol):
    """What both AEAD classes of `cryptography` offer."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...

    def encrypt_into(
        self, nonce: bytes, data: bytes, associated_data: bytes, buf: memoryview
    ) -> int: ...

    def decrypt(
        self, nonce: bytes, data: memoryview | bytes, associated_data: memoryview | bytes
    ) -> bytes: ...

    def decrypt_into(
        self, nonce: bytes, data: memoryview, associated_data: bytes | memoryview, buf: memoryview
    ) -> int: ...


class TrafficKeys:
    """The keys of one direction in one epoch.

    `secret` is 48 bytes: the exporter's half for epoch 0, the ratchet's output afterwards.
    """

    __slots__ = ("_secret", "aead", "cipher", "epoch", "iv")

    def __init__(self, secret: bytes, cipher: Cipher, epoch: int = 0) -> None:
        self.cipher = cipher
        self.epoch = epoch
        self._secret = secret
        block = _expand(secret, _EPOCH_SIZE)
        key, iv = block[:_KEY_SIZE], block[_KEY_SIZE:]
        self.aead: Aead = AESGCM(key) if cipher is _AES else ChaCha20Poly1305(key)
        self.iv = int.from_bytes(iv, "big")

    def next_epoch(self) -> TrafficKeys:
        """The keys that follow these."""
        secret = _expand(self._secret, _EPOCH_SIZE + SECRET_SIZE)[_EPOCH_SIZE:]
        return TrafficKeys(secret, self.cipher, self.epoch + 1)


def _expand(secret: bytes, size: int) -> bytes:
    """The first `size` bytes of what the secret expands to, in steps of 48 bytes."""
    return HKDFExpand(SHA384(), size, _LABEL).derive(secret)


def exporter_context(alpn: bytes, transport: bytes) -> bytes:
    """What the exporter binds the keys to: the protocol version and the transport they serve."""
    return b"\0".join((b"jetstream", alpn, transport))


def split_export(exported: bytes) -> tuple[bytes, bytes]:
    """The client-to-server and the server-to-client secret, from 96 exported bytes."""
    if len(exported) != 2 * SECRET_SIZE:
        raise ValueError(f"expected {2 * SECRET_SIZE} exported bytes, got {len(exported)}")
    return exported[:SECRET_SIZE], exported[SECRET_SIZE:]
