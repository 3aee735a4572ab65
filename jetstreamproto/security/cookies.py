"""Retry tokens: a server's memory of a handshake, kept by the client (RFC 9000 section 8.1.4).

    key generation (1) | nonce (4) | sealed: age of the key in ms (2), server id (8) | tag (16)

A token proves that its holder receives what is sent to an address. It is sealed with AES-GCM for
that address and the client's connection id, so making one costs the server no memory. The keys
live in this process only and change every `KEY_PERIOD` seconds; a key counts its nonces.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from jetstreamproto.security.keys import TAG_SIZE

LIFETIME = 20.0
"""Seconds for which a token is good by default."""
KEY_PERIOD = 30.0
"""Seconds after which there is a new key; a token is good for as long at most."""

_HEADER = struct.Struct(">BI")
_SEALED = struct.Struct(">HQ")
_CLIENT = struct.Struct(">Q")

TOKEN_SIZE = _HEADER.size + _SEALED.size + TAG_SIZE

_KEY_SIZE = 32
_MAX_NONCES = 1 << 32
_MAX_SPENT = 1 << 15  # a key
_CLOCK_SLACK = 1.0  # a clock may be behind by so many seconds, and is taken to stand still


class CookieJar:
    """Bakes and checks the tokens of one server. `random_bytes` makes its keys.

    When the clock goes back, by more than a second, all tokens are void: their age is unknown.
    """

    def __init__(
        self,
        random_bytes: Callable[[int], bytes],
        lifetime: float = LIFETIME,
        max_spent: int = _MAX_SPENT,
    ) -> None:
        if not 0 < lifetime <= KEY_PERIOD:
            raise ValueError(f"tokens live for up to {KEY_PERIOD:g} seconds")
        self._random_bytes = random_bytes
        self._lifetime = lifetime
        self._max_spent = max_spent
        self._latest = float("-inf")
        self._generation = 0
        self._current: _Key | None = None
        self._previous: _Key | None = None

    def bake(self, now: float, address: bytes | str, client_id: int, server_id: int) -> bytes:
        """A token for a client at `address`, to be sent there."""
        now = self._advance(now)
        key = self._current
        if key is None or key.nonces == _MAX_NONCES:
            key = self._new_key(now)
        return key.seal(now, _associated_data(address, client_id), server_id)

    def check(self, now: float, token: bytes, address: bytes | str, client_id: int) -> int | None:
        """The server id in a token that was baked for this client; None if it is no good."""
        found = self._find(now, token, address, client_id)
        return None if found is None else found[1]

    def redeem(self, now: float, token: bytes, address: bytes | str, client_id: int) -> int | None:
        """As `check`, but a token is good only once.

        The last `max_spent` tokens of each key are remembered; of more, the oldest are forgotten.
        """
        found = self._find(now, token, address, client_id)
        if found is None:
            return None
        key, server_id = found
        spent = key.spent
        if server_id in spent:
            return None
        if len(spent) >= self._max_spent:
            del spent[next(iter(spent))]
        spent[server_id] = None
        return server_id

    def _find(
        self, now: float, token: bytes, address: bytes | str, client_id: int
    ) -> tuple[_Key, int] | None:
        now = self._advance(now)
        if len(token) != TOKEN_SIZE:
            return None
        for key in (self._current, self._previous):
            if key is not None and key.generation == token[0]:
                break
        else:
            return None
        opened = key.open(token, _associated_data(address, client_id))
        if opened is None or now - opened[0] > self._lifetime:
            return None
        return key, opened[1]

    def _advance(self, now: float) -> float:
        """Let go of what is too old; what time it is, which never is earlier than it was."""
        if now < self._latest:
            if self._latest - now <= _CLOCK_SLACK:
                return self._latest
            self._current = self._previous = None
        self._latest = now
        current = self._current
        if current is not None and now - current.born >= KEY_PERIOD:
            self._previous = current if now - current.born < 2 * KEY_PERIOD else None
            self._current = None
        elif self._previous is not None and now - self._previous.born >= 2 * KEY_PERIOD:
            self._previous = None
        return now

    def _new_key(self, now: float) -> _Key:
        if self._current is not None:
            self._previous = self._current
        self._generation = self._generation + 1 & 0xFF
        self._current = _Key(self._generation, self._random_bytes(_KEY_SIZE), now)
        return self._current


class _Key:
    """One key, and the tokens under it that were used."""

    __slots__ = ("_aead", "born", "generation", "nonces", "spent")

    def __init__(self, generation: int, secret: bytes, born: float) -> None:
        self.generation = generation
        self.born = born
        self.nonces = 0
        self.spent: dict[int, None] = {}
        self._aead = AESGCM(secret)

    def seal(self, now: float, associated_data: bytes, server_id: int) -> bytes:
        header = _HEADER.pack(self.generation, self.nonces)
        age = min(max(0, int((now - self.born) * 1000)), 0xFFFF)
        nonce = self.nonces.to_bytes(12, "big")
        self.nonces += 1
        return header + self._aead.encrypt(nonce, _SEALED.pack(age, server_id), associated_data)

    def open(self, token: bytes, associated_data: bytes) -> tuple[float, int] | None:
        """When a token was baked and its server id; None if it is not genuine."""
        nonce = bytes(8) + token[1 : _HEADER.size]
        try:
            sealed = self._aead.decrypt(nonce, token[_HEADER.size :], associated_data)
        except InvalidTag:
            return None
        age, server_id = _SEALED.unpack(sealed)
        return self.born + age / 1000, server_id


def _associated_data(address: bytes | str, client_id: int) -> bytes:
    return _CLIENT.pack(client_id) + (address.encode() if isinstance(address, str) else address)
